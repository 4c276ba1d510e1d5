# SPDX-License-Identifier: GPL-3.0-or-later
"""What users get through a Service: which pods it sends them to, and which version answers.

"Rolled out" is not yet that: right after a rollout's success a Service was seen to answer with the old version once
more, because its endpoints are another controller's work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from .component import Driver
from .errors import DeadlineExceeded, Refused, StepFailed
from .kube_client import Client, KubeError, Rule
from .names import printable

POLL_SECONDS = 0.1
SHOWN = 60
IN_A_ROW = 5
RECORDED_FROM = 10  # answers, when a checkpoint is taken
STEADY_SECONDS = 10.0  # the same wrong answer for so long will not become the right one


def service_rules(namespace: str, service: str, answer: Mapping[str, Any] | None) -> list[Rule]:
    """Return the rights that reading a Service's endpoints needs, and with an answer those for asking it."""
    rules = [Rule("list", "endpointslices", "discovery.k8s.io", namespace)]
    if answer:
        rules.append(Rule("get", "services", "", namespace, proxied(service, answer), "proxy"))
    return rules


def proxied(service: str, answer: Mapping[str, Any]) -> str:
    """Return a Service as its proxy is called: with its port. A right may be given for just this name."""
    port = str(answer.get("port") or "")
    return f"{service}:{port}" if port else service


def endpoint_pods(client: Client, namespace: str, service: str) -> dict[str, bool] | None:
    """Return the pods behind a Service by UID, and whether each gets requests; None when nothing keeps account of such
    a Service: it is not there, or chooses no pods."""
    slices = client.list(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        labelSelector=f"kubernetes.io/service-name={service}",
    )
    if not slices:
        return None
    found: dict[str, bool] = {}
    for item in slices:
        for endpoint in item.get("endpoints") or []:
            uid = (endpoint.get("targetRef") or {}).get("uid")
            ready = (endpoint.get("conditions") or {}).get("ready", True) is not False
            if uid:
                found[uid] = found.get(uid, False) or ready
    return found


def await_endpoints(
    client: Client,
    namespace: str,
    service: str,
    right_ones: Callable[[Collection[str]], Collection[str]],
    seconds: float,
) -> str:
    """Wait until a Service sends requests to pods of the right version, and to none but them.

    :param right_ones: returns which of the pods, given by UID, are of the right version.
    :return: one line for people.
    :raises DeadlineExceeded: the time is up; the pods that are wrong are counted.
    """
    deadline = time.monotonic() + seconds
    while True:
        behind = {uid for uid, ready in (endpoint_pods(client, namespace, service) or {}).items() if ready}
        strangers = behind - set(right_ones(behind)) if behind else set()
        if behind and not strangers:
            return f"service {service} sends requests to {len(behind)} pods, all of that version"
        if time.monotonic() >= deadline:
            said = f"{len(strangers)} of {len(behind)} are of another version" if behind else "it has no ready pod"
            raise DeadlineExceeded(f"Service {service} does not serve the version after {seconds:.0f} s: {said}.")
        time.sleep(POLL_SECONDS)


def ask(client: Client, namespace: str, service: str, answer: Mapping[str, Any]) -> str:
    """Ask a Service once for its version, through the API server, and return what it says.

    :param answer: port, path, and json (a dotted path into the answer) or none for the whole text.
    :raises KubeError: it did not answer, or not as a version is answered.
    """
    path, host = str(answer["path"]).lstrip("/"), quote(proxied(service, answer), safe=":")
    text = client.text(f"/api/v1/namespaces/{namespace}/services/{host}/proxy/{quote(path, safe='/')}")
    if not answer.get("json"):
        return text.strip()
    try:
        value: Any = json.loads(text)
        for key in str(answer["json"]).split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise KubeError(
            f"{service}: the answer has no {answer['json']}: {printable(text[:SHOWN])}", status=200, reason="NoVersion"
        ) from error
    return str(value)


def await_answer(
    client: Client, namespace: str, service: str, answer: Mapping[str, Any], expected: Sequence[str], seconds: float
) -> str:
    """Ask until the expected version was answered several times in a row.

    :param expected: what may be answered; nothing: any version, as long as it is the same each time.
    :return: one line for people.
    :raises StepFailed: it is another version, and stays that.
    :raises DeadlineExceeded: the time is up; the last answer is shown.
    """
    began = changed = time.monotonic()
    wanted, row, last, hoped = int(answer.get("in_a_row") or IN_A_ROW), 0, "", " or ".join(expected)
    while True:
        try:
            said, spoke = ask(client, namespace, service, answer), True
        except KubeError as error:
            said, spoke = error.message, False
        right = spoke and (said in expected if expected else row == 0 or said == last)
        now = time.monotonic()
        changed = changed if spoke and said == last else now
        row, last = (row + 1 if right else 0), said
        if row >= wanted:
            return f"service {service} answered {printable(said[:SHOWN])} {row} times in a row"
        shown = printable(said[:SHOWN] if spoke else said)
        if not right and now - changed >= STEADY_SECONDS:
            raise StepFailed(
                f"Service {service} answers {shown} all the time, not {hoped}, although its pods are made from the "
                "template that was recorded: something that they read has been changed."
            )
        if now - began >= seconds:
            but = f", not {hoped}," if expected else ""
            raise DeadlineExceeded(f"Service {service} answers {shown}{but} after {seconds:.0f} s.")
        if not right:
            time.sleep(POLL_SECONDS)


def recorded_answer(client: Client, driver: Driver, namespace: str) -> str:
    """Return what the component's Service answers now, for a checkpoint; empty when it is not asked.

    :raises Refused: it says nothing, or something else each time: no version could be told by it later.
    """
    service, answer = driver.options.get("service"), driver.options.get("answer")
    if not service or not answer:
        return ""
    times = min(int(answer.get("in_a_row") or IN_A_ROW), RECORDED_FROM)
    try:
        said = {ask(client, namespace, service, answer) for _ in range(times)}
    except KubeError as error:
        raise Refused(f"{driver.name}: service {service} does not say its version: {error.message}") from error
    if len(said) > 1:
        shown = " and ".join(printable(one[:SHOWN]) for one in sorted(said)[:2])
        raise Refused(
            f"{driver.name}: service {service} answers {answer['path']} differently each time ({shown}), which tells "
            "no version. Set `json` to the part of the answer that is the version."
        )
    return said.pop()
