# SPDX-License-Identifier: GPL-3.0-or-later
"""The state store of kind `kubernetes`: objects of a namespace, so that any controller can go on.

    Lease      rollbackctl-SERVICE                    who may change the service now; leaseTransitions is the token
    ConfigMap  rollbackctl-SERVICE-run-RUN            plan (compressed) and journal of a run, one key an event
    ConfigMap  rollbackctl-SERVICE-checkpoint-ID      a checkpoint
    ConfigMap  rollbackctl-SERVICE-quarantine         combinations that must not come back
    ConfigMap or Secret  rollbackctl-SERVICE-...      what was recorded of a component (kube_shelf.py)

There is no kernel lock in a cluster. A process that changes something marks the Lease with its step (an annotation,
written with the object's resourceVersion, so that only one can) and renews it while the step lasts. A takeover waits
for the mark to go or for the Lease to end. Every takeover raises the token, and each entry of the journal is written
only if the run's token is still the writer's: a controller that was asleep finds out before its next change.

Times are the API server's own, so the clocks of controllers do not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable

from .durable import now, parse_time
from .errors import LeaseHeld, Refused, RollbackError
from .journal import Journal
from .kube_auth import find_access
from .kube_client import Client, KubeError
from .kube_journal import KubeJournal
from .kube_shelf import Shelf, pack, unpack
from .names import is_name, is_run_id
from .store import Lease, Store, host_name, process_alive

LEASE_NOTE = "rollbackctl.io/lease"
STEP_NOTE = "rollbackctl.io/step"
TOKEN_NOTE = "rollbackctl.io/token"  # noqa: S105 - a number that grows with each takeover
KIND_LABEL = "rollbackctl.io/kind"
SERVICE_LABEL = "rollbackctl.io/service"
FENCE_LABEL = "rollbackctl.io/fence"
RUN_LABEL = "rollbackctl.io/run"
POLL_SECONDS = 0.2
_LABEL_VALUE = 63


@dataclass(frozen=True)
class Cluster:
    """What a driver works with. prove: to be called before a write; raises when this run may change nothing more."""

    client: Client
    namespace: str
    prove: Callable[[], None]


class KubernetesStore(Store):
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
        self.client = Client(access)
        self.where = f"namespace {self.namespace} of {access.text}"
        self.cluster = Cluster(self.client, self.namespace, self._prove)
        self._lease: dict[str, Any] | None = None  # as last seen or written, while locked
        self._step = ""
        self._token = 0
        self._good_until = 0.0
        self._guard = threading.Lock()
        self._journals: dict[str, KubeJournal] = {}

    # -- paths -------------------------------------------------------------------------------------------------------

    @property
    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

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
                SERVICE_LABEL: self.service[:_LABEL_VALUE],
                KIND_LABEL: kind,
            },
            "annotations": notes,
        }

    def _selector(self, kind: str, *more: str) -> str:
        return ",".join((f"{SERVICE_LABEL}={self.service[:_LABEL_VALUE]}", f"{KIND_LABEL}={kind}", *more))

    # -- lock and lease ----------------------------------------------------------------------------------------------

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
        """Keep other processes from changing the service: the first acquire or renew in the body marks the Lease.

        :raises LeaseHeld: another process's step is under way for longer than wait_seconds.
        """
        deadline = time.monotonic() + wait_seconds
        while True:
            self._lease = self.client.find(f"{self._leases}/{self.prefix}")
            if not self._busy():
                break
            if time.monotonic() >= deadline:
                raise self.held("A process of a run is still changing this service.")
            time.sleep(POLL_SECONDS)
        self._step = f"{host_name()} {os.getpid()} {uuid.uuid4()}"
        try:
            yield
        finally:
            self._journals.clear()
            if self._note(STEP_NOTE) == self._step:
                with contextlib.suppress(KubeError), self._guard:  # the mark ends with the lease at the latest
                    self._write({STEP_NOTE: ""})
            self._step, self._lease = "", None

    def _busy(self) -> bool:
        """Say whether another's step is under way: marked, under a lease that holds, by a process that may live."""
        mark = self._note(STEP_NOTE)
        lease = self._read(self._lease)
        if not mark or mark == self._step or lease is None or self.lease_ends_in(lease) <= 0:
            return False
        host, pid, _ = mark.split(" ", 2)
        return host != host_name() or process_alive(int(pid))

    def _note(self, name: str) -> str:
        return str(((self._lease or {}).get("metadata", {}).get("annotations") or {}).get(name) or "")

    def _read(self, document: dict[str, Any] | None) -> Lease | None:
        text = ((document or {}).get("metadata", {}).get("annotations") or {}).get(LEASE_NOTE)
        if not text:
            return None
        lease = Lease(**json.loads(text))
        return lease if lease.run else None

    def _seen(self) -> dict[str, Any] | None:
        """Return the Lease: while locked the one that was read or written last, which nobody else can have changed."""
        if self._lease is not None and self._step:
            return self._lease
        return self.client.find(f"{self._leases}/{self.prefix}")

    def lease(self) -> Lease | None:
        """Return the lease as it stands, ended or not; None when nobody ever held one or it was given back."""
        self._shown = self._seen()
        return self._read(self._shown)

    def lease_ends_in(self, lease: Lease) -> float:
        """Return for how many seconds the lease still holds, by the API server's clock; <= 0 when it has ended."""
        document = self._lease if self._lease is not None else getattr(self, "_shown", None) or self._seen()
        renewed = str((document or {}).get("spec", {}).get("renewTime") or "")
        if not renewed:
            return 0.0
        moment = datetime.fromisoformat(renewed.replace("Z", "+00:00"))
        return (moment + timedelta(seconds=lease.seconds) - self.client.server_time()).total_seconds()

    def acquire(self, run: str, holder: str, controller: str, pid: int, seconds: float) -> Lease:
        """Take the lease for a run; see Store.acquire."""
        old = self._read(self._lease)
        if old is not None and self.lease_ends_in(old) > 0:
            alive = old.controller == controller == host_name() and old.pid != pid and process_alive(old.pid)
            if old.run != run or alive:
                raise self.held("Another run is under way on this service.")
        token = int((self._lease or {}).get("spec", {}).get("leaseTransitions") or 0) + 1
        lease = Lease(run, token, holder, controller, pid, now(), seconds)
        with self._guard:
            self._write({LEASE_NOTE: json.dumps(asdict(lease)), STEP_NOTE: self._step}, lease)
        self._token = token
        return lease

    def renew(self, run: str, token: int) -> None:
        """Prove that the lease is still this run's, extend it and mark it with this process's step."""
        with self._guard:
            if not self._step:
                self._lease = self.client.find(f"{self._leases}/{self.prefix}")
            lease = self._read(self._lease)
            if lease is None or (lease.run, lease.token) != (run, token):
                raise RollbackError(
                    self.held_text("This step does not hold the run's lease."),
                    "Start from the playbook's beginning: the guard takes the lease.",
                )
            self._token = token
            self._write({STEP_NOTE: self._step} if self._step else {}, lease)
            if not self._step:
                self._lease = None

    def release(self, run: str, token: int) -> None:
        """Give the lease back; nothing happens when it is no longer ours."""
        lease = self._read(self._lease if self._step else self._seen())
        if lease is not None and (lease.run, lease.token) == (run, token):
            with self._guard:
                if not self._step:
                    self._lease = self._seen()
                given_back = Lease(**{**asdict(lease), "run": ""})
                self._write({LEASE_NOTE: json.dumps(asdict(given_back)), STEP_NOTE: ""}, None)

    def _write(self, notes: Mapping[str, str], lease: Lease | None = None) -> None:
        """Write the Lease with annotations set; with a lease also its terms, renewed now.

        :raises LeaseHeld: somebody else wrote it first.
        """
        moment = self.client.server_time() if self._lease is not None else None
        document = self._lease or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._meta("", "lease"),
            "spec": {},
        }
        meta = {**document["metadata"], "annotations": {**(document["metadata"].get("annotations") or {}), **notes}}
        spec = dict(document.get("spec") or {})
        if lease is not None:
            moment = moment or datetime.now(timezone.utc)
            spec.update(
                holderIdentity=f"{lease.run} ({lease.holder} on {lease.controller})"[:250],
                leaseDurationSeconds=max(1, int(lease.seconds)),
                leaseTransitions=lease.token,
                acquireTime=f"{parse_time(lease.acquired):%Y-%m-%dT%H:%M:%S.%fZ}",
                renewTime=f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}",
            )
        elif LEASE_NOTE in notes:
            spec["holderIdentity"] = ""
        body = {**document, "metadata": meta, "spec": spec}
        began = time.monotonic()
        try:
            if document is self._lease:
                self._lease = self.client.replace(f"{self._leases}/{self.prefix}", body)
            else:
                self._lease = self.client.create(self._leases, body)
        except KubeError as error:
            self._lease = self.client.find(f"{self._leases}/{self.prefix}")
            if error.status == 0 and self._took(meta["annotations"], spec):
                pass  # the answer was lost, not the change
            elif error.status in (0, 409):
                raise self.held("Another process changed the lease of this service at this moment.") from error
            else:
                raise
        if lease is not None:
            self._good_until = began + lease.seconds

    def _took(self, notes: Mapping[str, str], spec: Mapping[str, Any]) -> bool:
        found = self._lease or {}
        return (found.get("metadata", {}).get("annotations"), found.get("spec", {}).get("renewTime")) == (
            dict(notes),
            spec.get("renewTime"),
        )

    def _prove(self) -> None:
        """Stop a process that slept past its lease, or whose heartbeat no longer gets through.

        :raises LeaseHeld: by this machine's own clock of durations the lease was not renewed in time.
        """
        if time.monotonic() > self._good_until:
            raise LeaseHeld(
                "The run's lease could not be renewed in time, so nothing more is changed.", "rollbackctl status"
            )

    # -- runs --------------------------------------------------------------------------------------------------------

    def _run_name(self, run: str) -> str:
        if not is_run_id(run):
            raise Refused(f"{run!r} is not a run id.")
        return f"run-{run}"

    def runs(self) -> list[str]:
        """Return the ids of the runs, oldest first."""
        return self._named("run")

    def _named(self, kind: str, *more: str) -> list[str]:
        found = self.client.names(self._maps, labelSelector=self._selector(kind, *more))
        return sorted(item["metadata"]["labels"][RUN_LABEL] for item in found)

    def journal(self, run: str) -> Journal:
        """Return a run's journal. While locked, what was read once is not read again."""
        journal = self._journals.get(run) if self._step else None
        if journal is None:
            journal = KubeJournal(self.client, self._map(self._run_name(run)), self._token)
            if self._step:
                self._journals[run] = journal
        return journal

    def open_journal(self, run: str) -> Journal:
        """Return a run's journal, made if it is missing; from now on only this token's holder can write to it."""
        meta = self._meta(self._run_name(run), "run", **{TOKEN_NOTE: str(self._token)})
        meta["labels"][RUN_LABEL] = run
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {}}
        try:
            self.client.create(self._maps, body)
        except KubeError as error:
            if error.status not in (0, 409):
                raise
            path = self._map(self._run_name(run))
            self.client.merge_patch(path, {"metadata": {"annotations": {TOKEN_NOTE: str(self._token)}}})
        return self.journal(run)

    def read_plan(self, run: str) -> dict[str, Any] | None:
        """Return a run's plan; None when the run never came to one."""
        found = self.client.find(self._map(self._run_name(run)))
        return unpack(found, "plan", f"The plan of run {run}")

    def write_plan(self, run: str, plan: dict[str, Any]) -> None:
        """Make the plan durable, as long as the run is still this holder's."""
        path = self._map(self._run_name(run))
        guard = {"op": "test", "path": f"/metadata/annotations/{_pointer(TOKEN_NOTE)}", "value": str(self._token)}
        self.client.json_patch(path, [guard, {"op": "add", "path": "/binaryData", "value": pack("plan", plan)}])

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
                self.client.delete(f"{folder}/{item['metadata']['name']}")

    def write_watchdog(self, run: str, report: dict[str, Any]) -> None:
        """Keep what the watchdog found and did, beside the plan."""
        self.client.merge_patch(self._map(self._run_name(run)), {"data": {"watchdog": json.dumps(report)}})

    def behind_closed_fence(self, named: set[str]) -> str:
        """Return the run that stopped behind its closed fence, unless it is one of those named; empty without one.

        The journal keeps a label of the run's object in step with its events, so that one question is enough.
        """
        closed = [run for run in self._named("run", f"{FENCE_LABEL}=closed") if run not in named]
        return closed[-1] if closed else ""

    # -- checkpoints and quarantine ----------------------------------------------------------------------------------

    def _shelf(self, kind: str, run: str, component: str, label: str) -> Shelf:
        if not is_name(component):
            raise Refused(f"{component!r} is not a component name.")
        meta = self._meta("", kind)
        meta["labels"][RUN_LABEL] = run
        return Shelf(self.client, self.namespace, f"{self.prefix}-{run}-{component.lower()}-{label}", meta)

    def checkpoint_shelf(self, checkpoint: str, component: str) -> Shelf:
        """Return the place for a component's artefacts of a checkpoint."""
        if not is_run_id(checkpoint):
            raise Refused(f"{checkpoint!r} is not a checkpoint id.")
        return self._shelf("recorded", checkpoint, component, "recorded")

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the checkpoints, newest first. A damaged one is listed with state "damaged" and its message."""
        found = []
        for item in self.client.list(self._maps, labelSelector=self._selector("checkpoint")):
            identity = item["metadata"]["labels"][RUN_LABEL]
            try:
                document = unpack(item, "checkpoint", f"Checkpoint {identity}")
            except RollbackError as error:
                document = {"id": identity, "state": "damaged", "taken": "", "message": error.message}
            if document is not None:
                found.append(document)
        return sorted(found, key=lambda document: (document["taken"], document["id"]), reverse=True)

    def write_checkpoint(self, document: dict[str, Any]) -> None:
        """Write a checkpoint's document; its artefacts are durable already."""
        identity = str(document["id"])
        self._put(f"checkpoint-{identity}", "checkpoint", pack("checkpoint", document), identity)

    def quarantine(self) -> list[dict[str, Any]]:
        """Return the quarantined combinations, oldest first."""
        document = unpack(self.client.find(self._map("quarantine")), "quarantine", "The quarantine list")
        return list(document["combinations"]) if document else []

    def write_quarantine(self, combinations: list[dict[str, Any]]) -> None:
        """Replace the list of quarantined combinations."""
        self._put("quarantine", "quarantine", pack("quarantine", {"combinations": combinations}), "")

    def _put(self, name: str, kind: str, data: dict[str, str], run: str) -> None:
        """Write an object, new or in place of the one that is there."""
        meta = self._meta(name, kind)
        if run:
            meta["labels"][RUN_LABEL] = run
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data}
        try:
            self.client.create(self._maps, body)
        except KubeError as error:
            if error.status not in (0, 409):
                raise
            self.client.merge_patch(self._map(name), {"binaryData": data})


def _pointer(key: str) -> str:
    """Return a key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
