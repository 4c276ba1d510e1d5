# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives the tests of every drill its services (lab/*/proof.py); testinfra gives them the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.kubernetes import proof
from lab.sample.proof import Drill


@pytest.fixture(scope="session")
def drill() -> Drill:
    return Drill(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "services")


@pytest.fixture(scope="session")
def kube(drill: Drill) -> proof.Drill:
    return proof.Drill(drill.root)
