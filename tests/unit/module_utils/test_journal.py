# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: whatever a crash leaves of the file, its events are a true prefix, and it goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import JournalDamaged
from ansible.module_utils.rollbackctl.journal import PREALLOCATED_BYTES, FileJournal

WORDS = ["planned", "captured", "begin", "applied"]


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    made = FileJournal(tmp_path / "journal.jsonl")
    made.create()
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB (needs root)."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)], check=True, timeout=60)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def fill(journal: FileJournal) -> bytes:
    """Write the words; return the used part of the file."""
    for number, word in enumerate(WORDS):
        journal.append(word, component="shop-Größe", number=number)
    return journal.path.read_bytes().rstrip(b"\0")


def fill_up(place: Path) -> None:
    """Leave no room on a small file system."""
    with pytest.raises(OSError, match="No space"):
        (place / "filler").write_bytes(b"x" * 4_000_000)
    assert os.statvfs(place).f_bavail == 0


def words(journal: FileJournal) -> list[str]:
    return [event["event"] for event in journal.events()]


def test_events_come_back_in_order_with_their_facts(journal: FileJournal) -> None:
    fill(journal)
    assert words(journal) == WORDS
    assert [event["number"] for event in journal.events()] == [0, 1, 2, 3]
    assert all(event["at"].endswith("Z") for event in journal.events())


def test_a_journal_that_was_never_made_is_empty(tmp_path: Path) -> None:
    assert FileJournal(tmp_path / "none").events() == []


def test_its_space_is_taken_in_advance_and_only_its_owner_reads_it(journal: FileJournal) -> None:
    status = journal.path.stat()
    assert status.st_size == PREALLOCATED_BYTES
    assert status.st_blocks * 512 >= PREALLOCATED_BYTES
    assert status.st_mode & 0o777 == 0o600
    fill(journal)
    assert journal.path.stat().st_size == PREALLOCATED_BYTES


def test_making_it_again_keeps_what_is_there(journal: FileJournal) -> None:
    fill(journal)
    journal.create()
    assert words(journal) == WORDS


def test_cut_at_every_byte_it_is_a_prefix(journal: FileJournal) -> None:
    used = fill(journal)
    seen = set()
    for length in range(len(used) + 1):
        journal.path.write_bytes(used[:length])
        found = words(journal)
        assert found == WORDS[: len(found)]
        seen.add(len(found))
    assert seen == {0, 1, 2, 3, 4}


def test_zeros_from_every_byte_on_it_is_a_prefix(journal: FileJournal) -> None:
    used = fill(journal)
    for length in range(len(used) + 1):
        journal.path.write_bytes(used[:length].ljust(len(used) + 512, b"\0"))
        found = words(journal)
        assert found == WORDS[: len(found)]


def test_any_byte_changed_is_found(journal: FileJournal) -> None:
    """In the last line it may be what a crash left; before that nothing is read, and nothing written over it."""
    used = fill(journal)
    last = used[:-1].rindex(b"\n")  # changed, this newline makes one of the last two lines
    for place in range(0, len(used), 3):
        changed = used[:place] + bytes([used[place] ^ 1]) + used[place + 1 :]
        journal.path.write_bytes(changed.ljust(PREALLOCATED_BYTES, b"\0"))
        if place >= last:
            assert words(journal) == WORDS[: len(words(journal))]
            continue
        line = used[:place].count(b"\n") + 1
        for do in (journal.events, lambda: journal.append("resumed")):
            with pytest.raises(JournalDamaged, match=f"{journal.path}, line {line},") as refusal:
                do()
        assert "mv " in refusal.value.next_step
        assert journal.path.read_bytes().rstrip(b"\0") == changed
        known, damage = journal.readable()
        assert damage is not None
        assert [event["event"] for event in known][-1] == WORDS[-1]


@pytest.mark.parametrize("zeros", [0, 4096])
def test_it_goes_on_after_a_cut_at_every_byte(journal: FileJournal, zeros: int) -> None:
    used = fill(journal)
    for length in range(len(used) + 1):
        journal.path.write_bytes(used[:length] + b"\0" * zeros)
        before = words(journal)
        journal.append("resumed")
        assert words(journal) == [*before, "resumed"], f"cut at byte {length}"
        journal.append("finished")
        assert words(journal) == [*before, "resumed", "finished"], f"cut at byte {length}"


def test_it_grows_past_its_reserve(journal: FileJournal) -> None:
    for _ in range(3):
        journal.append("recorded", version={"artefacts": "x" * 100_000})
    assert words(journal) == ["recorded"] * 3


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        FileJournal(tmp_path / "journal.jsonl").append("begin")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"


def test_on_a_full_disk_it_cannot_be_made_and_says_so_each_time(small_disk: Path) -> None:
    made = FileJournal(small_disk / "journal.jsonl")
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            made.create()


def test_a_disk_that_fills_up_later_does_not_stop_it(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320k", "none", str(place)], check=True, timeout=60)
    try:
        journal = FileJournal(place / "journal.jsonl")
        journal.create()
        fill_up(place)
        fill(journal)
        assert words(journal) == WORDS
    finally:
        os.sync()
        subprocess.run(["umount", str(place)], check=True, timeout=60)
