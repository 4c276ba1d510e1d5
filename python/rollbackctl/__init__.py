# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapper: validates parameters, runs the playbooks through ansible-runner, shows progress and the report."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("rollbackctl")
