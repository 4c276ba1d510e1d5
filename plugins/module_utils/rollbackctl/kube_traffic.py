# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of stop_kubernetes: the fence in front of what runs in Kubernetes.

It has no version to go back to. It is closed while a run changes data, and it ends a run with a service that runs: what
a shutdown had stopped before is given back too once the run has reached its targets.
"""

from __future__ import annotations

from .component import BETWEEN, TARGET, Entry, FenceDriver, Finding, Version, unknown_target
from .failpoints import failpoint
from .kube_hold import FENCE, RUNNING, SHUTDOWN, Thing
from .kube_traffic_base import SLACK_SECONDS, Around, Points, TrafficDriver


class KubeTrafficDriver(TrafficDriver, FenceDriver):
    """Workloads that are at 0, or a Service that selects nothing, while data is changed."""

    default_action = "follow"
    # Whether what is opened has reached its targets. If not, what a shutdown stopped before the run stays stopped.
    reached: bool = True
    points = Points(
        hold=Around(
            lambda: failpoint("stop_kubernetes.hold.before"),
            lambda: failpoint("stop_kubernetes.hold.after"),
        ),
        scale=Around(
            lambda: failpoint("stop_kubernetes.scale.before"),
            lambda: failpoint("stop_kubernetes.scale.after"),
        ),
        give_back=Around(
            lambda: failpoint("stop_kubernetes.give_back.before"),
            lambda: failpoint("stop_kubernetes.give_back.after"),
        ),
        release=Around(
            lambda: failpoint("stop_kubernetes.release.before"),
            lambda: failpoint("stop_kubernetes.release.after"),
        ),
    )
    failpoints = (
        "stop_kubernetes.hold.before",
        "stop_kubernetes.hold.after",
        "stop_kubernetes.scale.before",
        "stop_kubernetes.scale.after",
        "stop_kubernetes.give_back.before",
        "stop_kubernetes.give_back.after",
        "stop_kubernetes.release.before",
        "stop_kubernetes.release.after",
    )

    def resolve(self, want: Version | str) -> Version:
        """Return what runs when the run ends: what runs now, and what a shutdown had stopped.

        :raises Refused: an operator named a version; there is none.
        """
        if isinstance(want, str):
            raise unknown_target(self.name, want, [], "state")
        notes = want.artefacts.get("notes") or {}
        words = {key: RUNNING if notes.get(key) == SHUTDOWN else word for key, word in want.identity.items()}
        text = want.text if words == dict(want.identity) else "running again, as before it was shut down"
        return Version(words, text, artefacts={"before": want.artefacts.get("before") or {}})

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that it can be stopped and given back; name what may work against that."""
        problems, notes = self.findings(fence=True)
        if live.identity != target.identity:
            notes.append("it is shut down now; this run ends with giving that back")
        return Finding(
            problems=tuple(problems),
            seconds=10.0,
            worst_seconds=2 * self.timeout + SLACK_SECONDS,
            notes=tuple(notes),
        )

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:  # noqa: ARG002 - it is not about content
        """Read it against the plan: TARGET is that nothing is kept stopped any more. It is never OTHER: how much of it
        runs is somebody else's matter."""
        things = self.things()
        return (BETWEEN if any(map(self._is_held, things)) else TARGET), self.reading(things)

    def _is_held(self, thing: Thing) -> bool:
        """Say whether it is still to be given back. What this run shut down again, as it was before, is not."""
        note = thing.note
        return note is not None and (note.reason == FENCE or (self.reached and note.run != self.place.run))

    def apply(self, target: Version) -> None:
        """Give back what a shutdown stopped; stop it again where the run is taken back."""
        self.bring(target)

    def closed(self) -> bool:
        """Read whether everything is stopped and has ended."""
        things = self.things()
        return all(thing.stopped for thing in things) and not self.reading(things).artefacts["ending"]

    def close(self) -> None:
        """Stop everything and wait until it has ended.

        :raises StepFailed: something has not ended in time, or somebody sets it going again.
        """
        self.stop(self.things(), FENCE)

    def open(self) -> None:
        """Give everything back exactly and wait until it is ready.

        :raises StepFailed: what was ready before is not ready in time; all of it is given back even then.
        """
        things = self.things_left()
        back = [
            thing
            for thing in things
            if (note := thing.note) and (note.run == self.place.run or (note.reason == SHUTDOWN and self.reached))
        ]
        self.give_back(back, {}, [thing for thing in things if not thing.stopped])
