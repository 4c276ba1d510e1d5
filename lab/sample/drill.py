# SPDX-License-Identifier: GPL-3.0-or-later
"""What a drill under molecule/ does to sample services, from the command line: make, use, look at, break, remove them.

All services of a drill are below one folder, the root. There are also:

hosts.yml           the inventory of all of them, written again with each new one
looks/NAME.json     what `look --as NAME` saw of each service (lab/sample/proof.py)
NAME.run            the newest run's id, written by `note --as NAME`
healthy             the revisions at which `healthy` found everything well, one a line
NAME.since          since when data would be lost, as that run's plan says
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this file is started by its path

from lab.sample.build import MIGRATIONS, Sample, connect, create, inventory_of, load
from lab.sample.proof import Drill, Look


def backups(sample: Sample) -> list[Path]:
    """Return the SQLite files in a service's checkpoints."""
    files = (path for path in (sample.state / "checkpoints").rglob("*") if path.is_file())
    return sorted(path for path in files if path.read_bytes().startswith(b"SQLite format 3\0"))


def main(words: Sequence[str] | None = None) -> int:
    """Do one thing; return the exit code."""
    options = _arguments(words)
    _COMMANDS[options.command](options)
    return 0


def _create(options: argparse.Namespace) -> None:
    create(options.root, name=options.name, databases=options.database, orders=50).start()
    everyone = inventory_of(Drill(options.root).services())
    if options.staged:
        health = [sys.executable, str(Path(__file__).resolve()), "--root", str(options.root), "healthy"]
        for service in everyone["all"]["hosts"].values():
            for component in service["rollback_alembic"]:
                component.update(staged=True, health=health)
    (options.root / "hosts.yml").write_text(yaml.safe_dump(everyone, sort_keys=False), encoding="utf-8")


def _healthy(options: argparse.Namespace) -> None:
    """Behind the fence nothing answers: what release 1.4.0 reads is read from the databases themselves."""
    for sample in Drill(options.root).services():
        for number, path in enumerate(sample.databases):
            with contextlib.closing(connect(path)) as connection:
                connection.execute("SELECT id, customer, email, cents FROM orders WHERE id = 1").fetchone()
                whole = connection.execute("PRAGMA integrity_check").fetchone()[0]
            if whole != "ok":
                raise SystemExit(f"{path} is damaged: {whole}")
            with (options.root / "healthy").open("a", encoding="ascii") as file:
                file.write(f"{sample.revision(number)}\n")


def _order(options: argparse.Namespace) -> None:
    for sample in Drill(options.root).services():
        for customer in options.customers:
            status, answer = sample.order(customer)
            if status not in {200, 201}:
                raise SystemExit(f"{sample.name} did not take the order: {status} {answer}")


def _look(options: argparse.Namespace) -> None:
    (options.root / "looks").mkdir(exist_ok=True)
    seen = {sample.name: dataclasses.asdict(Look.at(sample)) for sample in Drill(options.root).services()}
    (options.root / "looks" / f"{options.label}.json").write_text(json.dumps(seen), encoding="utf-8")


def _deploy_bad(options: argparse.Namespace) -> None:
    for sample in Drill(options.root).services():
        sample.deploy_bad(
            code=options.code, settings=options.settings, files=options.files, migration=options.migration
        )


def _note(options: argparse.Namespace) -> None:
    newest = Drill(options.root).records()[-1]
    plans = [service["plan"] for service in newest["services"].values() if service["plan"]]
    # One time is accepted for all services: the earliest.
    since = min((plan["data_loss_since"] for plan in plans if plan["data_loss_since"]), default="")
    (options.root / f"{options.label}.since").write_text(since, encoding="ascii")
    (options.root / f"{options.label}.run").write_text(newest["run"], encoding="ascii")


def _damage_backup(options: argparse.Namespace) -> None:
    for path in backups(load(options.root / options.name)):
        shutil.copy2(path, options.root / f"whole-{path.name}")
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def _repair_backup(options: argparse.Namespace) -> None:
    for path in (options.root / options.name).rglob("*"):
        whole = options.root / f"whole-{path.name}"
        if whole.exists() and "checkpoints" in path.parts:
            shutil.copy2(whole, path)


def _remove(options: argparse.Namespace) -> None:
    for sample in Drill(options.root).services():
        sample.remove()
    shutil.rmtree(options.root, ignore_errors=True)


_COMMANDS = {
    "create": _create,
    "order": _order,
    "look": _look,
    "deploy-bad": _deploy_bad,
    "note": _note,
    "healthy": _healthy,
    "damage-backup": _damage_backup,
    "repair-backup": _repair_backup,
    "remove": _remove,
}


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder below which the drill's services are")
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("create", help="make a healthy service and start it")
    made.add_argument("--name", required=True)
    made.add_argument("--staged", action="store_true", help="schema steps one at a time, each followed by `healthy`")
    made.add_argument("--database", action="append", default=[], help="a database's name; one for each")
    ordered = commands.add_parser("order", help="order as users do, from every service")
    ordered.add_argument("customers", nargs="+")
    looked = commands.add_parser("look", help="write down what every service is made of")
    looked.add_argument("--as", dest="label", required=True)
    bad = commands.add_parser("deploy-bad", help="deploy release 1.5.0, or parts of it, to every service")
    for part in ("code", "settings", "files"):
        bad.add_argument(f"--{part}", action="store_true")
    bad.add_argument("--migration", choices=sorted(MIGRATIONS), default="")
    noted = commands.add_parser("note", help="write down the newest run's id, and since when its plan would lose data")
    noted.add_argument("--as", dest="label", required=True)
    commands.add_parser("healthy", help="end with 1 unless release 1.4.0 can read every database")
    for name in ("damage-backup", "repair-backup"):
        commands.add_parser(name, help="cut a service's backups short, or undo that").add_argument(
            "--name", required=True
        )
    commands.add_parser("remove", help="stop and remove every service")
    return parser.parse_args(words)


if __name__ == "__main__":
    raise SystemExit(main())
