# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for objects of the cluster by watching them, never by sleeping: several collections at once, with a deadline.

What a watch missed (it was cut, or its version had grown too old) is read anew:
https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from .kube_client import Client, KubeError

# A watch is asked for in pieces this long, so that a thread never outlives its purpose by more.
PIECE_SECONDS = 5.0
Query = Mapping[str, str]
Result = TypeVar("Result")


class Observer:
    """Collections of objects as they are now. Use it as a context manager: leaving it ends the watches."""

    def __init__(self, client: Client, collections: Mapping[str, Query]) -> None:
        """Name the collections: path -> query (a label or field selector, or nothing)."""
        self.client = client
        self.collections = dict(collections)
        self._objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in collections}
        self._changed = threading.Condition()
        self._count = 0
        self._ended = False
        self._error: KubeError | None = None

    def __enter__(self) -> Observer:  # noqa: PYI034 - Self is not in Python 3.9, and nobody derives from this
        """List every collection, then watch it from there."""
        versions = self.client.each(self._list, list(self.collections))
        for path, version in zip(self.collections, versions):
            threading.Thread(target=self._follow, args=(path, version), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the watches end."""
        self._ended = True

    def objects(self, path: str) -> list[dict[str, Any]]:
        """Return the objects of a collection as they are now."""
        with self._changed:
            return list(self._objects[path].values())

    def until(self, decide: Callable[[], Result | None], seconds: float) -> Result | None:
        """Ask `decide` after each change until it returns something; None when the time is up.

        :raises KubeError: a collection can no longer be watched.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._changed:
                seen = self._count
            if self._error is not None:
                raise self._error
            answer = decide()
            if answer is not None:
                return answer
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                if self._count == seen:
                    self._changed.wait(min(left, 1.0))

    def _list(self, path: str) -> str:
        items, version = self.client.list_at(path, **self.collections[path])
        with self._changed:
            self._objects[path] = {item["metadata"]["uid"]: item for item in items}
            self._count += 1
            self._changed.notify_all()
        return version

    def _follow(self, path: str, version: str) -> None:
        try:
            while not self._ended:
                version = self._watch(path, version)
        except KubeError as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _watch(self, path: str, version: str) -> str:
        """Watch for a while; return the version to go on from."""
        try:
            for event, item in self.client.watch(path, version, PIECE_SECONDS, **self.collections[path]):
                version = item["metadata"].get("resourceVersion") or version
                if event != "BOOKMARK":
                    self._take(path, event, item)
                if self._ended:
                    break
        except KubeError as error:
            if error.reason != "Expired":
                raise
            version = self._list(path)
        return version

    def _take(self, path: str, event: str, item: dict[str, Any]) -> None:
        with self._changed:
            if event == "DELETED":
                self._objects[path].pop(item["metadata"]["uid"], None)
            else:
                self._objects[path][item["metadata"]["uid"]] = item
            self._count += 1
            self._changed.notify_all()
