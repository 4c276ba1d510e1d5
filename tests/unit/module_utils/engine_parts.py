# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine's tests share: the smallest complete component (a text file), and a service made of such files.

The file's first line is its version; what follows is what users wrote, which means something only while nobody writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import registry
from ansible.module_utils.rollbackctl.component import (
    BETWEEN,
    Driver,
    Entry,
    FenceDriver,
    Finding,
    Loss,
    Place,
    Version,
    unknown_target,
)
from ansible.module_utils.rollbackctl.durable import now
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.phases import run_phase
from ansible.module_utils.rollbackctl.runs import finish_run, open_run, plan_run
from ansible.module_utils.rollbackctl.store import DirectoryStore, host_name

RUN = "rb-20261121-093015-4f2a"
OTHER_RUN = "rb-20261121-101500-0001"
SINCE = "2026-11-21T09:00:00Z"
HALF = "half-way\n"
FENCED, OPEN = "closed", "open"


class TextDriver(Driver):
    """A file of lines. Options: path, layer, loss (a time), fail, slow (seconds), versions (name -> content)."""

    layer = "application"
    exact_keys = ("rows",)
    failpoints = ()

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.path = Path(str(options["path"]))

    def _version(self, content: str, **more: Any) -> Version:
        version, _, rows = content.partition("\n")
        return Version(identity={"version": version, "rows": rows}, text=f"version {version}", **more)

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        try:
            return self._version(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise Refused(f"{self.name}: {self.path} does not exist.") from error

    def resolve(self, want: Version | str) -> Version:
        versions: dict[str, str] = self.options.get("versions", {})
        if isinstance(want, Version):
            if not (Path(want.at) / "content").is_file():
                raise Refused(f"{self.name}: {want.text} is damaged: its content is missing.")
            return want
        if want not in versions:
            raise unknown_target(self.name, want, sorted(versions), "version")
        return self._version(versions[want], artefacts={"content": versions[want]})

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - the options say what is found
        since = self.options.get("loss")
        return Finding(
            problems=tuple(self.options.get("problems", ())),
            loss=Loss(since=since, text="3 rows") if since else None,
            worst_seconds=float(self.options.get("worst_seconds", 60.0)),
            needs_fence=bool(self.options.get("needs_fence")),
        )

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        if self.path.read_text(encoding="utf-8") == HALF:
            return BETWEEN, self._version(HALF)
        return super().state(entry, opened=opened)

    def record(self, into: Path) -> Version:
        shutil.copyfile(self.path, into / "content")
        return self._version((into / "content").read_text(encoding="utf-8"), taken=now(), at=str(into))

    def apply(self, target: Version) -> None:
        time.sleep(float(self.options.get("slow", 0.0)))
        if self.options.get("fail") == target.identity["version"]:
            raise StepFailed(f"{self.name} did not work.")
        content = target.artefacts.get("content")
        if content is None:
            content = (Path(target.at) / "content").read_text(encoding="utf-8")
        if not self.options.get("lies"):
            self.path.write_text(content, encoding="utf-8")

    def finalize(self) -> list[str]:
        aside = self.path.with_name(f"{self.path.name}.{self.place.run}.old")
        if not aside.exists():
            return []
        aside.unlink()
        return [str(aside)]


class DataDriver(TextDriver):
    """The same, holding data."""

    layer = "data"


class GateDriver(FenceDriver, TextDriver):
    """A fence that is closed while its file says so, and that follows what else changes."""

    default_action = "follow"

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        return Version(identity={}, text=self.path.read_text(encoding="utf-8"))

    def resolve(self, want: Version | str) -> Version:
        assert isinstance(want, Version)
        return want

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        return Driver.state(self, entry, opened=opened)

    def apply(self, target: Version) -> None:  # noqa: ARG002 - there is one state to be in
        self.open()

    def closed(self) -> bool:
        return self.path.read_text(encoding="utf-8") == FENCED

    def close(self) -> None:
        self.path.write_text(FENCED, encoding="utf-8")

    def open(self) -> None:
        self.path.write_text(OPEN, encoding="utf-8")


ROLES: dict[str, type[Driver]] = {"text": TextDriver, "data": DataDriver, "gate": GateDriver}


@dataclasses.dataclass
class Service:
    """A service of text files with its state store; each method does what a task of a playbook would."""

    folder: Path
    components: dict[str, list[dict[str, Any]]]
    pid: int = dataclasses.field(default_factory=os.getpid)
    lease_seconds: float = 60.0
    run: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(str(self.folder / "state"))

    @property
    def state(self) -> dict[str, str]:
        return {"kind": "directory", "path": str(self.folder / "state")}

    def asked_run(self, kind: str, identity: str) -> dict[str, Any]:
        return {
            "id": identity,
            "kind": kind,
            "level": 3,
            "state": self.state,
            "holder": "ops",
            "controller": host_name(),
            "pid": self.pid,
            "lease_seconds": self.lease_seconds,
        }

    def open(self, kind: str = "rollback", identity: str = RUN, *, dry: bool = False, **asked: Any) -> dict[str, Any]:
        return self.open_as(self.asked_run(kind, identity), dry=dry, **asked)

    def open_as(self, asked_run: dict[str, Any], *, dry: bool = False, **asked: Any) -> dict[str, Any]:
        """Open what a guard asks for."""
        facts = open_run(asked_run, {}, asked, dry=dry)
        self.run = {**asked_run, **facts, "service": "shop", "reason": "it broke", "to": asked.get("rollback_to") or {}}
        return facts

    def roles(self, *names: str) -> list[dict[str, Any]]:
        """The components as run_phase takes them."""
        return [
            {"role": role, "components": items} for role, items in self.components.items() if not names or role in names
        ]

    def phase(self, phase: str, *names: str, check_mode: bool = False) -> dict[str, Any]:
        return run_phase({"phase": phase, "roles": self.roles(*names), "run": self.run}, check_mode=check_mode)

    def go(self, *phases: str) -> None:
        """Phases that must work."""
        for phase in phases:
            result = self.phase(phase)
            assert not result.get("failed"), result

    def plan(self, *, dry: bool = False, **asked: Any) -> dict[str, Any]:
        proposals = self.phase("preflight")["rollbackctl"]["proposals"]
        fences = any(item.get("fence") for items in self.components.values() for item in items)
        return plan_run(self.run, asked, proposals, fences=fences, dry=dry)

    def begin(self, kind: str = "rollback", identity: str = RUN, **asked: Any) -> dict[str, Any]:
        """Guard, preflight and plan; the plan must have no problems."""
        self.open(kind, identity, **asked)
        made = self.plan(**asked)
        assert made["problems"] == []
        plan: dict[str, Any] = made["plan"]
        return plan

    def finish(self, *, failed: bool = False, message: str = "", **asked: Any) -> dict[str, Any]:
        return finish_run(self.run, asked, self.roles(), failed=failed, message=message)

    def events(self, identity: str = RUN) -> list[str]:
        return [event["event"] for event in self.store.journal(identity).events()]


def text_component(folder: Path, name: str, live: str, target: str, **options: Any) -> dict[str, Any]:
    """A component whose file holds `live`, and that knows `target` as the version called good."""
    path = folder / f"{name}.txt"
    path.write_text(live, encoding="utf-8")
    return {"name": name, "path": str(path), "versions": {"good": target}, **options}


def statuses(result: Mapping[str, Any]) -> dict[str, str]:
    """What became of each component in a phase."""
    return {step["component"]: step["status"] for step in result["rollbackctl"]["steps"]}


def tree_digest(folder: Path) -> str:
    """A digest of every name, kind, mode and byte below a folder, times of change included."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found.update(f"{path}\0{status.st_mode}\0{status.st_mtime_ns}\0".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine know our drivers for one test."""
    for role, driver in ROLES.items():
        monkeypatch.setitem(registry.DRIVERS, role, driver)
