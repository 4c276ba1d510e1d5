# SPDX-License-Identifier: GPL-3.0-or-later
"""The way `in_place` of putting ConfigMaps and Secrets back: the objects themselves get their old content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .component import Driver
from .kube_client import Client
from .kube_config_check import Change, problems_in_place, refused_by_server
from .kube_config_content import SECRET, Content, Ref, content_of
from .kube_config_key import key_in, key_path
from .kube_config_write import Found, Writer


@dataclass(frozen=True)
class Reading:
    """The component as it was read: what each object holds, and the key that Secrets are told apart with."""

    found: Mapping[Ref, Found]
    key: bytes | None


@dataclass(frozen=True)
class Site:
    """Where a component is. state: the namespace of the service's state. siblings: the service's other components."""

    component: str
    client: Client
    namespace: str
    state: str
    run: str
    writer: Writer
    siblings: Mapping[str, Driver]
    options: Mapping[str, Any]

    def key(self) -> bytes | None:
        """Read the key."""
        return key_in(self.client.find(key_path(self.state)))


class InPlace:
    """The objects themselves."""

    def __init__(self, site: Site, refs: Sequence[Ref]) -> None:
        """Keep where and which."""
        self.site = site
        self.refs = refs

    def look(self) -> Reading:
        """Read all objects, and the key where there are Secrets, at once."""
        paths = [ref.path(self.site.namespace) for ref in self.refs]
        secret = any(ref.kind == SECRET for ref in self.refs)
        items = self.site.client.each(self.site.client.find, [*paths, key_path(self.site.state)] if secret else paths)
        found = {ref: Found(content_of(ref.kind, item), item or {}) for ref, item in zip(self.refs, items)}
        return Reading(found, key_in(items[-1]) if secret else None)

    def put(self, ref: Ref, seen: Found, wanted: Content, key: bytes | None) -> None:  # noqa: ARG002 - a copy's name needs it
        """Give an object the wanted content."""
        self.site.writer.put(ref, seen, wanted, keep_added=bool(self.site.options.get("keep_added")))

    def problems(self, changes: Sequence[Change]) -> tuple[list[str], list[str]]:
        """Return what stands in the way, and notes."""
        gitops = str(self.site.options.get("gitops") or "")
        problems = list(problems_in_place(self.site.client, self.site.namespace, changes, gitops))
        notes = list(self._notes(gitops))
        if not problems:
            problems, more = refused_by_server(self.site.client, self.site.namespace, changes)
            notes += more
        return problems, notes

    def _notes(self, gitops: str) -> Iterator[str]:
        yield (
            "pods that start from now on read it; running ones keep their environment variables until they are "
            "restarted, mounted files follow within about a minute."
        )
        if gitops:
            yield "whatever keeps these objects is said to be paused: bring it to the same content before it goes on."
