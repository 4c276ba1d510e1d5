# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a rollout that may have asked for more pods at once than a quota lets in: then it goes on as usual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .kube_await import NoRoom, await_rollout
from .kube_objects import Workload
from .kube_patch import Patch, held
from .kube_quota import Standing, quota_problems, quotas_of
from .kube_way import Objects, WayDriver

_STRATEGY = "strategy"


def await_with_room(driver: WayDriver, items: Objects, left: Callable[[], float]) -> None:
    """Wait as await_rollout does. Workloads that start all pods at once get their own strategy back where a quota is
    full, if it has room for that.

    :param left: how much time there is, in seconds.
    """
    try:
        await_rollout(driver.client, items, left())
    except NoRoom:
        surging = {w: item for w, item in driver.read(list(items)).items() if _STRATEGY in held(item)}
        if not surging or _still_full(driver, surging):
            raise
        given = driver.client.each(lambda workload: _give_back(driver, workload), list(surging))
        await_rollout(driver.client, {**items, **dict(zip(surging, given))}, left())


def _give_back(driver: WayDriver, workload: Workload) -> dict[str, Any]:
    def patch(item: Mapping[str, Any]) -> Patch:
        return Patch(item).give_back() if _STRATEGY in held(item) else Patch(item)

    return driver.change(workload.path, str(workload), patch, lambda _item: True)


def _still_full(driver: WayDriver, items: Objects) -> bool:
    """Say whether the workloads' own strategies would find no room either; what may not be read is tried."""
    quotas = quotas_of(driver.client, driver.namespace)
    if not quotas:
        return False
    standing = Standing(driver.client, driver.namespace, items)
    crowds = [standing.crowd(w, item["spec"]["template"], way="undo", anew=False) for w, item in items.items()]
    return bool(quota_problems(quotas, crowds, standing.leaving(), at_once=False))
