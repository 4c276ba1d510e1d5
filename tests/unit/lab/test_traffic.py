# SPDX-License-Identifier: GPL-3.0-or-later
"""What users saw is counted, not estimated."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab.sample.build import create
from lab.traffic import Outage, Request, Traffic, longest_silence, outage, utc


def test_users_read_and_order_and_notice_a_failure(tmp_path: Path) -> None:
    sample = create(tmp_path)
    try:
        sample.start()
        with Traffic(sample.url) as users:
            users.wait_for(lambda seen: len(seen) >= 20)
            assert outage(users.requests) is None
            stopped = time.time()
            sample.supervisor("stop", "shop")
            users.wait_for(lambda seen: any(one.failed for one in seen))
            sample.supervisor("start", "shop")
            sample.wait()
            started = time.time()
            users.wait_for(lambda seen: any(not one.failed for one in seen if one.at > started))
        seen = outage(users.requests)
        assert seen is not None
        assert stopped - 1 < seen.began < seen.ended
        assert seen.failed <= seen.total
        accepted = users.writes_accepted(0)
        assert accepted > 0
        one = users.orders()[0]
        assert sample.get(f"/orders/{one.number}")[1]["customer"] == one.customer
        assert sample.get("/orders/count")[1]["count"] == 200 + accepted
    finally:
        sample.remove()


def row(at: float, status: int, kind: str = "read") -> Request:
    return Request(kind, at, 0.5, status)


ROWS = [row(1, 200), row(2, 500), row(3, 201, "order"), row(4, 0), row(5, 200), row(6, 200)]


@pytest.mark.parametrize(
    ("rows", "since", "expected"),
    [
        (ROWS, 0, Outage(2, 5, 2, 3)),
        (ROWS, 3, Outage(4, 5, 1, 1)),
        (ROWS[:4], 0, Outage(2, 0, 2, 3)),
        (ROWS, 5, None),
        ([], 0, None),
    ],
)
def test_outage(rows: list[Request], since: float, expected: Outage | None) -> None:
    assert outage(reversed(rows), since) == expected


def test_longest_silence() -> None:
    assert longest_silence(ROWS, 1, 6) == pytest.approx(2)
    assert longest_silence([], 1, 6) == pytest.approx(5)
    assert Outage(2, 0, 1, 1).seconds == 0
    assert Outage(2, 5, 1, 1).seconds == 3
    assert utc(0) == "1970-01-01T00:00:00Z"
