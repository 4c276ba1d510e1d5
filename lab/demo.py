# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: break a sample service under traffic, put it back with rollbackctl, prove it without rollbackctl.

make demo                     about a minute; removes everything afterwards, also after Ctrl-C
DEMO_KEEP=1 make demo         leaves the service running and says what to type
lab/demo.py --remove FOLDER   removes what was left running
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is started by its path

from rich.console import Console  # noqa: E402 - after the path above
from rich.table import Table  # noqa: E402 - the same

from lab.sample.build import Sample, connect, create, git, load, request  # noqa: E402 - the same
from lab.traffic import Traffic, outage  # noqa: E402 - the same

REPORTS = ROOT / "build" / "demo"
ROLLBACKCTL = Path(sys.executable).with_name("rollbackctl")
SERVICE = ["shop", "--inventory", "inventories/demo"]
BROKEN_SECONDS = 3.0
# A pipe has no width; a page has.
WIDTH = None if sys.stdout.isatty() else 120
console = Console(highlight=False, soft_wrap=True, width=WIDTH)


class DemoError(Exception):
    """Something did not go as the demo promises."""


def main() -> int:
    """Run the demo or remove what one left; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remove", type=Path, metavar="FOLDER", help="remove what DEMO_KEEP=1 left running, and end")
    options = parser.parse_args()
    if options.remove:
        return remove(options.remove)
    return demo(keep=os.environ.get("DEMO_KEEP", "") not in {"", "0"})


def remove(folder: Path) -> int:
    """Remove what a kept demo left running; return the exit code, 2 when that is not what is in the folder."""
    try:
        load(folder / "shop").remove()
    except ValueError as exc:
        console.print(f"Nothing was removed: {exc}.", style="bold red", markup=False)
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    console.print(f"Removed {folder}.")
    return 0


def demo(*, keep: bool) -> int:
    """Tell the story; leave nothing behind unless keep, whatever happens."""
    signal.signal(signal.SIGTERM, _end_at_once)
    signal.signal(signal.SIGHUP, _end_at_once)
    folder = Path(tempfile.mkdtemp(prefix="rollbackctl-demo-"))
    sample: Sample | None = None
    stays = False
    try:
        sample = create(folder)
        sample.start(die_with_parent=not keep)
        with Traffic(sample.url) as users:
            Story(sample, users).tell()
        stays = keep
    except KeyboardInterrupt:
        console.print("\nStopped by you; cleaning up.", style="bold yellow")
        return 130
    except (DemoError, TimeoutError) as exc:
        console.print(f"\nThe demo failed: {exc}", style="bold red", markup=False)
        return 1
    finally:
        # A second Ctrl-C must not leave half of it behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not stays:
            if sample is not None:
                sample.remove()
            shutil.rmtree(folder, ignore_errors=True)
    if stays:
        how_to_play(sample, folder)
    else:
        console.print(f"The service and {folder} are removed; the report stays.", style="dim")
    return 0


class Story:
    """What happens, in order; each chapter prints what it did."""

    def __init__(self, sample: Sample, users: Traffic) -> None:
        """Take the running service and its users."""
        self.sample = sample
        self.users = users
        self.chapters = 0

    def chapter(self, text: str) -> None:
        """Begin a chapter."""
        self.chapters += 1
        console.print(f"\n{self.chapters}. {text}", style="bold")

    def tell(self) -> None:
        """Tell it from the healthy service to the proof."""
        sample, users = self.sample, self.users
        self.chapter("A service under traffic")
        say(f"shop 1.4.0 at {sample.url}: git, SQLite with alembic, .env, static files, supervisord")
        say("20 requests a second, every fourth an order")
        users.wait_for(lambda seen: len(seen) >= 20)
        self.chapter("A checkpoint: what runs now, with everything needed to bring it back")
        before = Proof.of(sample)
        took = wrapper(sample, "checkpoint", *SERVICE, "--reason", "before release 1.5.0")
        say(f"{took['outcome']} in {took['seconds']:.1f} s; {len(before.rows)} orders so far")
        time.sleep(1)

        self.chapter("Release 1.5.0 is deployed: code, settings, static files, and a migration that destroys data")
        deployed = time.time()
        sample.deploy_bad()
        time.sleep(BROKEN_SECONDS)
        status, health = sample.get("/health")
        failed = sum(1 for one in users.requests if one.failed and one.at >= deployed)
        say(f"/health answers {status}: {health.get('error')}")
        say(f"addresses, names of customers and deliveries are gone from the database; {failed} requests failed so far")

        self.chapter("The plan: what level 3 would do, and what it would lose")
        plan = wrapper(sample, "plan", "3", *SERVICE, "--reason", "release 1.5.0 destroys data", refusal_is_fine=True)
        since = show_plan(plan)

        self.chapter("The rollback")
        command = ["run", "3", *SERVICE, "--reason", "release 1.5.0 destroys data", "--yes"]
        command += ["--accept-data-loss-since", since] if since else []
        say("rollbackctl " + " ".join(f"'{word}'" if " " in word else word for word in command))
        started = time.time()
        record = wrapper(sample, *command, show=True)
        back = time.time()
        users.wait_for(lambda seen: sum(1 for one in seen if one.at > back) >= 20)

        self.chapter("The proof, by curl, sqlite3 and git, not by rollbackctl")
        prove(before, sample)
        self.numbers(record, since_deploy=deployed, started=started)

    def numbers(self, record: dict[str, Any], *, since_deploy: float, started: float) -> None:
        """Print what it cost; times are seconds since 1970."""
        self.chapter("What it cost")
        seen = outage(self.users.requests, since_deploy)
        during = outage(self.users.requests, started)
        if seen is None or during is None:
            raise DemoError("no user noticed the bad release; then nothing was shown")
        if not seen.ended:
            raise DemoError("users still fail after the rollback")
        line("rollback, all checks included", f"{record['seconds']:.1f} s{allowed(record)}")
        for phase in record["phases"]:
            line(f"    {phase['name']}", f"{phase['seconds']:.1f} s{allowed(phase)}")
        line("requests that failed since the release", f"{seen.failed} of {seen.total}, for {seen.seconds:.1f} s")
        line("    since the rollback began", f"{during.failed} of {during.total}, for {during.ended - started:.1f} s")
        for entry in record["services"]["shop"]["plan"]["entries"]:
            if entry["finding"]["loss"]:
                line("lost, counted behind the fence", entry["finding"]["loss"]["text"])
        self.set_aside(record["services"]["shop"])
        for page in REPORTS.glob(f"{record['run']}.html"):
            console.print(f"\nReport: {page.relative_to(ROOT)}", style="bold")

    def set_aside(self, service: dict[str, Any]) -> None:
        """Print what became of the orders that users placed after the checkpoint; counted, not taken from the record.

        :raises DemoError: one of them is nowhere.
        """
        with contextlib.closing(connect(self.sample.databases[0])) as connection:
            there = {row[0] for row in connection.execute("SELECT customer FROM orders")}
        missing = {one.number for one in self.users.orders() if one.customer not in there}
        line("orders placed after the checkpoint", f"{len(missing)} are no longer in the database")
        kept: set[int] = set()
        for aside in service["set_aside"]:
            for path in Path(aside["path"]).glob("*"):
                if path.is_file() and path.read_bytes()[:16] == b"SQLite format 3\0":
                    line("    set aside, with all else that was there", str(path))
                    with contextlib.closing(connect(path)) as connection:
                        kept |= {row[0] for row in connection.execute("SELECT id FROM orders")}
        line("    of them in what was set aside", f"{len(missing & kept)} of {len(missing)}")
        if missing - kept:
            raise DemoError("orders that were accepted are nowhere")


class Proof:
    """What the service's parts hold, read with nothing of rollbackctl."""

    def __init__(
        self,
        rows: dict[int, tuple[Any, ...]],
        deliveries: list[tuple[Any, ...]],
        files: dict[str, str],
        revision: str,
        version: str,
    ) -> None:
        """Take orders by number, deliveries, digests by file, the schema's revision, and the version in the origin."""
        self.rows = rows
        self.deliveries = deliveries
        self.files = files
        self.revision = revision
        self.version = version

    @classmethod
    def of(cls, sample: Sample) -> Proof:
        """Read it."""
        with contextlib.closing(connect(sample.databases[0])) as connection:
            rows = {row[0]: row for row in connection.execute("SELECT id, customer, email, cents FROM orders")}
            deliveries = connection.execute("SELECT * FROM deliveries ORDER BY id").fetchall()
            revision = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        watched = [sample.env_file, sample.app / "app.py", *sorted(sample.static.iterdir())]
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in watched}
        return cls(rows, deliveries, files, revision, git(sample.origin, "show", "main:VERSION"))


def prove(before: Proof, sample: Sample) -> None:
    """Print line by line what is back.

    :raises DemoError: something is not.
    """
    now = Proof.of(sample)
    status, health = request(f"{sample.url}/health")
    same = sum(1 for number, row in before.rows.items() if now.rows.get(number) == row)
    subjects = git(sample.origin, "log", "--format=%s", "-3", "main").splitlines()
    claims = [
        (status == 200 and health.get("version") == "1.4.0", f"/health: {status}, version {health.get('version')}"),
        (same == len(before.rows), f"{same} of {len(before.rows)} orders are as they were at the checkpoint"),
        (now.deliveries == before.deliveries, f"{len(before.deliveries)} deliveries are as they were"),
        (now.revision == before.revision, f"schema: revision {now.revision}"),
        (now.files == before.files, f"the same bytes: {', '.join(now.files)}"),
        (now.version == before.version, f"origin's main: version {now.version}, on top of: {subjects[1]!r}"),
        (git(sample.app, "status", "--porcelain") == "", "the server's checkout is clean"),
    ]
    for holds, text in claims:
        console.print(f"   {'ok ' if holds else 'NOT'} {text}", style="green" if holds else "bold red", markup=False)
    if not all(holds for holds, _text in claims):
        raise DemoError("the service is not back as it was")


def wrapper(sample: Sample, *words: str, show: bool = False, refusal_is_fine: bool = False) -> dict[str, Any]:
    """Run rollbackctl; return the run record. show: let a person read what it prints instead of the record.

    :raises DemoError: it did not end well.
    """
    REPORTS.mkdir(parents=True, exist_ok=True)
    before = set(REPORTS.glob("*.json"))
    argv = [str(ROLLBACKCTL), *words, *([] if show else ["--json"])]
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment(sample), stdout=None if show else subprocess.PIPE, text=True
    ) as process:
        try:
            printed = process.communicate()[0] or ""
        except BaseException:
            # It ends its run at the next safe point; what it works on is removed only then.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            raise
    if process.returncode not in ({0, 2} if refusal_is_fine else {0}):
        with contextlib.suppress(ValueError):
            console.print(json.loads(printed)["message"], markup=False)
        raise DemoError(f"rollbackctl {words[0]} ended with exit code {process.returncode}")
    if show:
        new = sorted(set(REPORTS.glob("*.json")) - before, key=lambda path: path.stat().st_mtime)
        if not new:
            raise DemoError(f"rollbackctl {words[0]} left no record in {REPORTS}")
        printed = new[-1].read_text(encoding="utf-8")
    try:
        record: dict[str, Any] = json.loads(printed)
    except ValueError as exc:
        raise DemoError(f"rollbackctl {words[0]} printed no record: {printed[:200]!r}") from exc
    return record


def environment(sample: Sample) -> dict[str, str]:
    """Return the environment for rollbackctl: where the service is, where reports go."""
    place = {"SHOP_ROOT": str(sample.root), "SHOP_PORT": str(sample.port)}
    passing = {"ROLLBACKCTL_PASS_ENV": ",".join(place), "ROLLBACKCTL_RECORDS": str(REPORTS)}
    width = {"COLUMNS": str(WIDTH)} if WIDTH else {}
    return {**os.environ, **width, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **place, **passing}


def show_plan(record: dict[str, Any]) -> str:
    """Print a plan; return the time since which data would be lost, "" when none would.

    :raises DemoError: there is none.
    """
    plan = record.get("services", {}).get("shop", {}).get("plan")
    if not plan:
        raise DemoError(f"no plan: {record.get('message')}")
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for entry in plan["entries"]:
        table.add_row("  ", entry["name"], entry["action"], f"{entry['live']['text']}  ->  {entry['target']['text']}")
    console.print(table)
    for entry in plan["entries"]:
        loss = entry["finding"].get("loss")
        if loss:
            say(f"would be lost: {loss['text']}")
    return str(plan.get("data_loss_since") or "")


def how_to_play(sample: Sample | None, folder: Path) -> None:
    """Say what can be typed now that the service stays."""
    if sample is None:
        return
    settings = {name: value for name, value in environment(sample).items() if os.environ.get(name) != value}
    console.print("\nThe service runs on, without its users. To play with it, type in this folder:\n", style="bold")
    for name, value in settings.items():
        print(f"export {name}={value}")
    print(f"export PATH={ROLLBACKCTL.parent}:$PATH")
    print(f"curl {sample.url}/health")
    print(f"rollbackctl history; rollbackctl status {' '.join(SERVICE)}")
    print(f"rollbackctl verify {' '.join(SERVICE)}")
    console.print("\nTo remove it:\n", style="bold")
    print(f"{sys.executable} lab/demo.py --remove {folder}")


def allowed(timed: dict[str, Any]) -> str:
    """Return the budget of a run or a phase in words, "" where there is none; that it took longer is said."""
    budget = float(timed.get("budget_seconds") or 0)
    over = ", which is OVER ITS BUDGET" if 0 < budget < timed["seconds"] else ""
    return f" of {budget:g} s allowed{over}" if budget else ""


def line(label: str, value: str) -> None:
    """Print a line of a table."""
    say(f"{label:<44}{value}")


def say(text: str) -> None:
    """Print a line of a chapter."""
    console.print(f"   {text}", markup=False)


def _end_at_once(*_arguments: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
