# SPDX-License-Identifier: GPL-3.0-or-later
"""The check `prometheus`: the numbers that a PromQL query gives, against limits.

Every series of the answer must keep to them. No answer, no series and no number (NaN) are unverified: of a service that
nobody measures nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from .check_http import BODY_LIMIT, NoAnswer, ask, url_problem
from .check_kube_kinds import name_problem
from .check_model import (
    Context,
    Sample,
    bad,
    difference,
    expect_problem,
    good,
    number,
    shown,
    text_map_problem,
    unverified,
)
from .names import printable

KEYS = frozenset({"url", "headers", "ca_file", "service", "namespace", "port", "query", "expect"})
REQUIRED: tuple[str, ...] = ("query", "expect")
API = "/api/v1/query"


def problems(options: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the options; each a sentence that shows no secret."""
    found = []
    if ("url" in options) == ("service" in options):
        found.append("either `url` or `service` (with `port`) says where Prometheus is")
    if "url" in options:
        found += [f"`{key}` belongs to `service`" for key in ("namespace", "port") if key in options]
        if problem := url_problem(options["url"]) or _base_problem(options["url"]):
            found.append(f"`url` {problem}")
    if "service" in options:
        found += [f"`{key}` belongs to `url`" for key in ("headers", "ca_file") if key in options]
        found += [problem for key in ("service", "namespace") if (problem := name_problem(key, options))]
        if not 1 <= options.get("port", 0) <= 65535:
            found.append("`service` needs `port`, between 1 and 65535")
    if headers := text_map_problem("headers", options.get("headers", {})):
        found.append(headers)
    if not options["query"].strip():
        found.append("`query` is empty")
    wanted = options["expect"]
    if problem := expect_problem(wanted):
        found.append(problem)
    elif "value" in wanted and number(wanted["value"]) is None:
        found.append("`expect`: `value` must be a number")
    return found


def _base_problem(url: str) -> str:
    return "must be Prometheus' own address, without /api and without a query" if "?" in url or API in url else ""


def sample(options: Mapping[str, Any], context: Context, timeout: float) -> Sample:
    """Ask once, within timeout seconds, and compare."""
    del context
    if "service" in options:
        return unverified("a Service is asked from the controller only, where rollback_state.kind is kubernetes")
    target = f"{options['url'].rstrip('/')}{API}?query={quote(options['query'], safe='')}"
    try:
        answer = ask({**options, "url": target}, timeout)
    except NoAnswer as exc:
        return unverified(f"Prometheus: {exc}")
    if answer.status != 200 and b'"errorType"' not in answer.body:
        return unverified(f"Prometheus answered {answer.status}")
    return judge(answer.body, options["expect"])


def judge(body: bytes, expect: Mapping[str, Any]) -> Sample:
    """Compare what Prometheus answered (https://prometheus.io/docs/prometheus/latest/querying/api/) with the limits."""
    if len(body) > BODY_LIMIT:
        return unverified(f"the answer is larger than {BODY_LIMIT // 1024} KiB; narrow the query down")
    try:
        document = json.loads(body)
        if document["status"] != "success":
            return unverified(f"Prometheus: {printable(str(document.get('error') or document.get('errorType')))}")
        series = _series(document["data"])
        warnings = [str(one) for one in document.get("warnings") or []]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return unverified("what answers there is not Prometheus")
    if series is None:
        return unverified(
            "the query gives no numbers of one moment; take a range's rate(), max_over_time() or the like"
        )
    return _compare(series, warnings, {"value": number(expect["value"])} if "value" in expect else expect)


def _series(data: Mapping[str, Any]) -> list[tuple[str, Any]] | None:
    """Return name and value of each series of an instant vector or a scalar."""
    if data["resultType"] == "scalar":
        return [("", data["result"][1])]
    if data["resultType"] != "vector" or any("value" not in one for one in data["result"]):
        return None
    return [(_labels(one["metric"]), one["value"][1]) for one in data["result"]]


def _labels(metric: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key}={shown(value)[1:-1]}" for key, value in metric.items())
    return f" ({listed})" if listed else ""


def _compare(series: list[tuple[str, Any]], warnings: list[str], wanted: Mapping[str, Any]) -> Sample:
    if not series:
        return unverified("the query finds no series")
    unlike = [(name, words) for name, value in series if (words := _difference(value, wanted))]
    if unlike:
        name, words = unlike[0]
        more = f", and {len(unlike) - 1} more of {len(series)} series" if len(unlike) > 1 else ""
        return bad(f"the result {words}{name}{more}")
    unknown = [name for name, value in series if number(value) is None]
    if unknown:
        return unverified(f"the result is no number{unknown[0]}")
    if warnings:
        return unverified(f"Prometheus is not sure of its answer: {printable(warnings[0])}")
    values = [f"{number(value):g}" for _, value in series]
    return good(f"the result is {', '.join(values[:5])}{', ...' if len(values) > 5 else ''}")


def _difference(value: Any, wanted: Mapping[str, Any]) -> str:
    """Return how a value differs from what is wanted; empty for what is no number, of which nothing can be said."""
    found = number(value)
    return difference(found, wanted.get("value", wanted)) if found is not None else ""
