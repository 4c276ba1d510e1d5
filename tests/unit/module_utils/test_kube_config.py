# SPDX-License-Identifier: GPL-3.0-or-later
"""ConfigMaps and Secrets come back as one unit, and nothing else of the objects is touched."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import BETWEEN, LIVE, OTHER, TARGET
from ansible.module_utils.rollbackctl.errors import Refused, RollbackError, StepFailed
from ansible.module_utils.rollbackctl.kube_client import Client

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.kube_config_parts import (
    BAD_MAP,
    BAD_SECRET,
    CANARY_BAD,
    CANARY_GOOD,
    GOOD_MAP,
    GOOD_SECRET,
    MAP,
    SECRET,
    Scene,
    client_of,
    encoded,
    told,
)

CONFIGMAP_REF, SECRET_REF = f"configmap/{MAP}", f"secret/{SECRET}"


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture
def scene(admin: Client, shared: str) -> Scene:
    return Scene(admin, shared).emptied()


def test_a_checkpoint_comes_back_and_goes_again(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.driver().state(entry, opened=False)[0] == LIVE
    before = scene.driver().record(scene.shelf("kept"))
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
    scene.driver().apply(before)
    assert scene.is_bad()
    assert scene.driver().matches(scene.driver().live(exact=True), before, exact=True)


def test_what_is_there_already_is_not_written_again(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.set("configmap", MAP, GOOD_MAP)
    entry, _ = scene.plan(good)
    of_map = scene.versions()[0]
    scene.roll(entry)
    done = scene.versions()
    assert done[0] == of_map
    assert scene.roll(entry) == TARGET
    assert scene.versions() == done


def test_a_plan_for_what_is_there_already_has_nothing_to_check(scene: Scene) -> None:
    scene.make_good()
    good = scene.record("cp-1")
    driver = scene.driver()
    live, target = driver.live(exact=True), driver.resolve(good)
    assert driver.matches(live, target, exact=True)
    assert driver.check(live, target).notes == ()


def test_everything_else_of_the_objects_stays_byte_for_byte(scene: Scene) -> None:
    owner = scene.client.create(
        f"/api/v1/namespaces/{scene.namespace}/configmaps", {"metadata": {"name": "owner"}, "data": {}}
    )["metadata"]
    metadata = {
        "labels": {"team": "shop", "app.kubernetes.io/instance": "shop"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"data":{}}\n', "note": "ours"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["uid"]}],
        "finalizers": ["example.org/keep"],
    }
    scene.make("configmap", MAP, data=GOOD_MAP, metadata=metadata)
    scene.make("secret", SECRET, stringData=GOOD_SECRET, type="example.org/login", metadata=metadata)
    good = scene.record("cp-1")
    scene.break_it()
    scene.client.merge_patch(scene.path("configmap", MAP), {"metadata": {"labels": {"team": "web"}}})

    def rest(kind: str, name: str) -> dict[str, Any]:
        item = scene.get(kind, name)
        for field in ("resourceVersion", "managedFields"):
            item["metadata"].pop(field)
        item.pop("data")
        return item

    before = [rest("configmap", MAP), rest("secret", SECRET)]
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
    assert [rest("configmap", MAP), rest("secret", SECRET)] == before
    for kind, name in (("configmap", MAP), ("secret", SECRET)):
        scene.client.merge_patch(scene.path(kind, name), {"metadata": {"finalizers": None}})


def test_binary_data_is_part_of_the_unit(scene: Scene) -> None:
    binary = {"logo.png": "iVBORw0KGgo=", "moves": "AAEC"}
    scene.make("configmap", MAP, data=GOOD_MAP, binaryData=binary)
    scene.make("configmap", "empty", data={})
    good = scene.record("cp-1", secrets=[], configmaps=[MAP, "empty"])
    change = {"binaryData": {"logo.png": "AAAA", "moves": None}, "data": {"moves": "text now", "CURRENCY": None}}
    scene.client.merge_patch(scene.path("configmap", MAP), change)
    scene.client.merge_patch(scene.path("configmap", "empty"), {"binaryData": {"x": "AAAA"}})
    entry, finding = scene.plan(good, secrets=[], configmaps=[MAP, "empty"])
    assert "changes logo.png, moves, adds CURRENCY" in "; ".join(finding.notes)
    assert scene.roll(entry, secrets=[], configmaps=[MAP, "empty"]) == TARGET
    found = scene.get("configmap", MAP)
    assert (found["data"], found["binaryData"]) == (GOOD_MAP, binary)
    assert "binaryData" not in scene.get("configmap", "empty")


def test_keys_that_were_added_since_go_away_and_are_named(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    _, finding = scene.plan(good)
    notes = "; ".join(finding.notes)
    assert (
        f"{CONFIGMAP_REF}: changes LOG_LEVEL, adds app.yaml, removes NEW_FLOW, which the target does not have" in notes
    )
    assert f"{SECRET_REF}: changes PASSWORD, PIN." in notes
    assert "until they are restarted" in notes


def test_keys_that_were_added_since_can_stay(scene: Scene) -> None:
    good = scene.recorded_and_broken(keep_added=True)
    scene.client.merge_patch(scene.path("secret", SECRET), {"data": encoded({"ADDED": "by somebody"})})
    entry, finding = scene.plan(good, keep_added=True)
    assert f"{CONFIGMAP_REF}: NEW_FLOW was added since and stays (keep_added)." in finding.notes
    assert scene.roll(entry, keep_added=True) == TARGET
    assert scene.data("configmap", MAP) == {**GOOD_MAP, "NEW_FLOW": "on"}
    assert scene.data("secret", SECRET) == {**GOOD_SECRET, "ADDED": "by somebody"}
    # Whoever changes an added key later changes nothing of this component's.
    scene.set("configmap", MAP, {**GOOD_MAP, "NEW_FLOW": "off"})
    assert scene.driver(keep_added=True).state(entry, opened=False)[0] == TARGET
    # The option may be changed between checkpoint and rollback.
    assert scene.roll(scene.plan(good)[0]) == TARGET
    assert scene.is_good()


def test_an_object_that_the_deploy_deleted_is_made_again(scene: Scene) -> None:
    metadata = {"labels": {"team": "shop"}, "annotations": {"note": "ours"}}
    scene.make("configmap", MAP, data=GOOD_MAP, binaryData={"b": "AAEC"}, metadata=metadata)
    scene.make("secret", SECRET, stringData=GOOD_SECRET, type="example.org/login", immutable=True, metadata=metadata)
    good = scene.record("cp-1")
    scene.client.delete(scene.path("configmap", MAP))
    scene.client.delete(scene.path("secret", SECRET))
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert entry.live.identity == {CONFIGMAP_REF: "absent", SECRET_REF: "absent"}
    assert f"{SECRET_REF} is not there and is made again (PASSWORD, PIN)." in finding.notes
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
    made = scene.get("secret", SECRET)
    assert (made["type"], made["immutable"]) == ("example.org/login", True)
    assert (made["metadata"]["labels"], made["metadata"]["annotations"]) == tuple(metadata.values())
    assert scene.get("configmap", MAP)["binaryData"] == {"b": "AAEC"}


def test_an_object_that_the_target_does_not_have_is_left_alone_and_named(scene: Scene) -> None:
    scene.make("configmap", MAP, data=GOOD_MAP)
    good = scene.record("cp-1")
    assert good.identity[SECRET_REF] == "absent"
    scene.make("secret", SECRET, stringData=BAD_SECRET)
    scene.set("configmap", MAP, BAD_MAP)
    entry, finding = scene.plan(good)
    assert f"{SECRET_REF} did not exist in the target; it is left as it is." in finding.notes
    assert scene.roll(entry) == TARGET
    assert scene.data("configmap", MAP) == GOOD_MAP
    assert scene.data("secret", SECRET) == BAD_SECRET


def test_old_and_new_is_half_way_and_goes_on(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)
    scene.set("configmap", MAP, GOOD_MAP)
    assert scene.driver().state(entry, opened=False)[0] == BETWEEN
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
    scene.set("secret", SECRET, {"PASSWORD": "third"})
    assert scene.driver().state(entry, opened=False)[0] == OTHER
    assert scene.driver().state(entry, opened=True)[0] == OTHER


# -- what tells contents apart -----------------------------------------------------------------------------------------


def test_an_identity_is_the_same_for_every_controller(scene: Scene, lab_cluster: Cluster) -> None:
    scene.make_good()
    recorded = scene.record("cp-1")
    elsewhere = scene.driver(client=client_of(lab_cluster.kubeconfig), run="rb-2")
    assert elsewhere.live(exact=True).identity == recorded.identity
    scene.break_it()
    assert elsewhere.live(exact=True).identity[SECRET_REF] != recorded.identity[SECRET_REF]
    assert elsewhere.resolve(recorded).identity == recorded.identity


def test_equal_values_do_not_look_equal(scene: Scene) -> None:
    scene.make("secret", "one", stringData=GOOD_SECRET)
    scene.make("secret", "two", stringData=GOOD_SECRET)
    version = scene.record("cp-1", configmaps=[], secrets=["one", "two"])
    assert version.identity["secret/one"] != version.identity["secret/two"]


def test_no_digest_of_a_secret_is_to_be_seen_anywhere(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    entry, finding = scene.plan(good)
    seen = told(good) + told(entry.target) + told(entry.live) + told(finding)
    for value in (*GOOD_SECRET.values(), *BAD_SECRET.values()):
        raw = value.encode()
        for guess in (raw, encoded({"": value})[""].encode(), json.dumps(GOOD_SECRET).encode()):
            assert hashlib.sha256(guess).hexdigest() not in seen
    assert re.fullmatch(r"hmac:[0-9a-f]{64}", good.identity[SECRET_REF])
    key = scene.get("secret", "rollbackctl-key")
    assert (key["immutable"], key["type"]) == (True, "rollbackctl.io/key")


def test_a_lost_key_makes_nothing_unreadable(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.client.delete(scene.path("secret", "rollbackctl-key"))
    entry, finding = scene.plan(good)
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
    scene.record("cp-2")
    assert scene.driver().resolve(good).identity == scene.driver().live(exact=True).identity


def test_a_key_that_somebody_overwrote_is_refused(scene: Scene) -> None:
    scene.make_good()
    scene.make("secret", "rollbackctl-key", stringData={"key": "short"})
    with pytest.raises(Refused, match="holds no key of rollbackctl"):
        scene.driver().live(exact=True)


def test_people_read_how_many_keys_there_are(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    shown = r"1 ConfigMap, 1 Secret; app-config 3 keys \([0-9a-f]{8}\), app-secrets 2 keys \([0-9a-f]{8}\)"
    assert re.fullmatch(shown, good.text)
    assert re.fullmatch(shown, scene.driver().live(exact=True).text)
    scene.client.delete(scene.path("secret", SECRET))
    text = scene.driver(configmaps=[MAP, "other"]).live(exact=True).text
    assert text.startswith("2 ConfigMaps, 1 Secret; ")
    assert "other not there, app-secrets not there" in text


# -- what was recorded -------------------------------------------------------------------------------------------------


def test_secrets_are_kept_in_secrets_and_the_rest_in_configmaps(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    secret = scene.get("secret", good.at)
    assert secret["type"] == "rollbackctl.io/recorded"
    assert scene.get("configmap", good.at)["binaryData"]


@pytest.mark.parametrize("kind", ["configmap", "secret"])
def test_a_damaged_or_missing_record_is_refused(scene: Scene, kind: str) -> None:
    good = scene.recorded_and_broken()
    field = "data" if kind == "secret" else "binaryData"
    scene.client.merge_patch(scene.path(kind, good.at), {field: {"piece": "aGVsbG8="}})
    with pytest.raises(RollbackError, match="damaged"):
        scene.driver().resolve(good)
    scene.client.delete(scene.path(kind, good.at))
    with pytest.raises(RollbackError, match="no longer in namespace"):
        scene.driver().resolve(good)
    assert scene.is_bad()


def test_a_record_that_somebody_replaced_is_refused_unless_that_is_accepted(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.driver().record(scene.shelf("cp-1"))  # the bad content, where the good one was
    with pytest.raises(Refused, match=f"what was kept of {CONFIGMAP_REF}, {SECRET_REF} is not what it was"):
        scene.driver().resolve(good)
    scene.driver(accept_unverified=True).resolve(good)


def test_an_object_that_is_named_only_since_is_an_unknown_pair(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    scene.make("configmap", "later", data={"a": "b"})
    with pytest.raises(Refused, match="does not hold configmap/later, which the profile names now") as refused:
        scene.driver(configmaps=[MAP, "later"]).resolve(good)
    assert "later checkpoint" in refused.value.next_step
    assert scene.is_bad()


def test_an_object_that_is_no_longer_named_is_left_alone_and_said(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    entry, finding = scene.plan(good, secrets=[])
    assert f"{SECRET_REF} was recorded too, but the profile does not name it now: it is left as it is." in finding.notes
    assert scene.roll(entry, secrets=[]) == TARGET
    assert scene.data("secret", SECRET) == BAD_SECRET


def test_a_record_of_another_namespace_is_refused(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    with pytest.raises(Refused, match=r"was recorded in namespace .*; the profile says elsewhere"):
        scene.driver(namespace="elsewhere").resolve(good)


def test_state_and_objects_may_be_in_different_namespaces(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    assert scene.driver(namespace="default").live(exact=True).identity == {
        CONFIGMAP_REF: "absent",
        SECRET_REF: "absent",
    }
    assert scene.driver(namespace=scene.namespace).resolve(good).identity == good.identity


# -- profiles and processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"configmaps": [], "secrets": []}, "neither configmaps nor secrets are named"),
        ({"configmaps": ["../secrets/x"]}, "cannot be the name of an object"),
        ({"secrets": ["Upper"]}, "cannot be the name of an object"),
        ({"namespace": "a/b"}, "cannot be the name of a namespace"),
        ({"mode": "versioned", "keep_added": True}, "keep_added means nothing"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused(scene: Scene, options: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)) as refused:
        scene.driver(**options).live(exact=True)
    assert "profile" in refused.value.next_step


def test_a_run_that_lost_its_lease_writes_nothing(scene: Scene) -> None:
    good = scene.recorded_and_broken()
    entry, _ = scene.plan(good)

    def lost() -> None:
        raise Refused("The lease is lost.")

    scene.prove = lost
    driver = scene.driver()
    driver.state(entry, opened=False)
    with pytest.raises(StepFailed, match=r"The lease is lost\."):
        driver.apply(entry.target)
    with pytest.raises(StepFailed, match=r"The lease is lost\."):
        scene.driver().record(scene.shelf("kept"))
    assert scene.is_bad()


def test_finalize_removes_nothing_of_anybody(scene: Scene) -> None:
    scene.make_good()
    assert scene.driver().finalize() == []
    assert scene.is_good()


def test_no_value_is_shown_by_repr(scene: Scene) -> None:
    scene.make_good()
    driver = scene.driver()
    driver.live(exact=True)
    shown = repr(driver._seen) + repr(vars(driver))
    assert CANARY_GOOD not in shown
    assert encoded(GOOD_SECRET)["PASSWORD"] not in shown
    assert CANARY_BAD not in shown
