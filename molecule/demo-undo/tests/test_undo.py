# SPDX-License-Identifier: GPL-3.0-or-later
"""A level 3 run was taken back: the service is exactly where it was, seen by HTTP, sqlite3, git and digests."""

from __future__ import annotations

from testinfra.host import Host

from lab.sample.proof import Drill, is_ahead


def test_the_rollback_had_really_worked(drill: Drill) -> None:
    assert drill.outcomes("rollback-level3.yml") == ["done"]
    assert drill.seen("back").health == [200, "1.4.0"]
    assert drill.seen("back").content("shop.db") == drill.seen("good").content("shop.db")


def test_everything_is_as_it_was_before_the_rollback(drill: Drill) -> None:
    bad, now = drill.seen("bad"), drill.now()
    assert now.content() == bad.content()
    assert now.orders == bad.orders
    assert now.health == bad.health == [500, "1.5.0"]
    assert drill.service().revision() == "0003"


def test_the_code_is_the_same_tree_on_top_of_all_history(drill: Drill, host: Host) -> None:
    shop = drill.service()
    assert drill.now().tree == drill.seen("bad").tree
    assert host.check_output("git -C %s rev-parse main^{tree}", str(shop.origin)) == drill.seen("bad").tree
    assert is_ahead(shop, drill.seen("bad").commit)
    assert is_ahead(shop, drill.seen("back").commit)


def test_orders_since_the_rollback_are_kept(drill: Drill) -> None:
    assert "hasty-dora" in drill.kept_clients()


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
