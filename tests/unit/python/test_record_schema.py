# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of the run record accepts every sample and refuses what a record must not look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import outcome
from ansible.module_utils.rollbackctl.record import Record
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # ships no types

from tests.unit.python import samples


@pytest.fixture(scope="module")
def schema(root: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((root / "docs/schemas/run-record.schema.json").read_text(encoding="utf-8"))
    return loaded


def problems(schema: dict[str, Any], record: dict[str, Any]) -> list[str]:
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(record)]


def test_the_schema_is_a_schema(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_samples_are_records(schema: dict[str, Any], name: str) -> None:
    assert problems(schema, samples.SAMPLES[name]()) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"outcome": "ok"}, "$.outcome"),
        ({"exit_code": 1}, "$.exit_code"),
        ({"run": "../../etc/passwd"}, "$.run"),
        ({"started": "21.11.2026 09:30"}, "$.started"),
        ({"started": ""}, "$.started"),
        ({"seconds": -1}, "$.seconds"),
        ({"level": 4}, "$.level"),
        ({"sevices": {}}, "$"),
        ({"services": {"shop": samples.service(checks=[{"name": "health"}])}}, "$.services.shop.checks[0]"),
        ({"services": {"shop": samples.service(fence={"closed": ""})}}, "$.services.shop.fence"),
    ],
)
def test_what_a_record_must_not_be(schema: dict[str, Any], change: dict[str, Any], where: str) -> None:
    assert where in problems(schema, samples.record(**change))


def test_every_field_is_required(schema: dict[str, Any]) -> None:
    for field in samples.record():
        assert problems(schema, {key: value for key, value in samples.record().items() if key != field}) == ["$"]


def test_the_schema_knows_the_outcomes_and_exit_codes_of_the_engine(schema: dict[str, Any]) -> None:
    assert set(schema["properties"]["outcome"]["enum"]) == set(outcome.MEANINGS)
    codes = {*outcome.EXIT_CODES.values(), outcome.EXIT_OVER_BUDGET}
    assert set(schema["properties"]["exit_code"]["enum"]) == codes


def test_every_field_is_described_or_named_by_a_choice(schema: dict[str, Any]) -> None:
    undescribed = [name for name, field in schema["properties"].items() if not {"description", "$ref"} & set(field)]
    assert undescribed == []


def test_what_the_callback_writes_is_a_record_from_the_first_event_on(schema: dict[str, Any], tmp_path: Path) -> None:
    facts = {"level": 3, "playbook": "rollback-level3.yml", "check_mode": False, "inventory": ["/i"], "limit": ""}
    written = Record(run="rb-1", kind="rollback", directory=tmp_path, reason="x", operator="", **facts)
    step = {name: value for name, value in samples.step("rollback", "shop-db", 0, 0.1).items() if name != "offset"}
    check = {name: value for name, value in samples.check("health", "inside").items() if name != "phase"}
    events: list[tuple[str, dict[str, Any], bool]] = [
        ("guard", {}, False),
        ("rollback", {"rollbackctl": {"steps": [step]}}, False),
        ("verify", {"rollbackctl": {"checks": [check]}}, False),
        ("resume", {"msg": "broken"}, True),
    ]
    for phase, result, failed in events:
        written.begin_phase(phase)
        written.write()
        assert problems(schema, json.loads((tmp_path / "rb-1.json").read_text(encoding="utf-8"))) == []
        written.take("shop", phase, result, failed=failed)
        written.write()
        assert problems(schema, json.loads((tmp_path / "rb-1.json").read_text(encoding="utf-8"))) == []
    written.end()
    written.write()
    ended = json.loads((tmp_path / "rb-1.json").read_text(encoding="utf-8"))
    assert problems(schema, ended) == []
    assert ended["outcome"] == outcome.UNKNOWN
