# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller refuses before it touches a host."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.controller import (
    ENGINE_VARIABLES,
    component_problems,
    known_names,
    parameter_problems,
    plain,
    raw_problems,
    role_options,
    together,
    unknown_names,
    validate,
)

from tests.unit.module_utils.test_names import HOSTILE

KNOWN = {"rollback_reason", "rollback_services", "rollback_to", "rollback_service", "restore_sqlite", "app_port"}
PLAIN = {"rollback_reason": "it broke"}


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rollback_reson", "did you mean rollback_reason?"),
        ("rollback_servces", "did you mean rollback_services?"),
        ("rollbak_reason", "did you mean rollback_reason?"),
        ("rolback_to", "did you mean rollback_to?"),
        ("Rollback_reason", "did you mean rollback_reason?"),
        ("restore_sqllite", "did you mean restore_sqlite?"),
        ("rollback_force", "is not a variable"),
        ("rollback_\x1b[2J", "\\x1b"),
    ],
)
def test_a_typing_error_is_an_error(name: str, hint: str) -> None:
    (problem,) = unknown_names([name], KNOWN)
    assert hint in problem
    assert "\x1b" not in problem


@pytest.mark.parametrize("name", ["run_as_user", "restore_files_dir", "restart_policy", "clear_cache", "app_version"])
def test_other_peoples_names_pass(name: str) -> None:
    assert unknown_names([name], KNOWN) == []


@pytest.mark.parametrize(
    "name", ["tower_user_name", "awx_job_id", "http_proxy", "app_ports_open", "rollback_reason", "x"]
)
def test_other_people_s_names_pass(name: str) -> None:
    assert unknown_names([name], KNOWN) == []


def test_the_engine_s_own_names_are_no_typing_errors() -> None:
    assert unknown_names(ENGINE_VARIABLES, KNOWN) == []


def test_the_project_knows_its_names(root: Path) -> None:
    known = known_names(str(root / "roles"))
    assert {"rollback_reason", "rollback_service", "rollback_state", "restore_sqlite", "rollback_git"} <= known


# -- raw values -------------------------------------------------------------------------------------------------------


def trusted(_text: object) -> bool:
    return True


@pytest.mark.parametrize(
    "value",
    [
        "{{ lookup('pipe', 'id') }}",
        "x {% for a in b %}",
        "{# x #}",
        {"app": "{{ x }}"},
        {"{{ x }}": "v1"},
        {"a": {"b": [{"c": ("ok", "{{ x }}")}]}},
        ["shop", "{{ x }}"],
        [[["{% x %}"]]],
    ],
)
def test_templates_are_refused_however_deep(value: Any) -> None:
    for name in ("rollback_reason", "rollback_to", "restore_sqlite", "run_x", "clear_redis", "restart_service"):
        (problem,) = raw_problems({name: value}, trusted)
        assert problem.startswith(f"{name} holds template marks")
        assert "lookup" not in problem


@pytest.mark.parametrize("value", ["plain", "", None, 7, True, {"a": "b"}, ["a"], "{ {x} }", "}}", "%}"])
def test_plain_values_pass(value: Any) -> None:
    assert raw_problems({"rollback_reason": value}, trusted) == []


def test_data_that_ansible_would_not_template_passes() -> None:
    assert raw_problems({"rollback_reason": "{{ x }}"}, lambda _text: False) == []


def test_names_of_others_are_theirs() -> None:
    assert raw_problems({"app_title": "{{ x }}"}, trusted) == []


@pytest.mark.parametrize("name", ["run_kind", "run_level", "run_roles", "run_phase", "__run_failure", "ansible_facts"])
@pytest.mark.parametrize("value", ["verify", None, {}])
def test_what_belongs_to_the_playbooks_cannot_be_passed_in(name: str, value: Any) -> None:
    # Extra variables win over set_fact: a failure could be hidden from finish, a run made up.
    assert any(name in problem for problem in raw_problems({name: value}, trusted))


# -- parameters -------------------------------------------------------------------------------------------------------


def test_a_plain_run_has_no_problems() -> None:
    asked = {
        **PLAIN,
        "rollback_checkpoint": "cp-20261121-093015-4f2a",
        "rollback_confirm": "shop",
        "rollback_run": "rb-20261121-093015-4f2a",
        "rollback_plan": "0123456789ab",
        "rollback_release": "q-0123456789ab",
        "rollback_components": ["app", "shop-db"],
        "rollback_to": {"app": "v1.4", "schema": "-2", "db": "shop 2026-11-21 09:30.db"},
        "rollback_accept_data_loss_since": "2026-11-21T09:30:15Z",
    }
    assert parameter_problems(asked, "rollback") == []


@pytest.mark.parametrize(
    "text", [text for text in HOSTILE.values() if text], ids=[name for name in HOSTILE if name != "empty"]
)
@pytest.mark.parametrize(
    "name", ["rollback_checkpoint", "rollback_confirm", "rollback_release", "rollback_run", "rollback_plan"]
)
def test_hostile_ids_are_refused(name: str, text: str) -> None:
    (problem,) = parameter_problems({**PLAIN, name: text}, "rollback")
    assert problem.startswith(f"{name}=")
    assert len(problem) < 300
    assert problem.isprintable()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_component_names_are_refused(text: str) -> None:
    for asked in ({"rollback_components": ["app", text]}, {"rollback_to": {"app": "v1", text: "v1"}}):
        (problem,) = parameter_problems({**PLAIN, **asked}, "rollback")
        assert "is not a component name" in problem
        assert len(problem) < 300
        assert problem.isprintable()


@pytest.mark.parametrize("text", ["*", "~.*", "!shop", "shop:db", "shop[0:9]", "&web", ""])
def test_services_are_names_and_no_patterns(text: str) -> None:
    # They become the play's hosts: a pattern would choose services that nobody named.
    assert parameter_problems({**PLAIN, "rollback_services": ["shop", text]}, "rollback") != []


@pytest.mark.parametrize(
    ("version", "word"),
    [
        ("", "empty"),
        ("a\nb", "control"),
        ("a\x00", "control"),
        ("a\udcff", "control"),
        ("x" * 65536, "long"),
        ("--upload-pack=reboot", "dash"),
        ("-oProxyCommand=reboot", "dash"),
        ("-", "dash"),
        ("-1234", "dash"),
        (7, "is not text"),
        (None, "is not text"),
        (["v1"], "is not text"),
        ({"a": "b"}, "is not text"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_versions_that_cannot_be_used(version: object, word: str) -> None:
    (problem,) = parameter_problems({**PLAIN, "rollback_to": {"app": version}}, "rollback")
    assert word in problem
    assert len(problem) < 300


@pytest.mark.parametrize(
    "version", ["-1", "-2", "-12", "v1.4", "base", "ae10", "release 1.4; nothing runs this", "{{ 7*7 }}"]
)
def test_versions_that_the_roles_judge(version: str) -> None:
    assert parameter_problems({**PLAIN, "rollback_to": {"app": version}}, "rollback") == []


@pytest.mark.parametrize(("kind", "needed"), [("rollback", True), ("undo", True), ("verify", False), ("status", False)])
def test_a_change_needs_a_reason(kind: str, needed: bool) -> None:  # noqa: FBT001 - a table's column
    assert bool(parameter_problems({}, kind)) is needed
    assert parameter_problems({"rollback_reason": " "}, kind) == ["rollback_reason is empty; say in a few words why"]


@pytest.mark.parametrize(
    "text", ["yes", "2026-11-21", "2026-11-21T09:30:15", "0001-01-01T00:00:00+14:00", "now\x1b[2J"]
)
def test_what_is_no_time_accepts_no_loss(text: str) -> None:
    (problem,) = parameter_problems({**PLAIN, "rollback_accept_data_loss_since": text}, "rollback")
    assert "is not a time" in problem
    assert problem.isprintable()


@pytest.mark.parametrize("text", ["0123456789a", "0123456789AB", "0123456789ab ", "g" * 12, "0" * 65])
def test_what_is_no_hash_approves_nothing(text: str) -> None:
    assert len(parameter_problems({**PLAIN, "rollback_plan": text}, "rollback")) == 1


def test_all_problems_are_said_at_once() -> None:
    asked = {"rollback_checkpoint": "..", "rollback_run": "..", "rollback_plan": "..", "rollback_components": [".."]}
    assert len(parameter_problems(asked, "rollback")) == 5


# -- profile ----------------------------------------------------------------------------------------------------------


def test_component_names_are_unique_in_a_service() -> None:
    components = {"restore_sqlite": [{"name": "db"}], "rollback_git": [{"name": "app"}, {"name": "db"}]}
    (problem,) = component_problems([], components)
    assert "rollback_git: the name db is taken by a component of restore_sqlite" in problem


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_names_in_a_profile_are_refused(text: str) -> None:
    (problem,) = component_problems([], {"restore_sqlite": [{"name": text}]})
    assert "is not a component name" in problem
    assert problem.isprintable()


def test_a_component_that_is_not_there_is_refused_with_those_that_are() -> None:
    (problem,) = component_problems(["dbb"], {"restore_sqlite": [{"name": "db"}], "rollback_git": [{"name": "app"}]})
    assert problem == "there is no component 'dbb' in this playbook's layers; components: app, db; did you mean db?"
    assert component_problems(["db"], {"restore_sqlite": [{"name": "db"}]}) == []


def test_a_specification_fills_in_defaults_and_refuses_the_rest(root: Path) -> None:
    options = role_options(str(root / "roles" / "run_guard"), "profile")
    service = {"name": "shop", "environment": "staging"}
    good = {"rollback_service": service, "rollback_state": {"kind": "directory", "path": "/var/lib/shop"}}
    values, problems = validate(options, good)
    assert problems == []
    assert values["rollback_state"]["lease_seconds"] == 60
    _, problems = validate(options, {"rollback_service": {**service, "colour": "red"}})
    assert any("colour" in problem for problem in problems)
    assert any("rollback_state" in problem for problem in problems)


# -- plain values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 11, 21, 9, 30, 15, tzinfo=UTC), "2026-11-21T09:30:15Z"),
        (datetime(2026, 11, 21, 10, 30, 15, tzinfo=timezone(timedelta(hours=1))), "2026-11-21T09:30:15Z"),
        (datetime(2026, 11, 21, 9, 30, 15), "2026-11-21T09:30:15Z"),  # noqa: DTZ001 - YAML makes them without a zone
        (date(2026, 11, 21), "2026-11-21"),
        (Path("/srv"), "/srv"),
    ],
)
def test_times_become_text_in_utc(value: object, text: str) -> None:
    assert plain({"a": [value]}) == {"a": [text]}


def test_json_values_stay_as_they_are() -> None:
    value: dict[str, Any] = {"a": [1, 2.5, None, True, "Größe", {"b": {}}]}
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value))) == value


def test_what_several_components_share_is_said_once() -> None:
    assert together(["shop-db: no checkpoint", "It is late", "shop-env: no checkpoint", "shop-env: no space"]) == [
        "shop-db, shop-env: no checkpoint",
        "It is late",
        "shop-env: no space",
    ]


def test_an_unknown_component_is_answered_with_the_nearest() -> None:
    (problem,) = component_problems(["shop-bd"], {"restore_sqlite": [{"name": "shop-db"}]})
    assert problem.endswith("components: shop-db; did you mean shop-db?")


@pytest.mark.parametrize("plan", ["0" * 12, "shop=" + "a" * 12, f"shop={'a' * 64},pay={'b' * 12}"])
def test_a_plan_is_approved_by_hash_or_by_service(plan: str) -> None:
    assert parameter_problems({**PLAIN, "rollback_plan": plan}, "rollback") == []


@pytest.mark.parametrize("plan", ["0", "shop=", "shop=x,pay=" + "b" * 12, "=" + "a" * 12, "a" * 12 + ","])
def test_what_is_no_approval(plan: str) -> None:
    assert parameter_problems({**PLAIN, "rollback_plan": plan}, "rollback")
