# SPDX-License-Identifier: GPL-3.0-or-later
"""A run's journal in Kubernetes: one key of the run's ConfigMap an event.

Each event is added by a JSON patch that first tests the run's token and the number of events so far. So a controller
that was overtaken cannot write, a repeated request changes nothing, and a lost answer is found out by reading back.
"""

from __future__ import annotations

import json
from typing import Any

from .durable import digest, now
from .errors import RollbackError
from .journal import Journal
from .kube_client import Client, KubeError

TOKEN = "/metadata/annotations/rollbackctl.io~1token"  # noqa: S105 - a number that grows with each takeover
FENCE = "/metadata/labels/rollbackctl.io~1fence"
_FENCE_WORDS = {"fence-closing": "closed", "fence-opened": "open"}
_KEY = "event-{:05d}"


class KubeJournal(Journal):
    """The events of one run. What was read or written once is remembered: only the holder of the lease writes."""

    def __init__(self, client: Client, path: str, token: int) -> None:
        """Name the run's ConfigMap by its path; nothing is read yet."""
        self.client = client
        self.path = path
        self.token = token
        self._events: list[dict[str, Any]] | None = None

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first; reading stops at the first one that is missing or damaged."""
        if self._events is None:
            self._events = self._read()
        return list(self._events)

    def append(self, event: str, **facts: Any) -> dict[str, Any]:
        """Write one event durably and return it. Facts are JSON values and hold no secret.

        :raises RollbackError: another controller took the run over, or the API server did not take it.
        """
        events = self.events()
        entry = json.loads(json.dumps({"event": event, "at": now(), **facts}))
        key = _KEY.format(len(events))
        line = json.dumps({"sha256": digest(entry), "entry": entry}, ensure_ascii=False)
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": TOKEN, "value": str(self.token)},
            # An absent key cannot be tested for; that the one before is there and this one is added once follows from
            # the lease, and from reading back below.
            {"op": "add", "path": f"/data/{key}", "value": line},
        ]
        if not events:
            operations[1] = {"op": "add", "path": "/data", "value": {key: line}}
        if event in _FENCE_WORDS:
            operations.append({"op": "add", "path": FENCE, "value": _FENCE_WORDS[event]})
        try:
            self.client.json_patch(self.path, operations)
        except KubeError as error:
            if not self._is_there(key, line):
                raise self._refusal(error) from error
        self._events = [*events, entry]
        return dict(entry)

    def _is_there(self, key: str, line: str) -> bool:
        found = self.client.find(self.path)
        return ((found or {}).get("data") or {}).get(key) == line

    def _refusal(self, error: KubeError) -> RollbackError:
        found = self.client.find(self.path) or {}
        token = (found.get("metadata", {}).get("annotations") or {}).get("rollbackctl.io/token")
        if found and token != str(self.token):
            return RollbackError(
                "Another controller has taken this run over; this one changes nothing more.", "rollbackctl status"
            )
        return error

    def _read(self) -> list[dict[str, Any]]:
        data = (self.client.find(self.path) or {}).get("data") or {}
        found: list[dict[str, Any]] = []
        while True:
            text = data.get(_KEY.format(len(found)))
            if text is None:
                return found
            try:
                sealed = json.loads(text)
                whole = sealed["sha256"] == digest(sealed["entry"])
            except (ValueError, KeyError, TypeError):
                return found
            if not whole:
                return found
            found.append(sealed["entry"])
