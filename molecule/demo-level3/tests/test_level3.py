# SPDX-License-Identifier: GPL-3.0-or-later
"""Level 3 put everything back, the data that a migration had destroyed too: seen by HTTP, sqlite3, git and digests."""

from __future__ import annotations

from testinfra.host import Host

from lab.sample.proof import Drill, is_ahead


def test_it_was_really_broken(drill: Drill) -> None:
    assert drill.seen("good").health == [200, "1.4.0"]
    assert drill.seen("bad").health == [500, "1.5.0"]
    assert not any("customer1@example.org" in row for row in drill.seen("bad").orders["shop"].values())


def test_users_have_the_good_release_and_their_data_again(drill: Drill) -> None:
    assert drill.now().health == [200, "1.4.0"]
    assert drill.service().get("/orders/1")[1]["email"] == "customer0@example.org"


def test_everything_is_as_it_was_at_the_checkpoint(drill: Drill) -> None:
    good, now = drill.seen("good"), drill.now()
    assert now.content() == good.content()
    assert now.orders == good.orders
    assert drill.service().revision() == "0002"


def test_the_bad_release_is_history_and_was_not_forced_away(drill: Drill, host: Host) -> None:
    shop = drill.service()
    assert is_ahead(shop, drill.seen("bad").commit)
    assert host.check_output("git -C %s show main:VERSION", str(shop.origin)) == "1.4.0"
    assert not host.check_output("git -C %s status --porcelain", str(shop.app))


def test_the_displaced_database_is_kept_with_every_order(drill: Drill) -> None:
    assert "patient-carl" in drill.kept_clients()
    assert drill.kept(b"// new in 1.5.0")


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
