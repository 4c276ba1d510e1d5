# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of this machine."""

from __future__ import annotations

import os


def process_alive(pid: int) -> bool:
    """Say whether a process of this machine is there and not only waiting to be collected."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
