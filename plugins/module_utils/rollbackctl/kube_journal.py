# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's journal in Kubernetes: one key of the run's ConfigMap an event.

Events are added by a JSON patch that first tests the run's token and the number of events so far. So a controller that
was overtaken cannot write, a repeated request changes nothing, one that arrives late is not lost, and a lost answer is
found out by reading back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .durable import digest
from .errors import JournalDamaged, RollbackError
from .journal import Journal
from .kube_client import Client, KubeError
from .kube_shelf import ATTEMPTS, PAUSE_SECONDS, UNKNOWN, Shelf, read_shelf

TOKEN_NOTE = "rollbackctl.io/token"  # noqa: S105 - a number that grows with each takeover
COUNT_NOTE = "rollbackctl.io/events"
FENCE_LABEL = "rollbackctl.io/fence"
# The object has to hold all events of a run: larger ones (templates of many workloads) are beside it.
LARGE_BYTES = 60_000
CLOSED = "closed"
_FENCE_WORDS = {"fence-closing": CLOSED, "fence-opened": "open"}
_KEY = "event-{:05d}"
OVERTAKEN = "Another controller has taken this run over; this one changes nothing more."


class KubeJournal(Journal):
    """The events of one run. What was read or written once is remembered: only the holder of the lease writes."""

    def __init__(self, beside: Shelf, token: int) -> None:
        """Name the run's ConfigMap, nothing is read yet. beside: where large events go; its name begins with that of
        the run's ConfigMap."""
        self.client: Client = beside.client
        self.beside = beside
        self.path = f"/api/v1/namespaces/{beside.namespace}/configmaps/{beside.name}"
        self.token = token
        self._item: Mapping[str, Any] | None = None  # as it was read or written last
        self._events: list[dict[str, Any]] | None = None
        self._damage: JournalDamaged | None = None
        self._waiting: list[dict[str, Any]] | None = None  # together()
        self._plan: dict[str, str] | None = None  # likewise

    def readable(self) -> tuple[list[dict[str, Any]], JournalDamaged | None]:
        """Return all events that can be read, oldest first, and what is damaged: nothing here is ever half written."""
        if self._events is None:
            self._read()
        return [*(self._events or ()), *(self._waiting or ())], self._damage

    def _written(self) -> list[dict[str, Any]]:
        self.readable()
        if self._damage is not None:
            raise self._damage
        return self._events or []

    def item(self) -> Mapping[str, Any] | None:
        """Return the run's object; None when there is none."""
        if self._item is None:
            self._item = self.client.find(self.path)
        return self._item

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Write one event durably and return it. Facts are JSON values and hold no secret.

        :raises RollbackError: another controller took the run over, or the API server did not take it.
        """
        # What happened in the cluster is compared with it, so it is the cluster's time.
        moment = f"{self.client.server_time():%Y-%m-%dT%H:%M:%SZ}"
        entry: dict[str, Any] = json.loads(json.dumps({"event": event, "at": moment, **facts}))
        if self._waiting is None:
            self._write([entry])
        else:
            self._waiting.append(entry)
        return dict(entry)

    def write_plan(self, packed: dict[str, str]) -> None:
        """Write the run's plan durably, beside the events.

        :raises RollbackError: as by append.
        """
        if self._waiting is None:
            self._write([], packed)
        else:
            self._plan = packed

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what the body writes in one request at its end: all of it or, also when the body fails, nothing.

        :raises RollbackError: as by append.
        """
        self._waiting = []
        try:
            yield
            entries, plan = self._waiting, self._plan
        finally:
            self._waiting = self._plan = None
        if entries or plan is not None:
            self._write(entries, plan)

    def _write(self, entries: list[dict[str, Any]], plan: dict[str, str] | None = None) -> None:
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * PAUSE_SECONDS)
            events = self._written()
            keys = [_KEY.format(len(events) + number) for number in range(len(entries))]
            lines = {key: self._line(entry, key) for key, entry in zip(keys, entries)}
            words = [_FENCE_WORDS[entry["event"]] for entry in entries if entry["event"] in _FENCE_WORDS]
            try:
                self._item = self.client.json_patch(self.path, self._operations(len(events), lines, words, plan))
            except KubeError as error:
                problem = error
                if not self._is_written(error, lines, plan):
                    continue
            self._events = [*events, *entries]
            return
        raise problem

    def _line(self, entry: dict[str, Any], key: str) -> str:
        line = json.dumps({"sha256": digest(entry), "entry": entry}, ensure_ascii=False)
        if len(line.encode()) <= LARGE_BYTES:
            return line
        shelf = Shelf(self.client, self.beside.namespace, f"{self.beside.name}-{key}", self.beside.meta)
        return json.dumps({"sha256": digest(entry), "at": shelf.save(entry)})

    def _operations(
        self, known: int, lines: Mapping[str, str], words: list[str], plan: dict[str, str] | None
    ) -> list[dict[str, Any]]:
        """Return the patch that adds events behind the known ones, and the plan.

        words: what the events say of the fence.
        """
        count = _count(self._item)
        operations: list[dict[str, Any]] = [{"op": "test", "path": _note(TOKEN_NOTE), "value": str(self.token)}]
        if plan is not None:
            operations.append({"op": "add", "path": "/binaryData", "value": plan})
        if not lines:
            return operations
        if count is not None:
            operations.append({"op": "test", "path": _note(COUNT_NOTE), "value": count})
        if not _data(self._item):
            operations.append({"op": "add", "path": "/data", "value": {}})
        operations += [{"op": "add", "path": f"/data/{key}", "value": line} for key, line in lines.items()]
        operations.append({"op": "add", "path": _note(COUNT_NOTE), "value": str(known + len(lines))})
        operations += [{"op": "add", "path": _label(FENCE_LABEL), "value": word} for word in words]
        return operations

    def _is_written(self, error: KubeError, lines: Mapping[str, str], plan: dict[str, str] | None) -> bool:
        """Read the run's object after a patch that failed, and say whether it was written after all; if not, it may be
        tried again: the answer was lost, or a late request of this same run came first.

        :raises RollbackError: another controller has taken the run over, the run is gone, or it can't be written.
        """
        before = _count(self._item)
        self._read()
        if self._item is None:
            raise RollbackError(f"The run's object {self.beside.name} is not there.", "rollbackctl status") from error
        data = _data(self._item)
        if all(data.get(key) == line for key, line in lines.items()) and plan in (None, self._item.get("binaryData")):
            return True
        if _notes(self._item).get(TOKEN_NOTE) != str(self.token):
            raise RollbackError(OVERTAKEN, "rollbackctl status") from error
        if error.status not in {409, *UNKNOWN} and _count(self._item) == before:
            raise error
        return False

    def _read(self) -> None:
        self.take(self.client.find(self.path))

    def take(self, item: Mapping[str, Any] | None) -> None:
        """Go on from the run's object as the API server has answered with it."""
        self._item = item
        found: list[dict[str, Any]] = []
        self._damage = None
        data = _data(self._item)
        count = _count(self._item) or ""
        keys = {_KEY.format(number) for number in range(int(count) if count.isdecimal() else 0)}
        for key in sorted(keys | {key for key in data if key.startswith("event-")}):
            entry = self._entry(data.get(key, ""))
            if entry is not None:
                found.append(entry)
            elif self._damage is None:
                name, place = self.beside.name, self.beside.namespace
                aside = f"kubectl -n {place} label configmap {name} rollbackctl.io/kind=damaged --overwrite"
                self._damage = JournalDamaged(f"ConfigMap {name}, key {key},", aside)
        self._events = found

    def _entry(self, text: str) -> dict[str, Any] | None:
        """Return the event of a line; None when it is damaged."""
        try:
            sealed = json.loads(text)
            if "at" in sealed:
                entry = read_shelf(self.client, self.beside.namespace, str(sealed["at"]))
            else:
                entry = sealed["entry"]
            return dict(entry) if sealed["sha256"] == digest(entry) else None
        except KubeError:
            raise
        except (RollbackError, ValueError, KeyError, TypeError):
            return None


def _data(item: Mapping[str, Any] | None) -> dict[str, str]:
    return dict((item or {}).get("data") or {})


def _notes(item: Mapping[str, Any] | None) -> dict[str, str]:
    return dict((item or {}).get("metadata", {}).get("annotations") or {})


def _count(item: Mapping[str, Any] | None) -> str | None:
    return _notes(item).get(COUNT_NOTE)


def pointer(key: str) -> str:
    """Return a key as it stands in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _note(name: str) -> str:
    return f"/metadata/annotations/{pointer(name)}"


def _label(name: str) -> str:
    return f"/metadata/labels/{pointer(name)}"
