# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody else changed behind the closed fence: the one command that goes on, and what a run takes over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.status import describe

from tests.unit.module_utils.engine_parts import (
    FENCED,
    HALF,
    OPEN,
    OTHER_RUN,
    RUN,
    Service,
)
from tests.unit.module_utils.fence_parts import (
    THIRD_RUN,
    TO,
    content,
    drivers,
    fenced,
    gate,
    report,
    service,
    watchdogs,
    watchdogs_end,
    write,
)

__all__ = ["drivers", "service", "watchdogs"]


def stranded(service: Service) -> dict[str, Any]:
    """A run that stopped behind its closed fence: the code was to follow the data, and somebody else changed it."""
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    service.run["only"] = "db"
    service.go("rollback")
    service.run["only"] = ""
    write(service, "app", "hotfix\n")
    failure = service.phase("rollback")
    assert failure["failed"]
    assert service.phase("resume")["failed"]
    return service.finish(failed=True, message=failure["msg"])


def following(service: Service, run: str = RUN) -> str:
    """What the status says to type next for a run."""
    return str(next(one for one in describe(service.state)["runs"] if one["run"] == run)["next"])


def test_a_run_that_cannot_go_on_names_the_one_command_that_does(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    ending = stranded(service)
    assert ending["outcome"] == "unknown"
    assert ending["next"] == "Find out who did, then: rollbackctl run 3 shop --reason REASON"
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    service.open(rollback_run=RUN)
    failure = service.phase("preflight")
    assert failure["failed"]
    assert service.finish(failed=True, message=failure["msg"])["next"] == ending["next"]
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert gate(service) == FENCED
    watchdogs()


def test_a_new_run_takes_the_closed_fence_over_and_opens_it(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    plan = service.begin("rollback", OTHER_RUN, rollback_to=TO)
    assert (plan["takes_over"], plan["fence_of"], plan["fence"], plan["on_failure"]) == (RUN, RUN, True, "hold")
    assert {entry["name"]: entry["live"]["text"] for entry in plan["entries"]}["app"] == "version hotfix"
    assert following(service) == ""
    assert following(service, OTHER_RUN) == f"rollbackctl resume {OTHER_RUN}"
    with pytest.raises(Refused, match=f"was taken over by run {OTHER_RUN}"):
        service.open(rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify")
    assert gate(service) == FENCED
    service.go("resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v1\n", "good\n", OPEN)
    assert (following(service), following(service, OTHER_RUN)) == ("", "")
    watchdogs()


def test_taking_it_back_takes_the_fence_over_and_goes_to_before_the_first_run(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    write(service, "app", "bad\n")  # whoever changed it has put it back
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v2\nrow 1\n", "bad\n", OPEN)
    watchdogs()


def test_an_undo_of_a_run_that_took_over_goes_back_to_before_both(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    service.begin("rollback", OTHER_RUN, rollback_to=TO)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    service.finish()
    with pytest.raises(Refused, match="was taken over") as refused:
        service.open("undo", THIRD_RUN, rollback_run=RUN)
    assert refused.value.next_step == f"rollbackctl undo {OTHER_RUN}"
    service.begin("undo", THIRD_RUN, rollback_run=OTHER_RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert content(service, "db") == "v2\nrow 1\n"
    watchdogs()


def test_a_run_that_took_over_never_opens_what_it_found(service: Service, watchdogs: Callable[[], None]) -> None:
    """Half-way behind a closed fence is no state to go back to."""
    stranded(service)
    service.components["text"][0]["fail"] = "good"
    service.begin("rollback", OTHER_RUN, rollback_to=TO)
    service.go("stage", "fence", "capture")
    failure = service.phase("rollback")
    answer = service.phase("resume")
    assert "The fence stays closed" in answer["msg"]
    assert gate(service) == FENCED
    ending = service.finish(failed=True, message=failure["msg"])
    assert (ending["outcome"], ending["next"]) == ("resumable", f"rollbackctl resume {OTHER_RUN}")
    watchdogs()
    assert gate(service) == FENCED
    service.components["text"][0]["fail"] = ""
    service.open(rollback_run=OTHER_RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert gate(service) == OPEN
    watchdogs()


def test_a_new_run_opens_what_was_put_right_by_hand(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    write(service, "app", "good\n")
    plan = service.begin("rollback", OTHER_RUN, rollback_to=TO)
    assert {entry["action"] for entry in plan["entries"]} == {"none"}
    service.go("verify", "resume")
    assert service.finish()["outcome"] == "already"
    assert gate(service) == OPEN
    watchdogs()


def test_the_watchdog_names_the_run_that_works(service: Service, watchdogs: Callable[[], None]) -> None:
    fenced(service)
    service.go("capture")
    write(service, "app", "hotfix\n")
    watchdogs()
    said = report(service)
    assert said is not None
    assert said["message"] == "The fence stays closed. Next: rollbackctl run 3 shop --reason REASON"
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert service.open(identity=OTHER_RUN, rollback_to=TO)["takes_over"] == RUN


def test_what_was_only_written_to_behind_the_fence_is_resumed(service: Service, watchdogs: Callable[[], None]) -> None:
    """Rows, not a version of somebody else's: the resume keeps them too and goes on; undoing it brings them back."""
    service.lease_seconds = 60.0
    fenced(service)
    service.go("capture")
    write(service, "db", "v2\nrow 1\nrow 2\n")
    stopped = service.finish(failed=True, message="Stopped.")
    assert (stopped["outcome"], stopped["next"]) == ("resumable", f"rollbackctl resume {RUN}")
    assert "written to since it was kept" in stopped["message"]
    assert following(service) == f"rollbackctl resume {RUN}"
    watchdogs_end(service, watchdogs)
    said = report(service)
    assert said is not None
    assert said["message"] == f"The fence stays closed. Next: rollbackctl resume {RUN}"
    assert gate(service) == FENCED
    service.open(rollback_run=RUN)
    service.go("preflight", "stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert (content(service, "db"), content(service, "app"), gate(service)) == ("v1\n", "good\n", OPEN)
    service.begin("undo", OTHER_RUN, rollback_run=RUN)
    service.go("stage", "fence", "capture", "rollback", "verify", "resume")
    assert service.finish()["outcome"] == "done"
    assert content(service, "db") == "v2\nrow 1\nrow 2\n"
    watchdogs()


def test_a_run_that_is_refused_leaves_the_fence_to_the_one_that_closed_it(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    service.open(identity=OTHER_RUN, rollback_to={"db": "good", "app": "nonsense"})
    problems = service.plan()["problems"]
    ending = service.finish(failed=True, message="; ".join(problems))
    assert ending["outcome"] == "refused"
    assert ending["message"].endswith(f"The service is still stopped, behind the fence of run {RUN}.")
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    assert gate(service) == FENCED
    watchdogs()


@pytest.mark.parametrize("cause", ["half-way", "somebody else"])
def test_no_checkpoint_is_taken_of_what_stands_behind_a_closed_fence(
    service: Service, watchdogs: Callable[[], None], cause: str
) -> None:
    """It is stopped, and maybe half put back: nobody wants to go back to that. The command that goes on is named."""
    if cause == "half-way":
        fenced(service)
        write(service, "db", HALF)
        watchdogs()
    else:
        stranded(service)
    with pytest.raises(Refused, match="behind a closed fence") as refused:
        service.open("checkpoint", OTHER_RUN)
    assert refused.value.next_step == following(service)
    assert OTHER_RUN not in service.store.runs()
    watchdogs()


def test_the_status_shows_a_closed_fence_however_long_ago_it_was_closed(
    service: Service, watchdogs: Callable[[], None]
) -> None:
    stranded(service)
    for number in range(25):
        identity = f"rb-20261122-0000{number:02d}-0000"
        service.open("quarantine", identity)
        service.finish()
    assert following(service) == "rollbackctl run 3 shop --reason REASON"
    watchdogs()


def test_nothing_is_finalized_while_a_fence_is_closed(service: Service, watchdogs: Callable[[], None]) -> None:
    stranded(service)
    with pytest.raises(Refused, match="may need what was kept"):
        service.open("finalize", OTHER_RUN, rollback_run=RUN)
    watchdogs()
