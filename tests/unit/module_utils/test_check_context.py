# SPDX-License-Identifier: GPL-3.0-or-later
"""What checks learn from a run's journal and plan, in a real state store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible.module_utils.rollbackctl.check_context import context_of, loaded_since, spellings
from ansible.module_utils.rollbackctl.check_model import Context
from ansible.module_utils.rollbackctl.store import DirectoryStore

RUN = "rb-20261121-093015-4f2a"


def test_without_a_run_nothing_was_changed(tmp_path: Path) -> None:
    assert context_of(None, check_mode=False) == Context()
    assert context_of({}, check_mode=True) == Context(check_mode=True)
    state = {"kind": "directory", "path": str(tmp_path / "state")}
    assert context_of({"id": RUN, "state": state}, check_mode=False) == Context()


def test_the_journal_says_when_the_plan_says_what(tmp_path: Path) -> None:
    state = {"kind": "directory", "path": str(tmp_path / "state")}
    store = DirectoryStore(str(state["path"]))
    store.create()
    store.run_directory(RUN).mkdir(parents=True)
    target = {"identity": {"tree": "ab12cd34", "dirty": None}, "text": "commit 4f2a91c (release 1.4)", "artefacts": {}}
    store.write_plan(RUN, {"entries": [{"name": "code", "target": target}]})
    planned = context_of({"id": RUN, "state": state}, check_mode=False)
    assert (planned.changed, planned.settled) == (None, None)
    assert planned.expect == {"code": ("ab12cd34", "4f2a91c", "1.4")}

    before = datetime.now(UTC) - timedelta(seconds=2)
    journal = store.journal(RUN)
    journal.append("fence-closing", components=[])
    journal.append("begin", component="code")
    journal.append("applied", component="code")
    context = context_of({"id": RUN, "state": state}, check_mode=False)
    assert context.changed is not None
    assert context.settled is not None
    assert before < context.changed <= context.settled < before + timedelta(seconds=60)


def test_what_a_version_may_be_called() -> None:
    version = {
        "identity": {"revision": "a1b2"},
        "artefacts": {"commit": "4f2a91c0", "rows": 7},
        "text": "release v2.0.1",
    }
    assert spellings(version) == ("a1b2", "4f2a91c0", "v2.0.1")


def test_behind_a_fence_a_process_has_to_be_started_after_the_last_change() -> None:
    """A monitor starts the service between two changes: it runs, on code that is half old."""
    plan = {"entries": [{"name": "db", "action": "change"}, {"name": "web", "action": "follow"}]}

    def event(word: str, second: int, component: str = "db") -> dict[str, str]:
        return {"event": word, "at": f"2026-11-21T09:30:{second:02}Z", "component": component}

    changes = [event("begin", 1), event("applied", 2), event("begin", 3, "code"), event("applied", 4, "code")]
    restart = [event("begin", 5, "web"), event("applied", 6, "web")]
    fence = [event("fence-closed", 0)]
    assert loaded_since([*fence, *changes, *restart], plan) == "2026-11-21T09:30:04Z"
    # Without a fence, what deploys the code may restart the service itself; a restart is no change to restart for.
    assert loaded_since([*changes, *restart], plan) == "2026-11-21T09:30:03Z"
    assert loaded_since(restart, plan) == "2026-11-21T09:30:05Z"
    assert loaded_since(changes[:1], None) == "2026-11-21T09:30:01Z"
