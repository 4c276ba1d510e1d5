# SPDX-License-Identifier: GPL-3.0-or-later
"""A named backup is one plain file in one directory, whatever somebody writes as its name or puts in its place."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.files_backup import candidates, open_backup

NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "./good.tar",
    "good.tar/",
    "good.tar\x00.gz",
    "good.tar\n",
    "-good.tar",
    "--directory=/",
    "~root",
    "$(id)",
    "`id`",
    "good tar",
    "g*",
    "{{ lookup('pipe', 'id') }}",
    "..%2f..%2fetc%2fpasswd",
    "\\..\\x",
    "n" * 300,
    "good.tar@sha256:",
    "good.tar@sha256:12",
    "good.tar@sha256:" + "g" * 64,
    "@sha256:" + "0" * 64,
]


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / "good.tar").write_bytes(b"good")
    (tmp_path / "outside").write_bytes(b"outside")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_name_is_refused(name: str, backups: Path) -> None:
    with pytest.raises(Refused) as refusal:
        open_backup("app", str(backups), name)
    assert "Nothing was changed" in refusal.value.message
    assert not any(ord(character) < 32 for character in refusal.value.message)


def test_a_missing_backup_is_refused_with_the_ones_there_are(backups: Path) -> None:
    (backups / "good.tar.sha256").write_text("")
    os.utime(backups / "good.tar", (1, 1))
    (backups / "newer.tar").write_bytes(b"newer")
    with pytest.raises(Refused, match=r"Known: newer\.tar, good\.tar\. Nothing"):
        open_backup("app", str(backups), "bad.tar")
    assert candidates(str(backups / "nowhere")) == []


def test_without_a_directory_the_refusal_says_what_to_add() -> None:
    with pytest.raises(Refused) as refusal:
        open_backup("app", "", "good.tar")
    assert "backups:" in refusal.value.next_step


def test_links_pipes_sockets_and_folders_are_refused(backups: Path) -> None:
    (backups / "link").symlink_to("good.tar")
    os.mkfifo(backups / "pipe")
    (backups / "folder").mkdir()
    os.link(backups / "good.tar", backups / "hard")
    for name, words in {"link": "cannot be opened", "pipe": "no", "folder": "no", "hard": "2 names"}.items():
        with pytest.raises(Refused, match=words):
            open_backup("app", str(backups), name)


def test_a_backup_that_everybody_can_write_is_refused(backups: Path) -> None:
    (backups / "good.tar").chmod(0o666)
    with pytest.raises(Refused, match="written by everybody"):
        open_backup("app", str(backups), "good.tar")


def test_a_checksum_beside_it_or_in_the_name_proves_it(backups: Path) -> None:
    with open_backup("app", str(backups), "good.tar").file:
        pass
    assert not open_backup("app", str(backups), "good.tar").proven
    digest = hashlib.sha256(b"good").hexdigest()
    assert open_backup("app", str(backups), f"good.tar@sha256:{digest}").proven
    line = subprocess.run(["sha256sum", "good.tar"], cwd=backups, check=True, capture_output=True).stdout
    (backups / "good.tar.sha256").write_bytes(line)
    backup = open_backup("app", str(backups), "good.tar")
    assert backup.proven
    assert backup.file.read() == b"good"
    assert backup.sha256 == digest


def test_a_wrong_or_unreadable_checksum_is_refused(backups: Path) -> None:
    with pytest.raises(Refused, match="damaged or another one"):
        open_backup("app", str(backups), "good.tar@sha256:" + "0" * 64)
    (backups / "good.tar.sha256").write_text("0" * 64 + "  good.tar\n")
    with pytest.raises(Refused, match="damaged or another one"):
        open_backup("app", str(backups), "good.tar")
    (backups / "good.tar.sha256").write_text(hashlib.sha256(b"good").hexdigest() + "  other.tar\n")
    with pytest.raises(Refused, match="holds no sha256"):
        open_backup("app", str(backups), "good.tar")


def test_a_backup_swapped_all_the_time_is_read_as_one_of_the_two_and_never_as_proven_wrongly(backups: Path) -> None:
    """The digest is of the descriptor that is read: whichever file was caught, digest and content belong together."""
    digest = hashlib.sha256(b"good").hexdigest()
    (backups / "other").write_bytes(b"evil")
    (backups / "link").symlink_to("/etc/passwd")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("other", "link"):
                (backups / name).rename(backups / "turn")
                (backups / "good.tar").rename(backups / name)
                (backups / "turn").rename(backups / "good.tar")

    attacker = threading.Thread(target=swap)
    attacker.start()
    contents = set()
    refused = 0
    try:
        for _ in range(2000):
            try:
                with open_backup("app", str(backups), f"good.tar@sha256:{digest}").file as file:
                    contents.add(file.read())
            except Refused:
                refused += 1
    finally:
        stop.set()
        attacker.join()
    assert contents <= {b"good"}
    assert refused > 0
