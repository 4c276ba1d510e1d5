# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens between reading and writing ConfigMaps and Secrets: other writers, lost answers, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, TARGET, Entry
from ansible.module_utils.rollbackctl.errors import StateOther, StepFailed
from ansible.module_utils.rollbackctl.failpoints import VARIABLE
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_config import KubeConfigDriver

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace, token_kubeconfig
from tests.support.kube_proxy import FaultProxy
from tests.unit.module_utils.kube_config_parts import (
    BAD_MAP,
    BAD_SECRET,
    CANARY_BAD,
    CANARY_GOOD,
    GOOD_MAP,
    MAP,
    SECRET,
    Scene,
    client_of,
)

ROOT = Path(__file__).resolve().parents[3]
ALL = ({"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["*"]},)
MAPS, SECRETS = f"/configmaps/{MAP}$", f"/secrets/{SECRET}$"
STEP = """
import json, sys
from ansible import module_utils
module_utils.__path__.append(sys.argv[1])
from ansible.module_utils.rollbackctl.component import Entry, Place
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_config import KubeConfigDriver
from ansible.module_utils.rollbackctl.kube_shelf import Shelf
from ansible.module_utils.rollbackctl.kube_store import Cluster
order = json.loads(sys.argv[2])
client = Client(find_access({"kubeconfig": order["kubeconfig"]}, {}))
cluster = Cluster(client, order["namespace"], lambda: None)
driver = KubeConfigDriver(order["options"], Place(run="rb-1", cluster=cluster))
entry = Entry.from_dict(order["entry"])
if driver.state(entry, opened=False)[0] == "live":
    driver.record(Shelf(client, order["namespace"], "rollbackctl-shop-kept-settings-recorded", {"labels": {}}))
driver.apply(entry.target)
"""


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture(scope="module")
def robot(lab_cluster: Cluster, shared: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return token_kubeconfig(lab_cluster, shared, ALL, tmp_path_factory.mktemp("robot"))


@pytest.fixture
def scene(admin: Client, shared: str) -> Scene:
    return Scene(admin, shared).emptied()


@pytest.fixture
def entry(scene: Scene) -> Entry:
    return scene.plan(scene.recorded_and_broken())[0]


@pytest.fixture
def through(robot: Path, fault_proxy: FaultProxy, tmp_path: Path) -> Iterator[Client]:
    """A client whose requests pass the proxy."""
    text = robot.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    document["clusters"][0]["cluster"]["server"] = fault_proxy.url
    path = tmp_path / "proxied.kubeconfig"
    path.write_text(json.dumps(document), encoding="utf-8")
    client = client_of(path, timeout=5.0)
    yield client
    client.close()


def driver_that_has_read(scene: Scene, entry: Entry, client: Client) -> KubeConfigDriver:
    driver = scene.driver(client=client)
    assert driver.state(entry, opened=False)[0] == LIVE
    return driver


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + str(vars(error))


# -- somebody else writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the request", "while it is under way"])
def test_a_change_between_reading_and_writing_stops_it(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy, when: str
) -> None:
    driver = driver_that_has_read(scene, entry, through)
    if when == "before the request":
        scene.set("configmap", MAP, {"third": "deploy"})
    else:
        fault_proxy.add(MAPS, "PATCH", call=lambda _: scene.set("configmap", MAP, {"third": "deploy"}))
    with pytest.raises(StateOther, match=f"configmap/{MAP} has another content since this step read it") as stopped:
        driver.apply(entry.target)
    assert "start a new run" in stopped.value.next_step
    assert scene.data("configmap", MAP) == {"third": "deploy"}
    assert scene.data("secret", SECRET) == BAD_SECRET, "what comes after it is not changed either"


def test_a_change_of_the_secret_stops_it_half_way(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    fault_proxy.add(SECRETS, "PATCH", call=lambda _: scene.set("secret", SECRET, {"PASSWORD": "canary-third"}))
    with pytest.raises(StateOther) as stopped:
        driver_that_has_read(scene, entry, through).apply(entry.target)
    assert "canary" not in everything_said(stopped.value)
    assert scene.data("secret", SECRET) == {"PASSWORD": "canary-third"}
    assert scene.data("configmap", MAP) == GOOD_MAP


def test_a_change_that_was_recorded_by_nobody_is_not_overwritten(scene: Scene, entry: Entry) -> None:
    driver = scene.driver()
    assert driver.state(entry, opened=False)[0] == LIVE
    scene.set("secret", SECRET, {"PASSWORD": "third"})
    driver.record(scene.shelf("kept"))  # keeps the third, which the plan does not know
    with pytest.raises(StateOther):
        driver.apply(entry.target)
    assert scene.data("secret", SECRET) == {"PASSWORD": "third"}


def test_a_change_of_something_else_does_not_stop_it(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    label = {"metadata": {"labels": {"team": "web"}}}
    fault_proxy.add(
        MAPS, "PATCH", call=lambda _: scene.client.merge_patch(scene.path("configmap", MAP), label) and None
    )
    driver_that_has_read(scene, entry, through).apply(entry.target)
    assert scene.is_good()
    assert scene.get("configmap", MAP)["metadata"]["labels"] == {"team": "web"}
    assert fault_proxy.count("PATCH", MAPS) == 2


def test_somebody_who_puts_it_back_meanwhile_is_not_in_the_way(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    fault_proxy.add(MAPS, "PATCH", call=lambda _: scene.set("configmap", MAP, GOOD_MAP))
    driver_that_has_read(scene, entry, through).apply(entry.target)
    assert scene.is_good()
    assert fault_proxy.count("PATCH", MAPS) == 1


def test_an_object_that_is_deleted_meanwhile_stops_it(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    fault_proxy.add(MAPS, "PATCH", call=lambda _: scene.client.delete(scene.path("configmap", MAP)))
    with pytest.raises(StateOther, match=f"configmap/{MAP} is gone"):
        driver_that_has_read(scene, entry, through).apply(entry.target)


def test_an_object_that_is_made_meanwhile_stops_it(scene: Scene, through: Client, fault_proxy: FaultProxy) -> None:
    good = scene.recorded_and_broken()
    scene.client.delete(scene.path("configmap", MAP))
    entry, _ = scene.plan(good)
    fault_proxy.add("/configmaps$", "POST", call=lambda _: scene.make("configmap", MAP, data={"third": "deploy"}))
    with pytest.raises(StateOther, match="has another content"):
        driver_that_has_read(scene, entry, through).apply(entry.target)
    assert scene.data("configmap", MAP) == {"third": "deploy"}


def test_an_object_that_is_always_written_to_is_given_up(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    count = iter(range(100))

    def label(_: object) -> None:
        change = {"metadata": {"labels": {"count": str(next(count))}}}
        scene.client.merge_patch(scene.path("configmap", MAP), change)

    fault_proxy.add(MAPS, "PATCH", times=None, call=label)
    with pytest.raises(StepFailed, match=f"configmap/{MAP} was not put back"):
        driver_that_has_read(scene, entry, through).apply(entry.target)
    assert scene.data("configmap", MAP) == BAD_MAP
    assert fault_proxy.count("PATCH", MAPS) == 5


# -- the answer is lost, or no -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "drop", "requests"), [(MAPS, "after", 1), (SECRETS, "after", 1), (MAPS, "before", 2)])
def test_a_lost_answer_is_read_back_and_not_written_twice(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy, path: str, drop: str, requests: int
) -> None:
    driver = driver_that_has_read(scene, entry, through)
    fault_proxy.add(path, "PATCH", drop=drop)
    driver.apply(entry.target)
    assert scene.is_good()
    assert fault_proxy.count("PATCH", path) == requests
    assert fault_proxy.count("GET", path) >= 2


def test_a_lost_answer_to_making_an_object_is_read_back(scene: Scene, through: Client, fault_proxy: FaultProxy) -> None:
    good = scene.recorded_and_broken()
    scene.client.delete(scene.path("secret", SECRET))
    entry, _ = scene.plan(good)
    driver = driver_that_has_read(scene, entry, through)
    fault_proxy.add("/secrets$", "POST", drop="after")
    driver.apply(entry.target)
    assert scene.is_good()
    assert fault_proxy.count("POST", "/secrets$") == 1


@pytest.mark.parametrize("status", [422, 403, 500])
def test_a_refusal_is_said_and_not_repeated(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy, status: int
) -> None:
    driver = driver_that_has_read(scene, entry, through)
    fault_proxy.add(MAPS, "PATCH", status=status)
    with pytest.raises(StepFailed, match=f"configmap/{MAP} was not put back: .* answered {status}") as failed:
        driver.apply(entry.target)
    assert not isinstance(failed.value, StateOther)
    assert failed.value.next_step != ""
    assert scene.is_bad()
    assert fault_proxy.count("PATCH", MAPS) == 1


@pytest.mark.parametrize(("status", "more"), [(409, {}), (429, {"retry_after": "0"}), (503, {"retry_after": "0"})])
def test_what_was_not_taken_is_sent_again(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy, status: int, more: dict[str, str]
) -> None:
    driver = driver_that_has_read(scene, entry, through)
    fault_proxy.add(SECRETS, "PATCH", status=status, **more)
    driver.apply(entry.target)
    assert scene.is_good()
    assert fault_proxy.count("PATCH", SECRETS) == 2


def test_a_key_that_two_controllers_make_is_one(scene: Scene, through: Client, fault_proxy: FaultProxy) -> None:
    scene.make_good()
    mine: list[Any] = []
    fault_proxy.add("/secrets$", "POST", call=lambda _: mine.append(scene.record("other")))
    version = scene.driver(client=through).record(scene.shelf("cp-1", through))
    assert version.identity == mine[0].identity


def test_a_lost_answer_to_making_the_key_makes_no_second_one(
    scene: Scene, through: Client, fault_proxy: FaultProxy
) -> None:
    scene.make_good()
    fault_proxy.add("/secrets$", "POST", drop="after")
    version = scene.driver(client=through).record(scene.shelf("cp-1", through))
    assert scene.driver().live(exact=True).identity == version.identity


def test_no_value_is_in_what_is_said_when_the_server_repeats_it(
    scene: Scene, entry: Entry, through: Client, fault_proxy: FaultProxy
) -> None:
    """What a server's refusal quotes of a Secret is not passed on; of a ConfigMap it is, for that is no secret."""
    driver = driver_that_has_read(scene, entry, through)
    fault_proxy.add(SECRETS, "PATCH", status=422, reason=f"{CANARY_GOOD}")
    with pytest.raises(StepFailed) as failed:
        driver.apply(entry.target)
    said = everything_said(failed.value)
    assert f"secret/{SECRET}" in said
    assert "the fault proxy says so" not in said
    assert CANARY_BAD not in said


# -- kills -------------------------------------------------------------------------------------------------------------


def step(scene: Scene, entry: Entry, robot: Path, failpoint: str) -> int:
    order = {
        "kubeconfig": str(robot),
        "namespace": scene.namespace,
        "options": scene.options,
        "entry": entry.to_dict(),
    }
    argv = [sys.executable, "-c", STEP, str(ROOT / "plugins" / "module_utils"), json.dumps(order)]
    env = {**os.environ, VARIABLE: failpoint}
    return subprocess.run(argv, env=env, check=False, timeout=120).returncode


@pytest.mark.parametrize(
    ("failpoint", "reads"),
    [
        ("record.before", LIVE),
        ("record.after", LIVE),
        ("write.before", LIVE),
        ("write.after", BETWEEN),
    ],
)
def test_a_kill_leaves_what_can_go_on(scene: Scene, entry: Entry, robot: Path, failpoint: str, reads: str) -> None:
    killed = step(scene, entry, robot, f"restore_kubernetes_config.{failpoint}:kill")
    assert killed == -signal.SIGKILL
    assert scene.driver().state(entry, opened=False)[0] == reads
    assert scene.roll(entry) == TARGET
    assert scene.is_good()


@pytest.mark.parametrize("failpoint", ["record.before", "write.before", "write.after"])
def test_an_error_of_the_machine_is_said_as_a_failed_step(
    scene: Scene, entry: Entry, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    driver = scene.driver()
    driver.state(entry, opened=False)
    monkeypatch.setenv(VARIABLE, f"restore_kubernetes_config.{failpoint}:fail")
    do: Callable[[], Any] = lambda: driver.record(scene.shelf("kept"))  # noqa: E731
    if failpoint.startswith("write"):
        do = lambda: driver.apply(entry.target)  # noqa: E731
    with pytest.raises(StepFailed, match="Each object is whole, as it was or as it should be"):
        do()
    monkeypatch.delenv(VARIABLE)
    assert scene.roll(entry) == TARGET
