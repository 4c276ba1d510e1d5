# SPDX-License-Identifier: GPL-3.0-or-later
"""A measurement: how long ours took, how long the usual way took in the same run, and the bar that was set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def row(
    name: str,
    ours: Sequence[float],
    usual: Sequence[float],
    *,
    way: str,
    bar_seconds: float | None = None,
    bar: str = "",
    also: bool = True,
    note: str = "",
    **facts: Any,
) -> dict[str, Any]:
    """Return one measurement; times in seconds, one of each repeat; the median of them is compared.

    :param way: the usual way, in words.
    :param bar_seconds: the most that ours may take; None when nobody set a bar.
    :param bar: the bar in words, where it is more than a number.
    :param also: what else the bar asks for, and whether it held.
    """
    mine, theirs = statistics.median(ours), statistics.median(usual)
    return {
        "name": name,
        "ours_seconds": mine,
        "usual_seconds": theirs,
        "usual": way,
        "ratio": theirs / mine,
        "bar": bar or (f"<= {bar_seconds:g} s" if bar_seconds is not None else ""),
        "met": None if bar_seconds is None else mine <= bar_seconds and also,
        "note": note,
        "ours_all": list(ours),
        "usual_all": list(usual),
        **facts,
    }
