# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not a whole backup of this very database is refused, with nothing changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Version
from ansible.module_utils.rollbackctl.errors import Refused, RollbackError, StepFailed

from tests.unit.module_utils.sqlite_parts import (
    beside,
    break_it,
    checkpoint,
    execute,
    make_database,
    make_driver,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_database(tmp_path / "shop.db", orders=300)


@pytest.fixture
def good(path: Path, tmp_path: Path) -> Version:
    return checkpoint(path, tmp_path / "checkpoint")


@pytest.fixture
def file(good: Version) -> Path:
    return Path(good.at, good.artefacts["file"])


def test_300_flipped_bits_are_all_found(path: Path, good: Version, file: Path) -> None:
    """integrity_check alone lets a few of them pass, and quick_check most."""
    whole = file.read_bytes()
    driver = make_driver(path)
    rng = random.Random(20261121)  # noqa: S311 - a seed makes a failure repeatable
    refused = 0
    for _ in range(300):
        bit = rng.randrange(len(whole) * 8)
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(content)
        with pytest.raises(Refused, match="checksum"):
            driver.resolve(good)
        refused += 1
    assert refused == 300
    file.write_bytes(whole)
    assert driver.resolve(good) == good


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4095, 4096, 8192, -4096, -1])
def test_a_backup_that_is_cut_off_is_refused(path: Path, good: Version, file: Path, size: int) -> None:
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    with pytest.raises(Refused, match=r"is not the one that was recorded|cut off"):
        make_driver(path).resolve(good)
    file.with_name("manifest.json").unlink()
    with pytest.raises(Refused, match=r"cut off|empty|not a SQLite"):
        make_driver(path, accept_unverified=True).resolve(str(file))


def test_a_manifest_that_was_made_to_fit_is_compared_with_the_rows(path: Path, good: Version, file: Path) -> None:
    execute(file, "DELETE FROM orders WHERE id = 7")
    for companion in ("-wal", "-shm"):
        file.with_name(file.name + companion).unlink(missing_ok=True)
    forged = checkpoint(file, file.parent / "again").artefacts
    artefacts = {**good.artefacts, "sha256": forged["sha256"], "bytes": forged["bytes"]}
    shutil.copy(file.parent / "again" / "shop-db.sqlite", file)
    with pytest.raises(Refused, match=r"orders does not hold what its manifest says: 299 rows, recorded 300"):
        make_driver(path).resolve(Version(good.identity, good.text, good.taken, artefacts, good.at))


def test_a_backup_with_its_manifest_is_taken_by_name(path: Path, good: Version, file: Path) -> None:
    assert make_driver(path).resolve(str(file)) == good


def test_a_file_without_manifest_needs_to_be_accepted(path: Path, good: Version, file: Path, tmp_path: Path) -> None:
    lone = shutil.copy(file, tmp_path / "backup_2026.db")
    with pytest.raises(Refused, match="nothing proves that it is whole") as refusal:
        make_driver(path).resolve(str(lone))
    assert "rollback_accept_unverified_backup=true" in refusal.value.next_step
    version = make_driver(path, accept_unverified=True).resolve(str(lone))
    assert version.identity == good.identity
    assert version.text.startswith("unverified backup of 20")
    break_it(path)
    driver = make_driver(path, tmp_path / "work", accept_unverified=True)
    driver.apply(version)
    assert driver.matches(driver.live(exact=True), good, exact=True)


def test_a_damaged_manifest_is_refused(path: Path, file: Path) -> None:
    manifest = file.with_name("manifest.json")
    document = json.loads(manifest.read_text())
    document["document"]["artefacts"]["bytes"] += 1
    manifest.write_text(json.dumps(document))
    with pytest.raises(RollbackError, match="does not match its own checksum"):
        make_driver(path).resolve(str(file))


@pytest.mark.parametrize("want", ["backup.db", "../x", "", "/nowhere/x.db", "/tmp"])
def test_what_is_no_backup_is_refused(path: Path, want: str) -> None:
    with pytest.raises(Refused, match="Nothing was changed"):
        make_driver(path, accept_unverified=True).resolve(want)


def test_links_pipes_and_open_doors_are_refused(path: Path, good: Version, file: Path, tmp_path: Path) -> None:
    driver = make_driver(path, accept_unverified=True)
    (tmp_path / "link.db").symlink_to(file)
    with pytest.raises(Refused, match="symbolic link"):
        driver.resolve(str(tmp_path / "link.db"))
    os.mkfifo(tmp_path / "pipe.db")
    with pytest.raises(Refused, match="not a regular file"):
        driver.resolve(str(tmp_path / "pipe.db"))
    file.chmod(0o666)
    with pytest.raises(Refused, match="written by everybody"):
        driver.resolve(good)


def test_a_backup_that_somebody_else_owns_is_refused(path: Path, good: Version, file: Path) -> None:
    """Only root can give a file away; whoever else runs this cannot be given one."""
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            os.chown(file, 0, 0)
        return
    os.chown(file, 65534, 65534)
    with pytest.raises(Refused, match="belongs neither"):
        make_driver(path).resolve(good)


def header(file: Path, offset: int, value: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[offset : offset + len(value)] = value
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, bytes(range(100, 116)), "or it is encrypted"),
        (18, b"\x03\x03", "newer file format"),
        (44, b"\x00\x00\x00\x05", "newer file format"),
        (16, b"\x03\x00", "page size"),
    ],
)
def test_formats_that_are_not_known_are_refused(
    path: Path, file: Path, tmp_path: Path, offset: int, value: bytes, message: str
) -> None:
    lone = Path(shutil.copy(file, tmp_path / "lone.db"))
    header(lone, offset, value)
    with pytest.raises(Refused, match=message):
        make_driver(path, accept_unverified=True).resolve(str(lone))


def test_half_of_a_copied_database_is_refused(path: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(path)
    writer.execute("DELETE FROM orders")
    writer.commit()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", tmp_path / f"cp.db{suffix}")
    writer.close()
    with pytest.raises(Refused, match="-wal file beside it"):
        make_driver(path, accept_unverified=True).resolve(str(tmp_path / "cp.db"))


def other_shop(tmp_path: Path) -> Path:
    (tmp_path / "other").mkdir()
    return make_database(tmp_path / "other" / "shop.db")


def test_a_checkpoint_of_another_database_is_refused(path: Path, tmp_path: Path) -> None:
    """Same application, same schema, other tenant."""
    theirs = checkpoint(other_shop(tmp_path), tmp_path / "theirs")
    with pytest.raises(Refused, match=r"of another database.*made from .*other/shop\.db"):
        make_driver(path).resolve(theirs)


def test_a_stranger_without_manifest_is_refused(path: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "wiki.db"
    execute(stranger, "CREATE TABLE pages (id)", "CREATE TABLE links (id)", "CREATE TABLE users (id)")
    with pytest.raises(Refused, match="only 1 of its 3 tables exist here"):
        make_driver(path, accept_unverified=True).resolve(str(stranger))


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"application_id": 77}, "application_id is 0, expected 77"),
        ({"table": "users", "column": "name", "value": "tenant b"}, "marker row .users.name. is not in it"),
        ({"table": "nothing", "column": "name", "value": "x"}, "cannot be looked for"),
    ],
)
def test_the_applications_own_mark_decides(path: Path, good: Version, identity: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        make_driver(path, identity=identity).resolve(good)


def test_a_moved_database_is_known_by_its_mark(path: Path, tmp_path: Path) -> None:
    execute(path, "PRAGMA application_id = 77", "UPDATE users SET name = 'tenant a' WHERE id = 1")
    good = checkpoint(path, tmp_path / "marked")
    moved = path.rename(tmp_path / "moved.db")
    with pytest.raises(Refused, match="of another database"):
        make_driver(moved).resolve(good)
    identity = {"application_id": 77, "table": "users", "column": "name", "value": "tenant a"}
    assert make_driver(moved, identity=identity).resolve(good) == good


def test_a_backup_without_rows_where_there_must_be_some_is_refused(path: Path, tmp_path: Path) -> None:
    execute(path, "DELETE FROM orders")
    empty = checkpoint(path, tmp_path / "empty")
    with pytest.raises(Refused, match="no rows where there must be some: orders"):
        make_driver(path, critical_tables=["users", "orders"]).resolve(empty)
    assert make_driver(path, critical_tables=["users"]).resolve(empty) == empty
    with pytest.raises(Refused, match="must be some: refunds"):
        make_driver(path, critical_tables=["refunds"]).resolve(empty)


def test_a_backup_that_changes_after_the_plan_stays_out(path: Path, good: Version, file: Path, tmp_path: Path) -> None:
    driver = make_driver(path, tmp_path / "work")
    target = driver.resolve(good)
    break_it(path)
    live = driver.live(exact=True)
    header(file, 5000, b"\x00\xff\x00\xff")
    with pytest.raises(StepFailed, match="checksum that was planned"):
        driver.stage(target)
    with pytest.raises(StepFailed, match="checksum that was planned"):
        driver.apply(target)
    assert driver.matches(driver.live(exact=True), live, exact=True)
    assert beside(path) == []
