# SPDX-License-Identifier: GPL-3.0-or-later
"""The run record: one JSON file, written from the first event on, that says how a run went even if it was killed."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollback_record
type: aggregate
short_description: Writes the run record, refuses templated parameters, turns signals into a clean stop
description:
  - Writes C(<run id>.json) (schema in docs/schemas/run-record.schema.json) after each task.
  - It starts as C(interrupted), so a killed run leaves a true record.
  - The guard refuses to run without this plugin.
version_added: "0.1.0"
"""

import gc  # noqa: E402 - documentation comes first
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

from ansible import module_utils  # noqa: E402
from ansible.context import CLIARGS  # noqa: E402
from ansible.plugins.callback import CallbackBase  # noqa: E402
from ansible.plugins.loader import filter_loader, test_loader  # noqa: E402
from ansible.template import is_trusted_as_template  # noqa: E402
from ansible.utils.vars import load_extra_vars  # noqa: E402

_SHARED = str(Path(__file__).resolve().parents[1] / "module_utils")
if _SHARED not in module_utils.__path__:
    module_utils.__path__.append(_SHARED)

from ansible.module_utils.rollbackctl.action import CALLBACK_VARIABLE, STOP_VARIABLE  # noqa: E402
from ansible.module_utils.rollbackctl.controller import plain, raw_problems  # noqa: E402
from ansible.module_utils.rollbackctl.names import is_run_id, new_id, printable  # noqa: E402
from ansible.module_utils.rollbackctl.output import be_patient  # noqa: E402
from ansible.module_utils.rollbackctl.plan_text import WIDTH, ending_lines, plan_lines  # noqa: E402
from ansible.module_utils.rollbackctl.profile_errors import play_problems  # noqa: E402
from ansible.module_utils.rollbackctl.record import Record, records_directory  # noqa: E402

REFUSED_EXIT = 2


class CallbackModule(CallbackBase):
    """Feeds events of the engine's tasks into the record."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "rollback_record"
    # AWX and ansible-runner set their own list of enabled callbacks; this one must be loaded all the same.
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        """Start without a record: only playbooks of the engine get one."""
        super().__init__()
        self.record: Record | None = None
        self.playbook = ""
        self.extra: dict[str, Any] = {}
        self.run_id = ""

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Announce this plugin to the guard, refuse templates before anything is templated, be ready for signals."""
        self.playbook = Path(playbook._file_name).name  # noqa: SLF001 - there is no public name
        if any("run_kind" in play.get_vars() for play in playbook.get_plays()):
            be_patient()  # Ansible ends where it cannot write a line: behind the fence as well
        self.extra = dict(load_extra_vars(playbook.get_loader()))
        problems = raw_problems(self.extra, is_trusted_as_template)
        named = str(self.extra.get("rollback_run") or "")
        self.run_id = new_id("rb")
        os.environ[CALLBACK_VARIABLE] = json.dumps({"pid": os.getpid(), "run": self.run_id})
        os.environ.pop(STOP_VARIABLE, None)
        if problems:
            self._refuse(self._new_record(self.run_id, "rollback", 0), problems)
        self.named = named if is_run_id(named) else ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                signal.signal(number, _stop)
        _preload()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Begin the record with the first play of the engine."""
        variables = play.get_vars()
        if self.record is None and "run_kind" in variables:
            kind, level = str(variables["run_kind"]), int(variables.get("run_level", 0))
            self.record = self._new_record(self.run_id, kind, level)
            self.record.write()
            self._display.display(self._banner(self.record.document))
            problems = play_problems(play, self.extra)
            if problems:
                self._refuse(self.record, problems)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002, FBT001 - Ansible's signature
        """Note when a phase begins."""
        phase = _phase(task)
        if self.record is not None and phase:
            self.record.begin_phase(phase)
            self.record.write()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Take in a task's result."""
        self._take(result, failed=False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as above
        """Take in a task's failure."""
        self._take(result, failed=True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Take in that a host could not be reached."""
        self._take(result, failed=True)

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - Ansible's signature
        """End the record. Where no service matched Ansible would end with 0: nothing ran, and that is no success."""
        if self.record is not None:
            self.record.end()
            self.record.write()
            self._say(line.text for line in ending_lines(self.record.document, self.record.path, _width()))
            if not self.record.document["services"]:
                sys.stderr.write(self.record.document["message"] + "\n")
                raise SystemExit(REFUSED_EXIT)

    def _take(self, result: Any, *, failed: bool) -> None:
        if self.record is None:
            return
        phase = _phase(result.task)
        if phase:
            service = result.host.get_name()
            self.record.take(service, phase, plain(dict(result.result)), failed=failed)
            self.record.write()
            if phase == "plan":
                document = self.record.document
                lines = plan_lines(service, document["services"][service], document["kind"], _width())
                self._say(line.text for line in lines)

    def _refuse(self, record: Record, problems: list[str]) -> NoReturn:
        """End the run before any host was touched."""
        record.refuse(problems)
        record.write()
        self._say(line.text for line in ending_lines(record.document, record.path, _width()))
        sys.stderr.write("Refused, nothing was changed: " + "; ".join(problems) + "\n")
        sys.stderr.flush()
        raise SystemExit(REFUSED_EXIT)

    def _say(self, lines: Iterable[str]) -> None:
        """Show lines in the playbook's own output, where AWX shows them too."""
        self._display.display("\n" + "\n".join(lines))

    def _banner(self, told: dict[str, Any]) -> str:
        """Return where, why and when, for whoever reads the output of a run from its first line on."""
        services = self.extra.get("rollback_services") or []
        named = services if isinstance(services, str) else ", ".join(map(str, services))
        what = f"{told['kind']}, level {told['level']}" if told["level"] else told["kind"]
        where = f"{told['limit'] or named or 'all'} of {', '.join(told['inventory']) or 'no inventory'}"
        return printable(f"{told['started']} {told['run']}: {what}, of {where}: {told['reason'] or 'no reason given'}")

    def _new_record(self, run: str, kind: str, level: int) -> Record:
        sources = [str(Path(source).absolute()) for source in CLIARGS.get("inventory") or () if "," not in source]
        return Record(
            run=run,
            kind=kind,
            level=level,
            playbook=self.playbook,
            check_mode=bool(CLIARGS.get("check")),
            reason=str(self.extra.get("rollback_reason") or ""),
            operator=str(self.extra.get("awx_user_name") or ""),
            inventory=sources,
            limit=str(CLIARGS.get("subset") or ""),
            directory=records_directory(dry=bool(CLIARGS.get("check")) or kind in ("preflight", "verify", "status")),
        )


def _phase(task: Any) -> str:
    """Return the phase that one of the engine's tasks belongs to; empty for any other task."""
    action = str(task.action)
    if action in ("rollback_guard", "rollback_plan", "rollback_finish", "rollback_panic"):
        return action[len("rollback_") :]
    if action in ("rollback_phase", "rollback_checks"):
        return str(task.args.get("phase", ""))
    return "status" if action == "rollback_status" else ""


def _stop(number: int, _frame: Any) -> None:
    """Ask the run to stop at its next step boundary; asked a second time, stop at once."""
    if os.environ.get(STOP_VARIABLE):
        if number == signal.SIGHUP:  # a terminal that closes says so more than once
            return
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        os.kill(os.getpid(), number)
        return
    os.environ[STOP_VARIABLE] = signal.Signals(number).name
    sys.stderr.write(
        f"\n{signal.Signals(number).name}: stopping at the next step boundary; a second signal stops at once.\n"
    )


def _width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else WIDTH


def _preload() -> None:
    """Load what every worker would load again, once, before they are forked, and keep it out of their collector."""
    list(filter_loader.all())
    list(test_loader.all())
    gc.freeze()
