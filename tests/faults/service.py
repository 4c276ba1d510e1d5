# SPDX-License-Identifier: GPL-3.0-or-later
"""A small service for the kill matrix: says what it was started with and writes to its database all the time.

    service.py HOME DATABASE      in HOME: VERSION comes from app/, settings from shop.env

Each write carries a token, which goes to acked.log after its commit: whoever is told "written" must find it again.
Started with `-I -S`: it is started thousands of times, and needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import sys
import time
import uuid
from pathlib import Path

PAUSE_SECONDS = 0.02


def main() -> None:
    home, database = Path(sys.argv[1]), sys.argv[2]
    lock = os.open(home / "service.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two of them would not be one service
    except BlockingIOError:
        sys.exit("it runs already")
    started = {
        "pid": os.getpid(),
        "version": (home / "app" / "VERSION").read_text(encoding="ascii"),
        "settings": (home / "shop.env").read_text(encoding="utf-8"),
    }
    for name, text in (("running.json", json.dumps(started)), ("service.pid", str(os.getpid()))):
        (home / f"{name}.new").write_text(text, encoding="utf-8")
        (home / f"{name}.new").replace(home / name)
    if (home / "quiet").exists():
        while True:
            time.sleep(60)
    with (home / "acked.log").open("a", encoding="ascii") as acked:
        while True:
            with contextlib.suppress(sqlite3.Error):  # a damaged database: it stays up and tries again
                write(database, acked.fileno())
            time.sleep(PAUSE_SECONDS)


def write(database: str, acked: int) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=5)) as connection:
        while True:
            token = uuid.uuid4().hex
            with connection:
                connection.execute("INSERT INTO visits (token) VALUES (?)", [token])
            os.write(acked, f"{token}\n".encode("ascii"))
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
