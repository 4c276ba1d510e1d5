# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of a service is put back by the command line and nothing else; the incident report tells it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.sample.build import BAD_API_KEY
from tests.support.bench import Bench, broken, refused

REASON = "checkout answers 500"


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service with a proven checkpoint; then its settings and its static files were changed."""
    made = broken(tmp_path_factory.mktemp("broken"), code=False, migration="")
    yield made
    made.sample.remove()


def test_only_the_named_components_go_back_and_the_report_says_so(bench: Bench) -> None:
    sample = bench.sample
    asked = ["run", "2", "shop", "--inventory", str(bench.hosts), "--reason", REASON, "--yes"]
    refused(bench, bench.rollbackctl(*asked, "--components", "shop-mail"), "there is no component 'shop-mail'")

    before = sample.inspect()
    ran = bench.rollbackctl(*asked, "--components", "shop-env", "--components", "shop-web")
    assert (ran.code, ran.record["outcome"]) == (0, "done"), ran.output
    assert sample.get("/health")[0] == 200
    assert BAD_API_KEY not in sample.env_file.read_text(encoding="utf-8")
    after = sample.inspect()
    assert {key for key in before if key.startswith("static/") and before[key] != after.get(key)} == set()
    assert (sample.static / "checkout.js").exists()
    assert {entry["name"] for entry in ran.record["services"]["shop"]["plan"]["entries"]} == {"shop-env", "shop-web"}

    page = bench.folder / "incident.md"
    told = bench.rollbackctl("report", ran.record["run"], "--output", str(page))
    assert told.code == 0, told.output
    text = page.read_text(encoding="utf-8")
    for fact in (
        REASON,
        ran.record["run"],
        "## Timeline",
        "shop-env",
        "### What was read back",
        "### Checks",
        "**Outcome**",
    ):
        assert fact in text, fact
    assert bench.checkpoint in text
