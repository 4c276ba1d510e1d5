# SPDX-License-Identifier: GPL-3.0-or-later
"""Sample run records, built by a function so that each test changes only what it is about."""

from __future__ import annotations

from typing import Any

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} \x1b[31m\x07\u202e | `x` [a](javascript:x)"
)


def step(phase: str, component: str, offset: float, seconds: float, **fields: Any) -> dict[str, Any]:
    """One step; `fields` replaces role, status, text and read_back."""
    return {
        "phase": phase,
        "role": "restore_sqlite",
        "component": component,
        "offset": offset,
        "seconds": seconds,
        "status": "ok",
        "text": "",
        "read_back": "",
    } | fields


def check(name: str, view: str, **fields: Any) -> dict[str, Any]:
    """One check that held."""
    phase = "verify" if view == "inside" else "resume"
    base = {"phase": phase, "name": name, "kind": "http", "view": view, "ok": True, "seconds": 0.02, "text": ""}
    return base | {"unverified": False} | fields


def entry(name: str, role: str, layer: str, live: str, target: str, **finding: Any) -> dict[str, Any]:
    """One line of a plan."""
    found = {"seconds": 0.4, "worst_seconds": 30, "notes": [], "loss": None} | finding
    return {
        "name": name,
        "role": role,
        "layer": layer,
        "action": "none" if live == target else "change",
        "live": {"text": live},
        "target": {"text": target},
        "finding": found,
    }


LOSS = {
    "since": "2026-11-21T09:12:40Z",
    "text": "The backup is 17 minutes 35 seconds old. 412 rows of orders and 3 of customers were written since.",
    "tables": {
        "orders": {"only_live": 412, "only_target": 0, "differ": 6},
        "customers": {"only_live": 3, "only_target": 1, "differ": 0},
    },
}


def service(**fields: Any) -> dict[str, Any]:
    """A web shop that was put back: data, configuration, code, process."""
    base: dict[str, Any] = {
        "outcome": "done",
        "message": "Every component reads as planned and 5 checks hold.",
        "next": "rollbackctl finalize rb-20261121-093015-4f2a",
        "plan": {
            "id": "rb-20261121-093015-4f2a",
            "hash": "9b74c9897bac770ffc029102a200c5de3c6a2cf3f6a4d7b0a1b2c3d4e5f60718",
            "checkpoint": "cp-20261121-091240-77aa",
            "entries": [
                entry(
                    "shop-db",
                    "restore_sqlite",
                    "data",
                    "18,204 rows, schema b2f8",
                    "backup bk-20261121-091240 (17,789 rows, schema a41c)",
                    seconds=1.4,
                    worst_seconds=120,
                    notes=["2 readers are connected; they wait at most 50 ms."],
                    loss=LOSS,
                ),
                entry("shop-env", "restore_env", "configuration", "14 keys, 5c1e…", "14 keys, 02da…", seconds=0.2),
                entry("shop-code", "rollback_git", "application", "9e1f0c2 v2.5.0", "4f2a91c v2.4.1", seconds=0.3),
                entry("shop-web", "restart_service", "application", "running 2.5.0", "running 2.4.1", seconds=1.1),
            ],
            "data_loss_since": "2026-11-21T09:12:40Z",
            "seconds": 7.5,
            "worst_seconds": 420,
            "fence": True,
            "undoes": "",
            "notes": [],
        },
        "steps": [
            step("preflight", "shop-db", 0.72, 0.21, text="backup is whole: 17,789 rows, digest matches"),
            step("preflight", "shop-code", 0.95, 0.05, role="rollback_git", text="4f2a91c is in the repository"),
            step("stage", "shop-db", 1.94, 1.18, status="changed", text="restored aside and proven"),
            step("capture", "shop-db", 3.52, 0.34, status="changed", text="final copy of the live database taken"),
            step(
                "rollback",
                "shop-db",
                4.02,
                0.11,
                status="changed",
                text="swapped in one rename",
                read_back="17,789 rows, schema a41c, digest 6f0c…",
            ),
            step(
                "rollback",
                "shop-env",
                4.31,
                0.06,
                role="restore_env",
                status="changed",
                text="14 keys put back",
                read_back="14 keys, 02da…",
            ),
            step(
                "rollback",
                "shop-code",
                4.52,
                0.09,
                role="rollback_git",
                status="changed",
                text="tree of 4f2a91c committed on main",
                read_back="4f2a91c v2.4.1",
            ),
            step(
                "rollback",
                "shop-web",
                4.77,
                0.83,
                role="restart_service",
                status="changed",
                text="restarted",
                read_back="running 2.4.1, pid 4711",
            ),
        ],
        "checks": [
            check("health", "inside", seconds=0.012, text="200 in 12 ms; version 2.4.1"),
            check("schema", "inside", kind="sql", seconds=0.004, text="revision a41c"),
            check("orders can be read", "inside", kind="http", seconds=0.021, text="200, 50 orders"),
            check("front page", "outside", seconds=0.034, text="200 in 34 ms through the proxy"),
            check("checkout", "outside", seconds=0.061, text="200, version header 2.4.1"),
        ],
        "fence": {
            "closed": "2026-11-21T09:30:18Z",
            "opened": "2026-11-21T09:30:21Z",
            "seconds": 2.61,
            "by": "run",
        },
        "set_aside": [
            {
                "component": "shop-db",
                "path": "/var/lib/rollbackctl/runs/rb-20261121-093015-4f2a/kept/shop-db/live.sqlite",
                "text": "412 rows of orders and 3 of customers written since 09:12:40Z are in the kept copy.",
            },
            {
                "component": "shop-env",
                "path": "/var/lib/rollbackctl/runs/rb-20261121-093015-4f2a/kept/shop-env/.env",
                "text": "The configuration of v2.5.0.",
            },
        ],
        "quarantined": "code 9e1f0c2 with configuration 5c1e… and schema b2f8",
        "problems": [],
    }
    return base | fields


PHASES = [
    ("guard", 0.05, 0.42, 0),
    ("preflight", 0.48, 0.71, 30),
    ("plan", 1.2, 0.3, 0),
    ("evidence", 1.51, 0.32, 10),
    ("stage", 1.85, 1.33, 120),
    ("fence", 3.2, 0.24, 10),
    ("capture", 3.46, 0.44, 60),
    ("rollback", 3.92, 1.74, 120),
    ("verify", 5.68, 0.52, 120),
    ("resume", 6.22, 0.47, 30),
    ("finish", 6.71, 0.28, 10),
]


def record(**fields: Any) -> dict[str, Any]:
    """A level 3 rollback that is done and proven."""
    base: dict[str, Any] = {
        "schema": 1,
        "run": "rb-20261121-093015-4f2a",
        "attempt": 1,
        "kind": "rollback",
        "level": 3,
        "playbook": "rollback-level3.yml",
        "check_mode": False,
        "inventory": ["/srv/rollbackctl/inventories/shop"],
        "limit": "",
        "outcome": "done",
        "exit_code": 0,
        "message": "shop is back at checkpoint cp-20261121-091240-77aa, read back and checked from inside and outside.",
        "next": "rollbackctl finalize rb-20261121-093015-4f2a",
        "reason": "v2.5.0 migration failed half way; checkout answers 500",
        "operator": "mira",
        "controller": "ops-1",
        "pid": 48211,
        "version": "0.1.0",
        "started": "2026-11-21T09:30:15Z",
        "ended": "2026-11-21T09:30:22Z",
        "seconds": 6.99,
        "budget_seconds": 900,
        "over_budget": False,
        "strict_budget": False,
        "phases": [
            {
                "name": name,
                "started": f"2026-11-21T09:30:{15 + int(offset):02d}Z",
                "offset": offset,
                "seconds": seconds,
                "budget_seconds": budget,
                "status": "ok",
            }
            for name, offset, seconds, budget in PHASES
        ],
        "services": {"shop": service()},
        "component_seconds": 2.87,
        "overhead_seconds": 4.12,
    }
    return base | fields


def refused() -> dict[str, Any]:
    """A run that stopped in preflight."""
    return record(
        outcome="refused",
        exit_code=2,
        message="The backup bk-20261121-091240 is damaged: digest differs from its manifest. Nothing was changed.",
        next="rollbackctl run 3 shop --checkpoint cp-20261120-220000-1b2c",
        seconds=1.1,
        phases=[*record()["phases"][:1], record()["phases"][1] | {"status": "failed"}],
        services={
            "shop": service(
                outcome="refused",
                message="The backup is damaged.",
                plan=None,
                steps=[step("preflight", "shop-db", 0.72, 0.21, status="refused", text="digest differs")],
                checks=[],
                fence=None,
                set_aside=[],
                quarantined="",
                problems=["restore_sqlite shop-db: expected digest 6f0c…, found 11ab…"],
            )
        },
    )


def interrupted() -> dict[str, Any]:
    """A run whose controller was killed with the fence closed."""
    return record(
        outcome="interrupted",
        exit_code=5,
        message="",
        next="rollbackctl resume rb-20261121-093015-4f2a",
        ended="",
        seconds=3.9,
        phases=record()["phases"][:7],
        services={
            "shop": service(
                outcome="interrupted",
                message="",
                checks=[],
                steps=service()["steps"][:4],
                fence={"closed": "2026-11-21T09:30:18Z", "opened": "", "seconds": 0, "by": ""},
                set_aside=[],
                quarantined="",
            )
        },
    )


def over_budget() -> dict[str, Any]:
    """Done and proven, but later than was allowed."""
    return record(budget_seconds=5, over_budget=True, strict_budget=True, exit_code=6)


def hostile() -> dict[str, Any]:
    """Every text is an attack: live tags, quotes, templates, terminal escapes, Markdown."""

    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {
                (HOSTILE if key in {"services", "tables"} else name): poison(inner, name)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [poison(inner, key) for inner in value]
        return HOSTILE if isinstance(value, str) else value

    poisoned: dict[str, Any] = poison(record())
    return poisoned


SAMPLES = {"done": record, "refused": refused, "interrupted": interrupted, "over_budget": over_budget}
