# SPDX-License-Identifier: GPL-3.0-or-later
"""Durable writing: the old bytes or the new ones, and damage is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl import durable
from ansible.module_utils.rollbackctl.errors import RollbackError

from tests.unit.module_utils.sqlite_parts import ROOT

KILLED_AT = """
import os, signal, sys
sys.path[:0] = [sys.argv[1]]
from ansible import module_utils
module_utils.__path__.append(sys.argv[1] + "/plugins/module_utils")
from pathlib import Path
from ansible.module_utils.rollbackctl import durable
real = getattr(os, sys.argv[3])
def killing(*given, **named):
    if sys.argv[4] == "after":
        real(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, sys.argv[3], killing)
durable.write_atomic(Path(sys.argv[2]), b"new" * 100_000)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_killed_at_any_call_the_file_is_wholly_old_or_wholly_new(tmp_path: Path, call: str, when: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(ROOT), str(path), call, when],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == (b"new" * 100_000 if (call, when) == ("replace", "after") else b"old")


def test_a_file_that_a_killed_process_left_does_not_stop_the_next_one(tmp_path: Path) -> None:
    # In a container a process id comes back soon.
    (tmp_path / f".file.{os.getpid()}.tmp").write_bytes(b"half")
    durable.write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_nothing_is_left_behind_and_only_the_owner_may_read(tmp_path: Path) -> None:
    durable.write_atomic(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable.write_atomic(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    (tmp_path / "file").symlink_to(tmp_path / "elsewhere")
    durable.write_atomic(tmp_path / "file", b"ours")
    assert (tmp_path / "elsewhere").read_bytes() == b"theirs"
    assert not (tmp_path / "file").is_symlink()


def test_a_document_comes_back_as_it_was(tmp_path: Path) -> None:
    document = {"name": "Größe \u2028", "list": [1, 2.5, None, True], "nested": {"b": 1, "a": ""}}
    durable.write_document(tmp_path / "d.json", document)
    assert durable.read_document(tmp_path / "d.json") == document
    assert durable.read_document(tmp_path / "none.json") is None


def test_every_cut_of_a_document_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    durable.write_document(path, {"id": "cp-1", "state": "proven"})
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # without its last line feed it is whole
        path.write_bytes(whole[:length])
        with pytest.raises(RollbackError, match="damaged"):
            durable.read_document(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{}", b'{"sha256": "", "document": {}}', b'{"sha256": 1}', b"\xff\xfe", b"{" * 5000],
)
def test_what_is_no_document_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(RollbackError, match="damaged"):
        durable.read_document(tmp_path / "d.json")


def test_an_edited_document_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    durable.write_document(path, {"state": "candidate"})
    path.write_text(path.read_text(encoding="utf-8").replace("candidate", "proven"), encoding="utf-8")
    with pytest.raises(RollbackError, match="checksum"):
        durable.read_document(path)


def test_the_digest_knows_values_not_spelling() -> None:
    assert durable.digest({"a": 1, "b": "é"}) == durable.digest({"b": "é", "a": 1})
    assert durable.digest({"a": 1}) != durable.digest({"a": "1"})


def test_now_is_written_as_it_is_read() -> None:
    assert abs((durable.parse_time(durable.now()) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize(
    "text",
    ["2026-11-21T09:30:15Z", "2026-11-21T10:30:15+01:00", "2026-11-21T04:00:15-05:30", "2026-11-21T09:30:15.000000Z"],
)
def test_times_of_all_zones_are_utc(text: str) -> None:
    assert durable.parse_time(text) == datetime(2026, 11, 21, 9, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-21",
        "2026-11-21T09:30:15",
        "21.11.2026 09:30",
        "0001-01-01T00:00:00+14:00",
        "2026-13-01T00:00:00Z",
    ],
)
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        durable.parse_time(text)
