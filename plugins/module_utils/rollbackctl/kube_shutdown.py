# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of shutdown_kubernetes: everything stopped until somebody resumes traffic.

Its target is inherent: stopped. What ran before is its other version, with exact counts, so that taking a shutdown back
is an undo like any other.
"""

from __future__ import annotations

from .component import BETWEEN, LIVE, OTHER, TARGET, Entry, Finding, Version, unknown_target
from .errors import Refused
from .failpoints import failpoint
from .kube_hold import AUTOSCALER, RUNNING, STOPPED
from .kube_traffic_base import SLACK_SECONDS, Around, Points, TrafficDriver, word_of
from .kube_traffic_quiet import shortened


class KubeShutdownDriver(TrafficDriver):
    """Workloads that run or are stopped until further notice."""

    points = Points(
        hold=Around(
            lambda: failpoint("shutdown_kubernetes.hold.before"),
            lambda: failpoint("shutdown_kubernetes.hold.after"),
        ),
        scale=Around(
            lambda: failpoint("shutdown_kubernetes.scale.before"),
            lambda: failpoint("shutdown_kubernetes.scale.after"),
        ),
        give_back=Around(
            lambda: failpoint("shutdown_kubernetes.give_back.before"),
            lambda: failpoint("shutdown_kubernetes.give_back.after"),
        ),
        release=Around(
            lambda: failpoint("shutdown_kubernetes.release.before"),
            lambda: failpoint("shutdown_kubernetes.release.after"),
        ),
    )
    failpoints = (
        "shutdown_kubernetes.hold.before",
        "shutdown_kubernetes.hold.after",
        "shutdown_kubernetes.scale.before",
        "shutdown_kubernetes.scale.after",
        "shutdown_kubernetes.give_back.before",
        "shutdown_kubernetes.give_back.after",
        "shutdown_kubernetes.release.before",
        "shutdown_kubernetes.release.after",
    )

    def inherent(self) -> Version | str | None:
        """Return the one target there is."""
        return STOPPED

    def resolve(self, want: Version | str) -> Version:
        """Return the version that is stopped, or the one that a shutdown recorded.

        :raises Refused: another word, or a version that is none of this role's.
        """
        if isinstance(want, Version):
            if not set(want.identity.values()) <= {RUNNING, STOPPED} or "before" not in want.artefacts:
                raise Refused(f"{self.name}: what was recorded is not a state of running things: {want.text}.")
            return want
        if want != STOPPED:
            raise unknown_target(self.name, want, [STOPPED], "state")
        things = self.things()
        text = shortened([str(thing) for thing in things if thing.kind.word != AUTOSCALER])
        return Version({str(thing): STOPPED for thing in things}, f"stopped: {text}", artefacts={"everything": True})

    def check(self, live: Version, target: Version) -> Finding:  # noqa: ARG002 - the same is needed in both directions
        """Prove that it can be stopped and given back; name what may work against that."""
        problems, notes = self.findings(fence=False)
        worst = 2 * self.timeout + SLACK_SECONDS
        return Finding(problems=tuple(problems), seconds=10.0, worst_seconds=worst, notes=tuple(notes))

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - it is not about content
        """Read it against the plan; half-way is when each thing is as it is in one of the two versions."""
        reading = self.live(exact=True)
        if self.matches(reading, entry.target, exact=True):
            return TARGET, reading
        if self.matches(reading, entry.live, exact=True):
            return LIVE, reading
        versions = (entry.live, entry.target)
        keys = {*reading.identity, *entry.live.identity, *entry.target.identity}
        known = all(word_of(reading, key) in {word_of(version, key) for version in versions} for key in keys)
        return (BETWEEN if known else OTHER), reading

    def apply(self, target: Version) -> None:
        """Stop everything, or give back what ran."""
        self.bring(target)
