# SPDX-License-Identifier: GPL-3.0-or-later
"""The shop that is killed: the lab's sample with a small service of its own, in one fixed place.

The place is fixed because absolute paths are in git's configuration and in checkpoints: a case copies a template into
it, and that is fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.controller import role_options, validate

from lab.sample.build import (
    API_KEY,
    BAD,
    BUG,
    CLIENT_INSERT,
    MIGRATIONS,
    RELEASE,
    Sample,
    create,
    publish,
    write_settings,
)
from tests.faults import outside
from tests.faults.harness import Run

HERE = Path(__file__).resolve().parent
ROLES = HERE.parents[1] / "roles"
PATIENCE_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One way of being broken and of being put back.

    roles: those that take part, in the level's order. migration: what the bad release does to the schema.
    damage: the database is destroyed as well. spoil: only rows change, which a
    schema does not show. quiet: nobody writes (an online restore must not race with a writer).
    options: changes to components, by role. prelude: a failpoint that ends the run a first time; what is examined then
    is the run that goes on. breaks: a phase that says no, so that the run is taken back. last: the kind of run that is
    examined instead, after a rollback that went well.
    """

    name: str
    roles: tuple[str, ...]
    migration: str = ""
    damage: bool = False
    spoil: bool = False
    quiet: bool = False
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    prelude: str = ""
    breaks: str = ""
    last: str = ""


ALL = ("restore_sqlite", "restore_env", "restore_files", "rollback_git", "restart_service")
ALEMBIC = ("rollback_alembic", "restore_sqlite", "rollback_git", "restart_service")
STAGED = {"url_environment": None, "staged": True, "health": ["true"]}
SCENARIOS = (
    Scenario("data", ("restore_sqlite", "restore_env", "restore_files", "restart_service"), migration="destroys"),
    Scenario("rows", ("restore_sqlite", "restore_env", "restart_service"), spoil=True),
    Scenario("alone", ("restore_sqlite", "restart_service"), spoil=True),
    Scenario("restore", ALL, migration="destroys", options={"rollback_git": {"deploy": ["true"]}}),
    Scenario("online", ("restore_sqlite", "restore_env", "restart_service"), quiet=True, migration="destroys",
             options={"restore_sqlite": {"method": "online"}}),
    Scenario("damaged", ("restore_sqlite", "restore_env", "restart_service"), damage=True, quiet=True),
    Scenario("downgrade", ALEMBIC, migration="adds"),
    Scenario("staged", ALEMBIC, migration="adds", options={"rollback_alembic": STAGED}),
    Scenario("taken back", ALL, migration="destroys", breaks="verify"),
    Scenario("finalize", ALL, migration="destroys", last="finalize"),
)  # fmt: skip


class Bench:
    """Makes scenarios' templates and puts them in place; one shop at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shop = create(root, name="shop", port=1, orders=50)  # nobody listens: the service is a smaller one
        with contextlib.closing(sqlite3.connect(self.shop.databases[0])) as connection, connection:
            connection.execute("CREATE TABLE visits (id INTEGER PRIMARY KEY, token TEXT NOT NULL)")
        shutil.copytree(self.shop.root, root / "good", symlinks=True)
        self.sides: dict[str, tuple[outside.Seen, outside.Seen]] = {}

    def place(self, scenario: Scenario) -> None:
        """Put the broken shop of a scenario in place, its service running."""
        template = self.root / f"template of {scenario.name}"
        if not template.exists():
            self._put("good")
            self._make(scenario)
            self.stop()
            shutil.copytree(self.shop.root, template, symlinks=True)
        self._put(template.name)
        self.control("start")

    def stop(self) -> None:
        """End the service, by its process id."""
        started = outside.running(self.shop)
        if started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started["pid"], signal.SIGKILL)
            wait_for(lambda: not outside.running(self.shop), "the service to be gone")

    def close(self) -> None:
        """End everything: without a journal watchdogs end by themselves, one that is just opening a fence included."""
        shutil.rmtree(self.shop.state)
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            self.stop()
            time.sleep(0.1)

    def control(self, word: str) -> None:
        """Start or stop the service as its manager does."""
        subprocess.run(self._argv(word), check=True, timeout=PATIENCE_SECONDS)

    def _put(self, name: str) -> None:
        self.stop()
        shutil.rmtree(self.shop.root)
        shutil.copytree(self.root / name, self.shop.root, symlinks=True)

    def _make(self, scenario: Scenario) -> None:
        """Take the good shop, take a checkpoint, deploy the bad release; remember how both look."""
        shop = self.shop
        if scenario.quiet:
            (shop.root / "quiet").touch()
        self.control("start")
        ending = Run(self.profile(scenario), kind="checkpoint").go()
        assert ending["outcome"] == "done", ending
        new = outside.read(shop)
        self.control("stop")
        deploy(shop, scenario)
        self.sides[scenario.name] = outside.read(shop), new

    def profile(self, scenario: Scenario) -> dict[str, Any]:
        """Return what a controller needs to know, defaults filled in from the roles' specifications."""
        shop = self.shop
        components: dict[str, dict[str, Any]] = {
            "rollback_alembic": {
                "name": "schema",
                "project": str(shop.app),
                "python": sys.executable,
                "database": str(shop.databases[0]),
                "url_environment": "DATABASE_URL",
                "environment": {"DATABASE_URL": f"sqlite:///{shop.databases[0]}"},
                "restored_by": "database",
            },
            "restore_sqlite": {"name": "database", "path": str(shop.databases[0]), "critical_tables": ["orders"]},
            "restore_env": {"name": "settings", "path": str(shop.env_file)},
            "restore_files": {"name": "static", "path": str(shop.static)},
            "rollback_git": {
                "name": "code",
                "repository": str(shop.app),
                "branch": "main",
                "remote": "origin",
                "work_tree": "update",
            },
            "restart_service": {
                "name": "web",
                "manager": "command",
                **{word: self._argv(word) for word in ("start", "stop", "status")},
                "pid_file": str(shop.root / "service.pid"),
                "fence": True,
                "settle": 0.05,
            },
        }
        roles = []
        for role in scenario.roles:
            changed = {**components[role], **scenario.options.get(role, {})}
            options = {key: value for key, value in changed.items() if value is not None}
            values, problems = validate(role_options(str(ROLES / role), "preflight"), {role: [options]})
            assert not problems, problems
            roles.append({"role": role, "components": values[role]})
        return {"roles": roles, "state": {"kind": "directory", "path": str(shop.state)}, "lease_seconds": 30}

    def _argv(self, word: str) -> list[str]:
        return [str(HERE / "ctl.sh"), word, str(self.shop.root), str(self.shop.databases[0]), sys.executable]


def deploy(shop: Sample, scenario: Scenario) -> None:
    """Deploy the bad release of a scenario; only what the scenario's roles put back is broken."""
    if "rollback_git" in scenario.roles:
        source = (shop.app / "app.py").read_text(encoding="utf-8").replace(*BUG).replace(*CLIENT_INSERT)
        (shop.app / "app.py").write_text(source, encoding="utf-8")
        (shop.app / "VERSION").write_text(f"{BAD}\n", encoding="ascii")
        (shop.app / "new.txt").write_text("new in this release\n", encoding="ascii")
    if scenario.migration:
        script = RELEASE / "bad" / "migrations" / "versions" / MIGRATIONS[scenario.migration]
        place = shop.app / "migrations" / "versions" / script.name
        shutil.copy(script, place)
        shop.alembic("upgrade", "head")
        if "rollback_git" not in scenario.roles:
            place.unlink()
    if "rollback_git" in scenario.roles:
        publish(shop.app, f"Release {BAD}")
    if "restore_env" in scenario.roles:
        write_settings(shop, {"SHOP_API_KEY": f"{API_KEY}-broken", "SHOP_CURRENCY": "Euro"})
    if "restore_files" in scenario.roles:
        (shop.static / "shop.css").write_text("body { display: none }\n", encoding="utf-8")
        (shop.static / "checkout.js").write_text("// new\n", encoding="utf-8")
    if scenario.spoil:
        with contextlib.closing(sqlite3.connect(shop.databases[0])) as connection, connection:
            connection.execute("UPDATE orders SET cents = 0")
    if scenario.damage:
        with shop.databases[0].open("r+b") as file:
            file.write(b"overwritten by a broken release" * 16)
        Path(f"{shop.databases[0]}-wal").write_bytes(b"what was left of the log" * 64)


def wait_for(true: Any, what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until a function says something true; return that."""
    end = time.monotonic() + seconds
    while True:
        answer = true()
        if answer:
            return answer
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
