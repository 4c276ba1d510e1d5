# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a template; by a server that answers as one with a webhook does. Real ones: tests/kubernetes."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_admission import Admission, own_text
from ansible.module_utils.rollbackctl.kube_client import KubeError
from ansible.module_utils.rollbackctl.kube_objects import Workload, template_of

from tests.unit.module_utils.kube_recorded import recorded
from tests.unit.module_utils.kube_server import Handler, client_of

API = Workload("deployment", "api", "shop")
Change = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def admitting(change: Change, *, warning: str = "", status: int = 200) -> Iterator[tuple[Admission, list[Any]]]:
    """An API server that changes every template that it is sent, or refuses all."""
    asked: list[Any] = []

    def answer(handler: Handler) -> None:
        (sent,) = json.loads(handler.asked.body)
        asked.append(sent["value"])
        if status != 200:
            handler.refuse(status, "Because")
            return
        made = copy.deepcopy(sent["value"])
        change(made)
        headers = {"Warning": warning} if warning else {}
        handler.reply(200, {"metadata": {}, "spec": {"template": made}}, **headers)

    with client_of(answer) as (client, _server):
        yield Admission(client), asked


def note(value: str) -> Change:
    return lambda template: template["metadata"].setdefault("annotations", {}).update({"mesh": value})


def wanted(**notes: str) -> dict[str, Any]:
    found = template_of(recorded("deployment"))
    found["metadata"]["annotations"] = dict(notes)
    return found


def test_what_is_taken_as_it_is_costs_one_question() -> None:
    with admitting(lambda _template: None) as (admission, asked):
        assert admission.verdict(API, wanted()).silent
        assert admission.verdict(API, wanted()).silent
        assert not admission.is_same(API, wanted(), wanted(other="1"))
        assert len(asked) == 1


def test_what_is_written_whatever_is_sent_is_no_part_of_a_version() -> None:
    with admitting(note("2")) as (admission, asked):
        verdict = admission.verdict(API, wanted(mesh="1", ours="1"))
        assert (verdict.changed, own_text(verdict)) == ((), "template.metadata.annotations.mesh")
        assert asked[1]["metadata"]["annotations"] == {"ours": "1"}, "the question without it"
        assert admission.is_same(API, wanted(mesh="1", ours="1"), wanted(mesh="3", ours="1"))
        assert not admission.is_same(API, wanted(mesh="1", ours="1"), wanted(mesh="3", ours="2"))
        assert not admission.is_same(API, wanted(mesh="1", ours="1"), wanted(ours="1"))
        added = admission.verdict(API, wanted())
        assert own_text(added) == "template.metadata.annotations.mesh"


def test_what_is_corrected_only_when_it_is_sent_is_another_version() -> None:
    def corrected(template: dict[str, Any]) -> None:
        if "mesh" in template["metadata"].get("annotations", {}):
            template["metadata"]["annotations"]["mesh"] = "allowed"

    with admitting(corrected) as (admission, _asked):
        verdict = admission.verdict(API, wanted(mesh="1"))
        assert verdict.changed == ("template.metadata.annotations.mesh",)
        assert not admission.is_same(API, wanted(mesh="1"), wanted(mesh="allowed"))


def test_what_is_taken_away_is_another_version() -> None:
    with admitting(lambda template: template["spec"].pop("terminationGracePeriodSeconds")) as (admission, _asked):
        assert admission.verdict(API, wanted()).changed == ("template.spec.terminationGracePeriodSeconds",)


def test_warnings_are_read() -> None:
    said = '299 - "would violate PodSecurity \\"restricted:latest\\": much"'
    with admitting(lambda _template: None, warning=said) as (admission, _asked):
        verdict = admission.verdict(API, wanted())
        assert verdict.warnings == ('would violate PodSecurity "restricted:latest": much',)
        assert not verdict.silent


def test_what_is_refused_is_no_version_of_anything_and_what_is_not_said_is_not_remembered() -> None:
    with admitting(lambda _template: None, status=403) as (admission, asked):
        assert admission.verdict(API, wanted()).error is not None
        assert not admission.is_same(API, wanted(), wanted(mesh="1"))
        assert len(asked) == 1
    with admitting(lambda _template: None, status=501) as (admission, asked):
        with pytest.raises(KubeError):
            admission.is_same(API, wanted(), wanted(mesh="1"))
        assert admission.verdict(API, wanted()).error is not None
        assert len(asked) == 2
