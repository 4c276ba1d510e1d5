# SPDX-License-Identifier: GPL-3.0-or-later
"""A database that has every page of a file is told from one that has not, and is not read row by row then."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl import sqlite, sqlite_content, sqlite_swap
from ansible.module_utils.rollbackctl.component import TARGET
from ansible.module_utils.rollbackctl.sqlite_pages import holds, same_pages

from tests.unit.module_utils.sqlite_parts import (
    beside,
    break_it,
    checkpoint,
    entry_for,
    execute,
    make_database,
    make_driver,
    value,
)


def compared(one: Path, other: Path) -> bool:
    handles = [os.open(path, os.O_RDONLY) for path in (one, other)]
    try:
        return same_pages(*handles)
    finally:
        for handle in handles:
            os.close(handle)


def change(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_any_byte_but_the_counters_of_the_header_matters(tmp_path: Path, page_size: int) -> None:
    one = make_database(tmp_path / "one.db", page_size=page_size, orders=5000)
    two = tmp_path / "two.db"
    content = one.read_bytes()
    left_out = {18, 19, *range(24, 28), *range(40, 44), *range(92, 100)}
    for offset in (*range(100), 100, page_size, len(content) // 2, len(content) - 1):
        two.write_bytes(content)
        change(two, offset)
        assert compared(one, two) == (offset in left_out), offset
    two.write_bytes(content + bytes(page_size))
    assert not compared(one, two)


def test_the_page_that_sqlite_only_locks_does_not_matter(tmp_path: Path) -> None:
    """It begins at 1 GiB; the files have holes, so they are large by their size only."""
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for path in (one, two):
        make_database(path)
        os.truncate(path, (1 << 30) + 3 * 4096)
    change(two, 1 << 30)
    change(two, (1 << 30) + 4095)
    assert compared(one, two)
    change(two, (1 << 30) + 4096)
    assert not compared(one, two)


def test_what_lies_in_the_wal_is_not_overlooked(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    good = checkpoint(path, tmp_path / "checkpoint")
    backup = os.open(Path(good.at, good.artefacts["file"]), os.O_RDONLY)
    assert holds(str(path), backup, 5.0)
    service = sqlite3.connect(path, isolation_level=None)
    service.execute("DELETE FROM orders WHERE id = 7")
    assert path.with_name("shop.db-wal").stat().st_size
    assert not holds(str(path), backup, 5.0)
    service.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert not holds(str(path), backup, 5.0)
    service.close()
    os.close(backup)


def test_nothing_is_copied_or_read_row_by_row_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_database(tmp_path / "shop.db", orders=30000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    entry = entry_for(driver, driver.resolve(good))
    kept = driver.record(tmp_path / "work")
    driver.stage(entry.target)

    def never(*_: object, **__: object) -> str:
        raise AssertionError("read again")

    for module, name in ((sqlite_swap, "damage"), (sqlite, "read_content"), (sqlite_content, "table_digest")):
        monkeypatch.setattr(module, name, never)
    driver.apply(entry.target)
    state, reading = driver.state(entry, opened=False)
    monkeypatch.undo()
    assert (state, reading.identity) == (TARGET, good.identity)
    assert reading == driver.live(exact=True)
    assert beside(path) == [], "what the run kept before is what was displaced"
    loss = driver.lost(entry, kept)
    assert loss is not None
    assert loss.tables["orders"]["only_live"] == 3
    driver.apply(kept)
    assert driver.live(exact=True).identity == kept.identity


def test_what_was_written_after_it_was_kept_is_kept_too(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", orders=30000)
    good = checkpoint(path, tmp_path / "checkpoint")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", method="online")
    entry = entry_for(driver, driver.resolve(good))
    driver.record(tmp_path / "work")
    execute(path, "INSERT INTO users (name) VALUES ('written since')")
    driver.apply(entry.target)
    displaced = path.with_name(f"shop.db.rollbackctl-{driver.place.run}.old")
    assert value(displaced, "SELECT count(*) FROM users WHERE name = 'written since'") == 1
    assert driver.state(entry, opened=False)[0] == TARGET
