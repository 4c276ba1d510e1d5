# SPDX-License-Identifier: GPL-3.0-or-later
"""The run record, grown from what the engine returns; valid at every moment, because a run may be killed at any."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import record as record_file
from ansible.module_utils.rollbackctl.record import RECORDS_VARIABLE, Record, records_directory
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # ships no types

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN, SINCE, Service, register, text_component

HOSTILE = "it broke\x1b[2J\r\n\u202e"
CHECK = {"name": "home", "kind": "http", "view": "inside", "ok": True, "seconds": 0.2, "text": "", "unverified": False}


@pytest.fixture(scope="module")
def validator(root: Path) -> Draft202012Validator:
    schema = json.loads((root / "docs" / "schemas" / "run-record.schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    register(monkeypatch)
    db = text_component(tmp_path, "db", "v2\nx\n", "v1\n", loss=SINCE)
    return Service(tmp_path, {"data": [db], "text": [text_component(tmp_path, "app", "bad\n", "good\n")]})


def make(directory: Path | None, run: str = RUN, **more: Any) -> Record:
    facts: dict[str, Any] = {
        "kind": "rollback",
        "level": 3,
        "playbook": "rollback-level3.yml",
        "check_mode": False,
        "inventory": ["/srv/inventory"],
        "limit": "shop",
        "reason": "it broke",
        "operator": "ops",
    }
    return Record(run=run, directory=directory, **{**facts, **more})


def events(service: Service) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the tasks of a whole run return, phase by phase."""
    to = {"db": "good", "app": "good"}
    service.open(rollback_to=to)
    yield (
        "guard",
        {
            "rollbackctl": {
                "phase": "guard",
                "run": service.run,
                "budgets": {"level3": 900, "phases": {"rollback": 5, "guard": 3}},
            }
        },
    )
    yield "preflight", service.phase("preflight")
    yield "plan", {"rollbackctl": {"phase": "plan", **service.plan(rollback_accept_data_loss_since=SINCE)}}
    for phase in ("stage", "capture", "rollback", "verify"):
        yield phase, service.phase(phase)
    yield "verify", {"rollbackctl": {"phase": "verify", "checks": [CHECK, {**CHECK, "name": "api", "seconds": 0.1}]}}
    yield "finish", {"rollbackctl": {"phase": "finish", "ending": service.finish()}}


def problems(validator: Draft202012Validator, document: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message[:120]}" for error in validator.iter_errors(document)]


def test_a_whole_run_is_a_valid_record_at_every_moment(
    service: Service, validator: Draft202012Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run's time counts from the start of its process; this one, of all the tests, may have run for long.
    monkeypatch.setattr("ansible.module_utils.rollbackctl.record._process_age", lambda: 0.0)
    record = make(tmp_path / "records")
    record.write()
    written = tmp_path / "records" / f"{RUN}.json"
    assert problems(validator, json.loads(written.read_text(encoding="utf-8"))) == []
    for phase, result in events(service):
        record.begin_phase(phase)
        record.take("shop", phase, json.loads(json.dumps(result)), failed=False)
        record.write()
        now = json.loads(written.read_text(encoding="utf-8"))
        assert problems(validator, now) == [], phase
        assert (now["outcome"], now["exit_code"], now["ended"]) == ("interrupted", 5, "")
    record.end()
    record.write()
    ended = json.loads(written.read_text(encoding="utf-8"))
    assert problems(validator, ended) == []
    assert (ended["outcome"], ended["exit_code"], ended["budget_seconds"], ended["over_budget"]) == (
        "done",
        0,
        900.0,
        False,
    )
    names = [phase["name"] for phase in ended["phases"]]
    assert names == ["guard", "preflight", "plan", "stage", "capture", "rollback", "verify", "finish"]
    budgets = {phase["name"]: phase["budget_seconds"] for phase in ended["phases"]}
    assert (budgets["guard"], budgets["preflight"], budgets["rollback"]) == (3.0, 0.0, 5.0)
    shop = ended["services"]["shop"]
    assert [step["component"] for step in shop["steps"] if step["phase"] == "rollback"] == ["db", "app"]
    assert shop["plan"]["data_loss_since"] == SINCE
    assert shop["set_aside"][0]["component"] == "db"
    assert ended["component_seconds"] >= 0.2  # checks run side by side: the longest counts


def test_a_record_holds_no_content_of_what_was_put_back(service: Service, tmp_path: Path) -> None:
    (tmp_path / "app.txt").write_text("bad\ncanary-4711\n", encoding="utf-8")
    record = make(tmp_path / "records")
    for phase, result in events(service):
        record.begin_phase(phase)
        record.take("shop", phase, result, failed=False)
    record.write()
    assert "canary-4711" not in (tmp_path / "records" / f"{RUN}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["refused", "restored", "resumable", "unknown"])
def test_every_ending_is_a_valid_record(validator: Draft202012Validator, word: str) -> None:
    record = make(None)
    record.begin_phase("rollback")
    record.take("shop", "rollback", {"msg": HOSTILE}, failed=True)
    ending = {"outcome": word, "message": HOSTILE, "next": f"rollbackctl resume {RUN}"}
    record.take("shop", "finish", {"rollbackctl": {"phase": "finish", "ending": ending}}, failed=True)
    record.end()
    assert problems(validator, record.document) == []
    assert (record.document["outcome"], record.document["next"]) == (word, f"rollbackctl resume {RUN}")
    assert record.document["phases"][0]["status"] == "failed"
    assert record.document["message"].isprintable()


@pytest.mark.parametrize(
    "ending",
    [{"checkpoint": "cp-1 is proven"}, {"notes": ["The ledger could not be written: no space"]}],
    ids=["checkpoint", "notes"],
)
def test_what_an_ending_may_add_is_in_the_schema(validator: Draft202012Validator, ending: dict[str, Any]) -> None:
    record = make(None)
    base = {"outcome": "done", "message": "done and proven", "next": ""}
    record.take("shop", "finish", {"rollbackctl": {"phase": "finish", "ending": {**base, **ending}}}, failed=False)
    record.end()
    assert problems(validator, record.document) == []


def test_a_status_is_in_the_schema(service: Service, validator: Draft202012Validator) -> None:
    from ansible.module_utils.rollbackctl.status import describe  # noqa: PLC0415 - only here

    service.begin(rollback_to={"db": "good", "app": "good"}, rollback_accept_data_loss_since=SINCE)
    record = make(None, kind="status", level=0)
    record.take("shop", "status", {"rollbackctl": {"phase": "status", "status": describe(service.state)}}, failed=False)
    record.end()
    assert problems(validator, record.document) == []


def test_without_services_nothing_ran(validator: Draft202012Validator) -> None:
    record = make(None)
    record.end()
    assert (record.document["outcome"], record.document["exit_code"]) == ("refused", 2)
    assert "nothing ran" in record.document["message"]
    assert "--limit" in record.document["next"]
    assert problems(validator, record.document) == []


def test_a_refusal_before_any_host(validator: Draft202012Validator) -> None:
    record = make(None, reason=HOSTILE)
    record.refuse(["rollback_reason holds template marks", HOSTILE])
    assert (record.document["outcome"], record.document["exit_code"]) == ("refused", 2)
    assert record.document["message"].isprintable()
    assert record.document["reason"].isprintable()
    assert problems(validator, record.document) == []


def test_a_service_without_an_ending_is_unknown(validator: Draft202012Validator) -> None:
    record = make(None)
    record.begin_phase("rollback")
    record.take("shop", "rollback", {"rollbackctl": {"phase": "rollback", "steps": []}}, failed=False)
    record.end()
    assert (record.document["outcome"], record.document["exit_code"]) == ("unknown", 5)
    assert problems(validator, record.document) == []


def test_the_service_that_needs_a_person_most_decides(validator: Draft202012Validator) -> None:
    record = make(None)
    for name, word in (("a", "done"), ("b", "resumable"), ("c", "already")):
        ending = {"outcome": word, "message": f"{name} {word}", "next": f"look at {name}"}
        record.take(name, "finish", {"rollbackctl": {"phase": "finish", "ending": ending}}, failed=word == "resumable")
    record.end()
    document = record.document
    assert (document["outcome"], document["message"], document["next"]) == ("resumable", "b resumable", "look at b")
    assert problems(validator, document) == []


@pytest.mark.parametrize(("strict", "code"), [(True, 6), (False, 0)])
def test_a_run_over_a_strict_budget_fails(strict: bool, code: int) -> None:  # noqa: FBT001 - a table's column
    record = make(None)
    facts = {"phase": "guard", "run": {"id": RUN}, "budgets": {"level3": 0.001}, "strict": strict}
    record.take("shop", "guard", {"rollbackctl": facts}, failed=False)
    ending = {"outcome": "done", "message": "done", "next": ""}
    record.take("shop", "finish", {"rollbackctl": {"phase": "finish", "ending": ending}}, failed=False)
    time.sleep(0.01)
    record.end()
    assert (record.document["over_budget"], record.document["exit_code"]) == (True, code)


def test_services_side_by_side_do_not_make_the_overhead_negative(validator: Draft202012Validator) -> None:
    record = make(None)
    step = {"phase": "rollback", "role": "text", "component": "app", "status": "changed", "text": "", "read_back": ""}
    for name in ("a", "b", "c"):
        facts = {"phase": "rollback", "steps": [{**step, "seconds": 500.0}]}
        record.take(name, "rollback", {"rollbackctl": facts}, failed=False)
    record.end()
    assert problems(validator, record.document) == []


def test_a_fence_is_timed(validator: Draft202012Validator) -> None:
    record = make(None)
    for facts in ({"closed": "2026-11-21T09:30:15Z"}, {"opened": "2026-11-21T09:30:25Z", "by": "run"}):
        record.take("shop", "fence", {"rollbackctl": {"phase": "fence", "fence": facts}}, failed=False)
    record.end()
    fence = record.document["services"]["shop"]["fence"]
    assert fence == {"closed": "2026-11-21T09:30:15Z", "opened": "2026-11-21T09:30:25Z", "seconds": 10.0, "by": "run"}
    assert problems(validator, record.document) == []


def test_one_phase_for_several_services_is_one_phase() -> None:
    record = make(None)
    for name in ("preflight", "preflight", "rollback", "rollback", "verify"):
        record.begin_phase(name)
    assert [phase["name"] for phase in record.document["phases"]] == ["preflight", "rollback", "verify"]


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_id_and_its_earlier_records(tmp_path: Path) -> None:
    for attempt, fresh in enumerate([RUN, OTHER_RUN, "rb-third"], 1):
        record = make(tmp_path, run=fresh, reason=f"attempt {attempt}")
        record.write()
        record.take("shop", "guard", {"rollbackctl": {"phase": "guard", "run": {"id": RUN}}}, failed=False)
        record.write()
        assert record.document["attempt"] == attempt
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{RUN}.1.json", f"{RUN}.2.json", f"{RUN}.json"]
    reasons = [json.loads((tmp_path / f"{RUN}{part}.json").read_text("utf-8"))["reason"] for part in (".1", ".2", "")]
    assert reasons == ["attempt 1", "attempt 2", "attempt 3"]


def test_records_are_their_owner_s(tmp_path: Path) -> None:
    make(tmp_path / "records").write()
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "records" / f"{RUN}.json").stat().st_mode & 0o777 == 0o600


def test_a_record_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records").write_text("a file", encoding="utf-8")
    record = make(tmp_path / "records")
    record.write()
    record.write()
    assert capfd.readouterr().err.count("cannot be written") == 1


def test_a_reason_that_is_no_utf_8_does_not_stop_the_record(tmp_path: Path) -> None:
    record = make(tmp_path, reason="it broke \udcff")  # as Python reads a stray byte of a command line
    record.write()
    assert json.loads((tmp_path / f"{RUN}.json").read_text("utf-8"))["reason"].startswith("it broke")


def test_where_records_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(RECORDS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert records_directory(dry=False) == tmp_path / "rollbackctl" / "records"
    assert records_directory(dry=True) is None
    monkeypatch.setenv(RECORDS_VARIABLE, "/srv/records")
    assert records_directory(dry=True) == Path("/srv/records")


def test_the_time_counts_from_the_command() -> None:
    assert 0 < record_file._process_age() < 24 * 3600
    record = make(None)
    record.end()
    assert record.document["seconds"] >= 0
