# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `prometheus` where Prometheus is behind a Service: asked through the API server's own proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import check_prometheus
from .check_kube_select import namespace_of
from .check_model import Context, Sample, unverified
from .errors import RollbackError
from .kube_client import KubeError


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Ask once and compare."""
    if "service" not in options:
        return check_prometheus.sample(options, context, timeout)
    place = f"/api/v1/namespaces/{namespace_of(options, context)}/services/{options['service']}:{options['port']}"
    try:
        body = context.cluster.client.text(f"{place}/proxy{check_prometheus.API}", query=options["query"])
    except RollbackError as exc:
        refused = isinstance(exc, KubeError) and exc.status in {400, 422}
        return unverified(f"{exc.message}{' Is the query written correctly?' if refused else ''}")
    return check_prometheus.judge(body.encode(), options["expect"])
