# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: live and target of every component, resolved once, with an id, a hash and the statement of what is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .component import Entry, Finding, Version
from .durable import digest, parse_time
from .errors import Refused

FORMAT = 1
COMBINATION_LAYERS = ("application", "configuration", "schema")
UNREAD = Version(identity={}, text="could not be read")


@dataclass(frozen=True)
class Proposal:
    """What a role's preflight found about one component. live and target are None when they could not be read.

    exact_keys, default_action: the driver's. restored_by, strategy: how a schema component relates to a data component.
    already: live is the target. named: the operator named this component's version.
    """

    name: str
    role: str
    layer: str
    live: Version | None
    target: Version | None
    finding: Finding
    default_action: str = "change"
    exact_keys: tuple[str, ...] = ()
    restored_by: str = ""
    strategy: str = "propose"
    already: bool = False
    named: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the proposal as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Proposal:
        """Return the proposal that to_dict wrote."""
        values = dict(document)
        for side in ("live", "target"):
            values[side] = Version.from_dict(values[side]) if values[side] else None
        blank = UNREAD.to_dict()
        values["finding"] = Entry.from_dict({**values, "live": blank, "target": blank, "action": ""}).finding
        values["exact_keys"] = tuple(values["exact_keys"])
        return cls(**values)


@dataclass(frozen=True)
class Plan:
    """What a run will do. hash: over identities, actions and loss, not over times or the run's id.

    data_loss_since: UTC; everything written after it is lost; empty when nothing is.
    seconds, worst_seconds: expected duration; sum of the deadlines.
    undoes: the run that this one takes back; empty for a rollback.
    takes_over: the run that stood behind its closed fence and whose service this run brings out of there; fence_of: the
        run that closed that fence. Empty for others.
    """

    run: str
    kind: str
    level: int
    service: str
    checkpoint: str
    created: str
    entries: tuple[Entry, ...]
    hash: str
    fence: bool = False
    data_loss_since: str = ""
    seconds: float = 0.0
    worst_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    undoes: str = ""
    on_failure: str = "restore"
    takes_over: str = ""
    fence_of: str = ""
    format: int = FORMAT
    combination: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Plan:
        """Return the plan that to_dict wrote.

        :raises Refused: another major version of rollbackctl wrote it.
        """
        if document.get("format") != FORMAT:
            raise Refused(
                f"The plan was written in format {document.get('format')}; this version reads format {FORMAT}.",
                "Resume with the version of rollbackctl that began the run.",
            )
        values = dict(document)
        values["entries"] = tuple(Entry.from_dict(entry) for entry in document["entries"])
        values["notes"] = tuple(document["notes"])
        return cls(**values)

    def entry(self, name: str) -> Entry | None:
        """Return a component's line; None when the plan leaves it alone."""
        return next((entry for entry in self.entries if entry.name == name), None)


@dataclass(frozen=True)
class Request:
    """What the operator asked for, as far as composing the plan needs it."""

    run: str
    kind: str
    level: int
    service: str
    created: str
    checkpoint: str = ""
    undoes: str = ""
    on_failure: str = "restore"
    accepted_loss_since: str = ""
    approved_hash: str = ""
    fences: bool = False
    takes_over: str = ""
    fence_of: str = ""


def compose(
    proposals: Sequence[Proposal], request: Request, quarantine: Sequence[Mapping[str, Any]]
) -> tuple[Plan, list[str]]:
    """Make the plan and list everything that forbids it: with problems the plan may be shown but not carried out."""
    problems: list[str] = []
    entries = tuple(_entry(proposal, proposals, problems) for proposal in proposals)
    changing = [entry for entry in entries if entry.action == "change"]
    if not changing:
        entries = tuple(replace(entry, action="none") if entry.action == "follow" else entry for entry in entries)
    losses = sorted(entry.finding.loss.since for entry in changing if entry.finding.loss)
    needs_fence = [entry.name for entry in changing if entry.finding.needs_fence]
    if needs_fence and not request.fences:
        problems.append(
            f"{', '.join(needs_fence)}: nobody may write while this is put back, and the profile has no fence. "
            "Set `fence: true` on the restart_service component that writes to it."
        )
    plan = Plan(
        run=request.run,
        kind=request.kind,
        level=request.level,
        service=request.service,
        checkpoint=request.checkpoint,
        created=request.created,
        entries=entries,
        hash=_hash(entries, {proposal.name: proposal.exact_keys for proposal in proposals}),
        fence=bool(needs_fence or request.takes_over),
        data_loss_since=losses[0] if losses else "",
        seconds=sum(entry.finding.seconds for entry in changing),
        worst_seconds=sum(entry.finding.worst_seconds for entry in changing),
        notes=tuple(f"{entry.name}: {note}" for entry in entries for note in entry.finding.notes),
        undoes=request.undoes,
        on_failure=request.on_failure,
        takes_over=request.takes_over,
        fence_of=request.fence_of,
        combination=combination(entries, "live"),
    )
    problems += _loss_problems(plan, request.accepted_loss_since)
    if request.kind in ("rollback", "panic"):
        problems += _quarantine_problems(plan, quarantine)
    if request.approved_hash and not plan.hash.startswith(request.approved_hash):
        problems.append(
            f"The plan is no longer the one that was approved ({request.approved_hash}): it is now {plan.hash[:16]}. "
            "The service changed in between. Look at the new plan and approve that one."
        )
    return plan, problems


def way_out(plan: Plan) -> str:
    """Return what to type where a run cannot go on because somebody else changed a component: a run whose plan sees the
    present state. It takes the closed fence over and opens it at its end."""
    if plan.kind == "undo":
        return f"rollbackctl undo {plan.undoes} --reason REASON"
    return f"rollbackctl run {plan.level or 'schema'} {plan.service} --reason REASON"


def combination(entries: Sequence[Entry], side: str) -> dict[str, Any]:
    """Return the (code, configuration, schema) combination on one side ("live" or "target") of the entries."""
    return {
        entry.name: dict(getattr(entry, side).identity)
        for entry in entries
        if entry.layer in COMBINATION_LAYERS
        and entry.action not in ("follow", "keep")
        and getattr(entry, side).identity
    }


def is_quarantined(candidate: Mapping[str, Any], quarantine: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the quarantine entry that forbids a combination: one whose every component is in it, as it was."""
    for entry in quarantine:
        bad = entry["combination"]
        if bad and all(candidate.get(name) == identity for name, identity in bad.items()):
            return entry
    return None


def _entry(proposal: Proposal, proposals: Sequence[Proposal], problems: list[str]) -> Entry:
    """Decide one component's action; what forbids that action is added to problems."""
    action, target, finding = proposal.default_action, proposal.target, proposal.finding
    if proposal.already and action == "change":
        action = "none"
    restorer = next((other for other in proposals if other.name == proposal.restored_by), None)
    if restorer is not None and _restores(proposal, restorer):
        action = f"by:{restorer.name}"
        target = _brought_along(proposal, restorer)
        if proposal.named and target != proposal.target:
            asked = proposal.target.text if proposal.target else "; ".join(finding.problems)
            problems.append(
                f"{proposal.name}: restoring {restorer.name} brings {target.text}, not what was named ({asked}). "
                f"Leave it out of rollback_to, or name a backup of {restorer.name} that holds it"
            )
        finding = replace(finding, problems=(), loss=None, needs_fence=False, notes=_why_not_along(proposal, restorer))
    downgraded = [other for other in proposals if other.restored_by == proposal.name and not _restores(other, proposal)]
    if downgraded and not proposal.already:
        action = "keep"
        lossless = downgraded[0].finding.facts.get("lossless")
        note = f"kept as it is: {downgraded[0].name} takes the schema back{' without losing rows' if lossless else ''}"
        finding = replace(finding, problems=(), loss=None, needs_fence=False, notes=(note,))
    if action in ("change", "follow") or (action == "none" and proposal.layer != "data"):
        named = f"{proposal.name}: "
        problems += [problem if problem.startswith(named) else named + problem for problem in finding.problems]
    return Entry(
        name=proposal.name,
        role=proposal.role,
        layer=proposal.layer,
        live=proposal.live or UNREAD,
        target=target or UNREAD,
        action=action,
        finding=finding,
    )


def _restores(schema: Proposal, data: Proposal) -> bool:
    """Say whether the data restore brings the schema along: exactly one of downgrade and restore runs per database.
    A backup that a person named is restored."""
    if data.named:
        return not data.already
    if schema.already:
        return not data.already
    if schema.strategy != "propose":
        return schema.strategy == "restore"
    lossless = bool(schema.finding.facts.get("reversible")) and bool(schema.finding.facts.get("lossless"))
    return bool(schema.finding.problems) or not lossless


def _why_not_along(schema: Proposal, data: Proposal) -> tuple[str, ...]:
    """Return why the migrations are not the way, in the words of whoever tried them out."""
    loss = schema.finding.loss
    return (f"brought by {data.name}, because {loss.text}",) if loss is not None and not schema.already else ()


def _brought_along(schema: Proposal, data: Proposal) -> Version:
    """Return the revision that the restored database has."""
    revision = data.target.identity.get("revision", "") if data.target else ""
    if schema.target is not None and schema.target.identity.get("revision") == revision:
        return schema.target
    return Version(identity={"revision": revision}, text=f"revision {revision}")


def _hash(entries: Sequence[Entry], exact_keys: Mapping[str, Sequence[str]]) -> str:
    return digest(
        [
            {
                "name": entry.name,
                "action": entry.action,
                "live": {k: v for k, v in entry.live.identity.items() if k not in exact_keys.get(entry.name, ())},
                "target": dict(entry.target.identity),
                "loss": entry.finding.loss.since if entry.finding.loss else "",
            }
            for entry in entries
        ]
    )


def _loss_problems(plan: Plan, accepted: str) -> list[str]:
    if not plan.data_loss_since:
        return []
    text = "; ".join(e.finding.loss.text for e in plan.entries if e.action == "change" and e.finding.loss)
    order = f"pass rollback_accept_data_loss_since={plan.data_loss_since} to go on"
    if not accepted:
        return [f"Data would be lost: {text}. This is a decision: {order}."]
    try:
        enough = parse_time(accepted) <= parse_time(plan.data_loss_since)
    except ValueError:
        return [f"rollback_accept_data_loss_since={accepted!r} is not a time such as 2026-11-21T09:30:15Z; {order}."]
    return [] if enough else [f"More data would be lost than was accepted ({accepted}): {text}; {order}."]


def _quarantine_problems(plan: Plan, quarantine: Sequence[Mapping[str, Any]]) -> list[str]:
    bad = is_quarantined(combination(plan.entries, "target"), quarantine)
    if bad is None:
        return []
    text = (
        f"The target is quarantined as {bad['id']} since {bad['since']} ({bad['reason']}): it was rolled back before. "
    )
    return [text + f"Name another checkpoint, or release it: rollbackctl quarantine release {bad['id']}."]
