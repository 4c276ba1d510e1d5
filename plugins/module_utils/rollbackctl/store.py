# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store of kind `directory`: it lives with the service, so that any controller can go on.

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
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .durable import now, read_document, write_document
from .errors import LeaseHeld, Refused, RollbackError
from .journal import Journal
from .names import is_name, is_run_id


@dataclass(frozen=True)
class Lease:
    """Who may change the service. seconds: it ends that long after its last renewal unless renewed."""

    run: str
    token: int
    holder: str
    controller: str
    pid: int
    acquired: str
    seconds: float


class DirectoryStore:
    """A service's state in one private directory (0700) on its host."""

    def __init__(self, path: str) -> None:
        """Name the directory; `create` makes it.

        :raises Refused: the path is not absolute.
        """
        if not path.startswith("/"):
            raise Refused(f"rollback_state.path must be an absolute path, not {path!r}.")
        self.path = Path(path)

    def create(self) -> None:
        """Make the directory and its folders.

        :raises Refused: the file system is read-only, full, or does not let us.
        """
        try:
            for folder in (self.path, self.path / "checkpoints", self.path / "runs"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
                        raise self._held("A process of a run is still changing this service.") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(handle)

    def lease(self) -> Lease | None:
        """Return the lease as it stands, ended or not; None when nobody ever held one or it was given back."""
        document = read_document(self.path / "lease.json")
        if not document or not document["run"] or (self.path / "lease.json").stat().st_mtime == 0:
            return None
        return Lease(**document)

    def lease_ends_in(self, lease: Lease) -> float:
        """Return for how many seconds the lease still holds, by this host's clock; <= 0 when it has ended."""
        return (self.path / "lease.json").stat().st_mtime + lease.seconds - time.time()

    def acquire(self, run: str, holder: str, controller: str, pid: int, seconds: float) -> Lease:
        """Take the lease for a run. Naming the run of the present lease takes it over (a resume); a lease that ended is
        free. Call with the kernel lock held: then no step of the former holder is under way.

        :raises LeaseHeld: another run's lease holds, or the same run's controller is alive on this controller host.
        """
        old = self.lease()
        if old is not None and self.lease_ends_in(old) > 0:
            alive = old.controller == controller == host_name() and old.pid != pid and _alive(old.pid)
            if old.run != run or alive:
                raise self._held("Another run is under way on this service.")
        token = int((read_document(self.path / "lease.json") or {}).get("token", 0)) + 1
        lease = Lease(run, token, holder, controller, pid, now(), seconds)
        write_document(self.path / "lease.json", asdict(lease))
        return lease

    def renew(self, run: str, token: int) -> None:
        """Prove that the lease is still this run's and extend it.

        :raises RollbackError: it is not: another controller took the run over, or the guard never ran.
        """
        lease = self.lease()
        if lease is None or (lease.run, lease.token) != (run, token):
            raise RollbackError(
                self._held_text("This step does not hold the run's lease."),
                "Start from the playbook's beginning: the guard takes the lease.",
            )
        os.utime(self.path / "lease.json")

    def release(self, run: str, token: int) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""
        lease = self.lease()
        if lease is not None and (lease.run, lease.token) == (run, token):
            try:
                write_document(self.path / "lease.json", {**asdict(lease), "run": ""})
            except OSError:  # no space for a new file: a lease that was renewed in 1970 has ended
                os.utime(self.path / "lease.json", (0, 0))

    def _held(self, what: str) -> LeaseHeld:
        lease = self.lease()
        order = f" If its controller is gone: rollbackctl resume {lease.run}" if lease else ""
        return LeaseHeld(self._held_text(what), f"Wait for its end.{order}")

    def _held_text(self, what: str) -> str:
        lease = self.lease()
        if lease is None:
            return f"{what} Nobody holds the lease."
        left = self.lease_ends_in(lease)
        return (
            f"{what} Lease: run {lease.run}, held by {lease.holder} on {lease.controller} (process {lease.pid}) since "
            f"{lease.acquired}, {'ends in' if left > 0 else 'ended'} {abs(left):.0f} s{'' if left > 0 else ' ago'}."
        )

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
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []

    def journal(self, run: str) -> Journal:
        """Return a run's journal."""
        return Journal(self.run_directory(run) / "journal.jsonl")

    def read_plan(self, run: str) -> dict[str, Any] | None:
        """Return a run's plan; None when the run never came to one."""
        return read_document(self.run_directory(run) / "plan.json")

    def write_plan(self, run: str, plan: dict[str, Any]) -> None:
        """Make the plan durable, with room for the journal: after this the run needs no new space to end well."""
        directory = self.run_directory(run)
        directory.mkdir(mode=0o700, exist_ok=True)
        self.journal(run).create()
        for entry in plan.get("entries", ()):
            self.kept_directory(run, str(entry["name"]))
        write_document(directory / "plan.json", plan)

    def kept_directory(self, run: str, component: str) -> Path:
        """Return (and make) the private directory for what a run keeps of a component."""
        if not is_name(component):
            raise Refused(f"{component!r} is not a component name.")
        directory = self.run_directory(run) / "kept" / component
        for folder in (directory.parent.parent, directory.parent, directory):  # mkdir's mode is not for its parents
            folder.mkdir(mode=0o700, exist_ok=True)
        return directory

    # -- checkpoints and quarantine ----------------------------------------------------------------------------------

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
                document = {"id": entry.name, "state": "damaged", "taken": "", "message": error.message}
            if document is not None:
                found.append(document)
        return sorted(found, key=lambda document: (document["taken"], document["id"]), reverse=True)

    def write_checkpoint(self, document: dict[str, Any]) -> None:
        """Write a checkpoint's document; its artefacts are durable already."""
        write_document(self.checkpoint_directory(document["id"]) / "checkpoint.json", document)

    def quarantine(self) -> list[dict[str, Any]]:
        """Return the quarantined combinations, oldest first."""
        document = read_document(self.path / "quarantine.json")
        return list(document["combinations"]) if document else []

    def write_quarantine(self, combinations: list[dict[str, Any]]) -> None:
        """Replace the list of quarantined combinations."""
        write_document(self.path / "quarantine.json", {"combinations": combinations})


def open_store(state: dict[str, Any]) -> DirectoryStore:
    """Return the store that a profile's rollback_state names.

    :raises Refused: the kind is not known here.
    """
    if state.get("kind") != "directory":
        raise Refused(f"rollback_state.kind {state.get('kind')!r} is not known here; known: directory.")
    return DirectoryStore(str(state.get("path", "")))


def host_name() -> str:
    """Return this machine's name, as leases and records carry it."""
    return socket.gethostname()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
