# SPDX-License-Identifier: GPL-3.0-or-later
"""File and port checks: what is there, what is not, what is stale."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import check_file, check_tcp
from ansible.module_utils.rollbackctl.check_model import Context, Sample

CONTENT = b"a" * 1_048_570 + b"currency = EUR" + b"b" * 100  # the text crosses the reader's first megabyte


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "shop.ini"
    path.write_bytes(CONTENT)
    return path


def look(path: Path, **options: Any) -> Sample:
    return check_file.sample({"path": str(path), **options}, Context(), 5)


def test_content(settings: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert look(settings).ok
    assert look(settings, contains="currency = EUR", sha256=digest, max_age_seconds=3600).ok
    assert "lacks the text 'currency = USD'" in look(settings, contains="currency = USD").text
    assert "another content" in look(settings, sha256="0" * 64).text


def test_presence(settings: Path) -> None:
    assert "is missing" in look(settings.with_name("gone")).text
    assert look(settings.with_name("gone"), exists=False).ok
    assert "exists, expected it to be absent" in look(settings, exists=False).text
    unmounted = look(settings.parent / "gone" / "lock", exists=False)
    assert unmounted.unverified
    assert "so is its folder" in unmounted.text


def test_age(settings: Path) -> None:
    hour_ago = time.time() - 3600
    os.utime(settings, (hour_ago, hour_ago))
    assert "was last written 36" in look(settings, max_age_seconds=60).text
    assert look(settings, max_age_seconds=7200).ok
    tomorrow = time.time() + 86400
    os.utime(settings, (tomorrow, tomorrow))
    assert look(settings, max_age_seconds=60).unverified


def test_a_pipe_does_not_hold_the_check_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in look(tmp_path / "pipe", contains="x").text
    assert "not a regular file" in look(tmp_path, sha256="0" * 64).text


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        verdict = check_tcp.sample({"host": "127.0.0.1", "port": port}, Context(), 5)
        assert verdict.ok
        assert verdict.text.startswith(f"127.0.0.1:{port} accepts connections")
    verdict = check_tcp.sample({"host": "127.0.0.1", "port": port}, Context(), 5)
    assert not verdict.ok
    assert verdict.text == f"127.0.0.1:{port}: nothing listens there (connection refused)"
