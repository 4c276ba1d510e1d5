# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with how a run was asked for: refused before any host is touched."""

from __future__ import annotations

import pytest
import yaml

from lab.sample.profile import profile
from tests.support.bench import Bench, refused, tree, unchanged

LEVEL3 = "rollback-level3.yml"


def test_all_problems_of_a_request_are_said_at_once(bench: Bench) -> None:
    """A near miss of a name, an unknown name, no reason, a time and a hash that are none, an unknown component."""
    store = tree(bench.sample.state)
    ran = bench.play(
        LEVEL3,
        rollback_chekpoint="cp-1",
        rollback_mode="fast",
        rollback_accept_data_loss_since="yesterday",
        rollback_plan="the newest",
        rollback_components=["shop-web", "shop-dbs"],
        rollback_on_failure="shrug",
    )
    refused(
        bench,
        ran,
        "rollback_chekpoint is not a variable of rollbackctl; did you mean rollback_checkpoint?",
        "rollback_mode is not a variable of rollbackctl",
        "rollback_reason is empty; say in a few words why",
        "write it as 2026-11-21T09:30:15Z",
        "is not a plan's hash (12 or more hexadecimal digits)",
        "there is no component 'shop-dbs' in this playbook's layers; components: shop-code, shop-db,",
        "rollback_on_failure must be one of: restore, hold",
    )
    assert tree(bench.sample.state) == store, "the guard refuses before the host is asked"


@pytest.mark.parametrize("name", ["run_level", "run_kind", "run_roles"])
def test_what_belongs_to_the_playbooks_cannot_be_passed_in(bench: Bench, name: str) -> None:
    ran = bench.play(LEVEL3, rollback_reason="x", **{name: "1"})
    refused(bench, ran, f"{name} belongs to the playbooks; it cannot be passed in")


def test_no_limit_is_no_service(bench: Bench) -> None:
    """The inventory holds one service only, and still it must be named."""
    ran = bench.play(LEVEL3, limit="", rollback_reason="x")
    refused(bench, ran, "use --limit SERVICE or -e rollback_services=SERVICE; nothing is the default")


def test_an_empty_group_is_no_service(bench: Bench) -> None:
    inventory = yaml.safe_load(bench.hosts.read_text(encoding="utf-8"))
    inventory["all"]["children"] = {"billing": {"hosts": {}}}
    hosts = bench.hosts.with_name("empty.yml")
    hosts.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    ran = bench.play(LEVEL3, hosts=hosts, limit="", rollback_reason="x", rollback_services=["billing"])
    refused(bench, ran, "billing is a group without a host: no service was named", "--limit SERVICE")


def test_the_services_of_a_group_may_be_named_by_it(bench: Bench) -> None:
    inventory = yaml.safe_load(bench.hosts.read_text(encoding="utf-8"))
    inventory["all"]["children"] = {"billing": {"hosts": {"shop": {}}}}
    hosts = bench.hosts.with_name("group.yml")
    hosts.write_text(yaml.safe_dump(inventory), encoding="utf-8")
    ran = bench.play("preflight.yml", hosts=hosts, limit="", rollback_level=3, rollback_services=["billing"])
    assert "not in the inventory" not in ran.output
    assert list(ran.record["services"]) == ["shop"], ran.output
    unchanged(bench)


def test_a_limit_that_names_no_host(bench: Bench) -> None:
    """Ansible itself ends here, before the first event: there is no run, and so no record of one."""
    ran = bench.play(LEVEL3, limit="shopp", rollback_reason="x")
    assert ran.code != 0
    assert ran.record == {}
    assert "--limit" in ran.output
    unchanged(bench)


def test_no_task_may_be_left_out(bench: Bench) -> None:
    """Whoever starts behind the guard has no run, and a phase without one does nothing."""
    ran = bench.play(
        LEVEL3, "--start-at-task", "Stage | Prepare what is slow, while traffic still flows", rollback_reason="x"
    )
    refused(bench, ran, "Start the playbook from its beginning")


def test_a_tag_that_matches_nothing_is_not_a_success(bench: Bench) -> None:
    ran = bench.play(LEVEL3, "--tags", "code", rollback_reason="x")
    refused(bench, ran, "none matched")


def test_production_needs_its_name_once_more(bench: Bench) -> None:
    service = {**profile(bench.sample)["rollback_service"], "environment": "production"}
    hosts = bench.profile("production", rollback_service=service)
    without = bench.play(LEVEL3, hosts=hosts, rollback_reason="x")
    refused(bench, without, "this is production: pass rollback_confirm=shop")
    wrong = bench.play(LEVEL3, hosts=hosts, rollback_reason="x", rollback_confirm="shop-2")
    refused(bench, wrong, "this is production: pass rollback_confirm=shop")
