# SPDX-License-Identifier: GPL-3.0-or-later
"""One broken service for all attacks: as none of them changes it, the next one finds it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bench import Bench, broken


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A service with a proven checkpoint, then broken by a release."""
    made = broken(tmp_path_factory.mktemp("attacked"))
    yield made
    made.sample.remove()
