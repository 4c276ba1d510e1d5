# SPDX-License-Identifier: GPL-3.0-or-later
"""Closing and opening what keeps traffic away while data is changed, and the watchdog that outlives the controller.

The rule: what is behind a fence is opened only when read-back says that the service is wholly old or wholly new.
Ansible runs neither rescue nor always when its controller is killed, so before a fence closes a process of our own is
left on the target. It waits for the lease to end without a successor and then applies the same rule.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence

from .component import TARGET, FenceDriver
from .durable import now
from .errors import LeaseHeld, RollbackError, StepFailed
from .failpoints import VARIABLE, failpoint
from .journal import Journal, fence_is_closed
from .plan import Plan, way_out
from .readback import CAPTURED_LAYERS, NEW, OLD, Picture, blank_place, place_of, read_service, read_steadily
from .step import LOCK_WAIT_SECONDS, changing_step
from .store import Lease, open_store
from .work import Work

FAILPOINTS = (
    "fence.watchdog.after",
    "fence.close.before",
    "fence.close.after",
    "fence.open.before",
    "fence.open.after",
)
POLL_SECONDS = 0.5
# A cluster is asked over a network, by every controller that guards a fence there.
CLUSTER_POLL_SECONDS = 1.5
# How often looking may fail (a cluster that is away, a disk with a fault) before it is left to whoever resumes the run.
TRIES = 240
PAUSE_LIMIT_SECONDS = 30.0
# How often what somebody starts behind the closed fence is stopped again before one change; then a person must look.
CLOSINGS = 3


def close_fences(work: Work) -> None:
    """Arm the watchdog, then close every fence that the plan needs; idempotent.

    After a failure before anything was begun there is nothing to take back, and so no reason to stop the service.
    """
    plan = work.plan
    fences = work.fences
    if not plan.fence or not fences or (work.run.get("after_failure") and not _touched(work, "begin", "fence-closing")):
        return
    with changing_step(work.store, str(work.run["id"]), int(work.run["token"])) as journal:
        if not fence_is_closed(journal.events()):
            journal.append("fence-closing", components=[driver.name for driver in fences])
        arm_watchdog(work, plan)
        failpoint("fence.watchdog.after")
        for driver in fences:
            began = time.monotonic()
            already = driver.closed()
            failpoint("fence.close.before")
            driver.close()
            failpoint("fence.close.after")
            work.note(driver.name, "already" if already else "changed", "closed", began)
        journal.append("fence-closed")
        work.extra["fence"] = {"closed": now(fraction=True)}


def require_fence(work: Work, journal: Journal) -> None:
    """Stop when the plan needs a fence and this run's is open: what users write now would be lost, or mixed with the
    old. Call it inside the kernel lock: a watchdog opens only while it holds that.

    :raises StepFailed: it was opened meanwhile, or closing it was skipped.
    """
    if not work.plan.fence:
        return
    following = f"rollbackctl resume {work.run['id']}"
    if not work.fences:
        raise StepFailed(
            "The plan needs a fence, and the profile names none any more. This step changed nothing.",
            f"Set `fence: true` again on the component that writes to the data, then: {following}",
        )
    events = journal.events()
    if not fence_is_closed(events):
        opened = [event for event in events if event["event"] == "fence-opened"]
        why = f"the {opened[-1]['by']} opened it at {opened[-1]['at']}" if opened else "closing it was skipped"
        raise StepFailed(f"The fence is open ({why}), so nothing behind it may be changed. Nothing was.", following)


def closed_again(work: Work, journal: Journal) -> list[str]:
    """Stop again what somebody (a monitor, a person, a controller) set going behind the closed fence; return its names.
    Ask just before each change, inside the kernel lock.

    :raises StepFailed: it cannot be stopped.
    """
    found = []
    for driver in work.fences if work.plan.fence else ():
        began = time.monotonic()
        if driver.closed():
            continue
        driver.close()
        with contextlib.suppress(OSError):  # a full disk does not set it going again
            journal.append("fence-found-open", component=driver.name)
        text = "was started behind the closed fence by somebody else than this run; it is stopped again"
        work.note(driver.name, "changed", text, began)
        found.append(driver.name)
    return found


def _may_open(plan: Plan, picture: Picture) -> bool:
    """Apply the rule. What was as it is behind the fence that a run took over was no state to open."""
    return picture.word == NEW or (picture.word == OLD and not plan.takes_over)


def started_again(work: Work, names: Sequence[str]) -> StepFailed:
    """Return the error for what somebody starts as often as it is stopped."""
    return StepFailed(
        f"{', '.join(names)}: somebody starts it behind the closed fence as often as it is stopped ({CLOSINGS} times).",
        f"Find out what does (monit, cron, a controller), pause that, then: rollbackctl resume {work.run['id']}",
    )


def refuse_written(work: Work, journal: Journal, started: Sequence[str]) -> None:
    """Stop when what was started behind the fence has written to data that this run had put back already.

    :param started: the names of what was; without one nothing is read.
    :raises StepFailed: so it is; what it reads as now is said.
    """
    applied = {event["component"] for event in journal.events() if event["event"] == "applied"}
    for driver in work.drivers if started else ():
        entry = work.plan.entry(driver.name)
        if entry is None or driver.layer not in CAPTURED_LAYERS or driver.name not in applied:
            continue
        driver.place = place_of(work.store, work.run, driver)
        state, reading = driver.state(entry, opened=False)
        if state != TARGET:
            raise StepFailed(
                f"{', '.join(started)}: somebody started it behind the closed fence, and it wrote to {driver.name}, "
                f"which was put back already and reads as {reading.text} now. It is stopped again; nothing more was "
                "changed.",
                f"rollbackctl resume {work.run['id']}",
            )


def open_fences(work: Work) -> None:
    """Open the fences when the service reads as wholly old or wholly new, then read back that what was to restart did.

    :raises StepFailed: it reads as neither; the fences stay closed and the message says what comes next.
    """
    plan = work.plan
    run = str(work.run["id"])
    with changing_step(work.store, run, int(work.run["token"])) as journal:
        if fence_is_closed(journal.events()):
            picture = _behind_the_fence(work, journal, lambda: read_service(work.store, work.run, plan, work.drivers))
            if not _may_open(plan, picture):
                raise StepFailed(
                    f"The fence stays closed: the service is {picture.word}. {picture.text}.",
                    f"rollbackctl resume {run}",
                )
            _announce_opening(journal, picture)
            for driver in work.fences:
                began = time.monotonic()
                _open(driver, picture)
                text = f"opened; the service is {picture.word}"
                work.note(driver.name, "changed", text, began, driver.live(exact=True).text)
            journal.append("fence-opened", by="run", word=picture.word)
            work.extra["fence"] = {"opened": now(fraction=True), "by": "run"}
        _started_anew(work, plan, journal)


def _behind_the_fence(work: Work, journal: Journal, read: Callable[[], Picture]) -> Picture:
    """Return how the service reads, proven to be closed right after that: what opens then starts with what was read.

    A process that was started behind the fence before the last change runs on with what it had loaded: it is stopped,
    and the service read again, since it may have written. Before the first change that does not matter.

    :raises StepFailed: somebody starts it as often as it is stopped.
    """
    names: list[str] = []
    for _try in range(CLOSINGS):
        picture = read()
        if not _may_open(work.plan, picture) or not _touched(work, "begin"):
            return picture
        names = closed_again(work, journal)
        if not names:
            return picture
    raise started_again(work, names)


def _started_anew(work: Work, plan: Plan, journal: Journal) -> None:
    """Read back that what follows a change was started anew; in a run without changes nothing had to be."""
    if not any(event["event"] == "applied" for event in journal.events()):
        return
    for driver in work.drivers:
        entry = plan.entry(driver.name)
        if entry is None or entry.action != "follow":
            continue
        driver.place = place_of(work.store, work.run, driver)
        state, reading = driver.state(entry, opened=True)
        if state != TARGET:
            raise StepFailed(f"{driver.name} was to be running anew but reads as {reading.text}.", "rollbackctl status")


def _touched(work: Work, *words: str) -> bool:
    events = work.store.journal(str(work.run["id"])).events()
    return any(event["event"] in words for event in events)


def _announce_opening(journal: Journal, picture: Picture) -> None:
    """Write down that traffic may return from now on: whoever is killed before the fence is open for sure leaves a
    service that may already be written to, and such writes are not somebody else's change."""
    last = journal.events()[-1:]
    if not last or (last[0]["event"], last[0].get("word")) != ("fence-opening", picture.word):  # a try before failed
        journal.append("fence-opening", word=picture.word, reached=picture.word == NEW)


def _open(driver: FenceDriver, picture: Picture) -> None:
    driver.reached = picture.word == NEW
    failpoint("fence.open.before")
    driver.open()
    failpoint("fence.open.after")


# -- the watchdog ----------------------------------------------------------------------------------------------------


def arm_watchdog(work: Work, plan: Plan) -> None:
    """Leave a process on this host that opens the fences by the rule when the lease ends without a successor.

    It is forked from this one (all its code is loaded), in a session of its own, so it survives the controller, the SSH
    connection and this module; its options, secrets included, are in its memory only. For a service in Kubernetes this
    host is the controller's; the parent-death signal of its worker is not inherited, prctl(2).

    :raises StepFailed: it cannot be started (processes, memory).
    """
    heard, says = os.pipe()
    with work.store.still():
        child = os.fork()
    if child:
        os.close(says)
        os.waitpid(child, 0)
        with os.fdopen(heard, "rb") as pipe:
            if not pipe.read():
                raise StepFailed(
                    "The watchdog could not be started, and no fence is closed without one.",
                    f"Look for what the host lacks (memory, processes), then: rollbackctl resume {work.run['id']}",
                )
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        _become_daemon(says)
        _begin_anew(work)
        os.write(says, b".")
        os.close(says)
        _watch(work, plan)
    finally:
        os._exit(0)


def _become_daemon(kept: int) -> None:
    """Let go of all that is the module's, but for one descriptor."""
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.environ.pop(VARIABLE, None)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    # Also the kernel lock's descriptor: a lock belongs to the open file, which fork shares (flock(2)).
    os.closerange(3, kept)
    os.closerange(kept + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65536))


def _begin_anew(work: Work) -> None:
    """Leave behind what cannot be shared with the process that goes on: in Kubernetes, connections and locks of
    threads. A kubeconfig may be named by a relative path, so the folder is kept there."""
    if work.store.cluster is None:
        os.chdir("/")
        return
    work.store = open_store(dict(work.run["state"]))
    for driver in work.drivers:
        driver.place = blank_place(work.store, work.run)


def _watch(work: Work, plan: Plan) -> None:
    """Wait for the fence to be opened, or for the run's lease to end.

    A controller that takes the run over may be gone before it arms a watchdog of its own, so this one goes on for as
    long as the run has the service. There may then be several; each looks again once it has the kernel lock.
    """
    failures = 0
    problem: Exception | None = None
    while failures < TRIES:
        # In a cluster each failure was waited for already.
        again = min(POLL_SECONDS * 2 ** min(failures, 16), PAUSE_LIMIT_SECONDS)
        time.sleep(again if work.store.cluster is None else CLUSTER_POLL_SECONDS)
        try:
            if _is_over(work, plan):
                return
        except LeaseHeld:
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would open the fence
            # What it leads to, if it was not a passing fault, is seen at the next look.
            failures, problem = failures + 1, error
    run = str(work.run["id"])
    message = f"The fence stays closed: {problem}. Next: rollbackctl resume {run}"
    with contextlib.suppress(OSError, RollbackError):
        work.store.write_watchdog(run, {"word": "", "text": "", "opened": False, "message": message})


def _is_over(work: Work, plan: Plan) -> bool:
    """Look once, and apply the rule when the time has come; say whether there is nothing more to watch.

    :raises LeaseHeld: somebody is at work on the service.
    """
    run = str(work.run["id"])
    if not fence_is_closed(work.store.journal(run).events()) or _is_another_runs(work):
        return True
    if not _abandoned(work):
        return False
    with work.store.locked(LOCK_WAIT_SECONDS):
        if not _abandoned(work) or _is_another_runs(work) or not fence_is_closed(work.store.journal(run).events()):
            return False
        with work.store.inherited(run):
            _open_by_rule(work, plan)
    return True


def _is_another_runs(work: Work) -> bool:
    """Say whether the lease is, or was last, another run's: then what becomes of the service is no longer ours."""
    lease = _lease(work)
    return lease is not None and lease.run != str(work.run["id"])


def _abandoned(work: Work) -> bool:
    """Say whether the lease has ended. One that cannot be read any more in a directory cannot be renewed either."""
    lease = _lease(work)
    return lease is None or work.store.lease_ends_in(lease) <= 0


def _lease(work: Work) -> Lease | None:
    try:
        return work.store.lease()
    except (RollbackError, OSError):
        if work.store.cluster is not None:
            raise  # that it cannot be read from here says nothing about others
        return None


def _open_by_rule(work: Work, plan: Plan) -> None:
    """Apply the rule. A store that cannot be written any more (read-only, full) does not keep the service closed."""
    run = str(work.run["id"])
    journal = work.store.journal(run)
    report = {"word": "", "text": "", "opened": False, "message": ""}
    try:
        picture = _behind_the_fence(work, journal, lambda: read_steadily(work.store, work.run, plan, work.drivers))
        report.update(word=picture.word, text=picture.text)
        if _may_open(plan, picture):
            with contextlib.suppress(OSError):
                _announce_opening(journal, picture)
            for driver in work.fences:
                _open(driver, picture)
            report["opened"] = True
            with contextlib.suppress(OSError):
                journal.append("fence-opened", by="watchdog", word=picture.word)
        else:
            if picture.strange:
                with contextlib.suppress(OSError):
                    journal.append("fence-kept", by="watchdog", strange=True)
            following = way_out(plan) if picture.strange else f"rollbackctl resume {run}"
            report["message"] = f"The fence stays closed. Next: {following}"
    except (RollbackError, OSError) as error:
        if not isinstance(error, StepFailed):
            raise  # no answer, a fault that may pass, or the lease is gone: seen at the next look
        report["message"] = str(error)
    with contextlib.suppress(OSError, RollbackError):
        work.store.write_watchdog(run, report)
