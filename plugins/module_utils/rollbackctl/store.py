# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store: it lives with the service, so that any controller can go on. What every kind can do, and the kind
`directory` (kube_store.py has the kind `kubernetes`).

    <path>/lease.json       who may change the service now; its mtime is the last renewal
    <path>/lock             kernel lock (flock), held inside every process that changes something
    <path>/checkpoints/<id>/checkpoint.json and the artefacts of its components
    <path>/quarantine.json  combinations that must not come back
    <path>/runs/<run id>/   plan.json, journal.jsonl, kept/<component>/ (what was live before the change)

A lease is renewed by touching it: that needs no disk space, and the time is the host's own, so the clocks of
controllers do not matter. Every takeover raises the token; a process with an older token may not change anything.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from .durable import SET_ASIDE, make_directory, move_away, now, read_document, write_document
from .errors import LeaseHeld, Refused, RollbackError
from .journal import FileJournal, Journal, ended_well, fence_is_closed, opened_with
from .names import is_name, is_run_id
from .processes import process_alive
from .trusted_place import check_trusted


@dataclass(frozen=True)
class Lease:
    """Who may change the service. seconds: it ends that long after its last renewal unless renewed.

    process: what its controller's process calls itself, different in each; empty when it did not say.
    """

    run: str
    token: int
    holder: str
    controller: str
    pid: int
    acquired: str
    seconds: float
    process: str = ""


class Store(ABC):
    """Where a service's lease, ledger, plans and journals are, and what was kept of it."""

    where: str  # for people
    # What drivers of things in Kubernetes work with (kube_store.Cluster); None in a directory.
    cluster: Any = None

    @abstractmethod
    def create(self) -> None:
        """Make what the store needs.

        :raises Refused: it cannot be written.
        """

    def check_place(self) -> None:  # noqa: B027 - in a cluster that is what RBAC is for
        """Prove that nobody else can write into the store.

        :raises Refused: somebody can.
        """

    # -- lock and lease ----------------------------------------------------------------------------------------------

    @abstractmethod
    def locked(self, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Keep every other process from changing the service while the body runs; ends with this process.

        :raises LeaseHeld: another process is changing it for longer than wait_seconds.
        """

    @abstractmethod
    def lease(self) -> Lease | None:
        """Return the lease as it stands, ended or not; None when nobody ever held one or it was given back."""

    @abstractmethod
    def lease_ends_in(self, lease: Lease) -> float:
        """Return for how many seconds the lease still holds, by the store's own clock; <= 0 when it has ended."""

    @abstractmethod
    def acquire(self, run: str, holder: str, controller: str, pid: int, seconds: float, process: str = "") -> Lease:
        """Take the lease for a run. Naming the run of the present lease takes it over (a resume); a lease that ended is
        free. Call it locked: then no step of the former holder is under way.

        Each lease has a higher token than all before: runs and checkpoints are ordered by it, not by anybody's clock.

        :raises LeaseHeld: another run's lease holds, or the same run's controller is alive on this controller host.
        """

    @abstractmethod
    def renew(self, run: str, token: int) -> None:
        """Prove that the lease is still this run's and extend it.

        :raises RollbackError: it is not: another controller took the run over, or the guard never ran.
        """

    @abstractmethod
    def release(self, run: str, token: int) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""

    def wait_for_own(self, run: str) -> float:  # noqa: ARG002 - the same for each run
        """Return for how many seconds a resume of this run waits for a step of it to end, at least. In a directory such
        a step is a process that lives: whoever resumes is told so at once."""
        return 0.0

    def still(self) -> AbstractContextManager[Any]:
        """Keep this process's other threads from using what a fork would share, such as a library's locks."""
        return nullcontext()

    def ahead(self) -> AbstractContextManager[None]:
        """Get what a run reads when it begins, if that takes long one after another."""
        return nullcontext()

    def whole(self) -> AbstractContextManager[None]:
        """Take the steps in the body for one, if the space between them costs anything: a process does a run alone."""
        return nullcontext()

    def inherited(self, run: str) -> AbstractContextManager[None]:  # noqa: ARG002 - the lock is all that is needed
        """Work for a run whose lease has ended, as its watchdog; call it locked. In a directory nobody else can, while
        this process holds the lock.

        :raises RollbackError: somebody else took the lease.
        """
        return nullcontext()

    def held(self, what: str) -> LeaseHeld:
        """Return the refusal that says who holds the service."""
        lease = self.lease()
        order = f" If its controller is gone: rollbackctl resume {lease.run}" if lease else ""
        return LeaseHeld(self.held_text(what), f"Wait for its end.{order}")

    def lost(self, run: str) -> RollbackError:
        """Return the error for a step of a run that does not hold the lease (any more)."""
        lease = self.lease()
        if lease is None:
            following = "Start from the playbook's beginning: the guard takes the lease."
        elif lease.run == run:
            following = "Another controller has taken this run over: leave it to that one.  rollbackctl status"
        else:
            following = f"Wait for the end of run {lease.run}, then: rollbackctl resume {run}"
        return RollbackError(self.held_text("This step does not hold the run's lease."), following)

    def held_text(self, what: str) -> str:
        """Return what is wrong, and the lease in words."""
        lease = self.lease()
        if lease is None:
            return f"{what} Nobody holds the lease."
        left = self.lease_ends_in(lease)
        return (
            f"{what} Lease: run {lease.run}, held by {lease.holder} on {lease.controller} (process {lease.pid}) since "
            f"{lease.acquired}, {'ends in' if left > 0 else 'ended'} {abs(left):.0f} s{'' if left > 0 else ' ago'}."
        )

    def check_namespace(self, uid: str) -> None:  # noqa: ARG002 - a directory is in no namespace
        """Prove that the store's namespace has this UID.

        :raises Refused: it has another one, or the store is in no namespace.
        """
        raise Refused("Identity proof failed: namespace_uid needs a state store in Kubernetes (rollback_state.kind).")

    # -- runs --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def runs(self) -> list[str]:
        """Return the ids of the runs, oldest first."""

    @abstractmethod
    def journal(self, run: str) -> Journal:
        """Return a run's journal."""

    @abstractmethod
    def open_journal(self, run: str) -> Journal:
        """Return a run's journal, made if it is missing, ready to be written to. Call with the lease held."""

    @abstractmethod
    def read_plan(self, run: str) -> dict[str, Any] | None:
        """Return a run's plan; None when the run never came to one."""

    @abstractmethod
    def write_plan(self, run: str, plan: dict[str, Any]) -> None:
        """Make the plan durable, with room for the journal: after this the run needs no new space to end well."""

    @abstractmethod
    def work_directory(self, run: str, component: str) -> Path | None:
        """Return (and make) the private directory for what a run keeps of a component; None where there are none."""

    @abstractmethod
    def kept_shelf(self, run: str, component: str, label: str) -> Any:
        """Return (and make) the place for one thing that a run keeps of a component: what Driver.record takes."""

    @abstractmethod
    def remove_kept(self, run: str) -> None:
        """Remove what a run kept: nobody needs the way back any more."""

    @abstractmethod
    def write_watchdog(self, run: str, report: dict[str, Any]) -> None:
        """Keep what the watchdog found and did."""

    def behind_closed_fence(self, named: set[str]) -> str:
        """Return the run that stopped behind its closed fence, unless it is one of those named; empty without one.

        :raises JournalDamaged: that of the run which moved the fence last does not say.
        """
        found = {run: self.journal(run).readable() for run in self.runs()}
        # A run that is resumed may move the fence after one that was begun later.
        for run in sorted(found, key=lambda run: opened_with(found[run][0])[1], reverse=True):
            events, damage = found[run]
            if run in named:
                return ""
            if damage is not None and not ended_well(events):
                raise damage
            if any(event["event"] == "fence-closing" for event in events):
                return run if fence_is_closed(events) else ""
        return ""

    def now(self) -> str:
        """Return the present time by the store's own clock: that of its host, or of the API server."""
        return now()

    # -- checkpoints and quarantine ----------------------------------------------------------------------------------

    @abstractmethod
    def checkpoint_shelf(self, checkpoint: str, component: str) -> Any:
        """Return (and make) the place for a component's artefacts of a checkpoint: what Driver.record takes."""

    @abstractmethod
    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints, newest first (in_order). A damaged one is in state "damaged" and has a message."""

    @abstractmethod
    def write_checkpoint(self, document: dict[str, Any]) -> None:
        """Write a checkpoint's document; its artefacts are durable already."""

    @abstractmethod
    def quarantine(self) -> list[dict[str, Any]]:
        """Return the quarantined combinations, oldest first."""

    @abstractmethod
    def write_quarantine(self, combinations: list[dict[str, Any]]) -> None:
        """Replace the list of quarantined combinations."""


class DirectoryStore(Store):
    """A service's state in one private directory (0700) on its host."""

    def __init__(self, path: str) -> None:
        """Name the directory; `create` makes it.

        :raises Refused: the path is not absolute.
        """
        if not path.startswith("/"):
            raise Refused(f"rollback_state.path must be an absolute path, not {path!r}.")
        self.path = Path(path)
        self.where = path

    def check_place(self) -> None:
        """Prove that nobody but root and the present user can write into the directory, or swap it.

        :raises Refused: somebody can.
        """
        check_trusted(str(self.path))

    def create(self) -> None:
        """Make the directory and its folders.

        :raises Refused: the file system is read-only, full, or does not let us.
        """
        try:
            missing = [folder for folder in self.path.parents if not folder.exists()]
            for folder in (*missing[::-1], self.path, self.path / "checkpoints", self.path / "runs"):
                make_directory(folder)
            os.close(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        except OSError as error:
            raise Refused(f"The state store {self.path} cannot be written: {error.strerror}.") from error

    # -- lock and lease ----------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold the kernel lock; it ends with this process, however it ends.

        :raises LeaseHeld: another process holds it for longer than wait_seconds.
        """
        handle = os.open(self.path / "lock", os.O_RDONLY | os.O_NOFOLLOW)
        try:
            deadline = time.monotonic() + wait_seconds
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise self.held("A process of a run is still changing this service.") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(handle)

    def lease(self) -> Lease | None:
        """Return the lease as it stands, ended or not; None when nobody ever held one or it was given back."""
        path = self.path / "lease.json"
        document = read_document(path)
        try:
            lease = Lease(**document) if document else None
        except TypeError as error:
            following = f"{SET_ASIDE}:  {move_away(path)}"
            raise RollbackError(f"{path} is damaged: it is not what rollbackctl writes.", following) from error
        return lease if lease is not None and lease.run and path.stat().st_mtime != 0 else None

    def lease_ends_in(self, lease: Lease) -> float:
        """Return for how many seconds the lease still holds, by this host's clock; <= 0 when it has ended."""
        return (self.path / "lease.json").stat().st_mtime + lease.seconds - time.time()

    def acquire(self, run: str, holder: str, controller: str, pid: int, seconds: float, process: str = "") -> Lease:
        """Take the lease for a run; see Store.acquire. Call with the kernel lock held."""
        old = self.lease()
        if old is not None and self.lease_ends_in(old) > 0:
            alive = old.controller == controller == host_name() and old.pid != pid and process_alive(old.pid)
            if old.run != run or alive:
                raise self.held("Another run is under way on this service.")
        before = read_document(self.path / "lease.json")
        token = 1 + (int(before["token"]) if before else self._highest_token())
        lease = Lease(run, token, holder, controller, pid, now(), seconds, process)
        write_document(self.path / "lease.json", asdict(lease))
        return lease

    def renew(self, run: str, token: int) -> None:
        """Prove that the lease is still this run's and extend it.

        :raises RollbackError: it is not: another controller took the run over, or the guard never ran.
        """
        lease = self.lease()
        if lease is None or (lease.run, lease.token) != (run, token):
            raise self.lost(run)
        os.utime(self.path / "lease.json")

    def release(self, run: str, token: int) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""
        lease = self.lease()
        if lease is not None and (lease.run, lease.token) == (run, token):
            try:
                write_document(self.path / "lease.json", {**asdict(lease), "run": ""})
            except OSError:  # no space for a new file: a lease that was renewed in 1970 has ended
                os.utime(self.path / "lease.json", (0, 0))

    def _highest_token(self) -> int:
        """Return the highest token that anything here was written with: somebody has moved the lease away."""
        runs = [opened_with(self.journal(run).readable()[0])[1] for run in self.runs()]
        return max([0, *runs, *(int(document.get("number") or 0) for document in self.checkpoints())])

    # -- runs --------------------------------------------------------------------------------------------------------

    def run_directory(self, run: str) -> Path:
        """Return the directory of a run.

        :raises Refused: the id is no run id (so it can never leave the store).
        """
        if not is_run_id(run):
            raise Refused(f"{run!r} is not a run id.")
        return self.path / "runs" / run

    def runs(self) -> list[str]:
        """Return the ids of the runs, oldest first."""
        folder = self.path / "runs"
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        return sorted(names, key=lambda name: self.journal(name).number)

    def journal(self, run: str) -> FileJournal:
        """Return a run's journal."""
        return FileJournal(self.run_directory(run) / "journal.jsonl")

    def open_journal(self, run: str) -> Journal:
        """Return a run's journal; its directory and file are made if they are missing."""
        make_directory(self.run_directory(run))
        journal = self.journal(run)
        journal.create()
        return journal

    def read_plan(self, run: str) -> dict[str, Any] | None:
        """Return a run's plan; None when the run never came to one."""
        return read_document(self.run_directory(run) / "plan.json")

    def write_plan(self, run: str, plan: dict[str, Any]) -> None:
        """Make the plan durable, with room for the journal: after this the run needs no new space to end well."""
        directory = make_directory(self.run_directory(run))
        self.journal(run).create()
        for entry in plan.get("entries", ()):
            self.kept_directory(run, str(entry["name"]))
        write_document(directory / "plan.json", plan)

    def kept_directory(self, run: str, component: str) -> Path:
        """Return (and make) the private directory for what a run keeps of a component."""
        if not is_name(component):
            raise Refused(f"{component!r} is not a component name.")
        directory = self.run_directory(run) / "kept" / component
        for folder in (directory.parent.parent, directory.parent, directory):
            make_directory(folder)
        return directory

    def work_directory(self, run: str, component: str) -> Path:
        """Return (and make) the private directory for what a run keeps of a component."""
        return self.kept_directory(run, component)

    def kept_shelf(self, run: str, component: str, label: str) -> Path:
        """Return (and make) the directory for one thing that a run keeps of a component."""
        return make_directory(self.kept_directory(run, component) / label)

    def remove_kept(self, run: str) -> None:
        """Remove what a run kept: nobody needs the way back any more.

        :raises OSError: not all of it can be removed.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(self.run_directory(run) / "kept")

    def write_watchdog(self, run: str, report: dict[str, Any]) -> None:
        """Keep what the watchdog found and did, beside the plan."""
        write_document(self.run_directory(run) / "watchdog.json", report)

    # -- checkpoints and quarantine ----------------------------------------------------------------------------------

    def checkpoint_shelf(self, checkpoint: str, component: str) -> Path:
        """Return (and make) the directory for a component's artefacts of a checkpoint."""
        return make_directory(make_directory(self.checkpoint_directory(checkpoint)) / component)

    def checkpoint_directory(self, checkpoint: str) -> Path:
        """Return the directory of a checkpoint.

        :raises Refused: the id is no name (so it can never leave the store).
        """
        if not is_name(checkpoint):
            raise Refused(f"{checkpoint!r} is not a checkpoint id.")
        return self.path / "checkpoints" / checkpoint

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints, newest first. A damaged one is listed with state "damaged" and its message."""
        folder = self.path / "checkpoints"
        found = []
        for entry in folder.iterdir() if folder.is_dir() else ():
            if not entry.is_dir():
                continue
            try:
                document = read_document(entry / "checkpoint.json")
            except RollbackError as error:
                document = {"id": entry.name, "state": "damaged", "taken": "", "message": error.said}
            if document is not None:
                found.append(document)
        return sorted(found, key=in_order, reverse=True)

    def write_checkpoint(self, document: dict[str, Any]) -> None:
        """Write a checkpoint's document; its artefacts are durable already."""
        write_document(make_directory(self.checkpoint_directory(document["id"])) / "checkpoint.json", document)

    def quarantine(self) -> list[dict[str, Any]]:
        """Return the quarantined combinations, oldest first."""
        document = read_document(self.path / "quarantine.json")
        return list(document["combinations"]) if document else []

    def write_quarantine(self, combinations: list[dict[str, Any]]) -> None:
        """Replace the list of quarantined combinations."""
        write_document(self.path / "quarantine.json", {"combinations": combinations})


# How a store of each kind is opened, from the profile's rollback_state. The controller adds what only it can open.
KINDS: dict[str, Callable[[Mapping[str, Any]], Store]] = {
    "directory": lambda state: DirectoryStore(str(state.get("path") or "")),
}


def open_store(state: dict[str, Any]) -> Store:
    """Return the store that a profile's rollback_state names.

    :raises Refused: the kind is not known here.
    """
    opener = KINDS.get(str(state.get("kind")))
    if opener is None:
        raise Refused(f"rollback_state.kind {state.get('kind')!r} is not known here; known: {', '.join(KINDS)}.")
    return opener(state)


def in_order(checkpoint: Mapping[str, Any]) -> tuple[int, str, str]:
    """Return what checkpoints are sorted by: the token they were written with; before there was one, their time."""
    return int(checkpoint.get("number") or 0), str(checkpoint["taken"]), str(checkpoint["id"])


def host_name() -> str:
    """Return this machine's name, as leases and records carry it."""
    return socket.gethostname()
