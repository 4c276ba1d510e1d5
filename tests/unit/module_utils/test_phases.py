# SPDX-License-Identifier: GPL-3.0-or-later
"""The phases, on a service of text files: what is written when, what is refused, and what a second time does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import work
from ansible.module_utils.rollbackctl.component import Version
from ansible.module_utils.rollbackctl.journal import fence_is_closed, written_since_applied, written_since_kept

from tests.unit.module_utils.engine_parts import (
    HALF,
    OTHER_RUN,
    RUN,
    SINCE,
    Service,
    TextDriver,
    register,
    statuses,
    text_component,
    tree_digest,
)

TO = {"app": "good", "db": "good"}
GOOD_DB = "v1\nrow 1\n"


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Data, code and what follows them; all broken."""
    return Service(
        tmp_path,
        {
            "data": [text_component(tmp_path, "db", "v2\nrow 1\nrow 2\n", GOOD_DB)],
            "text": [text_component(tmp_path, "app", "bad\n", "good\n")],
        },
    )


def content(service: Service, name: str) -> str:
    return (service.folder / f"{name}.txt").read_text(encoding="utf-8")


def write(service: Service, name: str, text: str) -> None:
    (service.folder / f"{name}.txt").write_text(text, encoding="utf-8")


def option(service: Service, role: str, **options: Any) -> None:
    service.components[role][0].update(options)


def rolled_back(service: Service) -> Service:
    service.begin(rollback_to=TO)
    service.go("stage", "capture", "rollback")
    return service


# -- preflight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check_mode", [True, False])
def test_preflight_writes_nothing(service: Service, check_mode: bool) -> None:  # noqa: FBT001 - a table's column
    service.open(rollback_to=TO)
    before = tree_digest(service.folder)
    result = service.phase("preflight", check_mode=check_mode)
    assert tree_digest(service.folder) == before
    assert statuses(result) == {"db": "ok", "app": "ok"}
    assert not result["changed"]


def test_a_dry_plan_writes_nothing(service: Service) -> None:
    service.open(rollback_to=TO, dry=True)
    before = tree_digest(service.folder)
    made = service.plan(dry=True)
    assert made["problems"] == []
    assert [entry["action"] for entry in made["plan"]["entries"]] == ["change", "change"]
    assert tree_digest(service.folder) == before


def test_preflight_says_all_problems_of_all_components(service: Service) -> None:
    (service.folder / "db.txt").unlink()
    service.open(rollback_to={"db": "good", "app": "nonsense"})
    made = service.plan()
    assert len(made["problems"]) == 2
    assert "db.txt does not exist" in made["problems"][0]
    assert "'nonsense' does not exist. Known: good" in made["problems"][1]
    assert service.store.read_plan(RUN) is None


def test_without_a_target_the_candidates_are_listed(service: Service) -> None:
    service.open()
    result = service.phase("preflight")
    assert statuses(result) == {"db": "refused", "app": "refused"}
    assert all("no proven checkpoint" in step["text"] for step in result["rollbackctl"]["steps"])


def test_a_component_that_the_checkpoint_lacks_is_a_problem(service: Service) -> None:
    service.open()
    service.store.checkpoint_directory("cp-1").mkdir()
    document = {"id": "cp-1", "state": "proven", "taken": SINCE, "components": {}, "exact_keys": {}}
    service.store.write_checkpoint(document)
    service.run["checkpoint"] = "cp-1"
    assert all("does not hold" in problem for problem in service.plan()["problems"])


@pytest.mark.parametrize("phase", ["stage", "fence", "capture", "rollback", "undo", "resume", "checkpoint", "finalize"])
def test_check_mode_runs_nothing_that_writes(service: Service, phase: str) -> None:
    service.begin(rollback_to=TO)
    before = tree_digest(service.folder)
    result = service.phase(phase, check_mode=True)
    assert result["failed"]
    assert "check mode" in result["msg"]
    assert tree_digest(service.folder) == before


def test_an_unknown_phase_is_refused(service: Service) -> None:
    service.open()
    result = service.phase("explode")
    assert result["failed"]
    assert "preflight" in result["msg"]


# -- rollback ---------------------------------------------------------------------------------------------------------


def test_a_rollback_keeps_what_was_live_and_reaches_the_target(service: Service) -> None:
    rolled_back(service)
    assert (content(service, "db"), content(service, "app")) == (GOOD_DB, "good\n")
    assert service.events() == ["opened", "planned", *["captured", "begin", "applied"] * 2]
    assert [e["component"] for e in service.store.journal(RUN).events()[2:]] == ["db"] * 3 + ["app"] * 3
    kept = service.store.run_directory(RUN) / "kept"
    assert (kept / "db" / "before-1" / "content").read_text(encoding="utf-8") == "v2\nrow 1\nrow 2\n"
    assert (kept / "app" / "before-1" / "content").read_text(encoding="utf-8") == "bad\n"
    assert not service.phase("verify").get("failed")


def test_a_second_time_it_is_already_there(service: Service) -> None:
    rolled_back(service)
    before = service.events()
    result = service.phase("rollback")
    assert statuses(result) == {"db": "already", "app": "already"}
    assert not result["changed"]
    assert service.events() == before


def test_what_was_kept_is_not_kept_again_when_the_run_is_resumed(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("capture", "capture")
    assert service.events().count("captured") == 1
    service.open(rollback_run=RUN)
    service.go("capture", "rollback")
    assert service.events().count("captured") == 2  # db once, app once
    assert not (service.store.run_directory(RUN) / "kept" / "db" / "before-2").exists()


def test_what_users_wrote_after_it_was_kept_is_kept_beside_it(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("capture")
    write(service, "db", "v2\nrow 1\nrow 2\nrow 3\n")
    service.go("rollback")
    kept = service.store.run_directory(RUN) / "kept" / "db"
    assert (kept / "before-1" / "content").read_text(encoding="utf-8") == "v2\nrow 1\nrow 2\n"
    assert (kept / "before-2" / "content").read_text(encoding="utf-8") == "v2\nrow 1\nrow 2\nrow 3\n"


def test_a_component_that_somebody_else_changed_stops_the_run(service: Service) -> None:
    service.begin(rollback_to=TO)
    write(service, "app", "hotfix\n")
    result = service.phase("rollback")
    assert result["failed"]
    assert "Somebody else changed it" in result["msg"]
    assert content(service, "app") == "hotfix\n"


def test_somebody_else_s_change_stops_before_it_is_kept(service: Service) -> None:
    service.begin(rollback_to=TO)
    write(service, "db", "v9\n")
    assert service.phase("capture")["failed"]
    assert service.phase("rollback")["failed"]
    assert "begin" not in service.events()
    assert content(service, "app") == "bad\n"


def test_a_resumed_preflight_sees_somebody_else_s_change(service: Service) -> None:
    service.begin(rollback_to=TO)
    write(service, "app", "hotfix\n")
    service.open(rollback_run=RUN)
    result = service.phase("preflight")
    assert result["failed"]
    assert "start a new run" in result["next_step"]


def test_half_way_is_gone_on_with_and_not_kept(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("capture")
    write(service, "app", HALF)
    service.go("rollback")
    assert content(service, "app") == "good\n"
    assert service.events().count("captured") == 1


def test_a_change_that_only_says_it_worked_did_not(service: Service) -> None:
    option(service, "text", lies=True)
    service.begin(rollback_to=TO)
    result = service.phase("rollback")
    assert result["failed"]
    assert "reads as version bad, not as version good" in result["msg"]
    assert result["next_step"] == f"rollbackctl resume {RUN}"
    assert statuses(result) == {"db": "changed"}


def test_a_change_that_hangs_ends_at_its_deadline(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MINIMUM_DEADLINE_SECONDS", 0.1)
    option(service, "text", slow=60, worst_seconds=0.2)
    service.begin(rollback_to=TO)
    result = service.phase("rollback")
    assert result["failed"]
    assert "app, phase rollback took longer" in result["msg"]
    assert content(service, "app") == "bad\n"
    assert service.events()[-1] == "begin"


@pytest.mark.parametrize("phase", ["stage", "capture", "rollback", "undo", "checkpoint", "finalize"])
def test_a_step_that_skipped_the_guard_changes_nothing(service: Service, phase: str) -> None:
    service.begin(rollback_to=TO)
    service.run.update(token=0, undoes=RUN, checkpoint="cp-1")
    before = content(service, "db"), content(service, "app"), service.events()
    result = service.phase(phase)
    assert result["failed"]
    assert "does not hold" in result["msg"]
    assert (content(service, "db"), content(service, "app"), service.events()) == before


def test_a_writer_that_was_taken_over_changes_nothing(service: Service) -> None:
    service.begin(rollback_to=TO)
    old = dict(service.run)
    service.open(rollback_run=RUN)
    service.run = old
    assert "does not hold" in service.phase("rollback")["msg"]
    assert content(service, "db") == "v2\nrow 1\nrow 2\n"


def test_a_run_without_a_plan_changes_nothing(service: Service) -> None:
    service.open(rollback_to=TO)
    result = service.phase("rollback")
    assert result["failed"]
    assert "has no plan" in result["msg"]


def test_verify_names_every_component_that_is_not_there(service: Service) -> None:
    service.begin(rollback_to=TO)
    result = service.phase("verify")
    assert result["failed"]
    assert statuses(result) == {"db": "failed", "app": "failed"}
    assert "db reads as version v2" in result["msg"]
    assert "app reads as version bad" in result["msg"]


def test_what_is_at_its_target_is_left_alone(service: Service) -> None:
    write(service, "app", "good\n")
    service.begin(rollback_to=TO)
    service.go("stage", "capture", "rollback", "verify")
    assert {e.get("component") for e in service.store.journal(RUN).events()} == {None, "db"}


# -- undo -------------------------------------------------------------------------------------------------------------


def test_undo_brings_back_what_was_kept_in_reverse(service: Service) -> None:
    rolled_back(service)
    result = service.phase("undo")
    assert not result.get("failed")
    assert (content(service, "db"), content(service, "app")) == ("v2\nrow 1\nrow 2\n", "bad\n")
    assert list(statuses(result)) == ["app", "db"]
    assert service.events()[-4:] == ["reverse", "reversed", "reverse", "reversed"]
    assert set(statuses(service.phase("undo")).values()) == {"already"}


def test_undo_leaves_alone_what_was_never_begun(service: Service) -> None:
    service.begin(rollback_to=TO)
    before = tree_digest(service.folder)
    assert service.phase("undo")["rollbackctl"]["steps"] == []
    assert (content(service, "app"), before != "") == ("bad\n", True)


def test_undo_never_throws_away_what_was_written_since(service: Service) -> None:
    rolled_back(service)
    write(service, "db", GOOD_DB + "row 9\n")
    result = service.phase("undo")
    assert result["failed"]
    assert "written to after the change" in result["msg"]
    assert content(service, "db") == GOOD_DB + "row 9\n"


def test_undo_that_must_leave_data_alone_leaves_everything_alone(service: Service) -> None:
    # Old code on new data would be neither old nor new, and would keep the fence closed.
    rolled_back(service)
    write(service, "db", GOOD_DB + "row 9\n")
    assert service.phase("undo")["failed"]
    assert content(service, "app") == "good\n"


def test_undo_of_what_somebody_else_changed_since_leaves_everything_alone(service: Service) -> None:
    service.components["text"].insert(0, text_component(service.folder, "env", "bad-env\n", "good-env\n"))
    service.begin(rollback_to={**TO, "env": "good"})
    service.go("capture", "rollback")
    write(service, "env", "hotfix\n")
    result = service.phase("undo")
    assert result["failed"]
    assert "Somebody else changed it" in result["msg"]
    assert (content(service, "env"), content(service, "app")) == ("hotfix\n", "good\n")


def test_undo_goes_on_from_half_way(service: Service) -> None:
    rolled_back(service)
    write(service, "app", HALF)
    assert not service.phase("undo").get("failed")
    assert content(service, "app") == "bad\n"


# -- a run that takes another one back --------------------------------------------------------------------------------


def ended(service: Service) -> Service:
    rolled_back(service)
    service.go("verify")
    assert service.finish()["outcome"] == "done"
    return service


def refused_undo(service: Service) -> dict[str, Any]:
    """The preflight of an undo, which must be refused with nothing changed."""
    service.open("undo", OTHER_RUN, rollback_run=RUN)
    before = content(service, "db"), content(service, "app")
    result = service.phase("preflight")
    assert result["failed"]
    assert f"Run {RUN} cannot be taken back as a whole" in result["msg"]
    assert "Nothing was changed" in result["msg"]
    assert service.finish(failed=True, message=result["msg"])["outcome"] == "refused"
    assert (content(service, "db"), content(service, "app")) == before
    return result


def test_an_undo_is_refused_when_a_component_left_the_profile(service: Service) -> None:
    """New code over the old schema would be a state that never was."""
    ended(service)
    del service.components["data"]
    assert "db (data) was changed by it and is not in the profile any more" in refused_undo(service)["msg"]


def test_an_undo_is_refused_when_a_component_was_renamed(service: Service) -> None:
    ended(service)
    option(service, "text", name="application")
    assert "app (text) was changed by it and is not in the profile any more" in refused_undo(service)["msg"]


def test_an_undo_of_what_was_named_asks_for_no_more(service: Service) -> None:
    ended(service)
    del service.components["data"]
    service.open("undo", OTHER_RUN, rollback_run=RUN)
    service.run["components"] = ["app"]
    assert service.plan()["problems"] == []


def test_an_undo_is_refused_when_the_journal_lost_what_was_kept(service: Service) -> None:
    """Its end was cut off, the run was resumed and found everything at its target: nothing says what was there."""
    ended(service)
    journal = service.store.run_directory(RUN) / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    cut = next(number for number, line in enumerate(lines) if b'"captured"' in line)
    journal.write_bytes(b"\n".join(lines[:cut]) + b"\n")
    service.open(rollback_run=RUN)
    service.go("preflight", "capture", "rollback", "verify")
    assert service.finish()["outcome"] == "already"
    message = refused_undo(service)["msg"]
    assert "nothing was kept of db, and it reads as version v1, not as version v2" in message
    assert "nothing was kept of app, and it reads as version good, not as version bad" in message


def test_an_undo_leaves_alone_what_its_run_never_came_to(service: Service) -> None:
    option(service, "text", fail="good")
    service.begin(rollback_to=TO)
    assert service.phase("rollback")["failed"]
    assert service.finish(failed=True, message="it failed")["outcome"] == "resumable"
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "capture", "rollback", "verify")
    assert (content(service, "db"), content(service, "app")) == ("v2\nrow 1\nrow 2\n", "bad\n")


def test_an_undo_that_loses_data_needs_its_word(service: Service) -> None:
    ended(service)
    option(service, "data", loss=SINCE)
    service.open("undo", OTHER_RUN, rollback_run=RUN)
    made = service.plan()
    (applied,) = [
        event["at"]
        for event in service.store.journal(RUN).events()
        if event["event"] == "applied" and event["component"] == "db"
    ]
    assert made["problems"] == [
        f"Data would be lost: 3 rows. This is a decision: pass rollback_accept_data_loss_since={applied} to go on."
    ]
    assert service.store.read_plan(OTHER_RUN) is None
    assert service.plan(rollback_accept_data_loss_since=applied)["problems"] == []


# -- resuming after the run ended -------------------------------------------------------------------------------------


def same_version(service: Service) -> None:
    """Only the rows of db are wrong: its version is the target's, as a data restore to the same schema has it."""
    write(service, "db", "v1\nbroken\n")


def test_data_that_was_never_restored_is_not_taken_for_restored(service: Service) -> None:
    # Code first, data second: the first was applied, the second failed, the run was ended as resumable and is resumed.
    same_version(service)
    service.components = {"text": service.components["text"], "data": service.components["data"]}
    option(service, "data", fail="v1")
    service.begin(rollback_to=TO)
    assert service.phase("rollback")["failed"]
    assert service.finish(failed=True, message="it failed")["outcome"] == "resumable"
    option(service, "data", fail="")
    service.open(rollback_run=RUN)
    service.go("preflight", "capture", "rollback", "verify")
    assert content(service, "db") == GOOD_DB


def test_data_that_was_taken_back_is_restored_when_the_run_is_resumed(service: Service) -> None:
    same_version(service)
    option(service, "text", fail="good")
    service.begin(rollback_to=TO)
    assert service.phase("rollback")["failed"]
    service.go("undo")
    assert service.finish(failed=True, message="it failed")["outcome"] == "restored"
    assert content(service, "db") == "v1\nbroken\n"
    option(service, "text", fail="")
    service.open(rollback_run=RUN)
    service.go("preflight", "capture", "rollback", "verify")
    assert (content(service, "db"), content(service, "app")) == (GOOD_DB, "good\n")


def test_what_users_wrote_after_the_end_is_no_reason_to_restore_again(service: Service) -> None:
    rolled_back(service)
    service.finish()
    write(service, "db", GOOD_DB + "row 9\n")
    service.open(rollback_run=RUN)
    assert not service.phase("preflight").get("failed")
    assert statuses(service.phase("rollback")) == {"db": "already", "app": "already"}
    assert content(service, "db") == GOOD_DB + "row 9\n"


# -- checkpoint, finalize, results ------------------------------------------------------------------------------------


def test_a_checkpoint_records_what_is_live_and_what_was_named(service: Service) -> None:
    service.open("checkpoint", rollback_to={"app": "good"})
    before = content(service, "db"), content(service, "app")
    service.go("checkpoint")
    recorded = [event for event in service.store.journal(RUN).events() if event["event"] == "recorded"]
    assert [event["version"]["identity"]["version"] for event in recorded] == ["v2", "good"]
    assert all(event["version"]["taken"] for event in recorded)
    assert (content(service, "db"), content(service, "app")) == before


@pytest.mark.parametrize(("written", "torn"), [("v3\nrow 1\n", True), ("v2\nrow 1\nrow 2\nrow 3\n", False)])
def test_a_checkpoint_during_a_deployment_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch, written: str, *, torn: bool
) -> None:
    """Its parts would be of two releases, a combination that never ran. What users write meanwhile is no deployment."""
    record = TextDriver.record

    def recorded(driver: TextDriver, into: Path) -> Version:
        version = record(driver, into)
        if driver.name == "app":  # the last one
            write(service, "db", written)
        return version

    monkeypatch.setattr(TextDriver, "record", recorded)
    service.open("checkpoint")
    service.go("preflight")
    result = service.phase("checkpoint")
    assert bool(result.get("failed")) == torn
    if torn:
        assert "db changed while the checkpoint was taken: it was version v2 and is version v3" in result["msg"]


def test_finalize_says_what_it_removed(service: Service) -> None:
    rolled_back(service)
    service.finish()
    (service.folder / f"app.txt.{RUN}.old").write_text("bad\n", encoding="utf-8")
    service.open("finalize", OTHER_RUN, rollback_run=RUN)
    result = service.phase("finalize")
    assert statuses(result) == {"app": "changed"}
    assert not (service.folder / f"app.txt.{RUN}.old").exists()


def test_results_are_printable(service: Service) -> None:
    write(service, "app", "bad\x1b[2J\n")
    service.open(rollback_to={"db": "good", "app": "x\x1b[31m"})
    text = repr(service.phase("preflight")["rollbackctl"]["steps"])
    assert "\\x1b" not in text.replace("\\\\x1b", "")


def test_an_error_of_the_file_system_is_told(service: Service) -> None:
    service.begin(rollback_to=TO)
    (service.folder / "app.txt").unlink()
    os.mkdir(service.folder / "app.txt")  # noqa: PTH102 - a folder in a file's place
    result = service.phase("rollback", "text")
    assert result["failed"]
    assert "Is a directory" in result["msg"]


# -- the journal's words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        ([], False),
        (["planned"], False),
        (["fence-closing"], True),
        (["fence-closing", "fence-closed", "applied"], True),
        (["fence-closing", "fence-closed", "fence-opened"], False),
        (["fence-closing", "fence-opened", "fence-closing"], True),
    ],
)
def test_whether_the_fence_is_closed(words: list[str], closed: bool) -> None:  # noqa: FBT001 - a table's column
    assert fence_is_closed([{"event": word} for word in words]) is closed


def events(*words: str) -> list[dict[str, Any]]:
    return [{"event": word.partition(" ")[0], "component": word.partition(" ")[2]} for word in words]


@pytest.mark.parametrize(
    ("words", "applied", "kept"),
    [
        ((), False, True),
        (("fence-closing", "captured db"), False, False),
        (("fence-closing", "captured db", "fence-opened"), False, True),
        (("fence-closing", "captured db", "applied db"), False, False),
        (("fence-closing", "captured db", "applied db", "fence-opening"), True, True),
        (("fence-closing", "captured db", "applied db", "fence-opened", "fence-closing"), True, True),
        (("fence-closing", "captured db", "applied db", "reversed db", "fence-opened"), False, True),
        (("fence-closing", "captured db", "applied app", "fence-opened"), False, True),
        (("fence-closing", "captured db", "fence-opened", "fence-closing", "captured db"), False, False),
        (("captured db", "applied db"), True, True),
    ],
)
def test_whether_traffic_may_have_written(words: tuple[str, ...], *, applied: bool, kept: bool) -> None:
    assert written_since_applied(events(*words), "db") is applied
    assert written_since_kept(events(*words), "db") is kept
