# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of runs: filters, comma lists, JSON, and that it fits a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rollbackctl.cli import build
from typer.testing import CliRunner, Result

from tests.unit.python import samples

DONE, REFUSED, CHECKPOINT = "rb-20261121-093015-4f2a", "rb-20261122-100000-0002", "rb-20261123-100000-0003"


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback that ended well, one of another service that was refused, a checkpoint."""
    monkeypatch.setenv("ROLLBACKCTL_RECORDS", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    pay = {"services": {"pay": samples.service(outcome="refused")}}
    made = [
        samples.record(),
        samples.refused() | {"run": REFUSED, "started": "2026-11-22T10:00:00Z"} | pay,
        samples.record(run=CHECKPOINT, started="2026-11-23T10:00:00Z", kind="checkpoint", level=0),
    ]
    for record in made:
        (tmp_path / f"{record['run']}.json").write_text(json.dumps(record), encoding="utf-8")


def history(*words: str) -> Result:
    return CliRunner().invoke(build(), ["history", *words], prog_name="rollbackctl")


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ((), [CHECKPOINT, REFUSED, DONE]),
        (("--service", "pay"), [REFUSED]),
        (("--service", "pay,shop", "--kind", "rollback"), [REFUSED, DONE]),
        (("--outcome", "done"), [CHECKPOINT, DONE]),
        (("--outcome", "done", "--outcome", "refused", "--since", "2026-11-22"), [CHECKPOINT, REFUSED]),
        (("--since", "2026-11-22T10:00:01Z"), [CHECKPOINT]),
        (("--since", "2026-11-22T12:00:01+02:00"), [CHECKPOINT]),
        (("--outcome", "unknown"), []),
    ],
)
def test_filters(words: tuple[str, ...], runs: list[str]) -> None:
    assert [record["run"] for record in json.loads(history(*words, "--json").stdout)] == runs
    shown = history(*words).stdout
    assert [run for run in (CHECKPOINT, REFUSED, DONE) if run in shown] == runs
    assert not runs or all(len(line) <= 80 for line in shown.splitlines())


def test_what_json_says_of_a_run() -> None:
    (found,) = json.loads(history("--json", "--service", "pay").stdout)
    assert found["services"] == {"pay": "refused"}
    assert found["outcome"] == "refused"
    assert found["exit_code"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--service", "shpo"), "--service 'shpo' is not known; there are pay, shop; did you mean shop?"),
        (("--outcome", "refusd"), "did you mean refused?"),
        (("--kind", "rolback"), "did you mean rollback?"),
        (("--since", "yesterday"), "--since 'yesterday' is no time"),
    ],
)
def test_a_typing_error_is_no_empty_list(words: tuple[str, ...], said: str) -> None:
    result = history(*words)
    assert result.exit_code == 2
    assert said in result.stderr
