# SPDX-License-Identifier: GPL-3.0-or-later
"""Services in Kubernetes that are broken and put back, each in a namespace of its own; between them they pass every
failpoint of the drivers that work there.

A new driver needs a scene here. Which failpoint is passed in which scene is found out by an undisturbed run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl import kube_registry
from ansible.module_utils.rollbackctl.controller import role_options, validate
from ansible.module_utils.rollbackctl.fence import FAILPOINTS as FENCE_FAILPOINTS
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_hold import KINDS as HELD_KINDS
from ansible.module_utils.rollbackctl.registry import DRIVERS

from lab.kubernetes.cluster import Cluster
from tests.faults.conftest import THOROUGH
from tests.faults.harness import Run, passed
from tests.faults.kubernetes import outside
from tests.support.kube import fresh_namespace
from tests.support.kube_service import BAD, GOOD, KubeService
from tests.unit.module_utils.traffic_lab import autoscaler, cronjob

kube_registry.install()
ROLES = Path(__file__).resolve().parents[3] / "roles"
LEASE_SECONDS = 30
KINDS = {role: driver for role, driver in DRIVERS.items() if driver.store_kind == "kubernetes"}
ALL_FAILPOINTS = (*FENCE_FAILPOINTS, *(name for driver in KINDS.values() for name in driver.failpoints))
Components = list[tuple[str, Mapping[str, Any]]]
SETTINGS = {"SHOP_CURRENCY": "EUR", "SHOP_FLAG": "on"}
BAD_SETTINGS = {"SHOP_CURRENCY": "Euro", "SHOP_NEW": "1"}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One way of being broken and of being put back.

    components: (role, options), in the level's order. make: the good service. spoil: what the bad release does to it;
    without one what is made is the bad one, and it is come back to by taking the last run back. undoes: what is
    examined is taking a run back. inherent: the target follows from what the component is, no checkpoint is needed.
    counts: how many pods there are is what is put back, and not only something that is given back at the end.
    settings: what users are told when it is good. serves: whether users are served when it is good. long: passes no
    failpoint that no other scene passes, so it has its turn when there is time. lends: fields that are somebody's for
    as long as the fence is closed.
    """

    name: str
    components: Components
    make: Callable[[KubeService], None]
    spoil: Callable[[KubeService], None] | None
    undoes: bool = False
    inherent: bool = False
    counts: bool = False
    settings: Mapping[str, str] | None = None
    serves: bool = True
    long: bool = False
    lends: tuple[str, ...] = ()


API: dict[str, Any] = {
    "name": "api",
    "workloads": ["deployment/api"],
    "service": "api",
    "answer": {"port": "http", "path": "/version", "json": "version", "in_a_row": 2},
    "timeout": 60.0,
}


def _simple(service: KubeService) -> None:
    service.make(spec={"revisionHistoryLimit": 3})
    service.serve()


def _new_version(service: KubeService) -> None:
    service.deploy()


def _two_colours(service: KubeService) -> None:
    for colour, version in (("blue", GOOD), ("green", BAD)):
        service.make(f"deployment/{colour}", version, labels={"app": "api", "version": colour}, wait=False)
    for colour in ("blue", "green"):
        service.wait(f"deployment/{colour}")
    service.serve(selector={"app": "api", "version": "blue"})


def _switch(service: KubeService) -> None:
    service.edit("services/api", {"op": "replace", "path": "/spec/selector/version", "value": "green"})


def _with_canary(service: KubeService) -> None:
    _simple(service)
    service.make("deployment/canary", BAD, replicas=0, labels={"app": "api-canary"}, wait=False)


def _start_canary(service: KubeService) -> None:
    service.edit("deployment/canary", {"op": "replace", "path": "/spec/replicas", "value": 1})
    service.wait("deployment/canary")


def _configured(service: KubeService) -> None:
    folder = f"/api/v1/namespaces/{service.namespace}"
    service.admin.create(f"{folder}/configmaps", {"metadata": {"name": "settings"}, "data": SETTINGS})
    service.admin.create(f"{folder}/secrets", {"metadata": {"name": "keys"}, "stringData": {"SHOP_KEY": "good"}})
    sources = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}]
    service.make(container={"envFrom": sources})
    service.serve()


def _configure_badly(service: KubeService) -> None:
    for path, field, value in (
        ("configmaps/settings", "data", BAD_SETTINGS),
        ("secrets/keys", "data", {"SHOP_KEY": "YmFk"}),
    ):
        service.edit(path, {"op": "replace", "path": f"/{field}", "value": value})
    item = service.get()
    template = item["spec"]["template"]
    container = template["spec"]["containers"][0]
    container["image"] = service.lab.image(BAD)
    container["envFrom"] = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}]
    service.edit("deployment/api", {"op": "replace", "path": "/spec/template", "value": template})
    service.wait()


def _with_data(service: KubeService) -> None:
    folder = f"/api/v1/namespaces/{service.namespace}/configmaps"
    service.admin.create(folder, {"metadata": {"name": "database"}, "data": {"rows": "v1\nrow 1\n"}})
    _simple(service)


def _with_data_and_more(service: KubeService) -> None:
    _with_data(service)
    _surround(service)


def _surround(service: KubeService) -> None:
    """Make what has to be kept from starting the workload again: an autoscaler, and a job that is not due."""
    for kind, document in (
        ("horizontalpodautoscaler", autoscaler("api", "deployment/api")),
        ("cronjob", cronjob("nightly", suspend=False)),
    ):
        service.admin.create(HELD_KINDS[kind].collection(service.namespace), document)


def _scaled(service: KubeService) -> None:
    _simple(service)
    _surround(service)


def _migrate_badly(service: KubeService) -> None:
    service.edit("configmaps/database", {"op": "replace", "path": "/data/rows", "value": "v2\nrow 2\n"})
    service.deploy()


CONFIG = {"name": "settings", "configmaps": ["settings"], "secrets": ["keys"]}
READS = {**API, "config": "settings"}
DATA = {"name": "database", "key": "rows", "map": "database", "needs_fence": True}
STOP = {"name": "traffic", "workloads": ["deployment/api"], "cronjobs": ["nightly"], "timeout": 60.0}
GOOD_SETTINGS = {**SETTINGS, "SHOP_KEY": "good"}
ALL_SCENES = (
    Scene("undo", [("rollback_kubernetes", API)], _simple, _new_version, long=True),
    Scene("fast", [("rollback_kubernetes", {**API, "strategy": "fast"})], _simple, _new_version),
    Scene("recreate", [("rollback_kubernetes", {**API, "strategy": "recreate"})], _simple, _new_version),
    Scene(
        "blue green",
        [
            (
                "rollback_kubernetes",
                {**API, "workloads": ["deployment/blue", "deployment/green"], "strategy": "blue_green"},
            )
        ],
        _two_colours,
        _switch,
    ),
    Scene(
        "canary",
        [
            (
                "rollback_kubernetes",
                {"name": "canary", "workloads": ["deployment/canary"], "strategy": "canary_stop"},
            )
        ],
        _with_canary,
        _start_canary,
        inherent=True,
        counts=True,
    ),
    Scene(
        "configuration",
        [("restore_kubernetes_config", CONFIG), ("rollback_kubernetes", READS)],
        _configured,
        _configure_badly,
        settings=GOOD_SETTINGS,
    ),
    Scene(
        "configuration, copies",
        [("restore_kubernetes_config", {**CONFIG, "mode": "versioned"}), ("rollback_kubernetes", READS)],
        _configured,
        _configure_badly,
        settings=GOOD_SETTINGS,
    ),
    Scene(
        "fence",
        [("mapdata", DATA), ("stop_kubernetes", {**STOP, "fence": True}), ("rollback_kubernetes", API)],
        _with_data_and_more,
        _migrate_badly,
    ),
    Scene(
        "fence, service",
        [
            ("mapdata", DATA),
            ("stop_kubernetes", {"name": "traffic", "by": "service", "service": "api", "fence": True}),
            ("rollback_kubernetes", {"name": "api", "workloads": ["deployment/api"], "timeout": 60.0}),
        ],
        _with_data,
        _migrate_badly,
        lends=("selector",),
        long=True,
    ),
    Scene(
        "shutdown",
        [("shutdown_kubernetes", STOP)],
        _scaled,
        None,
        inherent=True,
        counts=True,
        serves=False,
    ),
    Scene(
        "traffic again",
        [("shutdown_kubernetes", STOP)],
        _scaled,
        None,
        undoes=True,
        inherent=True,
        counts=True,
    ),
)
# What has its turn in this run of the tests.
SCENES = tuple(scene for scene in ALL_SCENES if THOROUGH or not scene.long)


def scene_called(name: str) -> Scene:
    """Return a scene by its name."""
    return next(scene for scene in ALL_SCENES if scene.name == name)


class Stage:
    """A scene in its namespace, with what an undisturbed run has shown of it."""

    def __init__(self, scene: Scene, service: KubeService, trace: Path) -> None:
        """Make the good service, break it, and put it back once."""
        self.scene, self.service = scene, service
        self.last = ""  # the run that can be taken back
        scene.make(service)
        good = outside.read(service)
        if not scene.inherent:
            self.must(kind="checkpoint")
        if scene.spoil is not None or scene.undoes:
            self.spoil()
        self.old = outside.read(service)
        trace.mkdir()
        self.ended(self.must(trace=trace))
        self.new = outside.read(service)
        self.passed = list(dict.fromkeys(name for _phase, name in passed(trace)))
        if not scene.inherent and "copies" not in scene.name:
            assert self.new == good, "what was put back is not what was there"

    def run(self, **how: Any) -> Run:
        """Return a run of this service; see harness.Run."""
        if self.scene.undoes and "kind" not in how:
            how = {**how, "kind": "undo", "named": how.get("named") or self.last}
        return Run(self.profile, **how)

    def must(self, **how: Any) -> str:
        """Do a run that must go well; return its id."""
        run = self.run(**how)
        ending = run.go()
        assert ending["outcome"] == "done", ending
        return str(run.run["id"])

    def ended(self, run: str) -> None:
        """Remember the run that put the service back."""
        if not self.scene.undoes:
            self.last = run

    def spoil(self) -> None:
        """Break the service, as the bad release did."""
        if self.scene.undoes:
            self.last = self.must(kind="rollback")
        elif self.scene.spoil is None:
            self.must(kind="undo", named=self.last)
        else:
            self.scene.spoil(self.service)

    @property
    def profile(self) -> dict[str, Any]:
        """What a controller needs to know, defaults filled in from the roles' specifications."""
        roles = []
        for role, options in self.scene.components:
            wanted = [dict(options)]
            if role != "mapdata":
                values, problems = validate(role_options(str(ROLES / role), "preflight"), {role: wanted})
                assert not problems, problems
                wanted = values[role]
            roles.append({"role": role, "components": wanted})
        return {"roles": roles, "state": self.service.state, "lease_seconds": LEASE_SECONDS}


class Bench:
    """Makes the stages, each when it is first asked for."""

    def __init__(self, lab: Cluster, admin: Client, folder: Path) -> None:
        self.lab, self.admin, self.folder = lab, admin, folder
        self._stages: dict[str, Stage] = {}
        self._open = ExitStack()

    def stage(self, scene: Scene) -> Stage:
        """Return a scene's stage."""
        if scene.name not in self._stages:
            self._stages[scene.name] = self.fresh(scene)
        return self._stages[scene.name]

    def fresh(self, scene: Scene, kubeconfig: Callable[[str], Path] | None = None) -> Stage:
        """Return a new stage of a scene. kubeconfig: makes the one that runs use, for a namespace."""
        namespace = self._open.enter_context(fresh_namespace(self.admin, "faults"))
        service = KubeService(self.lab, self.admin, namespace, kubeconfig(namespace) if kubeconfig else None)
        return Stage(scene, service, self.folder / f"{len(list(self.folder.iterdir()))} {scene.name}")

    def stages(self) -> Iterator[Stage]:
        """Return all stages."""
        yield from map(self.stage, SCENES)

    def close(self) -> None:
        """Have the namespaces removed: without a journal watchdogs end by themselves."""
        self._open.close()
