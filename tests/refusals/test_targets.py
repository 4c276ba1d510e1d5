# SPDX-License-Identifier: GPL-3.0-or-later
"""Targets that are not there, not whole, or not of this service."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.durable import read_document, write_document
from ansible.module_utils.rollbackctl.sqlite import SqliteDriver

from lab.sample.profile import profile
from tests.support.bench import Bench, refused

LEVEL3 = "rollback-level3.yml"


def test_targets_that_do_not_exist_are_all_named_with_what_there_is(bench: Bench, tmp_path: Path) -> None:
    known = profile(bench.sample)
    with_backups = {role: [{**known[role][0], "backups": str(tmp_path)}] for role in ("restore_env", "restore_files")}
    to = {
        "shop-code": "v9.9.9",
        "shop-db": "/backups/of/nobody.sqlite",
        "shop-static": "nothing.tar.gz",
        "shop-env": "last-week.env",
    }
    ran = bench.play(LEVEL3, hosts=bench.profile("backups", **with_backups), rollback_reason="x", rollback_to=to)
    refused(bench, ran, *to, *to.values(), "Release 1.4.0: know where to write to", 'rollback_to": {"shop-code": ')


def test_a_revision_that_does_not_exist(bench: Bench) -> None:
    ran = bench.play("rollback-schema.yml", rollback_reason="x", rollback_to={"shop-schema": "beef"})
    refused(bench, ran, "revision 'beef' does not exist", "Known: 0003", 'rollback_to": {"shop-schema": ')


def test_a_checkpoint_that_does_not_exist(bench: Bench) -> None:
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_checkpoint="cp-19700101")
    refused(bench, ran, "Checkpoint 'cp-19700101' does not exist", f"Known: {bench.checkpoint} (proven)")
    again = bench.play("rollback-level1.yml", rollback_reason="x", rollback_checkpoint="cp-19700101")
    refused(bench, again, "Checkpoint 'cp-19700101' does not exist")  # and not that the first one holds the service


def test_without_any_checkpoint_there_is_no_guess(bench: Bench, tmp_path: Path) -> None:
    hosts = bench.profile("new", rollback_state={"kind": "directory", "path": str(tmp_path / "state")})
    ran = bench.play(LEVEL3, hosts=hosts, rollback_reason="x")
    refused(bench, ran, "no proven checkpoint to take shop-code back to", "rollback_checkpoint", "rollback_to")


def test_a_checkpoint_whose_document_was_edited(bench: Bench) -> None:
    folder = bench.variant("cp-edited")
    try:
        path = folder / "checkpoint.json"
        path.write_bytes(path.read_bytes().replace(b"proven", b"PROVEN"))
        ran = bench.play(LEVEL3, rollback_reason="x", rollback_checkpoint="cp-edited")
        refused(bench, ran, "Checkpoint 'cp-edited' is damaged", f"{bench.checkpoint} (proven)")
    finally:
        shutil.rmtree(folder)


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_one_bit, remove])
def test_backups_that_are_not_whole_are_all_named(bench: Bench, damage: Callable[[Path], None]) -> None:
    """Each artefact of a checkpoint at once: the database, the copy beside the schema, the files, the settings."""
    folder = bench.variant("cp-damaged")
    try:
        artefacts = {
            "shop-db": folder / "shop-db" / "shop-db.sqlite",
            "shop-schema": folder / "shop-schema" / "database.sqlite",
            "shop-static": folder / "shop-static" / "shop-static.tar",
            "shop-env": folder / "shop-env" / "shop-env.env",
        }
        for path in artefacts.values():
            damage(path)
        ran = bench.play(LEVEL3, rollback_reason="x", rollback_checkpoint="cp-damaged")
        # The schema comes back with the database here, so its copy is of no use to this plan.
        refused(bench, ran, *(f"{name}: " for name in artefacts if name != "shop-schema"), "another checkpoint")
    finally:
        shutil.rmtree(folder)


def other_database(path: Path) -> Path:
    """Make a database of another service."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT)")
        connection.execute("CREATE TABLE payrolls (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE salaries (id INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO orders (customer) VALUES ('somebody')")
    return path


def test_a_backup_of_another_database(bench: Bench, tmp_path: Path) -> None:
    """Its manifest is true and its tables look alike; it was made from another file."""
    database = other_database(tmp_path / "billing.db")
    (tmp_path / "backup").mkdir()
    made = SqliteDriver({"name": "shop-db", "path": str(database)}, Place()).record(tmp_path / "backup")
    backup = f"{made.at}/{made.artefacts['file']}"
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_components=["shop-db"], rollback_to={"shop-db": backup})
    refused(bench, ran, f"is of another database than {bench.sample.databases[0]}", f"it was made from {database}")


def test_a_file_of_another_database_that_nobody_recorded(bench: Bench, tmp_path: Path) -> None:
    """The operator accepts a backup without a manifest, and still it has to be one of this service."""
    backup = str(other_database(tmp_path / "b.sqlite"))
    values: dict[str, Any] = {"rollback_components": ["shop-db"], "rollback_to": {"shop-db": backup}}
    refused(bench, bench.play(LEVEL3, rollback_reason="x", **values), "rollback_accept_unverified_backup=true")
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_accept_unverified_backup=True, **values)
    refused(bench, ran, "is of another database", "only 1 of its 3 tables exist here")


def test_a_backup_with_its_wal_beside_it_is_half_of_a_database(bench: Bench, tmp_path: Path) -> None:
    """Copied with cp while its writer lived: what was written last is in the -wal alone. Neither is replayed."""
    source = bench.sample.databases[0]
    backup = tmp_path / "shop.sqlite"
    for suffix in ("", "-wal"):
        shutil.copy(f"{source}{suffix}", f"{backup}{suffix}")
    assert Path(f"{backup}-wal").stat().st_size, "the service is running, so it has one"
    ran = bench.play(
        LEVEL3,
        rollback_reason="x",
        rollback_components=["shop-db"],
        rollback_to={"shop-db": str(backup)},
        rollback_accept_unverified_backup=True,
    )
    refused(bench, ran, "has a -wal file beside it", "only half of a database", f"sqlite3 {backup} '.backup NEWFILE'")


def test_a_link_is_no_backup(bench: Bench, tmp_path: Path) -> None:
    backup = tmp_path / "shop.sqlite"
    backup.symlink_to(bench.sample.databases[0])
    values: dict[str, Any] = {"rollback_components": ["shop-db"], "rollback_to": {"shop-db": str(backup)}}
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_accept_unverified_backup=True, **values)
    refused(bench, ran, str(backup), "link")


def project_with(bench: Bench, folder: Path, **files: str) -> Path:
    """Return an inventory in which alembic's project is a copy of the service's, with other migrations in it."""
    project = folder / "project"
    shutil.copytree(bench.sample.app, project)
    for name, text in files.items():
        (project / "migrations" / "versions" / f"{name}.py").write_text(text, encoding="utf-8")
    (component,) = profile(bench.sample)["rollback_alembic"]
    alone = {**component, "project": str(project), "strategy": "downgrade"}
    return bench.profile("project", rollback_alembic=[alone])


def test_a_migration_that_cannot_be_undone(bench: Bench, tmp_path: Path) -> None:
    source = (bench.sample.app / "migrations" / "versions" / "0003_client.py").read_text(encoding="utf-8")
    kept, _, _ = source.partition('    """Go back to the one before."""')
    hosts = project_with(bench, tmp_path, **{"0003_client": f"{kept}    raise NotImplementedError\n"})
    ran = bench.play("rollback-schema.yml", hosts=hosts, rollback_reason="x", rollback_to={"shop-schema": "0002"})
    refused(bench, ran, "revision 0003", "cannot be undone", "written as irreversible", "Restore the database instead")


def test_a_history_with_several_heads_has_no_one_step_back(bench: Bench, tmp_path: Path) -> None:
    source = (bench.sample.app / "migrations" / "versions" / "0003_client.py").read_text(encoding="utf-8")
    hosts = project_with(bench, tmp_path, **{"0003_other": source.replace('"0003"', '"0003b"')})
    ran = bench.play("rollback-schema.yml", hosts=hosts, rollback_reason="x", rollback_to={"shop-schema": "-1"})
    refused(bench, ran, "has 2 heads (0003, 0003b)", '-e \'{"rollback_to": {"shop-schema": "0002"}}\'')


def test_data_loss_is_a_decision(bench: Bench) -> None:
    """Not accepted, and accepted for less than would be lost."""
    order = f"pass rollback_accept_data_loss_since={bench.taken} to go on"
    # The settings are part of it, so that this is told from a plan without a change of data.
    refused(bench, bench.play(LEVEL3, rollback_reason="x"), "Data would be lost: rows since", order)
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_accept_data_loss_since="2199-01-01T00:00:00Z")
    refused(bench, ran, "More data would be lost than was accepted (2199-01-01T00:00:00Z)", order)


def test_a_plan_that_no_longer_fits_is_not_carried_out(bench: Bench) -> None:
    """Approved as it was then; since, somebody changed a setting."""
    looked = bench.play("rollback-level2.yml", "--check", rollback_reason="x")
    approved = looked.record["services"]["shop"]["plan"]["hash"]
    settings = bench.sample.env_file.read_text(encoding="utf-8")
    before = bench.before
    bench.sample.env_file.write_text(settings + "SHOP_HOTFIX=1\n", encoding="utf-8")
    bench.before = bench.sample.inspect()
    try:
        ran = bench.play("rollback-level2.yml", rollback_reason="x", rollback_plan=approved)
        refused(bench, ran, f"no longer the one that was approved ({approved})", "approve that one")
    finally:
        bench.sample.env_file.write_text(settings, encoding="utf-8")
        bench.before = before


def test_a_quarantined_combination_is_not_a_target_even_when_it_is_named(bench: Bench) -> None:
    """The store says that what the checkpoint holds was rolled back before."""
    document = read_document(bench.sample.state / "checkpoints" / bench.checkpoint / "checkpoint.json")
    assert document is not None
    bad = {"shop-code": document["components"]["shop-code"]["identity"]}
    entry = {"id": "q-1400", "since": "2026-11-01T00:00:00Z", "run": "rb-1", "reason": "lost orders", "texts": {}}
    path = bench.sample.state / "quarantine.json"
    write_document(path, {"combinations": [{**entry, "combination": bad}]})
    try:
        ran = bench.play("rollback-level1.yml", rollback_reason="x", rollback_checkpoint=bench.checkpoint)
        refused(bench, ran, "quarantined as q-1400", "lost orders", "rollbackctl quarantine release q-1400")
        unnamed = bench.play("rollback-level1.yml", rollback_reason="x")
        refused(bench, unnamed, "There is no proven checkpoint to take shop-code back to")
    finally:
        path.unlink()


@pytest.mark.parametrize("playbook", ["rollback-level3.yml", "roll-forward.yml", "finalize.yml"])
def test_a_run_that_nobody_knows(bench: Bench, playbook: str) -> None:
    ran = bench.play(playbook, rollback_reason="x", rollback_run="rb-20200101-000000-beef")
    refused(bench, ran, "Run rb-20200101-000000-beef has no plan here, so it changed nothing", "Start a new run")
