# SPDX-License-Identifier: GPL-3.0-or-later
"""The one file that touches ansible-runner: a request in, events out, nothing left behind.

What ansible-runner does by itself and is undone here, each seen in 2.4:

* it hands the caller's whole environment on and writes it, with the command line, to `artifacts/ID/command`: the
  environment is cut down to what Ansible needs, and the file is removed as soon as the playbook runs;
* it switches host key checking off unless told otherwise: that is left to ansible.cfg and the inventory;
* a cancelled run is killed (SIGKILL) without any clean-up: signals are forwarded to ansible-playbook instead, whose
  callback ends the run at the next safe point;
* a reused `private_data_dir` brings old settings back: each run gets a fresh one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible_runner.config.runner import RunnerConfig
from ansible_runner.runner import Runner

from ._project import ROOT

Event = Mapping[str, Any]

# What a playbook run gets to see of the caller's environment, by name and by prefix; ROLLBACKCTL_PASS_ENV names more,
# separated by commas (the variable that an inventory looks up, for example).
PASSED = ("PATH", "HOME", "TMPDIR", "TZ", "SSH_AUTH_SOCK", "KUBECONFIG", "XDG_STATE_HOME")
# K8S_AUTH_: what AWX's Kubernetes credential sets; KUBERNETES_: what a pod gets to find its own cluster.
PASSED_PREFIXES = ("ANSIBLE_", "ROLLBACKCTL_", "K8S_AUTH_", "KUBERNETES_SERVICE_")
ALSO_PASSED = "ROLLBACKCTL_PASS_ENV"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_KEPT_LINES = 200


@dataclass(frozen=True)
class Request:
    """One run of a playbook. Values reach Ansible as data: it never treats them as templates."""

    playbook: Path
    inventories: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    check: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How ansible-playbook ended. `code` says little (any failure is 2): the run record says what happened."""

    code: int
    pid: int
    output: str
    signalled: str


def as_data(values: Mapping[str, object]) -> str:
    """Return values as a YAML file of extra variables in which no text can be taken for a template.

    The tag stands before the whole document: on a single text it would also make Ansible look at it again as if it were
    not quoted, and read "1.10" as 1.1 and "yes" as true (`_resolve_and_construct_object` of ansible-core 2.19).
    """
    return "--- !unsafe\n" + yaml.safe_dump(dict(values), sort_keys=False, width=sys.maxsize)


def run_playbook(request: Request, on_event: Callable[[Event], None] = lambda _event: None) -> Result:
    """Run a playbook to its end and return how it ended; `on_event` gets each of ansible-runner's events.

    SIGINT, SIGTERM and SIGHUP are forwarded to ansible-playbook once it runs, and it is waited for.
    """
    watch = _Watch(on_event)
    with private_folder() as folder, watch.signals():
        variables = folder / "variables.yml"
        variables.touch(mode=0o600)
        variables.write_text(as_data(request.values), encoding="utf-8")
        options = ["--check"] * request.check + ["-e", f"@{variables}"]
        config = RunnerConfig(
            private_data_dir=str(folder),
            project_dir=str(ROOT),
            playbook=str(request.playbook),
            inventory=[os.path.abspath(source) for source in request.inventories] or None,  # noqa: PTH100 - not resolved
            cmdline=shlex.join(options),
            suppress_env_files=True,
            fact_cache_type="",
        )
        config.prepare()
        # Said here, because prepare() puts its own defaults where there is no settings file.
        config.suppress_output_file = config.suppress_ansible_output = True
        config.env = _environment(config.env, request.environment)
        watch.command = Path(config.artifact_dir) / "command"
        runner = Runner(config, event_handler=watch.take)
        runner.run()
    code = runner.rc if isinstance(runner.rc, int) else 1
    return Result(code, watch.pid, "\n".join(watch.lines), watch.signalled)


class _Watch:
    """Follows one run: its process id, its last lines, the signals that came meanwhile."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.on_event = on_event
        self.pid = 0
        self.signalled = ""
        self.waiting: list[int] = []
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.command = Path(os.devnull)

    def take(self, event: Event) -> bool:
        """Take in one event; False tells ansible-runner not to write it to disk."""
        if text := str(event.get("stdout") or ""):
            self.lines.extend(text.splitlines())
        if not self.pid and event.get("event") == "playbook_on_start":
            self.pid = int(event.get("pid") or 0)
            self.command.unlink(missing_ok=True)
        # A signal that came too early waits for the first play: by then the callback that ends runs cleanly listens.
        if self.waiting and event.get("event") not in {"playbook_on_start", "verbose"}:
            self._forward(self.waiting.pop(0))
        with suppress(Exception):  # what is shown on the way is not what the run is for: ansible-runner would end it
            self.on_event(event)
        return False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Forward signals while the playbook runs, then give them back to whoever had them."""
        before = {number: signal.signal(number, self._arrived) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _arrived(self, number: int, _frame: object) -> None:
        self.signalled = signal.Signals(number).name
        if self.pid:
            self._forward(number)
        else:
            self.waiting.append(number)

    def _forward(self, number: int) -> None:
        # A closed terminal means the same as a request to end; Ansible itself gives SIGHUP no meaning.
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM if number == signal.SIGHUP else number)


@contextmanager
def private_folder() -> Iterator[Path]:
    """Give a fresh folder that only this user can read, in memory where the system has such a place, and remove it."""
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(tempfile.mkdtemp(prefix="rollbackctl-", dir=place if place and os.access(place, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(prepared: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return what ansible-playbook gets to see, from what ansible-runner prepared: the caller's and its own."""
    more = {name.strip() for name in os.environ.get(ALSO_PASSED, "").split(",")}
    environment = {
        name: value
        for name, value in prepared.items()
        if name in PASSED or name in more or name.startswith(PASSED_PREFIXES) or name not in os.environ
    }
    if "ANSIBLE_HOST_KEY_CHECKING" not in os.environ:
        environment.pop("ANSIBLE_HOST_KEY_CHECKING", None)
    beside = Path(sys.executable).parent  # ansible-playbook of the environment the wrapper is installed in
    environment["PATH"] = f"{beside}{os.pathsep}{environment.get('PATH', os.defpath)}"
    environment |= {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    environment |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ORIGINAL_STDOUT_CALLBACK": "default"}
    environment |= {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return environment | dict(extra)
