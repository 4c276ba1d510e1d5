# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of restore_kubernetes_config: ConfigMaps and Secrets that belong together, put back from a checkpoint or a
time-stamped backup.

No value ever leaves memory but into Secret objects: versions, plans and messages hold names of keys, counts, and marks
(kube_config_content.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .component import BETWEEN, LIVE, OTHER, TARGET, Driver, Entry, Finding, Place, Version
from .durable import now
from .errors import LeaseHeld, Refused, RollbackError, StepFailed
from .failpoints import failpoint
from .kube_client import Client
from .kube_config_backup import ConfigBackup, files_named, read_backup, with_type
from .kube_config_check import Change, notes_on, recording_problems, vanishing
from .kube_config_content import (
    ABSENT,
    CONFIGMAP,
    SECRET,
    UNRECORDED,
    Content,
    Mark,
    Ref,
    copy_name,
    fits,
    is_object_name,
    mark_of,
    short,
)
from .kube_config_copies import Versioned, original_names
from .kube_config_in_place import InPlace, Reading, Site
from .kube_config_key import ensure_key, key_id
from .kube_config_references import references, rewritten
from .kube_config_write import Found, Writer
from .kube_shelf import read_shelf

_IN_PLACE, _VERSIONED = "in_place", "versioned"
_ANYWAY = "If that is right: -e rollback_accept_unverified_backup=true"
Contents = Mapping[Ref, "Content | None"]


class KubeConfigDriver(Driver):
    """Options: name, namespace, configmaps, secrets, mode, backups, keep_added, gitops, timeout (seconds),
    accept_unverified.

    It remembers what it read last: what the engine compared with the plan is what may be replaced, so that a change
    between that and the write is found out.
    """

    layer = "configuration"
    store_kind = "kubernetes"
    before_others = True
    failpoints = (
        "restore_kubernetes_config.record.before",
        "restore_kubernetes_config.record.after",
        "restore_kubernetes_config.write.before",
        "restore_kubernetes_config.write.after",
        "restore_kubernetes_config.copy.before",
        "restore_kubernetes_config.copy.after",
    )

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        super().__init__(options, place)
        self.refs = tuple(
            dict.fromkeys(
                Ref(kind, str(name))
                for kind, field in ((CONFIGMAP, "configmaps"), (SECRET, "secrets"))
                for name in options.get(field) or ()
            )
        )
        self.mode = str(options.get("mode") or _IN_PLACE)
        self.each = bool(options.get("keep_added"))
        self.backups = str(options.get("backups") or "")
        self._seen: Reading | None = None

    # -- reading -----------------------------------------------------------------------------------------------------

    def live(self, *, exact: bool) -> Version:  # noqa: ARG002 - nobody writes to configuration under traffic
        """Read all objects."""
        return self._version(self._look())

    def resolve(self, want: Version | str) -> Version:
        """Check that what was recorded is whole, or read a named backup. The identity is made anew, for the objects
        that the profile names today and with the key of today."""
        reading = self._seen or self._look()
        if isinstance(want, Version):
            contents = self._load(want, reading)
            text = "" if want.artefacts["recorded"] else f"backup {', '.join(want.artefacts['files'])}: "
            taken, source, at = want.taken, want.at, want.at
            artefacts = {**want.artefacts, "also": self._also(want)}
        else:
            files = files_named(self.name, self.backups, want)
            backup = read_backup(self.name, self.backups, files, self.refs, self.namespace)
            contents = self._complete(backup, reading)
            text, taken, source = f"backup {want}, {_age(backup.modified)}: ", "", f"{sorted(backup.files.items())}"
            left = [str(ref) for ref in self.refs if ref not in backup.contents]
            artefacts = {"recorded": False, "files": dict(backup.files), "left": left, "doubts": list(backup.doubts)}
            at = os.path.realpath(self.backups)
        identity = {
            str(ref): self._mark(ref, content, reading, f"{UNRECORDED}{source}") for ref, content in contents.items()
        }
        text += self._text(contents, identity)
        artefacts.update(namespace=self.namespace, key=key_id(reading.key), copies=self._copies(identity))
        return Version(identity, text, taken, artefacts, at)

    def check(self, live: Version, target: Version) -> Finding:
        """Compare key by key, and look for what would stop the change or take it back."""
        reading = self._seen or self._look()
        changes = self._changes(reading, self._load(target, reading))
        problems: list[str] = []
        notes: list[str] = []
        if not self.matches(live, target, exact=True):
            problems, notes = self._way().problems(changes)
            problems += recording_problems(self.client, self.place.cluster.namespace, self.refs)
            problems += self._unnamed_copies(reading, changes)
        if not self.options.get("accept_unverified"):
            problems += [
                f"{doubt}{'' if doubt[-1] == '?' else '.'} {_ANYWAY}" for doubt in self._doubts(target, changes)
            ]
        seconds = 0.2 + 0.05 * len(self.refs)
        said = (*notes_on(changes), *self._more_notes(target), *notes)
        return Finding(tuple(problems), seconds=seconds, worst_seconds=self._timeout, notes=said)

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:  # noqa: ARG002 - there are no exact keys
        """Say whether a reading is that version; what the version did not have is left alone, whatever it holds."""
        return all(fits(reading.identity.get(name, ""), mark) for name, mark in version.identity.items())

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - as in live
        """Read each object against the plan: some old and some new is half-way, and can go on."""
        reading = self._look()
        version = self._version(reading)
        target: Contents | None = None
        old, new = [], []
        for ref in self.refs:
            mark, found, name = version.identity[str(ref)], reading.found[ref], str(ref)
            was, wanted = entry.live.identity.get(name), entry.target.identity.get(name)
            old.append(was is not None and self._is_still(mark, found, was))
            if _is_unrecorded(wanted) and not self._is_still(mark, found, wanted):
                target = target if target is not None else self._load(entry.target, reading)
                new.append(not Change(ref, found, target[ref], self.each).needed)
            else:
                new.append(wanted is not None and (self._is_still(mark, found, wanted) or fits(mark, wanted)))
        if all(new):
            return TARGET, version
        if all(old):
            return LIVE, version
        return (BETWEEN if all(a or b for a, b in zip(old, new)) else OTHER), version

    # -- changing ----------------------------------------------------------------------------------------------------

    def record(self, into: Any) -> Version:
        """Copy the contents: ConfigMaps into ConfigMaps, Secrets into Secrets of the state's namespace. With the first
        one the key is made that Secrets are told apart with."""
        cluster = self.place.cluster
        with self._changing("recorded"):
            cluster.prove()
            if any(ref.kind == SECRET for ref in self.refs):
                ensure_key(cluster.client, cluster.namespace)
            reading = self._read()
            documents: dict[str, dict[str, Any]] = {CONFIGMAP: {}, SECRET: {}}
            for ref in self.refs:
                content = reading.found[ref].content
                documents[ref.kind][ref.name] = None if content is None else content.to_document()
            kinds = [kind for kind in (SECRET, CONFIGMAP) if documents[kind]]
            failpoint("restore_kubernetes_config.record.before")
            at = ""
            for kind in kinds:
                cluster.prove()
                at = into.save({"objects": documents[kind]}, secret=kind == SECRET)
            failpoint("restore_kubernetes_config.record.after")
        version = self._version(reading)
        artefacts = {**version.artefacts, "recorded": True, "kinds": kinds}
        return Version(version.identity, version.text, now(), artefacts, at)

    def apply(self, target: Version) -> None:
        """Give every object that differs its old content, each in one request that holds only for what was read."""
        with self._changing("put back"):
            reading, self._seen = self._seen or self._look(), None
            way = self._way()
            for change in self._changes(reading, self._load(target, reading)):
                if change.needed and change.wanted is not None:
                    way.put(change.ref, change.present, change.wanted, reading.key)

    # -- for the workloads that read the copies of mode versioned ------------------------------------------------------

    def original_names(self, template: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a pod template with the objects called as in the profile, whichever copy of them it refers to."""
        if self.mode != _VERSIONED:
            return template
        names = original_names(self.refs, template)
        return rewritten(template, {str(ref): name for ref, name in names.items()}) if names else template

    def copied_names(self, template: Mapping[str, Any], identity: Mapping[str, Mark]) -> Mapping[str, Any]:
        """Return a pod template that refers to the copies of an identity of this component, as far as there are any."""
        if self.mode != _VERSIONED:
            return template
        read = references(template)
        named = {Ref(kind[:-1], name) for kind, names in read.items() for name in names}
        copies = {ref: copy_name(ref, identity.get(str(ref), ABSENT)) for ref in self.refs if ref in named}
        there = {
            str(ref): name
            for ref, name in copies.items()
            if name and self.client.find(ref.named(name).path(self.namespace)) is not None
        }
        return rewritten(template, there) if there else template

    # -- within ------------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The connection to the cluster."""
        client: Client = self.place.cluster.client
        return client

    @property
    def namespace(self) -> str:
        """Where the objects are."""
        return str(self.options.get("namespace") or self.place.cluster.namespace)

    @property
    def _timeout(self) -> float:
        return float(self.options.get("timeout") or 30)

    def _way(self) -> InPlace:
        cluster = self.place.cluster
        writer = Writer(self.name, cluster.client, self.namespace, cluster.prove)
        site = Site(
            self.name,
            cluster.client,
            self.namespace,
            cluster.namespace,
            self.place.run,
            writer,
            self.siblings,
            self.options,
        )
        return (Versioned if self.mode == _VERSIONED else InPlace)(site, self.refs)

    def _look(self) -> Reading:
        """Read everything, and remember it."""
        self._seen = self._read()
        return self._seen

    def _read(self) -> Reading:
        wrong = [str(ref) for ref in self.refs if not is_object_name(ref.name)]
        problem = f"{wrong[0]!r} cannot be the name of an object" if wrong else ""
        if not self.refs:
            problem = "neither configmaps nor secrets are named"
        elif not is_object_name(self.namespace):
            problem = f"{self.namespace!r} cannot be the name of a namespace"
        elif self.each and self.mode == _VERSIONED:
            problem = "keep_added means nothing with mode versioned, where nothing is changed in place"
        if problem:
            raise Refused(f"{self.name}: {problem}. Nothing was changed.", "Correct this component in the profile.")
        return self._way().look()

    def _version(self, reading: Reading) -> Version:
        contents = {ref: found.content for ref, found in reading.found.items()}
        identity = {str(ref): self._mark(ref, content, reading, "") for ref, content in contents.items()}
        artefacts = {"namespace": self.namespace, "key": key_id(reading.key), "copies": self._copies(identity)}
        return Version(identity, self._text(contents, identity), artefacts=artefacts)

    def _mark(self, ref: Ref, content: Content | None, reading: Reading, source: str) -> Mark:
        """Return the mark of a content. Without a key, that of a Secret says which writing of the object it is, or
        which source it comes from: no digest of any kind is made then."""
        found = reading.found[ref]
        if content is None or ref.kind != SECRET or reading.key is not None:
            return mark_of(ref, content, reading.key, each=self.each)
        here = not source or not Change(ref, found, content, self.each).needed
        return f"{UNRECORDED}{found.token}" if here else source

    @staticmethod
    def _is_still(mark: Mark, found: Found, before: Any) -> bool:
        """Say whether an object is exactly what it was, also when a key was made in between."""
        if _is_unrecorded(before):
            return bool(found.item) and before == f"{UNRECORDED}{found.token}"
        return bool(mark == before)

    def _copies(self, identity: Mapping[str, Mark]) -> dict[str, str]:
        """Return what the copies of an identity are called, where there are copies."""
        if self.mode != _VERSIONED:
            return {}
        names = {str(ref): copy_name(ref, identity[str(ref)]) for ref in self.refs}
        return {ref: name for ref, name in names.items() if name}

    def _changes(self, reading: Reading, contents: Contents) -> list[Change]:
        return [Change(ref, reading.found[ref], contents[ref], self.each) for ref in self.refs]

    def _text(self, contents: Contents, identity: Mapping[str, Mark]) -> str:
        counts = [(kind, sum(ref.kind == kind for ref in self.refs)) for kind in (CONFIGMAP, SECRET)]
        words = {CONFIGMAP: "ConfigMap", SECRET: "Secret"}
        said = ", ".join(f"{n} {words[kind]}{'' if n == 1 else 's'}" for kind, n in counts if n)
        each = []
        for ref, content in contents.items():
            if content is None:
                each.append(f"{ref.name} not there")
                continue
            mark, count = identity[str(ref)], len(content.parts)
            which = "unrecorded" if _is_unrecorded(mark) else short(mark)
            each.append(f"{ref.name} {count} key{'' if count == 1 else 's'} ({which})")
        return f"{said}; {', '.join(each)}"

    # -- what was recorded or saved ------------------------------------------------------------------------------------

    def _load(self, version: Version, reading: Reading) -> Contents:
        """Return a version's contents, when they still are those that it was made from.

        :raises Refused: they are not, or are of something else.
        """
        facts = version.artefacts
        if facts.get("namespace") != self.namespace:
            raise Refused(
                f"{self.name}: {version.text} was recorded in namespace {facts.get('namespace')}; the profile says "
                f"{self.namespace}. Nothing was changed.",
                "Correct `namespace` of this component, or choose another checkpoint.",
            )
        contents = self._recorded(version) if facts["recorded"] else self._saved(version, reading)
        changed = [
            str(ref)
            for ref, content in contents.items()
            if not self._proven(ref, content, version.identity.get(str(ref)), reading.key, facts.get("key", ""))
        ]
        if changed and not (facts["recorded"] and self.options.get("accept_unverified")):
            raise Refused(
                f"{self.name}: what was kept of {', '.join(changed)} is not what it was when it was chosen: it is "
                "damaged, or somebody changed it. Nothing was changed.",
                "Choose another checkpoint or backup.",
            )
        return contents

    def _proven(self, ref: Ref, content: Content | None, mark: Any, key: bytes | None, by: str) -> bool:
        """Say whether a content has the mark; one that no longer can be made (another key, none) proves nothing."""
        if mark is None or _is_unrecorded(mark) or (ref.kind == SECRET and mark != ABSENT and key_id(key) != by):
            return True
        if content is None or mark == ABSENT:
            return content is None and mark == ABSENT
        return bool(mark_of(ref, content, key, each=isinstance(mark, Mapping)) == mark)

    def _recorded(self, version: Version) -> Contents:
        cluster = self.place.cluster
        contents: dict[Ref, Content | None] = {}
        missing = []
        kinds = list(version.artefacts["kinds"])
        read = cluster.client.each(
            lambda kind: read_shelf(cluster.client, cluster.namespace, version.at, secret=kind == SECRET), kinds
        )
        objects = {kind: document["objects"] for kind, document in zip(kinds, read)}
        for ref in self.refs:
            if ref.name in objects.get(ref.kind, {}):
                contents[ref] = Content.from_document(objects[ref.kind][ref.name])
            else:
                missing.append(str(ref))
        if missing:
            raise Refused(
                f"{self.name}: {version.text}, recorded {version.taken}, does not hold {', '.join(missing)}, which the "
                "profile names now: what belongs together is not known. Nothing was changed.",
                "Choose a later checkpoint, or take the name out of this component.",
            )
        return contents

    def _saved(self, version: Version, reading: Reading) -> Contents:
        files = version.artefacts["files"]
        backup = read_backup(self.name, version.at, list(files), self.refs, self.namespace)
        unkeyed = any(_is_unrecorded(mark) for mark in version.identity.values())
        if unkeyed and backup.files != files:
            raise Refused(
                f"{self.name}: {', '.join(files)} in {version.at} was written to since it was chosen. Nothing was "
                "changed.",
                "Start a new run.",
            )
        return self._complete(backup, reading)

    def _complete(self, backup: ConfigBackup, reading: Reading) -> Contents:
        """Return a backup's contents; what it does not hold stays as it is."""
        contents: dict[Ref, Content | None] = {}
        for ref in self.refs:
            present = reading.found[ref].content
            content = backup.contents.get(ref)
            contents[ref] = present if content is None else with_type(content, present, ref.kind)
        return contents

    def _doubts(self, target: Version, changes: list[Change]) -> Iterator[str]:
        """Yield why a named backup may be the wrong one; the operator may say that it is right."""
        yield from target.artefacts.get("doubts", ())
        if not target.artefacts["recorded"]:
            yield from vanishing(changes)

    def _unnamed_copies(self, reading: Reading, changes: list[Change]) -> Iterator[str]:
        unnamed = reading.key is None and any(change.needed and change.ref.kind == SECRET for change in changes)
        if self.mode == _VERSIONED and unnamed:
            yield "Secrets can be copied only once a checkpoint was taken here. Use `mode: in_place` this time."

    def _also(self, version: Version) -> list[str]:
        """Return what was recorded of this component but is no longer named in the profile."""
        return sorted(set(version.identity) - {str(ref) for ref in self.refs})

    def _more_notes(self, target: Version) -> Iterator[str]:
        for name in target.artefacts.get("also", ()):
            yield f"{name} was recorded too, but the profile does not name it now: it is left as it is."
        for name in target.artefacts.get("left", ()):
            yield f"{name} is not in the backup and stays as it is."

    @contextlib.contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (StepFailed, LeaseHeld):
            raise
        except (OSError, RollbackError) as error:
            reason = error.message if isinstance(error, RollbackError) else f"{error.strerror or 'failed'}."
            raise StepFailed(
                f"{self.name} was not {what}: {reason} Each object is whole, as it was or as it should be.",
                getattr(error, "next_step", "") or "Repair the cause, then resume this run; it reads the state first.",
            ) from error


def _is_unrecorded(mark: Any) -> bool:
    return isinstance(mark, str) and mark.startswith(UNRECORDED)


def _age(modified: float) -> str:
    """Return how old a backup is, and when it was written."""
    minutes = max(0, int((time.time() - modified) / 60))
    days, hours = minutes // 1440, minutes // 60
    age = f"{days} days" if days > 1 else f"{hours} h" if hours else f"{minutes} min"
    return f"{age} old, written {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(modified))}"
