# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ways of putting something in Kubernetes back share: reading objects, and changing one safely."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .component import Driver, Entry, Place
from .errors import Refused, StateOther
from .kube_client import Client, KubeError
from .kube_objects import KINDS, Workload, parse_workload
from .kube_patch import Patch
from .kube_store import KIND_LABEL

Objects = dict[Workload, dict[str, Any]]
DEFAULT_TIMEOUT_SECONDS = 300.0
# With more workloads of a kind than this, one list is cheaper than so many requests.
LIST_FROM = 4
# Status updates change an object's resourceVersion all the time while a rollout is under way.
CONFLICTS = 30
CONFLICT_PAUSE_SECONDS = 0.05
RECENT_SECONDS = 1.0


class WayDriver(Driver):
    """Base class of the ways: the component's workloads and how they are read and patched."""

    layer = "application"
    store_kind = "kubernetes"

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Read nothing yet, not even the names: what is wrong with them is for preflight to say."""
        super().__init__(options, place)
        self.namespace = str(options.get("namespace") or (place.cluster.namespace if place.cluster else ""))
        # What the engine compared with last; a change by somebody else after that is found out at the write.
        self.entry: Entry | None = None
        self._items: Objects = {}
        self._read_at = 0.0

    @property
    def workloads(self) -> list[Workload]:
        """The workloads of the component, each once.

        :raises Refused: one is not written as a workload.
        """
        texts = dict.fromkeys(str(text) for text in self.options.get("workloads") or [])
        try:
            return [parse_workload(text, self.namespace) for text in texts]
        except Refused as error:
            raise Refused(f"{self.name}: {error.message}") from error

    @property
    def client(self) -> Client:
        """The connection to the cluster."""
        client: Client = self.place.cluster.client
        return client

    @property
    def timeout(self) -> float:
        """How long a change may take, in seconds."""
        return float(self.options.get("timeout") or DEFAULT_TIMEOUT_SECONDS)

    def members(self) -> Objects:
        """Return the component's workloads as they are."""
        return self.read(self.workloads)

    def read(self, workloads: Sequence[Workload]) -> Objects:
        """Return the workloads as they are.

        :raises Refused: one is not there.
        """
        kinds = {kind: [w for w in workloads if w.kind == kind] for kind in {w.kind for w in workloads}}
        found: dict[Workload, dict[str, Any] | None] = {}
        for kind, members in kinds.items():
            if len(members) >= LIST_FROM:
                items = self.client.list(KINDS[kind].collection(self.namespace))
                known = {item["metadata"]["name"]: item for item in items}
                found.update({workload: known.get(workload.name) for workload in members})
            else:
                found.update(zip(members, self.client.each(lambda w: self.client.find(w.path), members)))
        missing = [str(workload) for workload in workloads if found[workload] is None]
        if missing:
            raise Refused(f"{self.name}: {', '.join(missing)} does not exist in namespace {self.namespace}.")
        return {workload: item for workload in workloads if (item := found[workload]) is not None}

    def look(self) -> Objects:
        """Return the component's workloads as they are now, and remember them for recent()."""
        self._items, self._read_at = self.read(self.workloads), time.monotonic()
        return self._items

    def recent(self) -> Objects:
        """Return the workloads as they were read a moment ago. What changes meanwhile is found out at the write, by the
        version that was read, or when the plan is compared with what is there."""
        return self._items if time.monotonic() - self._read_at < RECENT_SECONDS else self.look()

    def change(
        self,
        path: str,
        what: str,
        patch: Callable[[Mapping[str, Any]], Patch],
        ours: Callable[[Mapping[str, Any]], bool],
        known: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Patch one object and return it as it is then.

        :param patch: makes the patch from the object as it was read; one without operations sends nothing.
        :param known: the object as it was read a moment ago; without it, or when it has changed since, it is read here.
        :param ours: whether the object, as it was read, may be changed: it is what the plan knows.
        :raises StateOther: somebody else changed it meanwhile. KubeError: the API server does not take the change.
        """
        for _ in range(CONFLICTS):
            item, known = known or self.client.get(path), None
            if not ours(item):
                raise StateOther(
                    f"{what} was changed by somebody else in this very moment; it was left as it is.",
                    "Find out who did, then start a new run.",
                )
            operations = patch(item).operations
            if not operations:
                return item
            self.place.cluster.prove()
            try:
                return self.client.json_patch(path, operations)
            except KubeError as error:
                if not self._raced(path, item, error):
                    raise
            time.sleep(CONFLICT_PAUSE_SECONDS)
        raise StateOther(f"{what} is written to all the time by somebody else; it was left as it is.")

    def _raced(self, path: str, item: Mapping[str, Any], error: KubeError) -> bool:
        """Say whether to read back and decide anew: the answer was lost, or somebody wrote to the object before we did.

        A failed test of the patch is 422 without a word about what failed; so is what an admission policy may answer.
        Only the object itself tells them apart.
        """
        if error.status in (0, 409):
            return True
        if error.status != 422 or error.causes:
            return False
        present = self.client.get(path)
        return bool(present["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"])


def is_checkpoint(into: Any) -> bool:
    """Say whether what is recorded is for a checkpoint, and not for the way back of a run."""
    return bool(into.meta["labels"].get(KIND_LABEL) == "recorded")
