# SPDX-License-Identifier: GPL-3.0-or-later
"""Two databases of one service were put back, each from its own backup: seen by HTTP, sqlite3 and digests."""

from __future__ import annotations

from lab.sample.proof import Drill

DATABASES = {"orders", "invoices"}


def test_both_were_really_broken(drill: Drill) -> None:
    assert drill.seen("bad").health == [500, "1.5.0"]
    for name in DATABASES:
        assert not any("customer1@example.org" in row for row in drill.seen("bad").orders[name].values())


def test_users_have_the_good_release_again(drill: Drill) -> None:
    assert drill.now().health == [200, "1.4.0"]


def test_both_are_as_they_were_at_the_checkpoint(drill: Drill) -> None:
    good, now = drill.seen("good"), drill.now()
    assert set(now.orders) == DATABASES
    assert now.orders == good.orders
    assert now.content() == good.content()
    assert [drill.service().revision(number) for number in (0, 1)] == ["0002", "0002"]


def test_both_displaced_databases_are_kept(drill: Drill) -> None:
    kept = drill.kept_databases()
    assert sum(1 for clients in kept.values() if "patient-carl" in clients) >= len(DATABASES)


def test_each_component_has_a_name_of_its_own(drill: Drill) -> None:
    names = [entry["name"] for entry in drill.records()[-2]["services"]["shop"]["plan"]["entries"]]
    assert {"shop-db", "invoices-db"} <= set(names)
    assert len(names) == len(set(names))


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
