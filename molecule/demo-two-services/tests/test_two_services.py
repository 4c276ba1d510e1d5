# SPDX-License-Identifier: GPL-3.0-or-later
"""One service refused, so neither was changed; once its backup was whole, one run put both back."""

from __future__ import annotations

import pytest

from lab.sample.proof import Drill

SERVICES = ("shop", "till")


@pytest.mark.parametrize("name", SERVICES)
def test_the_first_run_was_refused_for_both(drill: Drill, name: str) -> None:
    assert drill.outcomes("rollback-level3.yml", name) == ["refused"]


@pytest.mark.parametrize("name", SERVICES)
def test_the_refused_run_changed_nothing(drill: Drill, name: str) -> None:
    assert drill.seen("bad", name).health == [500, "1.5.0"]
    assert drill.seen("refused", name) == drill.seen("bad", name)


def test_the_refusal_names_the_service_whose_backup_is_cut_short(drill: Drill) -> None:
    refused = next(one for one in drill.records() if one["outcome"] == "refused" and not one["check_mode"])
    assert any("till-db" in problem for problem in refused["services"]["till"]["problems"])
    assert not refused["services"]["shop"]["problems"]


@pytest.mark.parametrize("name", SERVICES)
def test_one_run_put_both_back(drill: Drill, name: str) -> None:
    assert drill.outcomes("converge.yml", name) == ["done", "already"]
    assert drill.now(name).health == [200, "1.4.0"]
    assert drill.now(name).content() == drill.seen("good", name).content()
    assert drill.now(name).orders == drill.seen("good", name).orders


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_keeps_its_own_displaced_database(drill: Drill, name: str) -> None:
    assert "patient-carl" in drill.kept_clients(name)


@pytest.mark.parametrize("name", SERVICES)
def test_the_second_run_found_all_in_place(drill: Drill, name: str) -> None:
    assert drill.now(name) == drill.seen("after", name)
