# SPDX-License-Identifier: GPL-3.0-or-later
"""A call of our code on a service's host, with the code that lies there already. Controller only.

Ansible packs, sends, unpacks and compiles a module's code anew for each task: half a second each, eleven times a run.
Here it is sent once for each version of it, into the cache folder of the user that works there, under the digest of its
content; then a call is one Python process that reads JSON. Connection and become are Ansible's own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.constants import config
from ansible.plugins.action import ActionBase

from .calls import ANSWER

FOLDER = Path(__file__).resolve().parent
# host_start.py: there is no code of this digest, or it may not be relied on.
ABSENT, DAMAGED = 90, 91


def call_on_host(
    action: ActionBase, task_vars: Mapping[str, Any], name: str, arguments: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Make a call (calls.py) on the task's host and return its result.

    :return: None where it can't be made this way, and nothing was done: Ansible is told not to speak to a process
        through a pipe, the interpreter has yet to be found, or the user there has no folder of his own. A module does.
    :raises AnsibleConnectionFailure: the host does not answer.
    """
    python = _python(action, task_vars)
    if not python or action._task.delegate_to or not action._is_pipelining_enabled("new"):  # noqa: SLF001 - base class
        return None
    call = json.dumps({"name": name, "arguments": arguments, "check_mode": bool(action._task.check_mode)})  # noqa: SLF001
    files = sorted(FOLDER.glob("*.py"))
    digest = hashlib.sha256(
        b"".join(b"%s\0%s\0" % (file.name.encode(), file.read_bytes()) for file in files)
    ).hexdigest()

    def start(program: str, data: str, *more: str) -> dict[str, Any]:
        argv = [*python, "-I", "-c", (FOLDER / program).read_text(encoding="utf-8"), digest, *more]
        command = f"{action._compute_environment_string()} {shlex.join(argv)}".strip()  # noqa: SLF001
        return dict(action._low_level_execute_command(command, in_data=data.encode()))  # noqa: SLF001

    ended = start("host_start.py", call)
    if ended["rc"] in {ABSENT, DAMAGED}:
        start("host_unpack.py", _packed(files), *(["again"] if ended["rc"] == DAMAGED else []))
        ended = start("host_start.py", call)
        if ended["rc"] in {ABSENT, DAMAGED}:
            return None
    for line in reversed(str(ended["stdout"]).splitlines()):
        if line.startswith(ANSWER):
            with contextlib.suppress(ValueError):  # killed while it answered
                return dict(json.loads(line.removeprefix(ANSWER)))
    last = str(ended["stderr"]).strip().splitlines()[-1:]
    why = "".join(last) or f"it ended with exit code {ended['rc']}"
    return {"failed": True, "msg": f"{name} broke on the host: {why[:500]}"}


def _python(action: ActionBase, task_vars: Mapping[str, Any]) -> list[str]:
    """Return the host's interpreter as Ansible is told or has found it; empty when it has yet to look."""
    told = action._templar.template(task_vars.get("ansible_python_interpreter"))  # noqa: SLF001
    found = task_vars.get("ansible_facts", {}).get("discovered_interpreter_python")
    python = told or config.get_config_value("INTERPRETER_PYTHON", variables=dict(task_vars))
    if str(python).startswith("auto"):
        python = found or ""
    return shlex.split(str(python))


def _packed(files: list[Path]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return base64.b64encode(packed.getvalue()).decode()
