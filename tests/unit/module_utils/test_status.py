# SPDX-License-Identifier: GPL-3.0-or-later
"""What is damaged in a store is named with what to type, and blinds neither status nor plan; it is never "free"."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused, RollbackError
from ansible.module_utils.rollbackctl.status import describe

from tests.unit.module_utils.engine_parts import OTHER_RUN, RUN, Service, register, text_component, tree_digest

TO = {"app": "good"}
NEXT = "rb-20261121-093400-dddd"


@pytest.fixture(autouse=True)
def _drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service with a run that is done, which quarantined what it took away, and a checkpoint."""
    made = Service(tmp_path, {"text": [text_component(tmp_path, "app", "bad\n", "good\n")]})
    made.begin(rollback_to=TO)
    made.go("stage", "rollback", "verify")
    assert made.finish()["outcome"] == "done"
    made.open("checkpoint", "rb-20261121-093200-cccc")
    made.go("checkpoint")
    assert made.finish(rollback_soak_seconds=0)["outcome"] == "done"
    made.begin(identity=OTHER_RUN)
    return made


DAMAGE: dict[str, Callable[[Service], Path]] = {
    "lease": lambda service: service.store.path / "lease.json",
    "quarantine": lambda service: service.store.path / "quarantine.json",
    "plan": lambda service: service.store.run_directory(RUN) / "plan.json",
    "journal": lambda service: service.store.run_directory(RUN) / "journal.jsonl",
    "checkpoint": lambda service: next(service.store.path.glob("checkpoints/*/checkpoint.json")),
}


def spoil(service: Service, what: str) -> Path:
    """Change one letter of a file, in the journal one of its second event."""
    path = DAMAGE[what](service)
    raw = path.read_bytes()
    place = raw.index(b'"sha256"', raw.index(b"\n") if what == "journal" else 0) + 12
    path.write_bytes(raw[:place] + (b"0" if raw[place : place + 1] != b"0" else b"1") + raw[place + 1 :])
    return path


@pytest.mark.parametrize("what", DAMAGE)
def test_status_names_what_is_damaged_and_tells_the_rest(service: Service, what: str) -> None:
    whole = describe(service.state)
    assert whole["damaged"] == []
    path = spoil(service, what)
    before = tree_digest(service.store.path)
    found = describe(service.state)
    assert tree_digest(service.store.path) == before
    (said,) = found["damaged"]
    assert str(path) in said
    assert "Restore it from a backup" in said
    typed = said.rpartition("  ")[2]
    subprocess.run(shlex.split(typed), check=True, timeout=60)
    assert describe(service.state)["damaged"] == [], "what it says to type is enough"
    assert [run["run"] for run in found["runs"]] == [run["run"] for run in whole["runs"]]
    assert found["runs"][0]["outcome"] == "done"
    if what not in {"lease", "quarantine", "checkpoint"}:
        assert {key: found[key] for key in found if key not in {"damaged", "lease", "machine"}} == {
            key: whole[key] for key in whole if key not in {"damaged", "lease", "machine"}
        }


def test_a_run_whose_plan_is_damaged_is_not_to_be_resumed(service: Service) -> None:
    path = service.store.run_directory(OTHER_RUN) / "plan.json"
    path.write_bytes(b"{}")
    found = next(run for run in describe(service.state)["runs"] if run["run"] == OTHER_RUN)
    assert (found["outcome"], found["next"]) == ("unknown", "")


def test_a_folder_that_others_can_write_into_is_told(service: Service) -> None:
    service.store.path.chmod(0o770)
    found = describe(service.state)
    assert "chmod 0700" in found["damaged"][0]
    assert found["runs"]
    with pytest.raises(Refused, match="not safe"):
        service.open(identity=NEXT, dry=True)


def test_a_damaged_lease_is_never_free_and_a_plan_says_so(service: Service) -> None:
    spoil(service, "lease")
    facts = service.open(identity=NEXT, dry=True)
    assert "lease.json is damaged" in facts["notes"][0]
    assert "would be refused" in facts["notes"][0]
    with pytest.raises(RollbackError, match=r"lease\.json is damaged"):
        service.open(identity=NEXT)


@pytest.mark.parametrize("dry", [True, False])
def test_a_damaged_quarantine_is_never_empty_and_a_plan_says_so(
    service: Service,
    dry: bool,  # noqa: FBT001 - a table's column
) -> None:
    service.finish(failed=True, message="stopped")
    spoil(service, "quarantine")
    service.open(identity=NEXT, dry=dry)
    made = service.plan(dry=dry)
    assert len(made["plan"]["entries"]) == 1
    assert "quarantine.json is damaged" in made["problems"][0]
    assert service.store.read_plan(NEXT) is None


def test_the_same_service_under_two_names_in_one_run_is_refused(service: Service) -> None:
    """The second one comes from the very same process, with a new run as with one that is resumed."""
    service.finish(failed=True, message="stopped")
    asked = {**service.asked_run("rollback", NEXT), "process": "rb-one"}
    service.open_as(asked)
    with pytest.raises(Refused, match="are one service") as refusal:
        service.open_as(asked)
    assert "--limit" in refusal.value.next_step
    assert not service.plan()["problems"]
    resuming = {**service.asked_run("rollback", "rb-20261121-093500-eeee"), "process": "rb-two"}
    assert service.open_as(resuming, rollback_run=NEXT)["resume"]  # another process of this number, as in containers
    with pytest.raises(Refused, match="are one service"):
        service.open_as(resuming, rollback_run=NEXT)
