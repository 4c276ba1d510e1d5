# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample service's profile: the same variables as a person reads in inventories/demo/host_vars/shop.yml."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.sample.build import Sample


def profile(sample: Sample) -> dict[str, Any]:
    """Return the host variables of a sample service."""
    name = sample.name
    databases = [(path.stem, str(path)) for path in sample.databases]
    return {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "rollback_service": {
            "name": name,
            "environment": "demo",
            "identity": {"path": str(sample.identity), "content": f"{name} of the rollbackctl lab"},
        },
        "rollback_state": {"kind": "directory", "path": str(sample.state)},
        "rollback_budgets": {"level1": 60, "level2": 90, "level3": 120, "phases": {"preflight": 30, "verify": 30}},
        "rollback_soak_seconds": 0,
        "restore_sqlite": [{"name": f"{stem}-db", "path": path} for stem, path in databases],
        "rollback_alembic": [
            {"name": f"{stem}-schema", "project": str(sample.app), "database": path} for stem, path in databases
        ],
        "restore_env": [{"name": f"{name}-env", "path": str(sample.env_file)}],
        "restore_files": [{"name": f"{name}-static", "path": str(sample.static)}],
        "rollback_git": [{"name": f"{name}-code", "path": str(sample.app), "branch": "main", "remote": "origin"}],
        "restart_service": [
            {
                "name": f"{name}-web",
                "manager": "supervisor",
                "program": name,
                "configuration": str(sample.configuration),
                "fence": True,
            }
        ],
        "rollback_checks": [
            {
                "name": "health",
                "kind": "http",
                "view": "outside",
                "url": f"{sample.url}/health",
                "status": 200,
                "json": {"status": "ok"},
            },
        ],
    }
