# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening, planning and ending runs: every outcome, and every refusal before one begins."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import registry
from ansible.module_utils.rollbackctl.component import Version
from ansible.module_utils.rollbackctl.durable import write_document
from ansible.module_utils.rollbackctl.errors import LeaseHeld, Refused, RollbackError, StepFailed
from ansible.module_utils.rollbackctl.runs import check_identity, open_run, release_quarantine
from ansible.module_utils.rollbackctl.status import describe
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.unit.module_utils.engine_parts import (
    HALF,
    OTHER_RUN,
    RUN,
    SINCE,
    GateDriver,
    Service,
    TextDriver,
    register,
    text_component,
    tree_digest,
)
from tests.unit.module_utils.test_names import HOSTILE

TO = {"app": "good", "env": "good"}
THIRD = "rb-20261121-110000-0002"
FOURTH = "rb-20261121-120000-0003"


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def two_files(folder: Path) -> Service:
    """Two broken files, with a state store of their own."""
    env = text_component(folder, "env", "bad-env\n", "good-env\n")
    return Service(folder, {"text": [env, text_component(folder, "app", "bad\n", "good\n")]})


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return two_files(tmp_path)


def contents(service: Service) -> list[str]:
    return [(service.folder / f"{name}.txt").read_text(encoding="utf-8").strip() for name in ("env", "app")]


def rolled_back(service: Service) -> dict[str, Any]:
    service.begin(rollback_to=TO)
    service.go("stage", "capture", "rollback", "verify")
    return service.finish()


def failing(service: Service, *, undo: bool) -> dict[str, Any]:
    """A run whose second component fails."""
    service.components["text"][1]["fail"] = "good"
    service.begin(rollback_to=TO)
    failure = service.phase("rollback")
    assert failure["failed"]
    if undo:
        service.go("undo")
    return service.finish(failed=True, message=failure["msg"])


# -- outcomes ---------------------------------------------------------------------------------------------------------


def test_done(service: Service) -> None:
    ending = rolled_back(service)
    assert ending["outcome"] == "done"
    assert contents(service) == ["good-env", "good"]
    assert ending["quarantined"].startswith("q-")
    assert ending["next"] == ""
    assert service.store.lease() is None
    assert service.events()[-1] == "finished"


@pytest.mark.parametrize(
    ("left", "outcome", "following"),
    [("bad\n", "resumable", f"resume {RUN}"), ("v9\n", "unknown", "run 3 shop --reason REASON")],
)
def test_what_changes_again_when_traffic_is_back_is_not_done(
    service: Service, left: str, outcome: str, following: str
) -> None:
    """As an application that migrates its database when it starts."""
    service.begin(rollback_to=TO)
    service.go("stage", "capture", "rollback", "verify", "resume")
    (service.folder / "app.txt").write_text(left, encoding="utf-8")
    ending = service.finish()
    assert (ending["outcome"], ending["quarantined"]) == (outcome, "")
    assert f"app reads as version {left.strip()}, not as version good" in ending["message"]
    assert "now that traffic is back" in ending["message"]
    assert ending["next"].startswith("Keep it from that")
    assert ending["next"].endswith(f"rollbackctl {following}")
    service.open(rollback_run=RUN)
    assert bool(service.phase("preflight").get("failed")) is (outcome == "unknown")  # so no resume is named there


def test_an_undo_says_that_nobody_asked_whether_the_service_is_healthy(service: Service) -> None:
    rolled_back(service)
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "capture", "rollback", "verify", "resume")
    ending = service.finish()
    assert (ending["outcome"], contents(service)) == ("done", ["bad-env", "bad"])
    assert f"as it did before run {RUN}" in ending["message"]
    assert "healthy was not asked" in ending["message"]
    assert ending["next"] == f"rollbackctl verify {service.run['service']}"


def test_an_undo_that_does_not_stay_is_not_done(service: Service) -> None:
    rolled_back(service)
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "capture", "rollback", "verify", "resume")
    (service.folder / "app.txt").write_text("good\n", encoding="utf-8")
    ending = service.finish()
    assert ending["outcome"] == "resumable"
    assert "app reads as version good, not as version bad" in ending["message"]
    assert service.store.quarantine() != []


def test_already(service: Service) -> None:
    for name in ("env", "app"):
        (service.folder / f"{name}.txt").write_text("good-env\n" if name == "env" else "good\n", encoding="utf-8")
    ending = rolled_back(service)
    assert (ending["outcome"], ending["quarantined"]) == ("already", "")
    assert service.store.quarantine() == []


def test_refused(service: Service) -> None:
    service.open(rollback_to={"app": "nonsense", "env": "good"})
    problems = service.plan()["problems"]
    ending = service.finish(failed=True, message=problems[0])
    assert ending["outcome"] == "refused"
    assert "nonsense" in ending["message"]
    assert contents(service) == ["bad-env", "bad"]
    assert service.store.lease() is None


def test_refused_when_a_phase_failed_before_anything_was_touched(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("stage", "capture")
    assert service.finish(failed=True, message="the disk is slow")["outcome"] == "refused"


def test_restored(service: Service) -> None:
    ending = failing(service, undo=True)
    assert ending["outcome"] == "restored"
    assert "app did not work" in ending["message"]
    assert contents(service) == ["bad-env", "bad"]
    assert service.store.quarantine() == []
    assert service.store.lease() is None


class CrashingDriver(GateDriver):
    """A program that runs what its file says, and does not start again."""

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - it costs nothing here
        state = self.path.read_text(encoding="utf-8")
        return Version(identity={"state": state}, text=state)

    def apply(self, target: Version) -> None:  # noqa: ARG002 - whichever it is
        self.path.write_text("failed", encoding="utf-8")
        raise StepFailed("web does not start.")


def test_what_does_not_run_as_before_was_not_restored(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.DRIVERS, "crashing", CrashingDriver)
    (service.folder / "web").write_text("running", encoding="utf-8")
    service.components["crashing"] = [{"name": "web", "path": str(service.folder / "web")}]
    service.components["text"][1]["fail"] = "good"
    service.begin(rollback_to=TO)
    failure = service.phase("rollback")
    assert service.phase("undo")["failed"]
    assert contents(service) == ["bad-env", "bad"]
    ending = service.finish(failed=True, message=failure["msg"])
    assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl resume {RUN}")
    assert "web was to be restarted for that and reads as failed" in ending["message"]
    assert service.open(rollback_run=RUN)["reversing"]
    monkeypatch.setattr(CrashingDriver, "apply", lambda driver, _target: driver.path.write_text("running", "utf-8"))
    service.go("undo")
    assert service.finish(failed=True, message="it failed")["outcome"] == "restored"


def test_resumable(service: Service) -> None:
    ending = failing(service, undo=False)
    assert ending["outcome"] == "resumable"
    assert ending["next"] == f"rollbackctl resume {RUN}"
    assert contents(service) == ["good-env", "bad"]


def test_resumable_when_wholly_new_but_not_proven_names_the_way_back(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("rollback", "verify")
    ending = service.finish(failed=True, message="the health check failed")
    assert ending["outcome"] == "resumable"
    lines = ending["next"].splitlines()
    assert (lines[0], lines[-1]) == (f"rollbackctl resume {RUN}", f"rollbackctl undo {RUN}")


def test_unknown_when_somebody_else_changed_it(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("rollback")
    (service.folder / "app.txt").write_text("hotfix\n", encoding="utf-8")
    ending = service.finish(failed=True, message="verify failed")
    assert ending["outcome"] == "unknown"
    assert "hotfix" in ending["message"]


def test_unknown_when_a_component_cannot_be_read(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("rollback")
    (service.folder / "app.txt").unlink()
    assert service.finish(failed=True, message="verify failed")["outcome"] == "unknown"


def test_half_way_is_resumable(service: Service) -> None:
    service.begin(rollback_to=TO)
    service.go("rollback")
    (service.folder / "app.txt").write_text(HALF, encoding="utf-8")
    assert service.finish(failed=True, message="it failed")["outcome"] == "resumable"


def test_unknown_while_another_process_still_works(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.begin(rollback_to=TO)
    locked = type(service.store).locked
    monkeypatch.setattr(type(service.store), "locked", lambda store, _wait=0.0: locked(store, 0.1))
    with locked(service.store):
        ending = service.finish(failed=True, message="it hangs")
    assert ending["outcome"] == "unknown"
    assert ending["next"] == f"rollbackctl resume {RUN}"


def test_a_run_that_was_taken_over_cannot_be_ended_by_its_former_controller(service: Service) -> None:
    service.begin(rollback_to=TO)
    old = dict(service.run)
    service.open(rollback_run=RUN)
    service.run = old
    with pytest.raises(RollbackError, match="does not hold"):
        service.finish()
    assert "finished" not in service.events()


def test_a_full_disk_does_not_make_a_proven_rollback_unknown(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)], check=True, timeout=60)
    try:
        service = two_files(place)
        service.begin(rollback_to=TO)
        service.go("rollback", "verify")
        with pytest.raises(OSError, match="No space"):
            (place / "filler").write_bytes(b"x" * 1_000_000)
        ending = service.finish()
        assert ending["outcome"] == "done"
        assert service.events()[-1] == "finished"
        assert service.store.lease() is None
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def test_a_full_disk_is_a_refusal_that_holds_nothing(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True, timeout=60)
    try:
        service = two_files(place)
        with pytest.raises(Refused, match="No space left"):
            service.open(rollback_to=TO)
        assert service.store.lease() is None
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


# -- opening ----------------------------------------------------------------------------------------------------------


def test_a_fresh_run(service: Service) -> None:
    facts = service.open(rollback_to=TO)
    assert facts == {
        "id": RUN, "token": 1, "checkpoint": "", "undoes": "", "resume": False, "finished": "",
        "proven": False, "reversing": False,
        "takes_over": "", "fence_of": "",
    }  # fmt: skip


def test_a_dry_run_writes_nothing_and_says_who_holds_the_lease(service: Service) -> None:
    service.open(rollback_to=TO, dry=True)
    assert not service.store.path.exists()
    service.begin(rollback_to=TO)
    before = tree_digest(service.folder)
    facts = service.open(identity=OTHER_RUN, rollback_to=TO, dry=True)
    assert f"Run {RUN} of ops" in facts["notes"][0]
    assert tree_digest(service.folder) == before


def test_another_run_is_refused_while_one_is_under_way(service: Service) -> None:
    service.begin(rollback_to=TO)
    with pytest.raises(LeaseHeld, match=RUN):
        service.open(identity=OTHER_RUN, rollback_to=TO)


def test_a_wrong_checkpoint_is_refused_and_holds_nothing(service: Service) -> None:
    with pytest.raises(Refused, match="does not exist"):
        service.open(rollback_checkpoint="cp-nonsense")
    # A typing error must not keep the service for as long as a lease lasts.
    service.open(identity=OTHER_RUN, rollback_to=TO)
    assert service.run["token"] > 0


@pytest.mark.parametrize("named", [name for name in HOSTILE.values() if name])
def test_hostile_run_ids_are_refused(service: Service, named: str) -> None:
    with pytest.raises(Refused, match="not a run id"):
        service.open(rollback_run=named)
    assert not service.store.path.exists()


@pytest.mark.parametrize("kind", ["rollback", "undo", "finalize"])
def test_a_run_that_nobody_knows_is_refused(service: Service, kind: str) -> None:
    rolled_back(service)
    with pytest.raises(Refused, match=f"Runs: {RUN}"):
        service.open(kind, OTHER_RUN, rollback_run="rb-none")


def test_a_run_of_another_level_is_not_resumed(service: Service) -> None:
    rolled_back(service)
    asked = {**service.asked_run("rollback", OTHER_RUN), "level": 1}
    with pytest.raises(Refused, match="level 3, not a rollback of level 1"):
        open_run(asked, {}, {"rollback_run": RUN}, dry=False)


@pytest.mark.parametrize("kind", ["rollback", "undo", "finalize"])
def test_a_plan_of_another_version_is_refused(service: Service, kind: str) -> None:
    service.begin(rollback_to=TO)
    path = service.store.run_directory(RUN) / "plan.json"
    write_document(path, {**json.loads(path.read_text(encoding="utf-8"))["document"], "format": 99})
    before = tree_digest(service.folder)
    with pytest.raises(Refused, match="format 99"):
        service.open(kind, OTHER_RUN, rollback_run=RUN)
    assert tree_digest(service.folder) == before


def test_a_damaged_plan_is_refused(service: Service) -> None:
    service.begin(rollback_to=TO)
    path = service.store.run_directory(RUN) / "plan.json"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RollbackError, match="damaged"):
        service.open(rollback_run=RUN)


def test_identity_is_proven(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("  shop production\n", encoding="utf-8")
    identity = {"path": str(marker), "content": "shop production"}
    store = DirectoryStore(str(tmp_path))
    check_identity(identity, store)
    with pytest.raises(Refused, match="another place"):
        check_identity({**identity, "content": "shop staging"}, store)
    marker.write_bytes(b"\xff")
    with pytest.raises(Refused, match="right host"):
        check_identity(identity, store)
    marker.unlink()
    with pytest.raises(Refused, match="right host"):
        check_identity(identity, store)


def test_a_wrong_place_gets_no_state_store(service: Service) -> None:
    profile = {"identity": {"path": str(service.folder / "none"), "content": "x"}}
    with pytest.raises(Refused, match="Identity proof failed"):
        open_run(service.asked_run("rollback", RUN), profile, {}, dry=False)
    assert not service.store.path.exists()


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_id_plan_and_raises_the_token(service: Service) -> None:
    plan = service.begin(rollback_to=TO)
    facts = service.open(identity=OTHER_RUN, rollback_run=RUN)
    assert (facts["id"], facts["token"], facts["resume"], facts["finished"]) == (RUN, 2, True, "")
    assert service.plan()["plan"]["hash"] == plan["hash"]


def test_a_resumed_run_ends_what_the_first_began(service: Service) -> None:
    failing(service, undo=False)
    service.components["text"][1]["fail"] = ""
    facts = service.open(identity=OTHER_RUN, rollback_run=RUN)
    assert facts["finished"] == "resumable"
    service.go("preflight", "stage", "capture", "rollback", "verify")
    assert service.finish()["outcome"] == "done"
    assert contents(service) == ["good-env", "good"]


def test_a_run_that_is_done_is_already_done(service: Service) -> None:
    rolled_back(service)
    assert service.open(identity=OTHER_RUN, rollback_run=RUN)["finished"] == "done"
    service.go("preflight", "verify")
    assert service.finish()["outcome"] == "already"


@pytest.mark.parametrize("since", ["done", "resumable"])
def test_a_run_that_was_proven_once_never_takes_itself_back(service: Service, since: str) -> None:
    """It is verified again days later and a check fails: users have long gone on with what was proven then."""
    rolled_back(service)
    for _again in range(1 if since == "done" else 2):
        service.open(rollback_run=RUN)
        assert service.plan()["plan"]["on_failure"] == "hold"
        assert service.finish(failed=True, message="a check failed")["outcome"] == "resumable"


def test_a_run_that_stopped_still_takes_itself_back(service: Service) -> None:
    failing(service, undo=False)
    service.open(rollback_run=RUN)
    assert service.plan()["plan"]["on_failure"] == "restore"


def test_a_run_that_was_being_taken_back_goes_on_with_that(service: Service) -> None:
    service.components["text"][0]["fail"] = "bad-env"  # its way back fails
    service.components["text"][1]["fail"] = "good"
    service.begin(rollback_to=TO)
    assert service.phase("rollback")["failed"]
    assert service.phase("undo")["failed"]
    assert service.finish(failed=True, message="x")["outcome"] == "resumable"
    assert service.open(rollback_run=RUN)["reversing"]
    service.components["text"][0]["fail"] = ""
    service.go("undo")
    assert service.finish(failed=True, message="x")["outcome"] == "restored"
    assert not service.open(rollback_run=RUN)["reversing"]


# -- undo and finalize ------------------------------------------------------------------------------------------------


def test_undo_takes_a_run_back_and_lifts_its_quarantine(service: Service) -> None:
    rolled_back(service)
    assert len(service.store.quarantine()) == 1
    facts = service.open("undo", OTHER_RUN, rollback_run=RUN)
    assert (facts["undoes"], facts["resume"], facts["id"]) == (RUN, False, OTHER_RUN)
    made = service.plan()
    assert made["problems"] == []
    assert made["plan"]["undoes"] == RUN
    service.go("stage", "capture", "rollback", "verify")
    assert service.finish()["outcome"] == "done"
    assert contents(service) == ["bad-env", "bad"]
    assert service.store.quarantine() == []


def test_what_the_ledger_did_not_take_is_said_at_the_end(service: Service) -> None:
    rolled_back(service)
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "capture", "rollback", "verify")
    (service.store.path / "quarantine.json").write_text("no JSON", encoding="utf-8")
    ending = service.finish()
    assert ending["outcome"] == "done"
    assert "The ledger could not be written: " in ending["message"]
    assert "quarantine.json is damaged" in ending["message"]


def test_an_undo_can_itself_be_resumed(service: Service) -> None:
    rolled_back(service)
    service.open("undo", OTHER_RUN, rollback_run=RUN)
    service.plan()
    facts = service.open("undo", THIRD, rollback_run=OTHER_RUN)
    assert (facts["id"], facts["undoes"], facts["resume"]) == (OTHER_RUN, RUN, True)


@pytest.mark.parametrize("kind", ["undo", "finalize"])
def test_a_run_that_has_not_ended_is_neither_undone_nor_finalized(service: Service, kind: str) -> None:
    service.begin(rollback_to=TO)
    with pytest.raises(Refused, match="has not ended") as refusal:
        service.open(kind, OTHER_RUN, rollback_run=RUN)
    assert refusal.value.next_step == f"rollbackctl resume {RUN}"


def test_what_was_finalized_cannot_be_undone_nor_finalized_again(service: Service) -> None:
    rolled_back(service)
    service.open("finalize", OTHER_RUN, rollback_run=RUN)
    service.go("finalize")
    assert service.finish()["outcome"] == "done"
    for kind in ("undo", "finalize"):
        with pytest.raises(Refused, match="finalized"):
            service.open(kind, THIRD, rollback_run=RUN)


def test_a_finalize_that_fails_midway_does_not_say_that_nothing_was_changed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_back(service)
    (service.folder / f"env.txt.{RUN}.old").touch()
    remove = TextDriver.finalize

    def fails_at_the_second(driver: TextDriver) -> list[str]:
        if driver.name == "app":
            raise OSError(5, "Input/output error")
        return remove(driver)

    monkeypatch.setattr(TextDriver, "finalize", fails_at_the_second)
    service.open("finalize", OTHER_RUN, rollback_run=RUN)
    failure = service.phase("finalize")
    assert failure["failed"]
    ending = service.finish(failed=True, message=failure["msg"])
    assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl finalize {RUN}")
    assert f"Some of what run {RUN} kept may be removed already" in ending["message"]
    monkeypatch.setattr(TextDriver, "finalize", remove)
    service.open("finalize", THIRD, rollback_run=RUN)
    service.go("finalize")
    assert service.finish()["outcome"] == "done"


def test_a_finalize_that_cannot_remove_all_is_not_done_and_can_be_repeated(service: Service) -> None:
    rolled_back(service)
    kept = service.store.run_directory(RUN) / "kept"
    subprocess.run(["mount", "--bind", str(kept / "env"), str(kept / "env")], check=True)  # nobody can remove that
    try:
        service.open("finalize", OTHER_RUN, rollback_run=RUN)
        service.go("finalize")
        ending = service.finish()
        assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl finalize {RUN}")
        assert "busy" in ending["message"]
    finally:
        subprocess.run(["umount", str(kept / "env")], check=True)
    service.open("finalize", THIRD, rollback_run=RUN)
    service.go("finalize")
    assert service.finish()["outcome"] == "done"
    assert not kept.exists()


def test_finalize_removes_what_the_store_kept(service: Service) -> None:
    rolled_back(service)
    kept = service.store.run_directory(RUN) / "kept"
    assert [path.name for path in kept.rglob("content")] == ["content", "content"]
    service.open("finalize", OTHER_RUN, rollback_run=RUN)
    service.go("finalize")
    service.finish()
    assert list(kept.rglob("content")) == []


def test_the_quarantined_version_does_not_come_back_until_it_is_released(service: Service) -> None:
    rolled_back(service)
    for item, bad in zip(service.components["text"], ("bad-env\n", "bad\n"), strict=True):
        item["versions"]["bad"] = bad
    service.open(identity=OTHER_RUN, rollback_to={"app": "bad", "env": "bad"})
    problems = service.plan()["problems"]
    assert len(problems) == 1
    identity = service.store.quarantine()[0]["id"]
    assert f"quarantined as {identity}" in problems[0]
    service.finish(failed=True, message=problems[0])
    service.open("quarantine", THIRD)
    with pytest.raises(Refused, match=identity):
        release_quarantine(service.run, "q-none")
    assert release_quarantine(service.run, identity) == f"{identity} was released"
    assert service.finish()["outcome"] == "done"
    service.open(identity=FOURTH, rollback_to={"app": "bad", "env": "bad"})
    assert service.plan()["problems"] == []


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoint_then_rollback_to_it(service: Service) -> None:
    (service.folder / "app.txt").write_text("good\n", encoding="utf-8")
    facts = service.open("checkpoint")
    assert facts["checkpoint"] == RUN.replace("rb-", "cp-")
    service.go("checkpoint")
    ending = service.finish(rollback_soak_seconds=0)
    assert ending["outcome"] == "done"
    assert "is proven" in ending["checkpoint"]
    (service.folder / "app.txt").write_text("bad\n", encoding="utf-8")
    assert service.open(identity=OTHER_RUN)["checkpoint"] == facts["checkpoint"]
    assert service.plan()["problems"] == []
    service.go("capture", "rollback", "verify")
    assert service.finish()["outcome"] == "done"
    assert contents(service) == ["bad-env", "good"]


def test_a_checkpoint_that_cannot_be_written_is_refused(service: Service) -> None:
    facts = service.open("checkpoint")
    service.go("checkpoint")
    document = service.store.checkpoint_directory(facts["checkpoint"]) / "checkpoint.json"
    document.mkdir()
    ending = service.finish()
    assert ending["outcome"] == "refused"
    assert "could not be written" in ending["message"]


def test_a_checkpoint_that_failed_is_none(service: Service) -> None:
    service.open("checkpoint")
    service.go("checkpoint")
    assert service.finish(failed=True, message="the checks failed")["outcome"] == "refused"
    assert service.store.checkpoints() == []


# -- planning and describing ------------------------------------------------------------------------------------------


def test_losing_data_needs_its_word(tmp_path: Path) -> None:
    service = Service(tmp_path, {"data": [text_component(tmp_path, "db", "v2\nx\n", "v1\n", loss=SINCE)]})
    service.open(rollback_to={"db": "good"})
    assert len(service.plan()["problems"]) == 1
    assert service.store.read_plan(RUN) is None
    assert service.plan(rollback_accept_data_loss_since=SINCE)["problems"] == []
    service.go("capture", "rollback")
    ending = service.finish()
    assert ending["set_aside"][0]["component"] == "db"
    assert (Path(ending["set_aside"][0]["path"]) / "content").read_text(encoding="utf-8") == "v2\nx\n"


def test_a_service_without_components_has_nothing_to_put_back(tmp_path: Path) -> None:
    service = Service(tmp_path, {})
    service.open()
    assert "nothing to put back" in service.plan()["problems"][0]


def test_a_plan_is_not_written_by_who_lost_the_lease(service: Service) -> None:
    service.open(rollback_to=TO)
    service.run["token"] = 0
    with pytest.raises(RollbackError, match="does not hold"):
        service.plan()
    assert service.store.read_plan(RUN) is None


def test_the_status_tells_what_to_do_next(service: Service) -> None:
    service.begin(rollback_to=TO)
    found = describe(service.state)
    assert found["lease"]["run"] == RUN
    assert found["runs"][0]["outcome"] == "interrupted"
    assert found["runs"][0]["next"] == f"rollbackctl resume {RUN}"
    service.go("rollback")
    service.finish()
    found = describe(service.state)
    assert found["lease"] is None
    assert (found["runs"][0]["outcome"], found["runs"][0]["next"]) == ("done", "")
    assert len(found["quarantine"]) == 1


def test_the_status_of_an_empty_place_writes_nothing(tmp_path: Path) -> None:
    found = describe({"kind": "directory", "path": str(tmp_path / "none")})
    assert (found["lease"], found["runs"], found["checkpoints"]) == (None, [], [])
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - names are all that is asked
