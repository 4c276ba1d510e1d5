# SPDX-License-Identifier: GPL-3.0-or-later
"""What a component is, and what a role must know about one: the Driver.

A driver is one technology's knowledge (git, SQLite, a directory). It reads, proves, records and applies *versions*; the
engine decides when. `record` makes a version out of what is live: a checkpoint when the service is healthy, the safety
copy when it is broken. `apply` brings a version back: a rollback, and the undo of one. The smallest complete driver is
in docs/writing-a-role.md.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from .errors import Refused
from .names import name_a_version

# How a component reads against the plan.
LIVE, TARGET, BETWEEN, OTHER = "live", "target", "between", "other"


@dataclasses.dataclass(frozen=True)
class Version:
    """A state that a component can be in, with everything needed to bring it back.

    identity: JSON values; two versions with equal identity are the same. No secret, no digest of a short secret.
    text: one line for people, e.g. "commit 4f2a91c (release 1.4)". No secret.
    taken: when it was recorded (UTC); empty for a version that was only named.
    artefacts: what the driver needs to recreate it: file names below `at`, sizes (bytes), digests, row counts.
    at: absolute directory of the artefacts; empty when there are none.
    """

    identity: Mapping[str, Any]
    text: str
    taken: str = ""
    artefacts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the version as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Version:
        """Return the version that to_dict wrote."""
        return cls(**{field.name: document[field.name] for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Loss:
    """What going to the target throws away.

    since: UTC time of the backup; everything written after it is lost.
    text: one line for people, e.g. "12 rows of orders written since 09:30:15".
    tables: per table, rows only in the live database, rows only in the target, rows that differ.
    """

    since: str
    text: str
    tables: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What `check` found out about going to a target.

    problems: each a sentence saying why it cannot work and what to do; empty when it can.
    loss: what would be lost; None when nothing would.
    seconds: expected duration of stage + apply; worst_seconds: the sum of deadlines.
    needs_fence: writers must be kept away while this is applied.
    notes: what the operator should know before going on.
    facts: JSON values that the plan keeps (e.g. the alembic driver's "reversible").
    """

    problems: tuple[str, ...] = ()
    loss: Loss | None = None
    seconds: float = 1.0
    worst_seconds: float = 60.0
    needs_fence: bool = False
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One component's line of the plan.

    action: "change"; "none" (already at the target); "follow" (a restart, needed only when something else changes);
        "by:<component>" (another component's change brings this one along, e.g. a restored database its revision).
    """

    name: str
    role: str
    layer: str
    live: Version
    target: Version
    action: str
    finding: Finding

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Entry:
        """Return the entry that to_dict wrote."""
        finding = dict(document["finding"])
        if finding["loss"] is not None:
            finding["loss"] = Loss(**finding["loss"])
        finding["problems"], finding["notes"] = tuple(finding["problems"]), tuple(finding["notes"])
        return cls(
            name=document["name"],
            role=document["role"],
            layer=document["layer"],
            live=Version.from_dict(document["live"]),
            target=Version.from_dict(document["target"]),
            action=document["action"],
            finding=Finding(**finding),
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and for what a driver works.

    run: the run's id (lowercase, digits, dashes), to name what is kept.
    work: private directory (0700) on the target for this run and component; survives the run until finalize.
        None in preflight and in check mode: nothing may be written then.
    reason: the operator's words, for commit messages; one line, already checked.
    cluster: where the API server is and proof that the run still holds the lease (kube_store.Cluster), for drivers of
        things in Kubernetes; None in a service whose state is a directory.
    """

    run: str = ""
    work: Path | None = None
    reason: str = ""
    cluster: Any = None


class Driver(ABC):
    """One component of one technology. Subclasses hold no state between calls but the options."""

    layer: ClassVar[str]  # application, configuration, schema or data
    # Identity keys that mean something only while nobody writes (a content digest of a database under traffic).
    exact_keys: ClassVar[tuple[str, ...]] = ()
    # "follow" for what is only restarted because something else changed.
    default_action: ClassVar[str] = "change"
    # Failpoint names, so that the kill matrix finds them all.
    failpoints: ClassVar[tuple[str, ...]] = ()
    # The kind of state store it works with: what is in Kubernetes is done from the controller, all else on the host.
    store_kind: ClassVar[str] = "directory"
    # What others read when they start goes before them in both directions, also when a run is taken back.
    before_others: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Keep the component's options (validated, defaults filled in from the role's argument spec) and its place."""
        self.options = options
        self.place = place
        self.name: str = options["name"]
        # The service's other components of this run, by name: for one that must know what another one brings.
        self.siblings: Mapping[str, Driver] = {}
        # The versions that the service's checkpoints hold of it, newest first, in preflight.
        self.known: tuple[Version, ...] = ()
        # Its line of the plan, in the phases that change something.
        self.entry: Entry | None = None

    # -- reading; none of these changes anything ---------------------------------------------------------------------

    @abstractmethod
    def live(self, *, exact: bool) -> Version:
        """Read what runs now. With exact, include the keys of exact_keys.

        :raises Refused: when it cannot be read (missing, damaged, no permission), saying what was expected.
        """

    @abstractmethod
    def resolve(self, want: Version | str) -> Version:
        """Return the immutable version to go back to: one from a checkpoint (check that it is whole: digests of its
        artefacts), or a name from the operator (a commit, a revision, a backup id) resolved now and never again.

        :raises Refused: unknown, ambiguous or damaged; the message lists the candidates where there are any.
        """

    def inherent(self) -> Version | str | None:
        """Return the target that follows from what the component is (a canary is to be stopped): then no checkpoint is
        asked for one. None, which is the rule, for everything that has versions."""
        return None

    def stable(self) -> Version | str | None:
        """Return the target of a panic that needs no ledger: what follows from the component, or from its profile."""
        return self.inherent()

    def choices(self) -> Sequence[str]:
        """Return the versions that rollback_to could name, newest first, for people who named none; empty where nobody
        keeps a history."""
        return ()

    @abstractmethod
    def check(self, live: Version, target: Version) -> Finding:
        """Prove that going from live to target can work (tools, rights, space, reversibility): all problems at once."""

    def ready(self) -> list[str]:
        """Return what would stand in the way of an incident's run whatever its target is, each a sentence with what to
        do; asked when a checkpoint is taken. Nothing is changed."""
        return []

    def lost_since(self, live: Version, reached: Version, loss: Loss) -> Loss | None:  # noqa: ARG002 - see below
        """Return how much of a loss was written after a run had brought the component to `reached`: what that run
        itself brought back is nobody's loss. All of it, unless a driver can compare."""
        return loss

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Say whether a reading is that version: equal identities, apart from exact_keys unless exact."""
        left_out = () if exact else self.exact_keys
        keys = (set(reading.identity) | set(version.identity)) - set(left_out)
        return all(reading.identity.get(key) == version.identity.get(key) for key in keys)

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        """Read the component against the plan: LIVE, TARGET, BETWEEN (ours, half-way, can go on) or OTHER.

        opened: traffic has returned since the target was reached, so exact_keys no longer count.
        """
        reading = self.live(exact=True)
        if self.matches(reading, entry.target, exact=not opened):
            return TARGET, reading
        if self.matches(reading, entry.live, exact=False):
            return LIVE, reading
        return OTHER, reading

    def strangers(self, entry: Entry) -> str:  # noqa: ARG002 - for those that can tell
        """Return who wrote what reads otherwise than the target: a sentence that begins with a space, empty where the
        component does not tell."""
        return ""

    # -- changing ----------------------------------------------------------------------------------------------------

    def stage(self, target: Version) -> None:  # noqa: B027 - taking part in staging is a role's choice
        """Do what is slow and harmless while traffic still flows (copy aside, prove); idempotent, into place.work."""

    @abstractmethod
    def record(self, into: Any) -> Version:
        """Make a version of what is live now, with copies of all that is needed to bring it back, durable in `into`
        (an existing private directory, or for what is in Kubernetes a kube_store.Shelf; `at` of the result). The
        service is not changed."""

    @abstractmethod
    def apply(self, target: Version) -> None:
        """Bring the component to target. Idempotent; at every instant wholly old or wholly new, also after SIGKILL or
        power loss; keeps what it displaces. Does not decide whether it worked: the engine reads back.

        :raises StepFailed: when it did not work; say what state things are in.
        """

    def lost(self, entry: Entry, kept: Version) -> Loss | None:  # noqa: ARG002 - what only some can count
        """Count what reaching the target threw away, against what was kept while nobody wrote: the plan's statement,
        made before, is about fewer writes. Called when the component reads as the target; None when nothing was lost.

        :raises StepFailed: something else was lost than the plan says, so the target was not reached as planned.
        """
        return None

    def finalize(self) -> list[str]:
        """Remove what this run kept outside place.work, now that nobody needs the way back; return what was removed."""
        return []


class FenceDriver(Driver):
    """A component that can keep traffic or writers away while data is changed."""

    # Whether what `open` opens has reached its targets: the engine says so. If not, it is as it was before the run.
    reached: bool = True

    @abstractmethod
    def closed(self) -> bool:
        """Read whether the fence is closed."""

    @abstractmethod
    def close(self) -> None:
        """Close it and read that back; idempotent."""

    @abstractmethod
    def open(self) -> None:
        """Open it and read that back; idempotent."""


def is_fence(driver: Driver) -> bool:
    """Say whether a component is closed while data is changed; one that could be need not be."""
    return isinstance(driver, FenceDriver) and bool(driver.options.get("fence"))


def unknown_target(name: str, want: str, candidates: list[str], kind: str, example: str = "") -> Refused:
    """Return the refusal for a target that does not exist: what was wanted, what there is, and one of it to type.

    example: the candidate that is most likely meant; the first one without it.
    """
    listed = ", ".join(candidates[:20]) if candidates else "none were found"
    # A candidate may have a remark after its name: "4f2a91c (release 1.4)".
    typed = example or (candidates[0].partition(" ")[0] if candidates else "VERSION")
    return Refused(
        f"{name}: {kind} {want!r} does not exist. Known: {listed}. Nothing was changed.",
        f"Name one of them: {name_a_version(name, typed)}",
    )
