# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the state store of kind `kubernetes` that is its Lease: who may change the service now.

There is no kernel lock in a cluster. A process that changes something marks the Lease with its step (an annotation,
written onto the version of the object that it has read, so that only one can) and renews it while the step lasts. A
takeover waits for the mark to go, or for the Lease to end. Every takeover raises the token (leaseTransitions).

When a Lease ends is decided by the API server's clock, so the clocks of controllers do not matter. For how long a
process may rely on it is decided by that machine's clock of durations, which goes on while the machine sleeps.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Callable

from .durable import parse_time
from .errors import LeaseHeld, RollbackError
from .kube_client import Client, KubeError
from .kube_shelf import ATTEMPTS, PAUSE_SECONDS, UNKNOWN
from .processes import process_alive
from .store import Lease, Store, host_name

LEASE_NOTE = "rollbackctl.io/lease"
STEP_NOTE = "rollbackctl.io/step"
POLL_SECONDS = 0.2
# The API server's time is known to within a second, twice: when the Lease was renewed, and when somebody else looks.
MARGIN_SECONDS = 2.0
FRESH_SECONDS = 1.0
_HOLDER_LIMIT = 250
# Marks of steps of this process that have ended, and that could not be taken away.
_left_behind: set[str] = set()
Document = dict[str, Any]


class LeaseStore(Store):
    """A store whose lock and lease are one Lease object of a namespace."""

    def __init__(self, client: Client, namespace: str, prefix: str) -> None:
        """Name the Lease; nothing is asked of the API server yet."""
        self.client = client
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._leases}/{prefix}"
        self._document: Document | None = None  # as it was read or written last
        self._mark = ""  # of the step of this process; empty when not marked
        self._locked = False
        self._whole = False  # whether the mark stays from one step to the next
        self._token = 0
        self._good_until = 0.0
        self._read_at = 0.0  # when the API server answered last about the Lease
        self._unsure = False  # whether it is not known what the last write has done
        # Around everything that writes the Lease: a step's heart beats in a thread of its own.
        self._guard = threading.RLock()

    @abstractmethod
    def _meta(self, name: str, kind: str, **notes: str) -> dict[str, Any]:
        """Return the metadata of one of the service's objects."""

    @abstractmethod
    def _highest_token(self) -> int:
        """Return the highest token that anything of the service was written with: somebody has removed the Lease."""

    def now(self) -> str:
        """Return the present time by the API server's clock."""
        return f"{self.client.server_time():%Y-%m-%dT%H:%M:%SZ}"

    # -- reading -----------------------------------------------------------------------------------------------------

    def lease(self) -> Lease | None:
        """Return the lease as it stands, ended or not; None when nobody ever held one or it was given back."""
        if not self._mark:  # while it is marked nobody else writes it
            self._read()
        return _terms(self._document)

    def _read(self) -> None:
        self._document = self.client.find(self._path)
        self._read_at, self._unsure = _clock(), False

    def _read_again(self) -> None:
        """Read the Lease and with it the API server's time, unless that was just done: a machine may have slept."""
        if not self._mark or self._unsure or _clock() - self._read_at > FRESH_SECONDS:
            self._read()

    def lease_ends_in(self, lease: Lease) -> float:
        """Return for how many seconds the lease still holds, by the API server's clock; <= 0 when it has ended."""
        renewed = str((self._document or {}).get("spec", {}).get("renewTime") or "")
        if not renewed:
            return 0.0
        end = datetime.fromisoformat(renewed.replace("Z", "+00:00")) + timedelta(seconds=lease.seconds)
        return (end - self.client.server_time()).total_seconds()

    def wait_for_own(self, run: str) -> float:
        """Return for how long a resume of this run waits for a step of it: a killed process leaves its mark, which
        ends with the lease. Whoever asks while the run's controller is alive on this host is told at once."""
        lease = self.lease()
        if lease is None or lease.run != run or _is_alive_here(lease):
            return 0.0
        return max(0.0, self.lease_ends_in(lease)) + 1.0

    def still(self) -> AbstractContextManager[Any]:
        """Wait until the step's heart does not beat, and keep it from that: who is forked while another thread speaks
        TLS may inherit a lock that nobody will ever open."""
        return self._guard

    # -- lock --------------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, wait_seconds: float = 0.0) -> Iterator[None]:
        """Keep other processes from changing the service: the first acquire or renew in the body marks the Lease.

        :raises LeaseHeld: another process's step is under way for longer than wait_seconds.
        """
        if self._locked:
            raise self.held("This process is still changing this service.")
        if not self._mark:  # a step before this one may have left it: whole()
            self._begin(time.monotonic() + wait_seconds)
        self._locked = True
        try:
            yield
        finally:
            self._locked = False
            if not self._whole:
                self._unmark()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the steps in the body be one: the mark stays between them, and a lease renewed a moment ago is not
        renewed again. For a process that does a run alone.
        """
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
            if self._mark:
                self._unmark()

    def _begin(self, deadline: float) -> None:
        """Choose the mark of this process's step, once no other's is under way.

        :raises LeaseHeld: one is, at the deadline (time.monotonic()).
        """
        # Who has just written it as its holder need not ask: if another wrote meanwhile, the next write says so.
        if self._unsure or _clock() > min(self._good_until, self._read_at + FRESH_SECONDS):
            self._read()
        while self._busy():
            if time.monotonic() >= deadline:
                raise self.held("A process of a run is still changing this service.")
            time.sleep(POLL_SECONDS)
            self._read()
        self._mark = f"{_here()} {os.getpid()} {_born(os.getpid())} {uuid.uuid4()}"

    def _unmark(self) -> None:
        """Take the mark away. Where that does not work it ends with this process, or with the lease."""
        mark, self._mark = self._mark, ""

        def body(document: Document | None) -> Document | None:
            ours = document is not None and _note(document, STEP_NOTE) == mark
            return _with(document, {STEP_NOTE: ""}) if document is not None and ours else None

        with self._guard:
            try:
                if self._unsure:
                    self._read()
                self._write(body)
            except RollbackError:
                _left_behind.add(mark)

    def _busy(self) -> bool:
        """Say whether another's step is under way: marked, under a lease that holds, by a process that may live."""
        mark = _note(self._document, STEP_NOTE)
        lease = _terms(self._document)
        if not mark or mark == self._mark or mark in _left_behind or lease is None or self.lease_ends_in(lease) <= 0:
            return False
        return _may_live(mark)

    # -- lease -------------------------------------------------------------------------------------------------------

    def acquire(self, run: str, holder: str, controller: str, pid: int, seconds: float, process: str = "") -> Lease:
        """Take the lease for a run; see Store.acquire."""
        before = _note(self._document, LEASE_NOTE)
        taken: list[Lease] = []

        def body(document: Document | None) -> Document:
            old = _terms(document)
            if old is not None and self.lease_ends_in(old) > 0:
                alive = controller == old.controller and _is_alive_here(old) and old.pid != pid
                if old.run != run or alive:
                    raise self.held("Another run is under way on this service.")
            if _note(document, LEASE_NOTE) != before or self._busy():
                raise self.held("Another process took the lease of this service at this moment.")
            before_it = document.get("spec", {}).get("leaseTransitions") if document else self._highest_token()
            token = int(before_it or 0) + 1
            taken[:] = [Lease(run, token, holder, controller, pid, self.now(), seconds, process)]
            return self._renewed(document, taken[0])

        with self._guard:
            began = _clock()
            if self._token:
                self._read()  # what is known of the Lease may be from when it was ours: locked()
            else:
                self._read_again()
            self._write(body)
            self._hold(taken[0], began)
        return taken[0]

    def renew(self, run: str, token: int) -> None:
        """Prove that the lease is still this run's, extend it and mark it with this process's step."""
        held: list[Lease] = []

        def body(document: Document | None) -> Document:
            lease = _terms(document)
            if lease is None or (lease.run, lease.token) != (run, token):
                self._good_until = 0.0
                raise self.lost(run)
            if self._mark and self._busy():
                self._good_until = 0.0
                raise self.held("Another process of this run is still changing this service.")
            held[:] = [lease]
            return self._renewed(document, lease)

        with self._guard:
            began = _clock()
            if self._whole and self._just_renewed(run, token, began):
                return
            self._read_again()
            self._write(body)
            self._hold(held[0], began)

    def _just_renewed(self, run: str, token: int, moment: float) -> bool:
        """Say whether a step before this one, with the same mark, has proven the lease a moment ago."""
        lease = _terms(self._document)
        known = lease is not None and (lease.run, lease.token) == (run, token)
        marked = _note(self._document, STEP_NOTE) == self._mark
        return known and marked and not self._unsure and moment - self._read_at <= FRESH_SECONDS

    def _hold(self, lease: Lease, began: float) -> None:
        """Remember until when this process may rely on the lease that it began to write at a time."""
        self._token = lease.token
        self._good_until = began + lease.seconds - min(MARGIN_SECONDS, lease.seconds / 2)

    def release(self, run: str, token: int) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""

        def body(document: Document | None) -> Document | None:
            lease = _terms(document)
            if document is None or lease is None or (lease.run, lease.token) != (run, token):
                return None
            given_back = Lease(**{**asdict(lease), "run": ""})
            changed = _with(document, {LEASE_NOTE: json.dumps(asdict(given_back)), STEP_NOTE: ""})
            changed["spec"]["holderIdentity"] = ""
            return changed

        with self._guard:
            self._read_again()
            self._write(body)
            self._good_until = 0.0

    def prove(self) -> None:
        """Stop a process that slept past its lease, or whose heart no longer gets through.

        :raises LeaseHeld: by this machine's own clock of durations the lease was not renewed in time.
        """
        if _clock() > self._good_until:
            lease = _terms(self._document)
            raise LeaseHeld(
                "The run's lease was not renewed in time, or another controller has taken the run over; so this one "
                "changes nothing more.",
                f"rollbackctl resume {lease.run}" if lease else "rollbackctl status",
            )

    def _renewed(self, document: Document | None, lease: Lease) -> Document:
        """Return the Lease with these terms, renewed at this moment, and with the mark of this process's step."""
        notes = {LEASE_NOTE: json.dumps(asdict(lease)), **({STEP_NOTE: self._mark} if self._mark else {})}
        new = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._meta("", "lease"),
            "spec": {},
        }
        changed = _with(document or new, notes)
        changed["spec"].update(
            holderIdentity=f"{lease.run} ({lease.holder} on {lease.controller})"[:_HOLDER_LIMIT],
            leaseDurationSeconds=max(1, int(lease.seconds)),
            leaseTransitions=lease.token,
            acquireTime=f"{parse_time(lease.acquired):%Y-%m-%dT%H:%M:%S.%fZ}",
            renewTime=f"{self.client.server_time():%Y-%m-%dT%H:%M:%S.%fZ}",
        )
        return changed

    def _write(self, body: Callable[[Document | None], Document | None]) -> None:
        """Write the Lease as `body` makes it from what is there: onto the version that was read, or not at all.

        Whoever loses a race, or an answer, reads the Lease again and asks `body` anew, which raises when the Lease is
        no longer its own to write, and returns None when there is nothing to do.
        """
        problem: KubeError | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PAUSE_SECONDS)
            wanted = body(self._document)
            if wanted is None:
                return
            try:
                if self._document is None:
                    self._document = self.client.create(self._leases, wanted)
                else:
                    self._document = self.client.replace(self._path, wanted)
            except KubeError as error:
                if error.status not in {404, 409, *UNKNOWN}:
                    raise
                problem, self._unsure = error, True
                self._read()
                if _is_written(self._document, wanted):
                    return  # the answer was lost, not the change
            else:
                self._read_at, self._unsure = _clock(), False
                return
        if problem is not None:
            raise problem


def _terms(document: Mapping[str, Any] | None) -> Lease | None:
    """Return what a Lease says; None when it was given back.

    :raises RollbackError: it is damaged.
    """
    text = _note(document, LEASE_NOTE)
    if not text:
        return None
    try:
        lease = Lease(**json.loads(text))
    except (ValueError, TypeError) as error:
        name = (document or {}).get("metadata", {}).get("name")
        raise RollbackError(
            f"The Lease {name} is damaged: its annotation {LEASE_NOTE} is not what rollbackctl writes.",
            f"Find out who changed it. When no run is under way:  kubectl delete lease {name}",
        ) from error
    return lease if lease.run else None


def _note(document: Mapping[str, Any] | None, name: str) -> str:
    return str(((document or {}).get("metadata", {}).get("annotations") or {}).get(name) or "")


def _with(document: Document, notes: Mapping[str, str]) -> Document:
    """Return a Lease with annotations set; what others have written into it stays."""
    meta = document["metadata"]
    annotations = {**(meta.get("annotations") or {}), **notes}
    return {**document, "metadata": {**meta, "annotations": annotations}, "spec": dict(document.get("spec") or {})}


def _is_written(document: Document | None, wanted: Document) -> bool:
    """Say whether the Lease is as it was to be. Each renewal has its own time, and each step its own mark."""

    def parts(one: Document) -> tuple[Any, ...]:
        return _note(one, LEASE_NOTE), _note(one, STEP_NOTE), one.get("spec", {}).get("renewTime")

    return document is not None and parts(document) == parts(wanted)


# -- processes ---------------------------------------------------------------------------------------------------------


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _here() -> str:
    """Return in which machine, boot and process namespace this process is: a number means a process only there."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{host_name()} {boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def _born(pid: int) -> str:
    """Return when a process of this machine began; empty when there is none. Numbers are handed out again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _may_live(mark: str) -> bool:
    """Say whether the process that made a mark may still be there: one of another machine always may."""
    place, _, process = mark.rpartition(" ")[0].rpartition(" ")[0].rpartition(" ")
    if place != _here() or not process.isdecimal():
        return True
    return process_alive(int(process)) and _born(int(process)) == mark.split(" ")[-2]


def _is_alive_here(lease: Lease) -> bool:
    return lease.controller == host_name() and process_alive(lease.pid)
