# SPDX-License-Identifier: GPL-3.0-or-later
"""Level 2 put code, static files and settings back and left data alone: seen by HTTP, sqlite3, git and digests."""

from __future__ import annotations

from testinfra.host import Host

from lab.sample.build import API_KEY, BAD_API_KEY
from lab.sample.proof import Drill, is_ahead


def test_it_was_really_broken(drill: Drill) -> None:
    assert drill.seen("good").health == [200, "1.4.0"]
    assert drill.seen("bad").health == [500, "1.5.0"]


def test_users_have_the_good_release_again(drill: Drill) -> None:
    assert drill.now().health == [200, "1.4.0"]


def test_code_static_files_and_settings_are_the_same_bytes(drill: Drill) -> None:
    assert drill.now().content("shop.db") == drill.seen("good").content("shop.db")


def test_settings_are_back_for_their_owner_only(drill: Drill, host: Host) -> None:
    settings = host.file(str(drill.service().env_file))
    assert settings.mode == 0o600
    assert f"SHOP_API_KEY={API_KEY}" in settings.content_string.splitlines()


def test_orders_after_the_checkpoint_are_still_there(drill: Drill) -> None:
    assert {"late-anna", "late-ben", "patient-carl"} <= drill.now().customers()
    assert drill.now().orders == drill.seen("bad").orders


def test_the_bad_release_is_history_and_was_not_forced_away(drill: Drill, host: Host) -> None:
    shop = drill.service()
    assert is_ahead(shop, drill.seen("bad").commit)
    assert host.check_output("git -C %s show main:VERSION", str(shop.origin)) == "1.4.0"


def test_bad_settings_are_kept_for_their_owner_only(drill: Drill) -> None:
    kept = drill.kept(BAD_API_KEY.encode())
    assert kept
    assert {path.stat().st_mode & 0o077 for path in kept} == {0}


def test_no_secret_is_in_a_record(drill: Drill) -> None:
    records = [path.read_text(encoding="utf-8") for path in (drill.root / "records").iterdir()]
    assert records
    assert not [text for text in records if API_KEY in text or BAD_API_KEY in text]


def test_the_second_run_found_all_in_place(drill: Drill) -> None:
    assert drill.outcomes() == ["done", "already"]
    assert drill.now() == drill.seen("after")
