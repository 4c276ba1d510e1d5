# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what is decided for each component, what forbids it, and what its hash stands for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Finding, Loss, Version
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.plan import Plan, Proposal, Request, combination, compose, is_quarantined

from tests.unit.module_utils.engine_parts import RUN, SINCE

REQUEST = Request(run=RUN, kind="rollback", level=3, service="shop", created="2026-11-21T09:30:15Z")
FENCED = replace(REQUEST, fences=True)


def proposal(name: str, layer: str = "application", **more: Any) -> Proposal:
    values: dict[str, Any] = {
        "live": Version({"commit": "bad"}, "commit bad"),
        "target": Version({"commit": "good"}, "commit good"),
        "finding": Finding(),
        **more,
    }
    return Proposal(name=name, role="text", layer=layer, **values)


def schema(*, reversible: bool = True, lossless: bool = True, problems: tuple[str, ...] = (), **more: Any) -> Proposal:
    base = {
        "live": Version({"revision": "0003"}, "revision 0003"),
        "target": Version({"revision": "0002"}, "revision 0002"),
        "finding": Finding(problems=problems, facts={"reversible": reversible, "lossless": lossless}),
        "restored_by": "db",
    }
    return proposal("schema", "schema", **(base | more))


def data(*, already: bool = False, since: str = "", **more: Any) -> Proposal:
    finding = Finding(needs_fence=True, loss=Loss(since, "3 rows") if since else None, notes=("large",))
    target = Version({"content": "t", "revision": "0002"}, "backup")
    live = target if already else Version({"content": "l", "revision": "0003"}, "live")
    base = {"live": live, "target": target, "finding": finding, "already": already, "exact_keys": ("content",)}
    return proposal("db", "data", **(base | more))


def actions(*proposals: Proposal, request: Request = FENCED) -> tuple[dict[str, str], list[str]]:
    plan, problems = compose(proposals, request, [])
    return {entry.name: entry.action for entry in plan.entries}, problems


# -- actions ----------------------------------------------------------------------------------------------------------


def test_what_differs_changes_and_what_is_there_does_not() -> None:
    assert actions(proposal("app"), proposal("old", already=True)) == ({"app": "change", "old": "none"}, [])


def test_a_restart_follows_a_change_only() -> None:
    web = proposal("web", default_action="follow")
    assert actions(proposal("app"), web)[0] == {"app": "change", "web": "follow"}
    assert actions(proposal("app", already=True), web)[0] == {"app": "none", "web": "none"}


@pytest.mark.parametrize("default_action", ["change", "follow"])
def test_problems_of_a_component_forbid_the_plan(default_action: str) -> None:
    broken = proposal("app", finding=Finding(problems=("no space", "no tool")), default_action=default_action)
    assert actions(broken, proposal("other"))[1] == ["app: no space", "app: no tool"]


def test_a_component_that_could_not_be_read_forbids_the_plan() -> None:
    broken = proposal("app", live=None, target=None, finding=Finding(problems=("missing",)))
    plan, problems = compose([broken], REQUEST, [])
    assert problems == ["app: missing"]
    assert plan.entries[0].live.text == "could not be read"


def test_problems_of_data_that_stays_as_it_is_do_not_count() -> None:
    assert actions(data(already=True, finding=Finding(problems=("backup is old",))))[1] == []


BY, KEEP = {"schema": "by:db", "db": "change"}, {"schema": "change", "db": "keep"}


@pytest.mark.parametrize(
    ("strategy", "reversible", "lossless", "problems", "expected"),
    [
        ("propose", True, True, (), KEEP),
        ("propose", True, False, (), BY),
        ("propose", False, True, (), BY),
        ("propose", False, False, (), BY),
        ("propose", True, True, ("no such revision",), BY),
        ("downgrade", True, True, (), KEEP),
        ("downgrade", True, False, (), KEEP),
        ("downgrade", False, False, (), KEEP),
        ("restore", True, True, (), BY),
        ("restore", False, False, ("no such revision",), BY),
    ],
)
def test_exactly_one_of_downgrade_and_restore(
    strategy: str,
    reversible: bool,  # noqa: FBT001 - a table's column
    lossless: bool,  # noqa: FBT001 - a table's column
    problems: tuple[str, ...],
    expected: dict[str, str],
) -> None:
    one = schema(strategy=strategy, reversible=reversible, lossless=lossless, problems=problems)
    for order in ([one, data()], [data(), one]):
        assert actions(*order) == (expected, [])


@pytest.mark.parametrize("target", [Version({"revision": "0001"}, "revision 0001"), None])
def test_a_named_revision_that_the_restore_does_not_bring_is_refused(target: Version | None) -> None:
    named = schema(reversible=False, target=target, named=True)
    (problem,) = actions(named, data())[1]
    assert "not what was named" in problem


def test_a_named_revision_that_the_restore_brings_is_fine() -> None:
    brought = data().target
    assert brought is not None
    named = schema(reversible=False, target=Version({"revision": brought.identity["revision"]}, "as named"), named=True)
    assert actions(named, data()) == (BY, [])


@pytest.mark.parametrize("strategy", ["propose", "downgrade"])
def test_a_backup_that_a_person_named_is_restored(strategy: str) -> None:
    """Also where the migrations would lose nothing, and also where the profile says that they are the way."""
    assert actions(schema(strategy=strategy), data(named=True)) == (BY, [])
    there = schema(strategy=strategy, already=True, target=Version({"revision": "0003"}, "revision 0003"))
    assert actions(there, data(named=True))[0] == BY


def test_a_named_backup_that_cannot_be_restored_is_refused_with_its_reason() -> None:
    broken = data(named=True, target=None, finding=Finding(problems=("it is damaged",)))
    assert "db: it is damaged" in actions(schema(), broken)[1]


def test_a_backup_and_a_revision_that_are_named_have_to_be_of_each_other() -> None:
    assert actions(schema(named=True), data(named=True)) == (BY, [])
    (problem,) = actions(schema(named=True, target=Version({"revision": "0001"}, "revision 0001")), data(named=True))[1]
    assert "not what was named" in problem


def test_a_downgrade_that_was_ordered_and_cannot_work_is_refused() -> None:
    found, problems = actions(schema(strategy="downgrade", problems=("no such revision",)), data())
    assert found == KEEP
    assert problems == ["schema: no such revision"]


@pytest.mark.parametrize(
    ("schema_already", "data_already", "expected"),
    [
        (True, True, {"schema": "none", "db": "none"}),
        (True, False, {"schema": "by:db", "db": "change"}),
        (False, True, {"schema": "change", "db": "none"}),
    ],
)
def test_schema_or_data_that_is_there_already(
    schema_already: bool,  # noqa: FBT001 - a table's column
    data_already: bool,  # noqa: FBT001 - a table's column
    expected: dict[str, str],
) -> None:
    target = Version({"revision": "0002"}, "revision 0002")
    one = schema(already=True, live=target, target=target) if schema_already else schema()
    assert actions(one, data(already=data_already))[0] == expected


def test_a_schema_without_its_data_in_this_level_is_downgraded() -> None:
    assert actions(schema(reversible=False, problems=("irreversible",))) == (
        {"schema": "change"},
        ["schema: irreversible"],
    )


def test_a_restored_database_brings_its_own_revision() -> None:
    older = data(target=Version({"content": "t", "revision": "0001"}, "backup"))
    plan, _ = compose([schema(lossless=False), older], replace(REQUEST, fences=True), [])
    assert plan.entries[0].target == Version({"revision": "0001"}, "revision 0001")


def test_data_that_is_kept_loses_nothing_and_needs_no_fence() -> None:
    plan, problems = compose([schema(), data(since=SINCE)], REQUEST, [])
    assert problems == []
    assert (plan.data_loss_since, plan.fence) == ("", False)
    assert plan.notes == ("db: kept as it is: schema takes the schema back without losing rows",)


# -- fence and loss ---------------------------------------------------------------------------------------------------


def test_a_needed_fence_that_is_not_there_is_a_problem() -> None:
    plan, problems = compose([data()], REQUEST, [])
    assert len(problems) == 1
    assert "no fence" in problems[0]
    assert plan.fence
    assert compose([data()], replace(REQUEST, fences=True), [])[1] == []
    assert not compose([data(already=True)], REQUEST, [])[0].fence


@pytest.mark.parametrize(
    ("accepted", "words"),
    [
        (SINCE, []),
        ("2026-11-21T08:59:59Z", []),
        ("2026-11-21T10:00:00+01:00", []),
        ("", ["decision", SINCE]),
        ("2026-11-21T09:00:01Z", ["More data", SINCE]),
        ("2026-11-21T09:00:00-01:00", ["More data", SINCE]),
        ("yes", ["not a time", SINCE]),
        ("2026-11-21T08:00:00", ["not a time", SINCE]),
        ("true", ["not a time", SINCE]),
    ],
)
def test_losing_data_is_a_decision(accepted: str, words: list[str]) -> None:
    request = replace(REQUEST, fences=True, accepted_loss_since=accepted)
    plan, problems = compose([data(since=SINCE)], request, [])
    assert plan.data_loss_since == SINCE
    assert len(problems) == bool(words)
    assert all(word in problems[0] for word in words)


def test_the_oldest_backup_decides_what_is_lost() -> None:
    older = replace(data(since="2026-11-21T07:00:00Z"), name="other")
    plan, problems = compose([data(since=SINCE), older], replace(REQUEST, fences=True, accepted_loss_since=SINCE), [])
    assert plan.data_loss_since == "2026-11-21T07:00:00Z"
    assert len(problems) == 1


# -- quarantine -------------------------------------------------------------------------------------------------------

BAD = {"id": "q-1", "since": SINCE, "reason": "it broke", "run": RUN, "combination": {"app": {"commit": "good"}}}


@pytest.mark.parametrize(
    ("combination_", "refused"),
    [
        ({"app": {"commit": "good"}}, True),
        ({"app": {"commit": "good"}, "env": {"commit": "good"}}, True),
        ({"app": {"commit": "good"}, "gone": {"commit": "good"}}, False),
        ({"app": {"commit": "good"}, "env": {"commit": "bad"}}, False),
        ({"app": {"commit": "bad"}}, False),
        ({}, False),
    ],
)
def test_a_quarantined_combination_does_not_come_back(combination_: dict[str, Any], refused: bool) -> None:  # noqa: FBT001
    entries = [proposal("app"), proposal("env", "configuration")]
    _, problems = compose(entries, REQUEST, [{**BAD, "combination": combination_}])
    assert len(problems) == refused
    assert all("quarantined as q-1" in problem for problem in problems)


def test_taking_a_run_back_may_go_to_what_was_quarantined() -> None:
    assert compose([proposal("app")], replace(REQUEST, kind="undo"), [BAD])[1] == []


def test_data_and_restarts_are_no_part_of_a_combination() -> None:
    plan, _ = compose([proposal("app"), proposal("web", default_action="follow"), data()], REQUEST, [])
    assert combination(plan.entries, "target") == {"app": {"commit": "good"}}
    assert plan.combination == {"app": {"commit": "bad"}}


def test_the_first_match_is_named() -> None:
    assert is_quarantined({"app": 1}, [{"combination": {"app": 2}}, BAD | {"combination": {"app": 1}}])
    assert is_quarantined({"app": 1}, []) is None


# -- hash -------------------------------------------------------------------------------------------------------------


def hash_of(*proposals: Proposal, **request: Any) -> str:
    return compose(proposals, replace(REQUEST, **request), [])[0].hash


def test_the_hash_stands_when_only_users_wrote() -> None:
    busy = data(live=Version({"content": "other", "revision": "0003"}, "live"))
    assert hash_of(proposal("app"), data()) == hash_of(proposal("app"), busy)
    assert hash_of(data()) == hash_of(data(), run="rb-2", created="2026-11-21T11:00:00Z")


@pytest.mark.parametrize(
    "other",
    [
        proposal("app", live=Version({"commit": "worse"}, "commit bad")),
        proposal("app", target=Version({"commit": "better"}, "commit good")),
        proposal("app", already=True),
        proposal("app2"),
        proposal("app", finding=Finding(loss=Loss(SINCE, "rows"))),
    ],
    ids=["live", "target", "action", "name", "loss"],
)
def test_the_hash_falls_when_anything_else_changed(other: Proposal) -> None:
    assert hash_of(other) != hash_of(proposal("app"))


def test_another_target_content_is_another_plan() -> None:
    assert hash_of(data()) != hash_of(data(target=Version({"content": "x", "revision": "0002"}, "backup")))


def test_an_approved_plan_is_carried_out_and_no_other() -> None:
    good = hash_of(proposal("app"))
    assert compose([proposal("app")], replace(REQUEST, approved_hash=good), [])[1] == []
    assert compose([proposal("app")], replace(REQUEST, approved_hash=good[:12]), [])[1] == []
    moved = proposal("app", live=Version({"commit": "worse"}, "commit worse"))
    problems = compose([moved], replace(REQUEST, approved_hash=good[:12]), [])[1]
    assert len(problems) == 1
    assert "no longer the one that was approved" in problems[0]


# -- writing it down --------------------------------------------------------------------------------------------------


def test_without_components_there_is_an_empty_plan() -> None:
    plan, problems = compose([], REQUEST, [])
    assert (plan.entries, plan.fence, problems) == ((), False, [])


def test_times_are_those_of_what_changes() -> None:
    slow = Finding(seconds=5.0, worst_seconds=50.0)
    plan, _ = compose([proposal("a", finding=slow), proposal("b", finding=slow, already=True)], REQUEST, [])
    assert (plan.seconds, plan.worst_seconds) == (5.0, 50.0)


def test_plan_and_proposals_survive_json() -> None:
    proposals = [schema(lossless=False), data(since=SINCE), proposal("x", live=None, target=None)]
    assert [Proposal.from_dict(json.loads(json.dumps(one.to_dict()))) for one in proposals] == proposals
    plan, _ = compose(proposals, REQUEST, [])
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.entry("db") == plan.entries[1]
    assert plan.entry("none") is None


@pytest.mark.parametrize("written", [99, 0, None, "1"])
def test_a_plan_of_another_format_is_refused(written: object) -> None:
    document = compose([proposal("app")], REQUEST, [])[0].to_dict()
    with pytest.raises(Refused, match="format") as refusal:
        Plan.from_dict({**document, "format": written})
    assert "version" in refusal.value.next_step
