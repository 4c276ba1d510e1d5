# SPDX-License-Identifier: GPL-3.0-or-later
"""Level 1 put code and static files back and left data and settings alone: seen by HTTP, sqlite3, git and digests."""

from __future__ import annotations

from testinfra.host import Host

from lab.sample.proof import Drill, is_ahead


def test_it_was_really_broken(drill: Drill) -> None:
    assert drill.seen("good").health == [200, "1.4.0"]
    assert drill.seen("bad").health == [500, "1.5.0"]


def test_users_have_the_good_release_again(drill: Drill) -> None:
    assert drill.now().health == [200, "1.4.0"]
    assert drill.service().get("/orders/1")[1]["email"] == "customer0@example.org"


def test_code_and_static_files_are_the_same_bytes(drill: Drill) -> None:
    assert drill.now().content("shop.db") == drill.seen("good").content("shop.db")


def test_orders_after_the_checkpoint_are_still_there(drill: Drill) -> None:
    assert {"late-anna", "late-ben"} <= drill.now().customers()
    assert drill.now().orders == drill.seen("bad").orders


def test_the_bad_release_is_history_and_was_not_forced_away(drill: Drill, host: Host) -> None:
    shop = drill.service()
    assert is_ahead(shop, drill.seen("bad").commit)
    assert host.check_output("git -C %s show main:VERSION", str(shop.origin)) == "1.4.0"
    assert not host.check_output("git -C %s status --porcelain", str(shop.app))


def test_what_was_displaced_is_kept(drill: Drill) -> None:
    assert drill.kept(b"// new in 1.5.0")


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
