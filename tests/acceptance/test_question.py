# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked at a terminal before something is changed: no means no, and what was shown is what is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.bench import BIN, Bench, broken, tree, unchanged
from tests.support.terminal import Terminal


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A broken service; the tests take it through a rollback, its undo and a finalize, in their order."""
    made = broken(tmp_path_factory.mktemp("question"))
    yield made
    made.sample.remove()


def at_terminal(bench: Bench, *words: str) -> Terminal:
    argv = [str(BIN / "rollbackctl"), *words]
    return Terminal(argv, env=bench.environment(ROLLBACKCTL_INVENTORY=str(bench.hosts)), cwd=bench.folder)


def away_from_one(bench: Bench, *words: str) -> tuple[int, str]:
    ran = bench.rollbackctl(*words, env={"ROLLBACKCTL_INVENTORY": str(bench.hosts)})
    return ran.code, ran.output


def records(bench: Bench, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in bench.records.glob("rb-*.json")]
    return sorted((record for record in found if record["kind"] == kind), key=lambda record: str(record["started"]))


def shown_plan(said: str) -> str:
    found = re.search(r"plan ([0-9a-f]{12})", said)
    assert found, said
    return found[1]


def rollback(bench: Bench) -> tuple[str, ...]:
    return "run", "3", "shop", "--reason", "x", "--accept-data-loss-since", bench.taken


@pytest.mark.parametrize("word", ["n", "\x04"])
def test_no_means_no(bench: Bench, word: str) -> None:
    with at_terminal(bench, *rollback(bench)) as terminal:
        said = terminal.until("Carry out this plan?")
        terminal.answer(word)
        assert terminal.end() == 2, terminal.text
    assert "shop-db" in said
    assert "Refused, nothing was changed" in terminal.text
    unchanged(bench)
    assert records(bench, "rollback") == []


def test_a_service_that_changes_between_question_and_answer_is_left_alone(bench: Bench) -> None:
    path = bench.sample.env_file
    before = path.read_bytes()
    try:
        with at_terminal(bench, *rollback(bench)) as terminal:
            terminal.until("Carry out this plan?")
            path.write_bytes(before + b"SHOP_ADDED=1\n")
            terminal.answer("y")
            assert terminal.end() == 2, terminal.text
        assert "The plan is no longer the one that was approved" in " ".join(terminal.text.split())
        assert path.read_bytes() == before + b"SHOP_ADDED=1\n"
    finally:
        path.write_bytes(before)
    unchanged(bench)
    assert [record["outcome"] for record in records(bench, "rollback")] == ["refused"]


def test_the_plan_that_was_shown_is_the_plan_that_is_run(bench: Bench) -> None:
    with at_terminal(bench, *rollback(bench)) as terminal:
        shown = shown_plan(terminal.until("Carry out this plan?"))
        terminal.answer("y")
        assert terminal.end() == 0, terminal.text
    record = records(bench, "rollback")[-1]
    assert record["outcome"] == "done"
    assert record["services"]["shop"]["plan"]["hash"].startswith(shown)


def state(bench: Bench) -> dict[str, Any]:
    """Everything the service owns and everything its store keeps."""
    return {**bench.sample.inspect(), **tree(bench.sample.state / "runs")}


def newest(bench: Bench, kind: str) -> str:
    return str(records(bench, kind)[-1]["run"])


def accepted(bench: Bench) -> tuple[str, str]:
    """What somebody who undoes the run has to accept, as the refused plan says it."""
    code, said = away_from_one(bench, "undo", newest(bench, "rollback"), "--reason", "x", "--yes")
    assert code == 2, said
    assert "Data would be lost" in said
    found = re.search(r"--accept-data-loss-since (\S+Z)", said)
    assert found, said
    return "--accept-data-loss-since", found[1]


def test_a_loss_is_a_decision_also_with_yes(bench: Bench) -> None:
    assert bench.sample.order("written after the rollback")[0] == 201
    before = bench.sample.inspect()
    assert accepted(bench)[1] > bench.taken
    assert bench.sample.inspect() == before


@pytest.mark.parametrize("command", ["undo", "finalize"])
def test_without_a_terminal_a_yes_is_needed(bench: Bench, command: str) -> None:
    loss = accepted(bench) if command == "undo" else ()
    before = state(bench)
    code, said = away_from_one(bench, command, newest(bench, "rollback"), "--reason", "x", *loss)
    assert code == 2, said
    assert "with --yes" in said
    assert "shop-db" in said
    assert state(bench) == before


@pytest.mark.parametrize(
    ("command", "question"), [("undo", "Take the run back so?"), ("finalize", "Remove this for good?")]
)
def test_no_means_no_there_too(bench: Bench, command: str, question: str) -> None:
    run = newest(bench, "rollback")
    loss = accepted(bench) if command == "undo" else ()
    before = state(bench)
    with at_terminal(bench, command, run, "--reason", "x", *loss) as terminal:
        said = terminal.until(question)
        terminal.answer("n")
        assert terminal.end() == 2, terminal.text
    assert "shop-db" in said
    assert f"run {run}" in said
    assert state(bench) == before


def test_an_undo_is_the_one_that_was_shown(bench: Bench) -> None:
    words = "undo", newest(bench, "rollback"), "--reason", "x", *accepted(bench)
    with at_terminal(bench, *words) as terminal:
        shown = shown_plan(terminal.until("Take the run back so?"))
        terminal.answer("y")
        assert terminal.end() == 0, terminal.text
    record = records(bench, "undo")[-1]
    assert record["outcome"] == "done"
    assert record["services"]["shop"]["plan"]["hash"].startswith(shown)


def test_a_finalize_says_what_it_removes_and_removes_just_that(bench: Bench) -> None:
    run = newest(bench, "undo")
    with at_terminal(bench, "finalize", run, "--reason", "x") as terminal:
        said = " ".join(terminal.until("Remove this for good?").split())
        terminal.answer("y")
        assert terminal.end() == 0, terminal.text
    assert f"After this, run {run} cannot be taken back." in said
    assert not (bench.sample.state / "runs" / run / "kept").exists()


def test_a_finalize_of_what_was_not_shown_is_refused(bench: Bench) -> None:
    run = newest(bench, "rollback")
    before = state(bench)
    ran = bench.play("finalize.yml", rollback_run=run, rollback_plan="0" * 12)
    assert ran.record["outcome"] == "refused"
    assert "no longer what was approved" in ran.said
    kept = {name: found for name, found in state(bench).items() if "/kept/" in name}
    assert kept == {name: found for name, found in before.items() if "/kept/" in name}
