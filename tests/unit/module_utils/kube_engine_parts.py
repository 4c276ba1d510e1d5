# SPDX-License-Identifier: GPL-3.0-or-later
"""The smallest components in Kubernetes, a key of a ConfigMap each, and a service made of them.

As engine_parts.py has them in files: the first line is the version, what follows is what users wrote.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import registry
from ansible.module_utils.rollbackctl.component import (
    BETWEEN,
    Driver,
    Entry,
    FenceDriver,
    Finding,
    Place,
    Version,
    unknown_target,
)
from ansible.module_utils.rollbackctl.durable import now
from ansible.module_utils.rollbackctl.errors import Refused, StepFailed
from ansible.module_utils.rollbackctl.failpoints import failpoint
from ansible.module_utils.rollbackctl.kube_shelf import read_shelf
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore
from ansible.module_utils.rollbackctl.phases import run_phase
from ansible.module_utils.rollbackctl.runs import finish_run, open_run, plan_run
from ansible.module_utils.rollbackctl.store import KINDS, host_name

from tests.unit.module_utils import kube_store_parts
from tests.unit.module_utils.engine_parts import FENCED, OPEN, RUN

HALF = "half-way\n"


class MapDriver(Driver):
    """A key of the ConfigMap `map`. Options: key, versions (name -> content), fail, slow (seconds), needs_fence."""

    layer = "application"
    exact_keys = ("rows",)
    store_kind = "kubernetes"
    failpoints = ("map.write.before", "map.write.after")

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.key = str(options["key"])

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.place.cluster.namespace}/configmaps/{self.options['map']}"

    def read(self) -> str:
        found = self.place.cluster.client.find(self.path)
        if found is None or self.key not in found["data"]:
            raise Refused(f"{self.name}: there is no key {self.key}.")
        return str(found["data"][self.key])

    def write(self, content: str) -> None:
        time.sleep(float(self.options.get("slow", 0.0)))
        failpoint("map.write.before")
        self.place.cluster.prove()
        self.place.cluster.client.merge_patch(self.path, {"data": {self.key: content}})
        failpoint("map.write.after")

    def _version(self, content: str, **more: Any) -> Version:
        version, _, rows = content.partition("\n")
        return Version(identity={"version": version, "rows": rows}, text=f"version {version}", **more)

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        return self._version(self.read())

    def resolve(self, want: Version | str) -> Version:
        versions: dict[str, str] = self.options.get("versions", {})
        if isinstance(want, Version):
            return want
        if want not in versions:
            raise unknown_target(self.name, want, sorted(versions), "version")
        return self._version(versions[want], artefacts={"content": versions[want]})

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - the options say what is found
        return Finding(needs_fence=bool(self.options.get("needs_fence")))

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        if self.read() == HALF:
            return BETWEEN, self._version(HALF)
        return super().state(entry, opened=opened)

    def record(self, into: Any) -> Version:
        content = self.read()
        return self._version(content, taken=now(), at=into.save({"content": content}))

    def apply(self, target: Version) -> None:
        if self.options.get("fail") == target.identity["version"]:
            raise StepFailed(f"{self.name} did not work.")
        content = target.artefacts.get("content")
        if content is None:
            cluster = self.place.cluster
            content = read_shelf(cluster.client, cluster.namespace, target.at)["content"]
        self.write(content)


class MapData(MapDriver):
    """The same, holding data."""

    layer = "data"


class MapGate(FenceDriver, MapDriver):
    """A fence that is closed while its key says so, and that follows what else changes."""

    default_action = "follow"

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        return Version(identity={}, text=self.read())

    def resolve(self, want: Version | str) -> Version:
        assert isinstance(want, Version)
        return want

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        return Driver.state(self, entry, opened=opened)

    def apply(self, target: Version) -> None:  # noqa: ARG002 - there is one state to be in
        self.open()

    def closed(self) -> bool:
        return self.read() == FENCED

    def close(self) -> None:
        self.write(FENCED)

    def open(self) -> None:
        self.write(OPEN)


ROLES: dict[str, type[Driver]] = {"map": MapDriver, "mapdata": MapData, "mapgate": MapGate}


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine know our drivers, and the kind of store, for one test."""
    monkeypatch.setitem(KINDS, "kubernetes", KubernetesStore)
    for role, driver in ROLES.items():
        monkeypatch.setitem(registry.DRIVERS, role, driver)


@dataclasses.dataclass
class MapService:
    """A service of such keys: data that needs a fence, code, and the gate. Each method is a task of a playbook."""

    place: kube_store_parts.Place
    lease_seconds: float = 60.0
    run: dict[str, Any] = dataclasses.field(default_factory=dict)
    gate_options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def make(self) -> None:
        """Make the broken service."""
        data = {"db": "v2\nrow 1\n", "app": "bad\n", "gate": OPEN}
        folder = f"/api/v1/namespaces/{self.place.namespace}/configmaps"
        self.place.admin.create(folder, {"metadata": {"name": self.place.service}, "data": data})

    def set(self, key: str, content: str) -> None:
        path = f"/api/v1/namespaces/{self.place.namespace}/configmaps/{self.place.service}"
        self.place.admin.merge_patch(path, {"data": {key: content}})

    def get(self, key: str) -> str:
        path = f"/api/v1/namespaces/{self.place.namespace}/configmaps/{self.place.service}"
        return str(self.place.admin.get(path)["data"][key])

    def roles(self) -> list[dict[str, Any]]:
        def part(name: str, target: str, **more: Any) -> dict[str, Any]:
            return {"name": name, "key": name, "map": self.place.service, "versions": {"good": target}, **more}

        return [
            {"role": "mapdata", "components": [part("db", "v1\n", needs_fence=True)]},
            {"role": "map", "components": [part("app", "good\n")]},
            {"role": "mapgate", "components": [part("gate", "", fence=True, **self.gate_options)]},
        ]

    def open(self, identity: str = RUN, *, kind: str = "rollback", **asked: Any) -> dict[str, Any]:
        """Be the guard."""
        asked_run = {
            "id": identity,
            "kind": kind,
            "level": 3,
            "state": self.place.state,
            "holder": "ops",
            "controller": host_name(),
            "pid": os.getpid(),
            "lease_seconds": self.lease_seconds,
        }
        facts = open_run(asked_run, {}, asked, dry=False)
        self.run = {**asked_run, **facts, "service": "shop", "reason": "it broke", "to": asked.get("rollback_to") or {}}
        return facts

    def phase(self, phase: str) -> dict[str, Any]:
        return run_phase({"phase": phase, "roles": self.roles(), "run": self.run}, check_mode=False)

    def go(self, *phases: str) -> None:
        """Phases that must work."""
        for phase in phases:
            result = self.phase(phase)
            assert not result.get("failed"), result

    def begin(self, identity: str = RUN) -> None:
        """Guard, preflight and plan."""
        self.open(identity, rollback_to={"db": "good", "app": "good"})
        proposals = self.phase("preflight")["rollbackctl"]["proposals"]
        made = plan_run(self.run, {}, proposals, fences=True, dry=False)
        assert made["problems"] == []

    def finish(self, *, failed: bool = False, message: str = "") -> dict[str, Any]:
        return finish_run(self.run, {}, self.roles(), failed=failed, message=message)

    def events(self, identity: str = RUN) -> list[str]:
        return [event["event"] for event in self.place.store.journal(identity).events()]
