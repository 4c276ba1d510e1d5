# SPDX-License-Identifier: GPL-3.0-or-later
"""Which checkpoint is chosen, when one is proven, and what must not come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Entry, Finding, Version
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.ledger import (
    checkpoint_combination,
    choose_checkpoint,
    finish_checkpoint,
    lift_quarantine,
    newer_candidate,
    no_target,
    quarantine_combination,
    release,
)
from ansible.module_utils.rollbackctl.plan import Plan
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN, SINCE

LATER = "2026-11-21T10:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    made = DirectoryStore(str(tmp_path / "state"))
    made.create()
    return made


def version(**identity: str) -> dict[str, Any]:
    return Version(identity, "a version").to_dict()


def put(store: DirectoryStore, identity: str, taken: str, state: str = "proven", **components: dict[str, Any]) -> None:
    store.checkpoint_directory(identity).mkdir(exist_ok=True)
    store.write_checkpoint(
        {"id": identity, "state": state, "taken": taken, "proven_at": "", "components": components, "exact_keys": {}}
    )


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def state_of(store: DirectoryStore, identity: str) -> str:
    return next(str(document["state"]) for document in store.checkpoints() if document["id"] == identity)


def take(store: DirectoryStore, identity: str, soak: float | None, run: str = RUN, **components: dict[str, Any]) -> str:
    """Take a checkpoint as a run does."""
    store.run_directory(run).mkdir(exist_ok=True)
    store.journal(run).create()
    for name, one in components.items():
        store.journal(run).append("recorded", component=name, version=one, exact_keys=["rows"])
    store.checkpoint_directory(identity).mkdir(exist_ok=True)
    return finish_checkpoint(store, {"id": run, "token": 1, "checkpoint": identity, "reason": "release"}, soak)


# -- choosing ---------------------------------------------------------------------------------------------------------


def test_the_newest_proven_one_is_chosen(store: DirectoryStore) -> None:
    put(store, "cp-old", SINCE)
    put(store, "cp-new", LATER)
    put(store, "cp-newest", "2026-11-21T11:00:00Z", "candidate")
    assert choose_checkpoint(store, "") == "cp-new"


@pytest.mark.parametrize("states", [(), ("candidate",), ("candidate", "quarantined")])
def test_without_a_proven_one_none_is_chosen(store: DirectoryStore, states: tuple[str, ...]) -> None:
    for number, state in enumerate(states):
        put(store, f"cp-{number}", SINCE, state)
    assert choose_checkpoint(store, "") == ""


def test_a_quarantined_one_is_passed_over(store: DirectoryStore) -> None:
    put(store, "cp-old", SINCE, app=version(commit="good"))
    put(store, "cp-new", LATER, app=version(commit="bad"))
    store.write_quarantine([{"id": "q-1", "combination": {"app": {"commit": "bad"}}}])
    assert choose_checkpoint(store, "") == "cp-old"


def test_a_damaged_one_is_passed_over(store: DirectoryStore) -> None:
    put(store, "cp-old", SINCE)
    put(store, "cp-new", LATER)
    (store.checkpoint_directory("cp-new") / "checkpoint.json").write_text("{}", encoding="utf-8")
    assert choose_checkpoint(store, "") == "cp-old"
    with pytest.raises(Refused, match=r"'cp-new' is damaged. Known: cp-old \(proven\), cp-new \(damaged\)"):
        choose_checkpoint(store, "cp-new")


def test_a_named_one_may_be_a_candidate(store: DirectoryStore) -> None:
    put(store, "cp-1", SINCE, "candidate")
    assert choose_checkpoint(store, "cp-1") == "cp-1"


def test_one_that_does_not_exist_is_refused_with_those_that_do(store: DirectoryStore) -> None:
    with pytest.raises(Refused, match=r"Known: none\. Nothing was changed"):
        choose_checkpoint(store, "cp-1")
    put(store, "cp-2", SINCE)
    with pytest.raises(Refused, match=r"Known: cp-2 \(proven\)"):
        choose_checkpoint(store, "../../etc")


# -- proving ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_candidate_until_its_soak_is_over(store: DirectoryStore) -> None:
    assert take(store, "cp-1", 1800, app=version(commit="a")) == "cp-1 is candidate"
    assert state_of(store, "cp-1") == "candidate"
    document = store.checkpoints()[0]
    assert (document["run"], document["reason"]) == (RUN, "release")


def test_without_a_soak_it_is_proven_at_once(store: DirectoryStore) -> None:
    assert take(store, "cp-1", 0, app=version(commit="a")) == "cp-1 is proven"
    assert store.checkpoints()[0]["proven_at"] != ""


def test_an_older_candidate_that_held_is_promoted(store: DirectoryStore) -> None:
    put(store, "cp-old", ago(2000), "candidate", app=version(commit="a"))
    put(store, "cp-young", ago(1000), "candidate", app=version(commit="a"))
    put(store, "cp-other", ago(2000), "candidate", app=version(commit="b"))
    assert take(store, "cp-1", 1800, app=version(commit="a")) == "cp-1 is candidate; promoted cp-old"
    assert [state_of(store, one) for one in ("cp-old", "cp-young", "cp-other")] == ["proven", "candidate", "candidate"]


def test_what_users_wrote_does_not_keep_a_candidate_from_being_proven(store: DirectoryStore) -> None:
    take(store, "cp-1", 1800, db=version(version="1", rows="a"))
    store.write_checkpoint({**store.checkpoints()[0], "taken": ago(2000)})
    assert take(store, "cp-2", 1800, OTHER_RUN, db=version(version="1", rows="a, b")).endswith("promoted cp-1")


def test_an_adopted_checkpoint_promotes_nothing(store: DirectoryStore) -> None:
    put(store, "cp-old", ago(2000), "candidate", app=version(commit="a"))
    assert take(store, "cp-1", None, app=version(commit="a")) == "cp-1 is candidate"
    assert state_of(store, "cp-old") == "candidate"


def test_a_quarantined_combination_never_becomes_a_proven_checkpoint(store: DirectoryStore) -> None:
    store.write_quarantine([{"id": "q-1", "combination": {"app": {"commit": "bad"}}}])
    assert "never chosen" in take(store, "cp-1", 0, app=version(commit="bad"), env=version(sha="1"))
    assert state_of(store, "cp-1") == "quarantined"
    assert choose_checkpoint(store, "") == ""


def test_a_damaged_candidate_does_not_stop_a_checkpoint(store: DirectoryStore) -> None:
    put(store, "cp-old", ago(2000), "candidate")
    (store.checkpoint_directory("cp-old") / "checkpoint.json").write_text("{}", encoding="utf-8")
    assert take(store, "cp-1", 0, app=version(commit="a")) == "cp-1 is proven"


def test_a_combination_leaves_out_what_changes_with_every_write() -> None:
    document = {"components": {"db": version(version="1", rows="a")}, "exact_keys": {"db": ["rows"]}}
    assert checkpoint_combination(document) == {"db": {"version": "1"}}
    assert checkpoint_combination({"id": "damaged"}) == {}


# -- quarantine -------------------------------------------------------------------------------------------------------


def plan() -> Plan:
    entry = Entry(
        "app",
        "text",
        "application",
        Version({"commit": "bad"}, "bad"),
        Version({"commit": "good"}, "good"),
        "change",
        Finding(),
    )
    return Plan(RUN, "rollback", 3, "shop", "", SINCE, (entry,), "0" * 64)


def test_a_combination_is_quarantined_once_and_released_by_its_id(store: DirectoryStore) -> None:
    bad = {"app": {"commit": "bad"}}
    line = quarantine_combination(store, plan(), bad, "it broke")
    assert quarantine_combination(store, plan(), bad, "again") == line
    (entry,) = store.quarantine()
    assert line == f"{entry['id']}: app bad"
    assert (entry["run"], entry["reason"], entry["combination"], entry["texts"]) == (
        RUN,
        "it broke",
        bad,
        {"app": "bad"},
    )
    with pytest.raises(Refused, match=entry["id"]):
        release(store, "q-none")
    assert release(store, entry["id"]) == f"{entry['id']} was released"
    assert store.quarantine() == []
    with pytest.raises(Refused, match="Quarantined: none"):
        release(store, entry["id"])


def test_taking_a_run_forward_again_lifts_only_its_own(store: DirectoryStore) -> None:
    store.write_quarantine([{"id": "q-1", "run": RUN}, {"id": "q-2", "run": OTHER_RUN}])
    lift_quarantine(store, RUN)
    assert [entry["id"] for entry in store.quarantine()] == ["q-2"]


# -- what is said -----------------------------------------------------------------------------------------------------


def entry(name: str, layer: str) -> Entry:
    one = Version({}, "a version")
    return Entry(name, "a_role", layer, one, one, "change", Finding())


ENTRIES = [entry("code", "application"), entry("schema", "schema"), entry("db", "data")]


@pytest.mark.parametrize(
    ("newer", "said"),
    [
        ({"code": version(commit="a"), "schema": version(revision="1"), "db": version(rows="2")}, True),
        ({"code": version(commit="b"), "schema": version(revision="1"), "db": version(rows="2")}, False),
        ({"code": version(commit="a"), "schema": version(revision="2"), "db": version(rows="2")}, False),
    ],
)
def test_a_newer_candidate_of_the_same_code_and_schema_is_named(
    store: DirectoryStore, newer: dict[str, Any], *, said: bool
) -> None:
    good = {"code": version(commit="a"), "schema": version(revision="1"), "db": version(rows="1")}
    put(store, "cp-1", SINCE, "proven", **good)
    put(store, "cp-2", LATER, "candidate", **newer)
    note = newer_candidate(store, "cp-1", ENTRIES)
    assert ("rollback_checkpoint=cp-2" in note) == said
    assert newer_candidate(store, "cp-1", ENTRIES[:2]) == ""  # no data is lost: nothing is to be gained


def test_before_anything_is_proven_it_says_what_to_type(store: DirectoryStore) -> None:
    put(store, "cp-1", SINCE, "candidate", code=version(commit="a"))
    put(store, "cp-2", LATER, "candidate", other=version(commit="a"))
    refused = no_target("code", store.checkpoints(), "", [])
    assert f"cp-1 (candidate, {SINCE})" in refused.message
    assert refused.next_step.startswith("To go back to the newest: rollback_checkpoint=cp-1.")
    assert "rollback_soak_seconds" in refused.next_step
    assert no_target("code", store.checkpoints(), "cp-2", []).next_step == "rollback_checkpoint=cp-1"


def test_a_damaged_checkpoint_is_named_among_the_candidates() -> None:
    damaged = {"id": "cp-1", "state": "damaged", "taken": "", "message": "it is not what rollbackctl writes"}
    assert "cp-1 (damaged)" in no_target("code", [damaged], "", []).message


def test_without_any_checkpoint_it_names_what_the_component_knows() -> None:
    choices = ["deployment/api revision:3 (shop:1.5, live)", "deployment/api revision:2 (shop:1.4, x)"]
    assert no_target("api", [], "", choices).next_step == """-e '{"rollback_to": {"api": "revision:2"}}'"""
