# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the project is, and the words the wrapper shares with the modules.

The playbooks are files, not part of the Python package: the wrapper runs the ones of the project it was installed from,
of `ROLLBACKCTL_HOME`, or of the folder it is started in. The shared Python is imported under the name Ansible gives it,
`ansible.module_utils.rollbackctl`, which is why that package's search path is extended here and nowhere else
(https://docs.ansible.com/projects/ansible/latest/dev_guide/developing_module_utilities.html).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ansible import module_utils

from .errors import ProjectMissingError

_MARK = Path("plugins", "module_utils", "rollbackctl")


def _candidates() -> Iterator[Path]:
    named = os.environ.get("ROLLBACKCTL_HOME", "")
    if named:
        yield Path(named)  # named by a person: nothing else may be taken in its place
        return
    yield Path(__file__).resolve().parents[2]
    here = Path.cwd()
    yield from (here, *here.parents)


def find_root() -> Path:
    """Return the project's folder, absolute; raises ProjectMissingError when there is none."""
    for folder in _candidates():
        if (folder / _MARK).is_dir():
            return folder.resolve()
    raise ProjectMissingError(
        "The playbooks were not found. Set ROLLBACKCTL_HOME to the folder of the project, the one that holds "
        "playbooks/ and roles/. Nothing was changed.",
    )


ROOT = find_root()

_SHARED = str(ROOT / _MARK.parent)
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl import (  # noqa: E402 - findable only from here on
    controller,
    ledger,
    names,
    outcome,
    output,
    plan_text,
    profile_errors,
    spoken,
)

__all__ = ["ROOT", "controller", "ledger", "names", "outcome", "output", "plan_text", "profile_errors", "spoken"]
