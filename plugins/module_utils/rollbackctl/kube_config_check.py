# SPDX-License-Identifier: GPL-3.0-or-later
"""What would stop ConfigMaps and Secrets from being put back, or would write the bad content again; and what changes.

Names of keys are said, values never.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .kube_applied import keys_kept_by_apply
from .kube_client import Client, KubeError, Rule
from .kube_config_content import SECRET, SIZE_LIMIT, Content, Ref
from .kube_config_write import Found, operations, why
from .kube_owner import PAUSED, gitops_owner, maker_of
from .kube_preflight import missing_rights

_SHOWN = 12


@dataclass(frozen=True)
class Change:
    """One object on its way to the target. wanted: None when it was not there and is left alone."""

    ref: Ref
    present: Found
    wanted: Content | None = field(repr=False)
    keep_added: bool = False

    @property
    def needed(self) -> bool:
        """Say whether it is to be written."""
        if self.wanted is None:
            return False
        return not (self.wanted.within if self.keep_added else self.wanted.same)(self.present.content)

    @property
    def result(self) -> Content:
        """Return the content that it will have."""
        assert self.wanted is not None  # noqa: S101 - only asked of what is needed
        if self.keep_added and self.present.content is not None:
            return self.wanted.added_to(self.present.content)
        return self.wanted

    def keys(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of the keys that change, are added and go away."""
        old = self.present.content.parts if self.present.content else {}
        new = self.result.parts
        return (
            sorted(key for key in old.keys() & new.keys() if old[key] != new[key]),
            sorted(new.keys() - old.keys()),
            sorted(old.keys() - new.keys()),
        )


def problems_in_place(client: Client, namespace: str, changes: Sequence[Change], gitops: str) -> Iterator[str]:
    """Yield why the objects could not be changed, or not for long."""
    for change in (change for change in changes if change.needed):
        yield from _object_problems(change, gitops)
    named = [_rule("patch", change.ref, namespace) for change in changes if change.needed and change.present.item]
    makes = [_rule("create", change.ref.named(""), namespace) for change in changes if change.needed]
    yield from missing_rights(client, [rule for rule in makes if _is_new(rule, changes)], named)


def copy_problems(client: Client, namespace: str, refs: Iterable[Ref]) -> list[str]:
    """Return why immutable copies could not be made."""
    kinds = {ref.kind: ref for ref in refs}.values()
    return missing_rights(
        client, [_rule(verb, ref.named(""), namespace) for ref in kinds for verb in ("get", "create", "patch")], []
    )


def recording_problems(client: Client, namespace: str, refs: Iterable[Ref]) -> list[str]:
    """Return why what is live now could not be kept, which is done before anything changes."""
    kinds = {ref.kind: ref for ref in refs}.values()
    verbs = ("get", "create", "patch")
    return missing_rights(client, [_rule(verb, ref.named(""), namespace) for ref in kinds for verb in verbs], [])


def refused_by_server(client: Client, namespace: str, changes: Sequence[Change]) -> tuple[list[str], list[str]]:
    """Ask the API server to do it without doing it (dryRun): admission webhooks and policies, quotas, its own rules.

    :return: problems, and notes about what could not be asked.
    """

    def ask(change: Change) -> tuple[str, str]:
        assert change.present.content is not None  # noqa: S101 - chosen so below
        try:
            patch = operations(change.result, change.present.content, change.ref.kind)
            client.json_patch(change.ref.path(namespace), patch, dry_run=True)
        except KubeError as error:
            said = why(change.ref, error)
            if "does not support dry run" in error.message:
                return "", f"{change.ref}: an admission webhook cannot be asked beforehand, so it may still say no."
            return f"{change.ref} would not be taken: {said}", ""
        return "", ""

    asked = [change for change in changes if change.needed and change.present.content is not None]
    answers = client.each(ask, asked) if asked else []
    return [problem for problem, _ in answers if problem], [note for _, note in answers if note]


def notes_on(changes: Sequence[Change]) -> Iterator[str]:
    """Yield what changes, by the names of the keys."""
    for change in changes:
        if change.wanted is None:
            if change.present.content is not None:
                yield f"{change.ref} did not exist in the target; it is left as it is."
            continue
        if not change.needed:
            continue
        if change.present.content is None:
            yield f"{change.ref} is not there and is made again ({_listed(sorted(change.wanted.parts))})."
            continue
        changed, added, removed = change.keys()
        words = [f"changes {_listed(changed)}"] if changed else []
        words += [f"adds {_listed(added)}"] if added else []
        words += [f"removes {_listed(removed)}, which the target does not have (kept with this run)"] if removed else []
        yield f"{change.ref}: {', '.join(words)}."
        if kept := keys_kept_by_apply(str(change.ref), change.present.item, added):
            yield f"{kept}."
        if change.keep_added:
            stay = sorted(change.present.content.parts.keys() - change.wanted.parts.keys())
            if stay:
                yield f"{change.ref}: {_listed(stay)} was added since and stays (keep_added)."


def vanishing(changes: Sequence[Change]) -> Iterator[str]:
    """Yield why a backup may be the wrong one: it holds nothing, or too little."""
    for change in changes:
        if change.wanted is None or not change.needed:
            continue
        if not change.wanted.parts:
            yield f"the backup of {change.ref} holds no key"
            continue
        here = change.present.content.parts if change.present.content else {}
        gone = change.keys()[2]
        if 2 * len(gone) > len(here):
            yield (
                f"{len(gone)} of {len(here)} keys of {change.ref} would disappear ({_listed(gone)}); is it the right "
                "backup?"
            )


def _object_problems(change: Change, gitops: str) -> Iterator[str]:
    item, ref = change.present.item, change.ref
    if change.result.size > SIZE_LIMIT:
        yield f"{ref} would hold {change.result.size} bytes; 1 MiB is what an object may hold."
    if not item or change.present.content is None:
        return
    metadata = item["metadata"]
    if change.present.content.immutable:
        yield f"{ref} is immutable and cannot be changed in place. Set `mode: versioned` on this component."
    if metadata.get("deletionTimestamp"):
        yield f"{ref} is being deleted (its finalizers are waited for)."
    if ref.kind == SECRET and change.result.type != change.present.content.type:
        yield (
            f"{ref} is of type {change.present.content.type}, the target of type {change.result.type}: a Secret's type "
            "cannot be changed in place. Set `mode: versioned` on this component."
        )
    if gitops == PAUSED:
        return
    owner = gitops_owner(item)
    if owner:
        yield (
            f"{ref} is kept by {owner}, which would put the bad content back. Go back in Git, or pause {owner} for it "
            "and set `gitops: paused` on this component."
        )
    if maker := maker_of(item):
        yield (
            f"{ref} is made by {maker}, whose controller would write it again. Go back "
            "there, or pause it and set `gitops: paused` on this component."
        )


def _rule(verb: str, ref: Ref, namespace: str) -> Rule:
    return Rule(verb, f"{ref.kind}s", "", namespace, ref.name)


def _is_new(rule: Rule, changes: Sequence[Change]) -> bool:
    return any(
        change.needed and not change.present.item and rule.resource == f"{change.ref.kind}s" for change in changes
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
