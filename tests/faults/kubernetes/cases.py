# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds after a kill in Kubernetes, whatever was killed: the invariants, the fence's rule, and that going on
converges."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils.rollbackctl.journal import fence_is_closed
from ansible.module_utils.rollbackctl.kube_lease import STEP_NOTE
from ansible.module_utils.rollbackctl.kube_store import WATCHDOG_KEY, KubernetesStore
from ansible.module_utils.rollbackctl.names import new_id
from ansible.module_utils.rollbackctl.status import describe

from tests.faults.harness import Died, Run
from tests.faults.kubernetes import outside
from tests.faults.kubernetes.scenes import Stage
from tests.faults.shop import wait_for
from tests.support.kube_service import GOOD


class Case:
    """One broken service, and what is true of it."""

    def __init__(self, stage: Stage) -> None:
        """Break it, unless it is broken."""
        self.stage, self.scene, self.service = stage, stage.scene, stage.service
        self.store: KubernetesStore = stage.service.store
        self.spoil()

    def spoil(self) -> None:
        """Break the service, as the bad release did."""
        if self.word() == outside.NEW:
            self.stage.spoil()
        assert self.word() == outside.OLD

    def run(self, **how: Any) -> Run:
        """Return a run of this service; see harness.Run."""
        return self.stage.run(**how)

    def parts(self, *, fenced: bool = False) -> dict[str, str]:
        """Return what was read from outside, after checking what must hold at every instant."""
        lent = self.scene.lends if fenced else ()
        stage = self.stage
        parts = outside.judge(outside.read(self.service), stage.old, stage.new, counts=self.scene.counts, lent=lent)
        wrong = [part for part, word in parts.items() if word == outside.NEITHER]
        assert not wrong, f"neither old nor new: {wrong}"
        return parts

    def word(self) -> str:
        return outside.word(self.parts())

    def dies_at(self, failpoint: str, action: str, **how: Any) -> Died | None:
        """Run until the failpoint ends it; nothing when the run came to its end without passing it."""
        run = self.run(failpoint=f"{failpoint}:{action}", **how)
        try:
            ending = run.go()
        except Died as died:
            return died
        assert ending["outcome"] in {"done", "already"}, ending
        self.stage.ended(str(run.run["id"]))
        return None

    def after(self, died: Died) -> dict[str, str]:
        """Check what must hold after a death; return how the parts read."""
        events = self.store.journal(died.run).events()
        parts = self.parts(fenced=fence_is_closed(events))
        begun = {event["component"] for event in events if event["event"] == "begin"}
        applied = {event["component"] for event in events if event["event"] == "applied"}
        if not begun:
            assert set(parts.values()) == {outside.OLD}, (parts, events)
        if applied == {options["name"] for role, options in self.scene.components if role != "stop_kubernetes"}:
            assert set(parts.values()) == {outside.NEW}, (parts, events)
        kept = [event["component"] for event in events if event["event"] == "captured"]
        assert begun <= set(kept), events
        said = {run["run"]: run for run in describe(self.service.state)["runs"]}[died.run]
        if self.store.read_plan(died.run) is not None:
            assert (said["outcome"], said["next"]) == ("interrupted", f"rollbackctl resume {died.run}")
        return parts

    def lose_controller(self, run: str) -> None:
        """Let the lease of a run end: as if its time had passed without a renewal."""
        lease = self.store.lease()
        if lease is not None:
            assert lease.run == run
            self._patch_lease({"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}})

    def _patch_lease(self, patch: dict[str, Any]) -> None:
        base = f"/apis/coordination.k8s.io/v1/namespaces/{self.service.namespace}/leases"
        self.service.admin.merge_patch(f"{base}/{self.store.prefix}", patch)

    def rule_eleven(self, died: Died) -> str:
        """Wait for the watchdog and check what it did; return that in one word."""
        if not fence_is_closed(self.store.journal(died.run).events()):
            return "never closed"
        parts = self.parts(fenced=True)
        data = f"/api/v1/namespaces/{self.service.namespace}/configmaps/{self.store.prefix}-run-{died.run}"
        self.lose_controller(died.run)
        report = json.loads(
            wait_for(lambda: self.service.admin.get(data)["data"].get(WATCHDOG_KEY), "the watchdog", 60.0)
        )
        self.service.admin.merge_patch(data, {"data": {WATCHDOG_KEY: None}})
        word = outside.word(parts)
        assert report["opened"] == (word != outside.NEITHER), (word, report)
        closed = fence_is_closed(self.store.journal(died.run).events())
        assert closed is not report["opened"]
        if closed:
            assert f"resume {died.run}" in report["message"]
            assert not outside.answer(self.service)
            return "kept closed"
        wait_for(lambda: outside.answer(self.service), "the service to answer")
        return f"opened, {word}"

    def go_on(self, run: str, **how: Any) -> str:
        """Resume as another controller; return the outcome after checking that it says the truth."""
        ending = self.run(named=run, **{"controller": f"second-{new_id('c')}", **how}).go()
        assert ending["outcome"] in {"done", "already", "restored"}, ending
        if ending["outcome"] == "restored":
            self.ended_as(outside.OLD)
        else:
            self.ended_as(outside.NEW)
            self.stage.ended(run)
        return str(ending["outcome"])

    def ended_as(self, word: str) -> None:
        """Check that the service is wholly that, and that nothing is left of the run."""
        side = self.stage.new if word == outside.NEW else self.stage.old
        assert self.word() == word
        left = outside.lent(outside.read(self.service), side)
        assert not left, left
        lease = self.service.admin.get(
            f"/apis/coordination.k8s.io/v1/namespaces/{self.service.namespace}/leases/{self.store.prefix}"
        )
        assert lease["metadata"]["annotations"][STEP_NOTE] == ""
        assert self.store.lease() is None
        if word == outside.NEW:
            self.serves()

    def serves(self) -> None:
        """Check what users get from a service that is good."""
        if not self.scene.serves:
            assert not outside.answer(self.service)
            return
        for _ in range(3):
            assert outside.answer(self.service)["version"] == GOOD
        if self.scene.settings:
            assert outside.answer(self.service, "/settings") == dict(self.scene.settings)

    def take_back(self, run: str) -> None:
        """Undo the run: what was kept brings back exactly what was there."""
        ending = self.run(kind="undo", named=run, controller="third").go()
        assert ending["outcome"] == "done", ending
        self.ended_as(outside.OLD)
