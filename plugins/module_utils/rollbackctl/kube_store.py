# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store of kind `kubernetes`: objects of a namespace, so that any controller can go on.

    Lease      rollbackctl-SERVICE                    who may change the service now (kube_lease.py)
    ConfigMap  rollbackctl-SERVICE-run-RUN            plan (compressed) and journal of a run, one key an event
    ConfigMap  rollbackctl-SERVICE-checkpoint-ID      a checkpoint
    ConfigMap  rollbackctl-SERVICE-quarantine         combinations that must not come back
    ConfigMap or Secret  rollbackctl-SERVICE-...      what was recorded of a component (kube_shelf.py)

A run's object carries the token of the controller that has the run. Whatever a run writes there is written only while
that is still the writer's: a controller that was asleep finds out before its next change.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from .errors import Refused, RollbackError
from .journal import Journal
from .kube_auth import find_access
from .kube_client import Client, KubeError
from .kube_journal import CLOSED, COUNT_NOTE, FENCE_LABEL, OVERTAKEN, TOKEN_NOTE, KubeJournal, pointer
from .kube_lease import LeaseStore
from .kube_shelf import ATTEMPTS, PAUSE_SECONDS, UNKNOWN, Shelf, pack, part_of_name, put, read_shelf, unpack
from .names import is_name, is_run_id
from .step import beating
from .store import host_name

KIND_LABEL = "rollbackctl.io/kind"
SERVICE_LABEL = "rollbackctl.io/service"
RUN_LABEL = "rollbackctl.io/run"
OPENED_NOTE = "rollbackctl.io/opened"
# A document that is larger (packed) is kept beside its object, which the API server limits to 1 MiB in all.
LARGE_BYTES = 300_000
ELSEWHERE = "elsewhere"
DEFAULT_LEASE_SECONDS = 60.0
WATCHDOG_KEY = "watchdog"


@dataclass(frozen=True)
class Cluster:
    """What a driver works with. prove: to be called before a write; raises when this run may change nothing more."""

    client: Client
    namespace: str
    prove: Callable[[], None]


class KubernetesStore(LeaseStore):
    """A service's state as objects of one namespace."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        """Name the namespace and the service; nothing is asked of the API server yet.

        :param state: the profile's rollback_state with `service`, the service's name.
        :raises Refused: there is no namespace, or no way to find the cluster.
        """
        self.namespace = str(state.get("namespace") or "")
        if not self.namespace:
            raise Refused("rollback_state.namespace is missing: where the service's state is kept in the cluster.")
        service = str(state.get("service") or "")
        if not is_run_id(service):
            raise Refused(
                f"rollback_service.name {service!r} cannot name objects in Kubernetes: use lowercase letters, digits "
                "and dashes."
            )
        self.prefix = f"rollbackctl-{service}"
        self.service = service
        access = find_access(state, os.environ)
        super().__init__(Client(access), self.namespace, self.prefix)
        self.where = f"namespace {self.namespace} of {access.text}"
        self.cluster = Cluster(self.client, self.namespace, self.prove)
        self._journals: dict[str, KubeJournal] = {}
        self._checkpoints: list[dict[str, Any]] | None = None  # whole()

    # -- names -------------------------------------------------------------------------------------------------------

    @property
    def _maps(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/configmaps"

    def _map(self, name: str) -> str:
        return f"{self._maps}/{self.prefix}-{name}"

    def _meta(self, name: str, kind: str, **notes: str) -> dict[str, Any]:
        return {
            "name": f"{self.prefix}-{name}" if name else self.prefix,
            "namespace": self.namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "rollbackctl",
                SERVICE_LABEL: self.service,
                KIND_LABEL: kind,
            },
            "annotations": notes,
        }

    def _selector(self, kind: str, *more: str) -> str:
        return ",".join((f"{SERVICE_LABEL}={self.service}", f"{KIND_LABEL}={kind}", *more))

    def create(self) -> None:
        """Objects are made when they are first written; a namespace is not ours to make."""

    def check_namespace(self, uid: str) -> None:
        """Prove that the namespace has this UID.

        :raises Refused: it has another one or is not there.
        """
        try:
            found = self.client.get(f"/api/v1/namespaces/{self.namespace}")["metadata"]["uid"]
        except KubeError as error:
            raise Refused(f"Identity proof failed: {error.message} Is this the right cluster?") from error
        if found != uid:
            raise Refused(
                f"Identity proof failed: namespace {self.namespace} has the UID {found}, the profile expects {uid}. "
                "This is another place."
            )

    @contextmanager
    def locked(self, wait_seconds: float = 0.0) -> Iterator[None]:
        """Keep other processes from changing the service, and read each journal only once meanwhile."""
        with super().locked(wait_seconds):
            try:
                yield
            finally:
                if not self._whole:
                    self._journals.clear()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the steps in the body be one, and read each journal and the checkpoints only once meanwhile."""
        with super().whole():
            try:
                yield
            finally:
                self._journals.clear()
                self._checkpoints = None

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Ask side by side for what a run reads when it begins: each is asked for again when it is read once more.

        Not whether a fence is closed: that counts at the moment at which the lock is had, which may be later.
        """
        checkpoints = (self._maps, {"labelSelector": self._selector("checkpoint")})
        with self.client.ahead(objects=[self._map("quarantine"), self._path], lists=[checkpoints]):
            yield

    @contextmanager
    def inherited(self, run: str) -> Iterator[None]:
        """Have an ended run's lease, as its next controller would, while the body lasts; call it locked.

        Its controller is told apart from one that lives on this host, so that a resume waits instead of being refused.
        """
        lease = self.lease()
        holder = lease.holder if lease else "its watchdog"
        seconds = lease.seconds if lease else DEFAULT_LEASE_SECONDS
        token = self.acquire(run, holder, f"{host_name()} (watchdog)", os.getpid(), seconds).token
        try:
            self.open_journal(run)
            with beating(self, run, token):
                yield
        finally:
            with contextlib.suppress(RollbackError):
                self.release(run, token)

    # -- runs --------------------------------------------------------------------------------------------------------

    def _run_name(self, run: str) -> str:
        if not is_run_id(run):
            raise Refused(f"{run!r} is not a run id.")
        return f"run-{run}"

    def runs(self) -> list[str]:
        """Return the ids of the runs, oldest first."""
        return [identity for identity, _fence in self._runs()]

    def _runs(self, *more: str) -> list[tuple[str, str]]:
        """Return the runs and what they say about their fence, in the order in which they were opened first."""
        return self._told(sorted(self._metas(*more), key=_opened_first))

    def _metas(self, *more: str, kind: str = "run") -> list[dict[str, Any]]:
        found = self.client.names(self._maps, labelSelector=self._selector(kind, *more))
        return [item["metadata"] for item in found if RUN_LABEL in item["metadata"].get("labels", {})]

    @staticmethod
    def _told(metas: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return [(meta["labels"][RUN_LABEL], meta["labels"].get(FENCE_LABEL, "")) for meta in metas]

    def journal(self, run: str) -> KubeJournal:
        """Return a run's journal. While marked, what was read once is not read again."""
        journal = self._journals.get(run) if self._mark else None
        if journal is None:
            journal = KubeJournal(self._beside(self._run_name(run), run), self._token)
            if self._mark:
                self._journals[run] = journal
        return journal

    def open_journal(self, run: str) -> Journal:
        """Return a run's journal, made if it is missing; from now on only this token's holder can write to it.

        :raises RollbackError: a later controller has it already.
        """
        notes = {TOKEN_NOTE: str(self._token), OPENED_NOTE: str(self._token), COUNT_NOTE: "0"}
        meta = self._meta(self._run_name(run), "run", **notes)
        meta["labels"][RUN_LABEL] = run
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {}}
        path = self._map(self._run_name(run))
        found: Mapping[str, Any] | None = None
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PAUSE_SECONDS)
            try:
                if found is None:
                    found = self.client.create(self._maps, body)
                else:
                    found = self.client.json_patch(path, self._takeover(found))
            except KubeError as error:
                problem = error
                if error.status not in {404, 409, 422, *UNKNOWN}:
                    raise
            else:
                break
            found = self.client.find(path)
            if found is not None and _token_of(found) == self._token:
                break
        else:
            raise problem
        self._journals.pop(run, None)  # it has the token of the lease before
        journal = self.journal(run)
        journal.take(found)
        return journal

    def _takeover(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the patch that gives a run's object this store's token.

        :raises RollbackError: it has a later one: this controller slept while another took the run over.
        """
        if _token_of(found) > self._token:
            raise RollbackError(OVERTAKEN, "rollbackctl status")
        place = f"/metadata/annotations/{pointer(TOKEN_NOTE)}"
        known = found["metadata"]["annotations"][TOKEN_NOTE]
        return [
            {"op": "test", "path": place, "value": known},
            {"op": "replace", "path": place, "value": str(self._token)},
        ]

    def read_plan(self, run: str) -> dict[str, Any] | None:
        """Return a run's plan; None when the run never came to one."""
        found = self.journal(run).item()
        return self._unpacked(found, "plan", f"The plan of run {run}")

    def write_plan(self, run: str, plan: dict[str, Any]) -> None:
        """Make the plan durable, as long as the run is still this holder's.

        :raises RollbackError: another controller has taken the run over, or the API server does not take it.
        """
        self.journal(run).write_plan(self._packed(self._run_name(run), run, "plan", plan))

    def work_directory(self, run: str, component: str) -> Path | None:  # noqa: ARG002 - no directories here
        """Return None: what is in Kubernetes keeps nothing in directories."""
        return None

    def kept_shelf(self, run: str, component: str, label: str) -> Shelf:
        """Return the place for one thing that a run keeps of a component."""
        return self._shelf("kept", self._run_name(run)[4:], component, label)

    def remove_kept(self, run: str) -> None:
        """Remove what a run kept: nobody needs the way back any more."""
        selector = self._selector("kept", f"{RUN_LABEL}={run}")
        for folder in (self._maps, f"/api/v1/namespaces/{self.namespace}/secrets"):
            for item in self.client.names(folder, labelSelector=selector):
                self.prove()
                self._remove(f"{folder}/{item['metadata']['name']}")

    def _remove(self, path: str) -> None:
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PAUSE_SECONDS)
            try:
                self.client.delete(path)
            except KubeError as error:
                problem = error
                if error.status not in {404, 409, *UNKNOWN}:
                    raise
            else:
                return
            if self.client.find(path) is None:
                return
        raise problem

    def write_watchdog(self, run: str, report: dict[str, Any]) -> None:
        """Keep what the watchdog found and did, beside the plan."""
        self.client.merge_patch(self._map(self._run_name(run)), {"data": {WATCHDOG_KEY: json.dumps(report)}})

    def behind_closed_fence(self, named: set[str]) -> str:
        """Return the run that stopped behind its closed fence, unless it is one of those named; empty without one.

        The journal keeps a label of the run's object in step with its events, so that one question is enough.
        """
        fenced = self._told(sorted(self._metas(FENCE_LABEL), key=_opened_last))
        run, word = fenced[-1] if fenced else ("", "")
        if not run or run in named or word != CLOSED:
            return ""
        later = [name for name, _word in self._told(sorted(self._metas(), key=_opened_last))]
        later = later[later.index(run) + 1 :] if run in later else []
        return "" if named & set(later) else run

    def _highest_token(self) -> int:
        """Return the highest token that anything of the service was written with."""
        metas = [*self._metas(), *self._metas(kind="checkpoint")]
        return max((_number(meta, note) for meta in metas for note in (TOKEN_NOTE, OPENED_NOTE)), default=0)

    # -- checkpoints and quarantine ----------------------------------------------------------------------------------

    def _shelf(self, kind: str, run: str, component: str, label: str) -> Shelf:
        if not is_name(component):
            raise Refused(f"{component!r} is not a component name.")
        meta = self._meta("", kind)
        meta["labels"][RUN_LABEL] = run
        name = f"{self.prefix}-{run}-{part_of_name(component)}-{label}"
        return Shelf(self.client, self.namespace, name, meta)

    def _beside(self, name: str, run: str) -> Shelf:
        """Return the place for what is too large for the object of that name."""
        meta = self._meta("", "beside")
        meta["labels"][RUN_LABEL] = run
        return Shelf(self.client, self.namespace, f"{self.prefix}-{name}", meta)

    def checkpoint_shelf(self, checkpoint: str, component: str) -> Shelf:
        """Return the place for a component's artefacts of a checkpoint."""
        self._checkpoint_name(checkpoint)
        return self._shelf("recorded", checkpoint, component, "recorded")

    def _checkpoint_name(self, checkpoint: str) -> str:
        if not is_run_id(checkpoint):
            raise Refused(f"{checkpoint!r} is not a checkpoint id.")
        return f"checkpoint-{checkpoint}"

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints, newest first. A damaged one is listed with state "damaged" and its message."""
        if self._checkpoints is not None:
            return list(self._checkpoints)
        found = []
        items = self.client.list(self._maps, labelSelector=self._selector("checkpoint"))
        for item in sorted(items, key=lambda item: _opened_first(item["metadata"])):
            identity = item["metadata"]["labels"].get(RUN_LABEL, item["metadata"]["name"])
            try:
                document = self._unpacked(item, "checkpoint", f"Checkpoint {identity}")
            except KubeError:
                raise
            except RollbackError as error:
                document = {
                    "id": identity,
                    "state": "damaged",
                    "taken": "",
                    "message": error.said,
                }
            if document is not None:
                found.append(document)
        found.reverse()
        if self._whole:
            self._checkpoints = found
        return list(found)

    def write_checkpoint(self, document: dict[str, Any]) -> None:
        """Write a checkpoint's document; its artefacts are durable already."""
        self._checkpoints = None
        identity = str(document["id"])
        name = self._checkpoint_name(identity)
        notes = {OPENED_NOTE: str(document.get("number") or 0)}
        self._put(name, "checkpoint", self._packed(name, identity, "checkpoint", document), identity, notes)

    def quarantine(self) -> list[dict[str, Any]]:
        """Return the quarantined combinations, oldest first."""
        document = unpack(self.client.find(self._map("quarantine")), "quarantine", "The quarantine list")
        return list(document["combinations"]) if document else []

    def write_quarantine(self, combinations: list[dict[str, Any]]) -> None:
        """Replace the list of quarantined combinations."""
        self._put("quarantine", "quarantine", pack("quarantine", {"combinations": combinations}), "")

    def _put(
        self, name: str, kind: str, data: dict[str, str], run: str, notes: Mapping[str, str] | None = None
    ) -> None:
        """Write an object, new or in place of the one that is there."""
        meta = self._meta(name, kind, **(notes or {}))
        if run:
            meta["labels"][RUN_LABEL] = run
        self.prove()
        put(
            self.client,
            self._maps,
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data},
            "binaryData",
        )

    def _packed(self, name: str, run: str, word: str, document: dict[str, Any]) -> dict[str, str]:
        """Return a document as it goes into the object of that name, which only points to it when it is large."""
        packed = pack(word, document)
        if sum(map(len, packed.values())) <= LARGE_BYTES:
            return packed
        return pack(word, {ELSEWHERE: self._beside(f"{name}-{word}", run).save(document)})

    def _unpacked(self, item: Mapping[str, Any] | None, word: str, what: str) -> dict[str, Any] | None:
        document = unpack(item, word, what)
        if document is None or ELSEWHERE not in document:
            return document
        return read_shelf(self.client, self.namespace, str(document[ELSEWHERE]))


def _token_of(item: Mapping[str, Any]) -> int:
    """Return the token of a run's object; 0 when somebody has spoilt it."""
    return _number(item["metadata"], TOKEN_NOTE)


def _number(meta: Mapping[str, Any], note: str) -> int:
    text = str((meta.get("annotations") or {}).get(note) or "")
    return int(text) if text.isdecimal() else 0


def _opened_first(meta: Mapping[str, Any]) -> tuple[int, str, str]:
    """Return what runs and checkpoints are sorted by: the token they were opened or written with; before that was
    noted, the API server's time."""
    return _number(meta, OPENED_NOTE), str(meta["creationTimestamp"]), str(meta["name"])


def _opened_last(meta: Mapping[str, Any]) -> tuple[int, str, str]:
    """Likewise, by the token with which a run was opened last: by a resume."""
    return _number(meta, TOKEN_NOTE), str(meta["creationTimestamp"]), str(meta["name"])
