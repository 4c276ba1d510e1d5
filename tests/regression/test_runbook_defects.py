# SPDX-License-Identifier: GPL-3.0-or-later
"""What was wrong in the written runbooks that this project replaces, each proven not to be wrong here.

Two services are really broken and really put back: `staging` by level 3 with a restored database, `merged` by level 3
with a schema that goes back step by step and a merge that is reverted. The numbers are those of docs/acceptance.md.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.store import DirectoryStore

from lab.sample.build import BAD, BUG, GOOD, RELEASE, connect, git
from lab.sample.profile import profile
from tests.support.bench import ROOT, Bench, Ran, refused

LATE = 2000
# Leaves without closing, as a killed program does: what it wrote is in the -wal alone.
WRITER = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10)
connection.execute("PRAGMA wal_autocheckpoint = 0")
with connection:
    connection.executemany("INSERT INTO orders (client, cents) VALUES (?, 1)", [("late",)] * int(sys.argv[2]))
os._exit(0)
"""


@dataclass
class Staging:
    """A service of the environment `staging` that level 3 put back, and what was seen before."""

    bench: Bench
    ran: Ran
    bad: str
    plans: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    in_file_alone: int = 0

    @property
    def run(self) -> str:
        return str(self.ran.record["run"])

    @property
    def events(self) -> list[dict[str, Any]]:
        return DirectoryStore(str(self.bench.sample.state)).journal(self.run).events()


def smoke(folder: Path) -> dict[str, Any]:
    """Return a check that makes a test user, and the command that takes it away again."""
    write = "import sys; open(sys.argv[1], 'w').close(); open(sys.argv[2], 'a').write('made ')"
    remove = "import os, sys; os.unlink(sys.argv[1]); open(sys.argv[2], 'a').write('removed ')"
    user, log = str(folder / "test-user"), str(folder / "smoke.log")
    return {
        "name": "smoke",
        "kind": "command",
        "argv": [sys.executable, "-c", write, user, log],
        "cleanup": [sys.executable, "-c", remove, user, log],
    }


def count(path: Path, where: str = "1") -> int:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM orders WHERE {where}").fetchone()[0])  # noqa: S608 - ours


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staging]:
    bench = Bench(tmp_path_factory.mktemp("staging"))
    sample, known = bench.sample, profile(bench.sample)
    known["rollback_git"][0]["safety"] = "branch"
    known["rollback_checks"].append(smoke(bench.folder))
    hosts = {
        environment: bench.profile(
            environment, **{**known, "rollback_service": {**known["rollback_service"], "environment": environment}}
        )
        for environment in ("staging", "production")
    }
    bench.hosts = hosts["staging"]
    bench.prove_checkpoint()
    sample.deploy_bad()
    subprocess.run([sys.executable, "-c", WRITER, str(sample.databases[0]), str(LATE)], check=True)
    shutil.copy(sample.databases[0], bench.folder / "copied.db")
    found = Staging(bench, Ran(1, "", {}), sample.commit())
    found.in_file_alone = count(bench.folder / "copied.db")
    accepted = {"rollback_reason": "orders cannot be read", "rollback_accept_data_loss_since": bench.taken}
    for environment, path in hosts.items():
        looked = bench.play("rollback-level3.yml", "--check", hosts=path, **accepted)
        entries = looked.record["services"]["shop"]["plan"]["entries"]
        found.plans[environment] = [(entry["name"], entry["action"]) for entry in entries]
    found.ran = bench.play("rollback-level3.yml", **accepted)
    assert found.ran.record["outcome"] == "done", found.ran.output
    bench.before = sample.inspect()
    yield found
    sample.remove()


def test_b4_a_name_is_made_once(staging: Staging) -> None:
    """Each command of the runbook asked the clock again, and so pushed a branch that did not exist."""
    name = f"refs/heads/rollbackctl/{staging.run}/before/shop-code"
    for repository in (staging.bench.sample.app, staging.bench.sample.origin):
        found = git(repository, "for-each-ref", "--format=%(refname) %(objectname)", "refs/heads/rollbackctl")
        assert found == f"{name} {staging.bad}"
    assert staging.run in git(staging.bench.sample.app, "log", "-1", "--format=%B")


def test_b8_no_old_wal_is_replayed_over_what_was_restored(staging: Staging) -> None:
    """After a `cp`, SQLite replayed the bad rows, and integrity_check said ok."""
    database = staging.bench.sample.databases[0]
    assert count(database) == 200
    assert count(database, "email <> ''") == 200, "with the column that the bad release dropped"
    with contextlib.closing(connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_b9_the_safety_copy_holds_what_was_in_the_wal(staging: Staging) -> None:
    """A copy of the one file would have lost every late row; what the run set aside has them all."""
    assert staging.in_file_alone < LATE, "or this would prove nothing"
    (aside,) = [one for one in staging.ran.record["services"]["shop"]["set_aside"] if one["component"] == "shop-db"]
    assert count(Path(aside["path"]) / "shop-db.sqlite", "client = 'late'") == LATE


def test_b10_base_is_no_target(staging: Staging) -> None:
    ran = staging.bench.play("rollback-schema.yml", rollback_reason="x", rollback_to={"shop-schema": "base"})
    refused(staging.bench, ran, "'base' undoes every migration and so drops every table", "To empty or rebuild")


@pytest.mark.parametrize("guess", ["main~10", "HEAD@{1}"])
def test_b11_a_place_counted_from_another_is_no_target(staging: Staging, guess: str) -> None:
    ran = staging.bench.play("rollback-level1.yml", rollback_reason="x", rollback_to={"shop-code": guess})
    refused(staging.bench, ran, f"shop-code: '{guess}'", "Release 1.4.0")


def test_b25_level_2_needs_its_level_a_service_and_a_reason(staging: Staging) -> None:
    """No empty first argument; and a level that was not asked for is not done."""
    bench = staging.bench
    good = bench.sample.env_file.read_bytes()
    bench.sample.deploy_bad(code=False, files=False, migration="")
    assert bench.sample.env_file.read_bytes() != good
    ran = bench.rollbackctl("run", "2", "shop", "--reason", "wrong settings", "--yes", "-i", str(bench.hosts))
    assert ran.code == 0, ran.output
    assert (ran.record["outcome"], ran.record["level"]) == ("done", 2)
    assert bench.sample.env_file.read_bytes() == good
    bench.before = bench.sample.inspect()


def test_b26_what_a_smoke_test_made_is_taken_away(staging: Staging) -> None:
    """Also when it fails: the runbook left its test user in production."""
    bench = staging.bench
    log = (bench.folder / "smoke.log").read_text(encoding="ascii").split()
    assert log[:2] == ["made", "removed"]
    assert not (bench.folder / "test-user").exists()
    failing = {**smoke(bench.folder), "stdout_contains": "what it never says", "within": 1}
    hosts = bench.profile("failing", rollback_checks=[failing])
    ran = bench.play("verify.yml", hosts=hosts, rollback_reason="x")
    assert ran.record["services"]["shop"]["checks"][0]["ok"] is False
    log = (bench.folder / "smoke.log").read_text(encoding="ascii").split()
    assert log[-2:] == ["made", "removed"]
    assert not (bench.folder / "test-user").exists()


def test_b29_staging_is_rolled_back_like_production(staging: Staging) -> None:
    """The runbook accepted the word and did nothing."""
    assert staging.plans["staging"] == staging.plans["production"]
    assert ("shop-db", "change") in staging.plans["staging"]
    status, health = staging.bench.sample.get("/health")
    assert (status, health["version"]) == (200, GOOD)


def test_b29_the_result_is_logged_after_the_deed(staging: Staging) -> None:
    """The runbook wrote its one line before, and never how it went."""
    words = [event["event"] for event in staging.events]
    assert words.index("planned") < words.index("begin") < words.index("applied") < words.index("finished")
    assert words.count("finished") == 1
    assert staging.events[-1]["outcome"] == "done"
    record = staging.ran.record
    assert (record["outcome"], record["reason"]) == ("done", "orders cannot be read")
    assert record["started"] < record["ended"]


# -- a release that came as a merge, with a migration that only it has -------------------------------------------------


@dataclass(frozen=True)
class Merged:
    """The bench, the merge, and the run that took it out again."""

    bench: Bench
    merge: str
    ran: Ran


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Merged]:
    bench = Bench(tmp_path_factory.mktemp("merged"))
    sample, known = bench.sample, profile(bench.sample)
    known["rollback_git"][0]["method"] = "revert"
    bench.hosts = bench.profile("revert", **known)
    bench.prove_checkpoint()
    git(sample.app, "checkout", "--quiet", "-b", "feature")
    (sample.app / "VERSION").write_text(f"{BAD}\n", encoding="ascii")
    source = (sample.app / "app.py").read_text(encoding="utf-8")
    (sample.app / "app.py").write_text(source.replace(*BUG), encoding="utf-8")
    shutil.copy(RELEASE / "bad" / "migrations" / "versions" / "0003_note.py", sample.app / "migrations" / "versions")
    git(sample.app, "add", "--all")
    git(sample.app, "commit", "--quiet", "--message", "A note for each order")
    git(sample.app, "checkout", "--quiet", "main")
    git(sample.app, "merge", "--quiet", "--no-ff", "--message", "Merge the notes", "feature")
    git(sample.app, "push", "--quiet", "origin", "main")
    merge = sample.commit()
    sample.alembic("upgrade", "head")
    sample.restart()
    sample.wait(healthy=False, version=BAD)
    assert sample.revision() == "0003"
    status, _ = sample.order("written after the release")
    assert status == 201
    ran = bench.play("rollback-level3.yml", rollback_reason="orders fail", rollback_to={"shop-code": merge})
    assert ran.record["outcome"] == "done", ran.output
    yield Merged(bench, merge, ran)
    sample.remove()


def test_b30_a_merge_is_reverted(merged: Merged) -> None:
    """`git revert` alone says: is a merge but no -m option was given."""
    sample = merged.bench.sample
    with pytest.raises(RuntimeError, match="is a merge but no -m option was given"):
        git(sample.app, "revert", "--no-edit", merged.merge)
    assert git(sample.app, "diff", "--stat", f"{merged.merge}^1", "main") == "", "it is what it was before the merge"
    assert git(sample.origin, "merge-base", "--is-ancestor", merged.merge, "main") == "", "and nothing was forced"
    status, health = sample.get("/health")
    assert (status, health["version"]) == (200, GOOD)


def test_b33_the_schema_goes_back_while_its_migration_is_there(merged: Merged) -> None:
    """The runbook took the code back first, and with it the migration that knows the way down."""
    sample = merged.bench.sample
    steps = [(one["component"], one["status"]) for one in merged.ran.record["services"]["shop"]["steps"]]
    order = [name for name, status in steps if status == "changed"]
    assert order.index("shop-schema") < order.index("shop-code")
    assert sample.revision() == "0002"
    assert not (sample.app / "migrations" / "versions" / "0003_note.py").exists()
    assert count(sample.databases[0], "customer = 'written after the release'") == 1, "a downgrade loses no row"
    plan = {entry["name"]: entry["action"] for entry in merged.ran.record["services"]["shop"]["plan"]["entries"]}
    assert (plan["shop-schema"], plan["shop-db"]) == ("change", "keep")


def test_b33_back_the_schema_goes_before_the_code_and_forward_after_it() -> None:
    roles = {}
    for name in ("rollback-level3", "roll-forward"):
        (play,) = yaml.safe_load((ROOT / "playbooks" / f"{name}.yml").read_text(encoding="utf-8"))
        roles[name] = play["vars"]["run_roles"]
    back, forward = roles["rollback-level3"], roles["roll-forward"]
    assert back.index("rollback_alembic") < back.index("rollback_git") < back.index("restart_service")
    assert forward.index("rollback_git") < forward.index("rollback_alembic") < forward.index("restart_service")
