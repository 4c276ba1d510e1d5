# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report says is decided from the record alone, and a damaged record is told with gaps."""

from __future__ import annotations

from typing import Any

import pytest
from rollbackctl.report import parse, text

from tests.unit.python import samples


def test_done() -> None:
    report = parse(samples.record())
    assert (report.headline, report.tone, report.exit_code) == ("Done and proven", "good", 0)
    assert report.title == "Rollback level 3 (application, configuration and data): shop"
    assert report.when == "21 Nov 2026, 09:30:15 to 09:30:22 UTC"
    assert report.budget.words == "less than 1 % of the budget of 15 min"
    assert parse(samples.record(budget_seconds=28)).budget.words == "25 % of the budget of 28 s"


def test_read_back_is_what_was_read_last() -> None:
    component = parse(samples.record()).services[0].components[0]
    assert component.read_back == "17,789 rows, schema a41c, digest 6f0c…"
    assert component.seconds == pytest.approx(0.21 + 1.18 + 0.34 + 0.11)


def test_what_was_read_back_is_proof_only_where_the_service_is_done() -> None:
    def proven(**fields: Any) -> list[bool]:
        report = parse(samples.record(services={"shop": samples.service(**fields)}))
        return [component.proven for component in report.services[0].components]

    assert proven() == [True, True, True, True]
    assert proven(outcome="restored") == [False, False, False, False]
    bad = samples.step("verify", "shop-db", 5.7, 0.1, status="failed", read_back="18,204 rows")
    assert proven(steps=[*samples.service()["steps"], bad]) == [False, True, True, True]


def test_a_component_without_a_read_back_does_not_get_one() -> None:
    assert parse(samples.refused()).services[0].components[0].read_back == ""


def test_phases_hold_the_steps_of_their_components() -> None:
    bars = {bar.name: bar for bar in parse(samples.record()).timeline.bars}
    assert [step.label for step in bars["rollback"].inner] == ["shop-db", "shop-env", "shop-code", "shop-web"]
    assert bars["guard"].inner == ()


def test_a_phase_that_comes_twice_keeps_its_own_steps() -> None:
    again = samples.record()["phases"][8] | {"offset": 6.8, "seconds": 0.1}
    steps = [samples.step("verify", "early", 5.9, 0.1), samples.step("verify", "late", 6.82, 0.05)]
    phases = [*samples.record()["phases"], again]
    report = parse(samples.record(phases=phases, services={"shop": samples.service(steps=steps)}))
    verifies = [[step.name for step in bar.inner] for bar in report.timeline.bars if bar.name == "verify"]
    assert verifies == [["early"], ["late"]]


def test_a_service_whose_part_did_not_end_is_interrupted_with_the_run() -> None:
    cut = samples.service(outcome="", message="")
    assert parse(samples.interrupted() | {"services": {"shop": cut}}).services[0].outcome == "interrupted"
    assert parse(samples.record(services={"shop": cut})).services[0].outcome == "unknown"


def test_what_the_run_says_its_service_does_not_repeat() -> None:
    said = "Refused, nothing was changed: shop-db: the disk is full; no backup"
    twice = samples.service(message=said, outcome="refused", problems=["the disk is full", "another"])
    report = parse(samples.refused() | {"message": said, "services": {"shop": twice}})
    assert report.message == "shop-db: the disk is full; no backup"  # a name keeps its first letter
    assert report.services[0].message == ""
    assert report.services[0].problems == ("another",)


def test_a_run_that_was_cut_off_says_how_to_go_on_and_how_far_it_came() -> None:
    report = parse(samples.interrupted() | {"next": "", "seconds": 0})
    assert report.next == "rollbackctl resume rb-20261121-093015-4f2a"
    assert report.seconds == pytest.approx(3.9)


def test_a_message_that_only_repeats_the_headline_is_left_out() -> None:
    assert parse(samples.record(message="done and proven")).message == ""


def test_steps_name_their_service_when_there_are_several() -> None:
    report = parse(samples.record(services={"shop": samples.service(), "pay": samples.service()}))
    stage = next(bar for bar in report.timeline.bars if bar.name == "stage")
    assert [step.label for step in stage.inner] == ["shop · shop-db", "pay · shop-db"]


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_bars_stay_on_the_axis(name: str) -> None:
    timeline = parse(samples.SAMPLES[name]()).timeline
    for bar in timeline.bars:
        for each in (bar, *bar.inner):
            assert 0 <= each.left <= 100
            assert 0 <= each.left + each.width <= 100.001
    assert all(0 <= left <= 100 for left, _ in timeline.ticks)
    assert 2 <= len(timeline.ticks) <= 7


def test_the_budget_is_in_the_timeline_only_when_it_is_near() -> None:
    assert parse(samples.record(budget_seconds=900)).timeline.budget_left is None
    near = parse(samples.record(budget_seconds=8)).timeline
    assert near.budget_left is not None
    assert 90 < near.budget_left < 100


def test_over_budget_is_said_and_is_no_plain_success() -> None:
    report = parse(samples.over_budget())
    assert report.headline == "Done and proven, but over its time budget"
    assert report.tone == "warn"
    assert report.budget.words == "2.0 s over the budget of 5 s"
    assert report.exit_code == 6


def test_a_check_mode_run_does_not_claim_a_change() -> None:
    assert parse(samples.record(check_mode=True)).headline == "Checked: this would work; nothing was changed"


def test_interrupted_says_that_there_is_no_end_and_that_the_fence_is_closed() -> None:
    report = parse(samples.interrupted())
    assert report.tone == "bad"
    assert report.when.endswith("no end was recorded")
    fence = report.services[0].fence
    assert fence is not None
    assert fence.words == "closed since 21 Nov 2026, 09:30:18 UTC, and not opened by this run"


def test_an_unverified_check_is_not_a_check_that_holds() -> None:
    unsure = samples.check("errors", "inside", unverified=True)
    report = parse(samples.record(services={"shop": samples.service(checks=[unsure])}))
    assert report.services[0].checks[0].state == "unverified"


def test_loss() -> None:
    service = parse(samples.record()).services[0]
    assert service.loss_words == "What was written after 21 Nov 2026, 09:12:40 UTC is not in the target."
    assert [(row.table, row.only_live) for row in service.loss_tables] == [("orders", 412), ("customers", 3)]
    assert not parse(samples.refused()).services[0].loss_words


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        {"outcome": "fine"},
        {"services": [], "phases": {}},
        {"services": {"shop": None}},
        {"services": {"shop": {"plan": {"entries": [None, {}]}, "steps": [{}], "checks": [{}], "problems": None}}},
        {"phases": [{"offset": "soon", "seconds": None}], "seconds": "long"},
    ],
)
def test_a_damaged_record_is_never_a_success(damaged: dict[str, Any]) -> None:
    report = parse(damaged)
    assert report.outcome == "unknown"
    assert report.exit_code == 5


def test_control_characters_are_shown_and_not_sent() -> None:
    reason = parse(samples.hostile()).reason
    assert "\\x1b[31m" in reason
    assert [character for character in reason if not character.isprintable()] == []


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (0.0004, "1 ms"),
        (0.034, "34 ms"),
        (0.31, "0.3 s"),
        (6.99, "7.0 s"),
        (30, "30 s"),
        (59.97, "1 min"),
        (250, "4 min 10 s"),
        (3900, "1 h 5 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert text.duration(seconds) == said
