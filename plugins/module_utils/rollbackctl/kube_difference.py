# SPDX-License-Identifier: GPL-3.0-or-later
"""Where two pod templates differ, by names and not by positions; and who wrote a field. Pure functions.

A path is a tuple of keys; what stands in a list is called by its name: ("spec", "containers", "[api]", "image").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
ADDED, GONE, OTHER = "added", "gone", "other"
_NAMES = ("name", "mountPath")
_EMPTY: tuple[Any, ...] = (None, {}, [])


@dataclass(frozen=True)
class Difference:
    """One place: what the second template has beyond the first (added), lacks (gone), or has otherwise (other)."""

    kind: str
    path: Path

    def __str__(self) -> str:
        """Return the place for people, without any value."""
        return shown(self.path)


@dataclass(frozen=True)
class Writer:
    """Who wrote a field last, as the object says it: a field manager, and when (UTC)."""

    manager: str
    time: str

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.manager} at {self.time}" if self.time else self.manager


def shown(path: Path) -> str:
    """Return a path of a template for people: template.spec.containers[api].image."""
    return "template" + "".join(part if part.startswith("[") else f".{part}" for part in path)


def compare(first: Any, second: Any, path: Path = ()) -> Iterator[Difference]:
    """Yield where the second value differs from the first, each place as small as it has a name."""
    a, b = _named(first), _named(second)
    if first in _EMPTY and second in _EMPTY:
        return
    if first in _EMPTY and isinstance(b, Mapping):
        a = {}
    if second in _EMPTY and isinstance(a, Mapping):
        b = {}
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            place = (*path, key)
            whole = key.startswith("[") or not isinstance(_named(b.get(key, a.get(key))), Mapping)
            if (key in a and key in b) or not whole:
                yield from compare(a.get(key), b.get(key), place)
            elif (a[key] if key in a else b[key]) not in _EMPTY:
                yield Difference(GONE if key in a else ADDED, place)
        common = [key for key in a if key in b]
        if common != [key for key in b if key in a] and isinstance(first, list):
            yield Difference(OTHER, path)
    elif first != second:
        yield Difference(ADDED if first in _EMPTY else GONE if second in _EMPTY else OTHER, path)


def _named(value: Any) -> Any:
    """Return a list of things that have names as a mapping by these; anything else as it is."""
    if not isinstance(value, list) or not value or not all(isinstance(one, Mapping) for one in value):
        return value
    for key in _NAMES:
        names = [one.get(key) for one in value]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return {f"[{name}]": one for name, one in zip(names, value)}
    return value


def at(value: Any, path: Path) -> Any:
    """Return what stands at a path; None when nothing does."""
    for part in path:
        value = _named(value)
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def unit_of(path: Path) -> Path:
    """Return the smallest thing with a name of its own that a path is in: a container, a variable; or the path."""
    last = max((number for number, part in enumerate(path) if part.startswith("[")), default=-1)
    return path[: last + 1] if last >= 0 else path


def without(value: Any, units: Sequence[Path]) -> Any:
    """Return a copy of a value in which nothing stands at these paths."""
    result = json.loads(json.dumps(value))
    for path in units:
        holder = at(result, path[:-1])
        if isinstance(holder, list) and at(holder, path[-1:]) is not None:
            holder.remove(at(holder, path[-1:]))
        elif isinstance(holder, dict):
            holder.pop(path[-1], None)
    return result


def covered(path: Path, by: Sequence[Path]) -> bool:
    """Say whether a path is one of these, or within one."""
    return any(path[: len(one)] == one for one in by)


def writer(item: Mapping[str, Any], path: Path) -> Writer | None:
    """Return who wrote a place of a workload's template last (metadata.managedFields); None when nobody is known.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
    """
    found: list[Writer] = []
    for entry in item["metadata"].get("managedFields") or []:
        fields = entry.get("fieldsV1") or {}
        for part in ("spec", "template", *path):
            fields = _field(fields, part)
            if fields is None:
                break
        if fields is not None and not entry.get("subresource"):
            found.append(Writer(str(entry.get("manager") or ""), str(entry.get("time") or "")))
    return max(found, key=lambda one: one.time, default=None)


def _field(fields: Mapping[str, Any], part: str) -> Any:
    """Return the fields of one step down, None when there are none; what has a name is k:{"name":"api"} there."""
    if not part.startswith("["):
        return fields.get(f"f:{part}")
    for key, below in fields.items():
        if key.startswith("k:"):
            names = json.loads(key[2:])
            if any(names.get(name) == part[1:-1] for name in _NAMES):
                return below
    return None
