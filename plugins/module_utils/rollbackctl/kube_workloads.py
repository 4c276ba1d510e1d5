# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver of rollback_kubernetes: which of its three ways a component is put back in.

undo, fast, recreate   the pod templates of workloads (kube_templates.py)
blue_green             the selector of a Service (kube_switch.py)
canary_stop            the replica counts of canaries (kube_canary.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .component import Driver, Entry, Finding, Place, Version
from .kube_canary import CanaryDriver
from .kube_switch import SwitchDriver
from .kube_templates import TemplateDriver
from .kube_way import WayDriver

WAYS: Mapping[str, type[WayDriver]] = {
    "undo": TemplateDriver,
    "fast": TemplateDriver,
    "recreate": TemplateDriver,
    "blue_green": SwitchDriver,
    "canary_stop": CanaryDriver,
}


class KubernetesDriver(Driver):
    """Workloads of one namespace, put back in the way that the profile names."""

    layer = "application"
    store_kind = "kubernetes"
    failpoints = (*TemplateDriver.failpoints, *SwitchDriver.failpoints, *CanaryDriver.failpoints)

    def __init__(self, options: Mapping[str, Any], place: Place) -> None:
        """Choose the way by the option `strategy`."""
        self.way = WAYS[str(options.get("strategy") or "undo")](options, place)
        super().__init__(options, place)

    @property
    def place(self) -> Place:
        """Where and for what the driver works; the way works there too."""
        return self.way.place

    @place.setter
    def place(self, place: Place) -> None:
        self.way.place = place

    @property
    def siblings(self) -> Mapping[str, Driver]:
        """The other components of the service, by name."""
        return self.way.siblings

    @siblings.setter
    def siblings(self, siblings: Mapping[str, Driver]) -> None:
        self.way.siblings = siblings

    def live(self, *, exact: bool) -> Version:
        """Read what runs now."""
        return self.way.live(exact=exact)

    def inherent(self) -> Version | str | None:
        """Return the target where it follows from the way."""
        return self.way.inherent()

    def stable(self) -> Version | str | None:
        """Return the target of a panic that needs no ledger."""
        return self.way.stable()

    def choices(self) -> Sequence[str]:
        """Return what the cluster's own history has."""
        return self.way.choices()

    def resolve(self, want: Version | str) -> Version:
        """Turn what was recorded or named into a version that is whole."""
        return self.way.resolve(want)

    def check(self, live: Version, target: Version) -> Finding:
        """Prove that it can work."""
        return self.way.check(live, target)

    def matches(self, reading: Version, version: Version, *, exact: bool) -> bool:
        """Say whether a reading is that version."""
        return self.way.matches(reading, version, exact=exact)

    def state(self, entry: Entry, *, opened: bool) -> tuple[str, Version]:
        """Read the component against the plan."""
        return self.way.state(entry, opened=opened)

    def strangers(self, entry: Entry) -> str:
        """Return who wrote what reads otherwise."""
        return self.way.strangers(entry)

    def record(self, into: Any) -> Version:
        """Record what runs now."""
        return self.way.record(into)

    def apply(self, target: Version) -> None:
        """Bring it to the target and wait until users have it."""
        self.way.apply(target)
