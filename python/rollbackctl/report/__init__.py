# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a run: parse.py decides what is said, definitions.py holds it, the other files only show it."""

from __future__ import annotations

from .definitions import Report
from .parse import parse

__all__ = ["Report", "parse"]
