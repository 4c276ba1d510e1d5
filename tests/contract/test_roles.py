# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, level playbooks and drivers agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_registry
from ansible.module_utils.rollbackctl.component import FenceDriver
from ansible.module_utils.rollbackctl.fence import FAILPOINTS
from ansible.module_utils.rollbackctl.phases import _HANDLERS
from ansible.module_utils.rollbackctl.registry import DRIVERS

from tests.contract.project import (
    ROOT,
    component_roles,
    files,
    level_plays,
    load,
    name,
    options,
    plays,
    roles,
    task_files,
    tasks,
)

kube_registry.install()
LINES = ("undoes", "cannot undo", "leaves behind")
LAYERS = ("application", "configuration", "schema", "data")
PLAYBOOKS = {path.name for path in files("playbooks/*.yml") if path.parent.name == "playbooks"}


def test_there_is_something_to_agree() -> None:
    assert len(component_roles()) >= 6
    assert {"rollback-level1.yml", "rollback-level2.yml", "rollback-level3.yml"} <= set(level_plays())


def test_every_role_that_puts_something_back_has_a_driver_and_the_other_way_round() -> None:
    assert component_roles() == sorted(DRIVERS)


@pytest.mark.parametrize("role", roles())
def test_a_role_has_its_files(role: str) -> None:
    folder = ROOT / "roles" / role
    for part in ("README.md", "meta/main.yml", "meta/argument_specs.yml"):
        assert (folder / part).is_file(), part
    found = files(f"roles/{role}/tasks/*.yml")
    assert found != []
    for path in found:
        assert isinstance(load(path), list), name(path)
    meta = load(folder / "meta" / "main.yml")
    assert meta["galaxy_info"]["license"] == "GPL-3.0-or-later"
    assert meta.get("dependencies", []) == []


@pytest.mark.parametrize("role", component_roles())
def test_a_role_is_told_its_components_in_the_variable_of_its_name(role: str) -> None:
    found = options(role, "preflight")
    assert list(found) == [role]
    option = found[role]
    assert (option["type"], option["elements"]) == ("list", "dict")
    assert option["options"]["name"]["required"] is True


def described(option: dict[str, Any], path: str) -> list[str]:
    """What lacks a type or a description, however deep."""
    wrong = [path] if not option.get("type") or not option.get("description") else []
    for key, inner in (option.get("options") or {}).items():
        wrong += described(inner, f"{path}.{key}")
    return wrong


@pytest.mark.parametrize("role", roles())
def test_every_option_has_a_type_and_a_description(role: str) -> None:
    specs = load(ROOT / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    wrong = []
    for entry_point, spec in specs.items():
        assert spec.get("short_description"), entry_point
        for key, option in (spec.get("options") or {}).items():
            wrong += described(option, f"{entry_point}.{key}")
    assert wrong == []


@pytest.mark.parametrize("role", component_roles())
def test_a_secret_s_option_is_not_echoed_by_its_choices(role: str) -> None:
    def secrets(given: dict[str, Any]) -> list[str]:
        wrong = []
        for key, option in given.items():
            secret = option.get("no_log") or re.search(r"password|secret|token$", key)
            if secret and ("choices" in option or "default" in option):
                wrong.append(key)
            wrong += secrets(option.get("options") or {})
        return wrong

    assert secrets(options(role, "preflight")) == []


@pytest.mark.parametrize("role", component_roles())
def test_a_role_alone_runs_its_own_components(role: str) -> None:
    (task,) = load(ROOT / "roles" / role / "tasks" / "main.yml")
    assert task["rollback_phase"] == {"phase": "{{ run_phase }}", "roles": [role]}


@pytest.mark.parametrize("role", component_roles())
def test_a_readme_says_what_the_role_undoes_cannot_undo_and_leaves_behind(role: str) -> None:
    text = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    found = [re.findall(rf"(?im)^[-*]\s+\*\*{line}\*\*\s+\S+", text) for line in LINES]
    assert [len(one) for one in found] == [1, 1, 1]
    assert f"{role}:" in text, "an example"


@pytest.mark.parametrize("role", DRIVERS)
def test_a_driver_names_its_layer_and_its_failpoints(role: str) -> None:
    driver = DRIVERS[role]
    assert driver.layer in LAYERS
    assert driver.default_action in {"change", "follow"}
    assert driver.failpoints != ()
    assert len(set(driver.failpoints)) == len(driver.failpoints)
    assert all(point.startswith(f"{role}.") for point in driver.failpoints)


def test_only_a_driver_that_can_fence_has_the_option() -> None:
    for role, driver in DRIVERS.items():
        has = "fence" in options(role, "preflight")[role]["options"]
        assert has is issubclass(driver, FenceDriver), role


def test_every_failpoint_is_there_and_known() -> None:
    # Calls name their place in full, so that it can be searched for; a driver may put its list together.
    called: set[str] = set()
    for path in files("plugins/module_utils/rollbackctl/*.py"):
        called |= set(re.findall(r'failpoint\(\s*"([^"{]+)"', path.read_text(encoding="utf-8")))
    declared = {point for driver in DRIVERS.values() for point in driver.failpoints} | set(FAILPOINTS)
    assert sorted(called - declared) == [], "called, but no driver lists it: the kill matrix would miss it"
    assert sorted(declared - called) == [], "listed, but never called: the kill matrix would prove nothing there"


# -- playbooks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("playbook", level_plays())
def test_a_level_playbook_names_roles_that_can_be_put_back(playbook: str) -> None:
    chosen = level_plays()[playbook]["vars"]["run_roles"]
    assert [role for role in chosen if role not in component_roles()] == []
    assert len(set(chosen)) == len(chosen)
    assert all(role in options(role, "preflight") for role in chosen)


# Stops a service and gives it back; puts no version of anything back, so it belongs to no level.
APART = {"shutdown_kubernetes"}


def test_one_order_everywhere() -> None:
    order = level_plays()["rollback-level3.yml"]["vars"]["run_roles"]
    for playbook, play in level_plays().items():
        chosen = play["vars"]["run_roles"]
        if set(chosen) <= APART:
            continue
        if play["vars"]["run_kind"] == "undo":
            # Forward again the code comes first, for the schema goes up by its migrations; a restart is always last.
            assert chosen[-1] == order[-1]
            assert chosen.index("rollback_git") < chosen.index("restore_sqlite") < chosen.index("rollback_alembic")
            continue
        assert chosen == [role for role in order if role in chosen], playbook


def test_level_3_holds_every_role_and_lower_levels_no_data() -> None:
    chosen = {playbook: set(play["vars"]["run_roles"]) for playbook, play in level_plays().items()}
    assert chosen["rollback-level3.yml"] == set(component_roles()) - APART
    assert chosen["rollback-level1.yml"] < chosen["rollback-level2.yml"] < chosen["rollback-level3.yml"]
    for level, layers in ((1, {"application"}), (2, {"application", "configuration"})):
        assert {DRIVERS[role].layer for role in chosen[f"rollback-level{level}.yml"]} == layers


@pytest.mark.parametrize("playbook", level_plays())
def test_a_play_is_a_barrier_for_all_services_and_names_none(playbook: str) -> None:
    play = level_plays()[playbook]
    assert (play["strategy"], play["any_errors_fatal"], play["gather_facts"]) == ("linear", True, False)
    assert play["hosts"] == "{{ rollback_services | default('all') }}"
    assert not set(play) & {"ignore_errors", "ignore_unreachable", "max_fail_percentage", "serial"}


@pytest.mark.parametrize("playbook", level_plays())
def test_a_play_ends_with_finish_whatever_happens(playbook: str) -> None:
    (task,) = level_plays()[playbook]["tasks"]
    document = load(ROOT / "playbooks" / task["ansible.builtin.import_tasks"])
    first, last = document[0], document[-1]
    assert first["block"][0]["ansible.builtin.include_role"]["name"] == "run_guard"
    assert last["always"][-1]["ansible.builtin.include_role"]["name"] == "run_finish"
    for block in document:
        assert "block" not in block or block["rescue"] != []


def _sequence(items: list[dict[str, Any]]) -> Iterator[str]:
    """What tasks do, in order: phases and the roles of a run, with what they depend on."""
    for task in items:
        if "ansible.builtin.set_fact" in task:
            continue
        told = task.get("ansible.builtin.include_role")
        view = f" {told['tasks_from']}" if told and "tasks_from" in told else ""
        does = f"{told['name']}{view}" if told else str(task["rollback_phase"]["phase"])
        when = task.get("when", [])
        conditions = when if isinstance(when, list) else [when]
        yield " if ".join([does, *map(str, conditions)]).replace("ansible_facts.rollbackctl_run.", "")


def test_the_phases_of_a_run_are_in_this_order() -> None:
    """Also said in docs/levels-and-phases.md. Before the fence nothing may be kept as what users have written last;
    after the resume the checks of those users are asked; what failed is taken back behind the fence."""
    look, dry, change = load(ROOT / "playbooks/tasks/run.yml")
    checked = "if run_checks | default(run_kind != 'undo')"
    restores = "if on_failure == 'restore' or reversing"
    assert list(_sequence(look["block"])) == ["run_guard", "preflight", "run_plan"]
    assert list(_sequence(look["rescue"])) == ["run_finish"]
    assert list(_sequence([dry])) == ["run_finish if ansible_check_mode"]
    assert change["when"] == "not ansible_check_mode"
    assert list(_sequence(change["block"])) == [
        "stage",
        "fence",
        "capture",
        "rollback",
        "verify",
        f"run_verify inside if not fenced {checked}",
        "resume",
        "run_verify {{ fenced | ternary('all', 'outside') }} " + checked,
    ]
    assert list(_sequence(change["rescue"])) == [
        f"fence if fenced {restores}",
        f"undo {restores} if fenced or not (__run_failure.hold | default(false))",
        "resume",
    ]
    assert list(_sequence(change["always"])) == ["run_finish"]
    assert all(task["rollback_phase"]["after_failure"] for task in change["rescue"] if "rollback_phase" in task)


def test_the_documented_phases_are_those_of_a_run_in_its_order() -> None:
    look, _dry, change = load(ROOT / "playbooks/tasks/run.yml")
    rows = re.findall(r"^\| (\w+) \| .+ \| .+ \|$", _section("## The phases of a run"), re.MULTILINE)[1:]
    done = [does.split(" ")[0].replace("run_", "") for does in _sequence([*look["block"], *change["block"]])]
    done = [does for does, before in zip(done, ["", *done], strict=False) if does != before]
    assert [row for row in rows if row not in {"undo", "finish"}] == done


def _section(heading: str) -> str:
    text = (ROOT / "docs/levels-and-phases.md").read_text(encoding="utf-8")
    return text.split(f"{heading}\n")[1].split("\n## ")[0]


def test_a_panic_waits_for_nobody_and_has_the_order_of_a_level() -> None:
    play, table = load(ROOT / "playbooks" / "panic.yml")
    assert (play["strategy"], play["hosts"], play["gather_facts"]) == ("linear", "all", False)
    assert not set(play) & {"any_errors_fatal", "ignore_errors", "ignore_unreachable", "serial"}
    assert [next(key for key in task if key != "name") for task in play["tasks"]] == ["rollback_panic"]
    order = level_plays()["rollback-level3.yml"]["vars"]["run_roles"]
    assert play["vars"]["run_roles"] == [
        role for role in order if DRIVERS[role].store_kind == "kubernetes" and DRIVERS[role].default_action == "change"
    ]
    assert table["hosts"] == "localhost"


def test_every_phase_that_is_run_is_known() -> None:
    used = set()
    for path in task_files():
        for task in tasks(load(path)):
            if "rollback_phase" in task:
                used.add(task["rollback_phase"]["phase"])
    assert used - set(_HANDLERS) - {"{{ run_phase }}"} == set()
    assert set(_HANDLERS) - used == set()


def test_every_role_that_is_included_exists() -> None:
    for path in task_files():
        for task in tasks(load(path)):
            for key in ("ansible.builtin.include_role", "ansible.builtin.import_role"):
                if key in task and "{{" not in task[key]["name"]:
                    assert task[key]["name"] in roles(), name(path)


def test_every_play_has_a_name_and_a_kind() -> None:
    kinds = {play["vars"]["run_kind"] for _, play in plays() if "run_kind" in play.get("vars", {})}
    assert {"rollback", "undo", "checkpoint", "preflight", "verify", "finalize"} <= kinds
    assert all(play.get("name") for _, play in plays())
    assert set(level_plays()) <= PLAYBOOKS
