# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample service's profile; inventories/demo/host_vars/shop.yml is the same one, for people to read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.sample.build import Sample


def profile(sample: Sample) -> dict[str, Any]:
    """Return the host variables of a sample service."""
    name = sample.name
    return {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "rollback_service": {
            "name": name,
            "environment": "demo",
            "identity": {"path": str(sample.identity), "content": f"{name} of the rollbackctl lab"},
        },
        "rollback_state": {"kind": "directory", "path": str(sample.state)},
        "rollback_budgets": {"level1": 60, "level2": 90, "level3": 120, "phases": {"preflight": 20, "verify": 30}},
        "rollback_soak_seconds": 0,
        **_components(sample),
        "rollback_checks": _checks(sample),
    }


def _components(sample: Sample) -> dict[str, Any]:
    name = sample.name
    # Two components of one service may not share a name: those of further databases are named for these.
    databases = [(name if number == 0 else path.stem, str(path)) for number, path in enumerate(sample.databases)]
    return {
        "rollback_alembic": [
            {
                "name": f"{stem}-schema",
                "project": str(sample.app),
                "python": sys.executable,
                "database": path,
                "url_environment": "DATABASE_URL",
                "restored_by": f"{stem}-db",
            }
            for stem, path in databases
        ],
        "restore_sqlite": [
            {"name": f"{stem}-db", "path": path, "critical_tables": ["orders"]} for stem, path in databases
        ],
        "restore_env": [{"name": f"{name}-env", "path": str(sample.env_file)}],
        "restore_files": [{"name": f"{name}-static", "path": str(sample.static)}],
        "rollback_git": [
            {
                "name": f"{name}-code",
                "repository": str(sample.app),
                "branch": "main",
                "remote": "origin",
                "work_tree": "update",
            }
        ],
        "restart_service": [
            {
                "name": f"{name}-web",
                "manager": "supervisor",
                "program": name,
                "configuration": str(sample.configuration),
                "fence": True,
                "settle": 0.5,
            }
        ],
    }


def _checks(sample: Sample) -> list[dict[str, Any]]:
    return [
        {"name": "health", "kind": "http", "url": f"{sample.url}/health", "json": {"status": "ok"}},
        {
            "name": "restarted",
            "kind": "process",
            "process": "python",
            "argument": str(sample.app / "app.py"),
            "started_after": "run",
        },
        {
            "name": "orders",
            "kind": "sql",
            "engine": "sqlite",
            "database": str(sample.databases[0]),
            "query": "SELECT count(*) FROM orders WHERE email <> ''",
            "expect": {"min": 1},
        },
        {"name": "order-page", "kind": "http", "view": "outside", "url": f"{sample.url}/orders/1", "json": {"id": 1}},
    ]
