# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo shows what is true, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import demo
from lab.sample.build import create, request

PATIENCE_SECONDS = 200


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def begun(root: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo whose service runs, and the service's address."""
    argv = [sys.executable, "lab/demo.py"]
    with subprocess.Popen(argv, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = None
            while found is None:
                line = process.stdout.readline()
                assert line, "the demo ended before it began"
                found = re.search(r"http://127\.0\.0\.1:\d+", line)
            yield process, found.group()
        finally:
            process.kill()
            process.stdout.close()


def answers(url: str) -> bool:
    try:
        request(f"{url}/version")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_cleans_up(
    begun: tuple[subprocess.Popen[str], str], tmp_path: Path, number: signal.Signals
) -> None:
    process, url = begun
    assert answers(url)
    process.send_signal(number)
    assert process.stdout is not None
    assert "Stopped by you" in process.stdout.read()
    assert process.wait(PATIENCE_SECONDS) == 130
    assert not answers(url)
    assert list(tmp_path.glob("rollbackctl-demo-*")) == []


def test_a_demo_that_is_killed_leaves_no_process(begun: tuple[subprocess.Popen[str], str]) -> None:
    process, url = begun
    process.kill()
    end = time.monotonic() + PATIENCE_SECONDS
    while answers(url):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_whole_demo_proves_the_rollback_and_what_is_kept_can_be_removed(
    root: Path, environment: dict[str, str]
) -> None:
    argv = [sys.executable, "lab/demo.py"]
    done = subprocess.run(
        argv,
        cwd=root,
        env={**environment, "DEMO_KEEP": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT" not in done.stdout
    assert re.search(r"ok +(\d+) of \1 orders are as they were at the checkpoint", done.stdout)
    assert re.search(r"Report: build/demo/rb-\S+\.html", done.stdout)
    url = re.search(r"curl (http://\S+)/health", done.stdout)
    folder = re.search(r"--remove (\S+)", done.stdout)
    assert url is not None
    assert folder is not None
    assert answers(url.group(1))
    subprocess.run([*argv, "--remove", folder.group(1)], cwd=root, check=True, timeout=PATIENCE_SECONDS)
    assert not answers(url.group(1))
    assert not Path(folder.group(1)).exists()


def test_only_a_demo_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "shop" / "kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert demo.remove(tmp_path) == 2
    assert "Nothing was removed" in capsys.readouterr().out
    assert kept.exists()


def test_the_proof_fails_where_something_is_not_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = create(tmp_path)
    try:
        sample.start()
        before = demo.Proof.of(sample)
        sample.order("mia")  # what is new is no difference
        demo.prove(before, sample)
        assert "NOT" not in capsys.readouterr().out
        sample.deploy_bad(code=False, settings=False, migration="")
        with pytest.raises(demo.DemoError, match="not back as it was"):
            demo.prove(before, sample)
        assert capsys.readouterr().out.count("NOT") == 1
    finally:
        sample.remove()
