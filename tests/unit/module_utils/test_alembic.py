# SPDX-License-Identifier: GPL-3.0-or-later
"""The alembic driver on a real alembic project and a real SQLite file: reading and proving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import alembic_trial
from ansible.module_utils.rollbackctl.alembic import AlembicDriver
from ansible.module_utils.rollbackctl.component import Entry, Finding, Place, Version
from ansible.module_utils.rollbackctl.errors import Refused

from tests.unit.module_utils.alembic_sample import (
    AUDIT,
    FIRST,
    NOTE,
    PHONE,
    Sample,
    fresh_sample,
)

MASK = """op.execute("UPDATE customers SET name = '***'")"""


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A project of one's own: four revisions, the database at the newest."""
    return fresh_sample(tmp_path)


def driver(sample: Sample, **more: Any) -> AlembicDriver:
    """Return a driver as the engine makes one."""
    return AlembicDriver({**sample.options, **more}, Place(run="rb-1"))


def entry_of(live: Version, target: Version, finding: Finding) -> Entry:
    return Entry("schema", "rollback_alembic", "schema", live, target, "change", finding)


def find(sample: Sample, want: str, **more: Any) -> tuple[Version, Version, Finding]:
    """Do what preflight does."""
    subject = driver(sample, **more)
    live, target = subject.live(exact=True), subject.resolve(want)
    return live, target, subject.check(live, target)


# -- reading and resolving --------------------------------------------------------------------------------------------


def test_live_is_the_revision_in_the_database(sample: Sample) -> None:
    live = driver(sample).live(exact=True)
    assert live.identity == {"revision": AUDIT}


@pytest.mark.parametrize(
    ("want", "revision"), [("-1", PHONE), ("-2", NOTE), ("-3", FIRST), (NOTE, NOTE), ("2b20", NOTE), ("3c3", None)]
)
def test_a_word_becomes_one_revision(sample: Sample, want: str, revision: str | None) -> None:
    if revision is None:
        with pytest.raises(Refused, match="does not exist"):
            driver(sample).resolve(want)
    else:
        target = driver(sample).resolve(want)
        assert target.identity == {"revision": revision}
        assert revision in target.text


@pytest.mark.parametrize(
    ("want", "words"),
    [
        ("base", "drops every table"),
        ("head", "does not exist"),
        ("deadbeef", f"Known: .*{AUDIT}"),
        ("-4", "beyond the first migration"),
        ("-0", "no step back"),
        ("+1", "does not exist"),
        ("--sql", "does not exist"),
    ],
)
def test_words_that_name_no_revision_are_refused(sample: Sample, want: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        driver(sample).resolve(want)


def test_an_ambiguous_beginning_is_refused_with_its_candidates(sample: Sample) -> None:
    sample.write("3c30111111ee", AUDIT)
    with pytest.raises(Refused, match=f"{PHONE}, 3c30111111ee"):
        driver(sample).resolve("3c30")


def test_steps_back_are_refused_where_there_are_two_heads_but_a_revision_is_not(sample: Sample) -> None:
    sample.write("feed00000001", NOTE)
    with pytest.raises(Refused, match="2 heads"):
        driver(sample).resolve("-1")
    assert driver(sample).resolve(NOTE).identity == {"revision": NOTE}


def test_a_missing_migration_file_is_refused_by_name(sample: Sample) -> None:
    sample.file_of(PHONE).unlink()
    with pytest.raises(Refused, match=f"revision {PHONE} is missing") as caught:
        driver(sample).resolve("-1")
    assert "migrations of the new code" in caught.value.next_step


def test_the_old_code_cannot_take_the_new_schema_back(sample: Sample) -> None:
    sample.file_of(AUDIT).unlink()
    _, _, finding = find(sample, NOTE)
    assert len(finding.problems) == 1
    assert f"at revision {AUDIT}, which is not among the migrations" in finding.problems[0]
    assert "commit or image that contains it" in finding.problems[0]


def test_an_unknown_stamp_is_a_problem(sample: Sample) -> None:
    sample.stamp("abad1dea0000")
    _, _, finding = find(sample, NOTE)
    assert "stamped by hand" in " ".join(finding.problems)
    assert finding.facts["reversible"] is False


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM alembic_version", "missing or empty"),
        ("DROP TABLE alembic_version", "missing or empty"),
        ("INSERT INTO alembic_version VALUES ('0000')", "2 revisions"),
    ],
)
def test_a_database_without_one_revision_is_refused(sample: Sample, statement: str, words: str) -> None:
    sample.run(statement)
    with pytest.raises(Refused, match=words):
        driver(sample).live(exact=True)


def test_a_file_that_is_no_database_is_refused(sample: Sample) -> None:
    sample.database.write_bytes(b"not a database, but long enough to have a header" * 40)
    with pytest.raises(Refused, match="cannot be read"):
        driver(sample).live(exact=True)
    sample.database.unlink()
    with pytest.raises(Refused, match="does not exist"):
        driver(sample).live(exact=True)


# -- proving ----------------------------------------------------------------------------------------------------------


def test_a_lossless_way_down_is_proposed_without_a_loss(sample: Sample) -> None:
    _, _, finding = find(sample, NOTE)  # drops an index, and a column without values
    assert finding.problems == ()
    assert finding.loss is None
    assert finding.needs_fence
    assert finding.facts["reversible"] is True
    assert finding.facts["lossless"] is True
    assert finding.facts["direction"] == "downgrade"
    assert finding.facts["steps"] == [PHONE, NOTE]


def test_a_downgrade_that_fails_on_a_copy_is_a_problem(sample: Sample) -> None:
    before = sample.dump()
    sample.write("4e00000000aa", AUDIT, downgrade="op.execute(sa.text('DROP TABLE nowhere'))")
    sample.stamp("4e00000000aa")
    _, _, finding = find(sample, AUDIT)
    assert [problem for problem in finding.problems if "no such table: nowhere" in problem and "on a copy" in problem]
    sample.stamp(AUDIT)
    assert sample.dump() == before


def test_a_column_that_is_renamed_back_loses_nothing(sample: Sample) -> None:
    """What the result lacks by name is there under another one: going forward again gives it."""
    rename = 'with op.batch_alter_table("customers") as b:\n    b.alter_column("{}", new_column_name="{}")'
    up, down = rename.format("name", "full_name"), rename.format("full_name", "name")
    sample.write("4e00000000aa", AUDIT, upgrade=up, downgrade=down)
    sample.upgrade()
    _, _, finding = find(sample, AUDIT)
    assert finding.problems == ()
    assert finding.loss is None


def test_what_an_upgrade_destroyed_before_any_checkpoint_cannot_be_known(sample: Sample) -> None:
    sample.write("4e00000000aa", AUDIT, upgrade=MASK, downgrade="op.f('x')")
    sample.upgrade()
    _, _, finding = find(sample, AUDIT)
    assert finding.facts["lossless"] is False
    assert finding.loss is not None
    assert "destroyed when it was upgraded to is in no checkpoint" in finding.loss.text


def test_a_checkpoint_of_the_revision_tells_what_a_named_one_would_not_bring_back(
    sample: Sample, tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    checkpoint = driver(sample).record(tmp_path / "kept")
    sample.write("4e00000000aa", AUDIT, upgrade=MASK, downgrade="op.f('x')")
    sample.upgrade()
    subject = driver(sample)
    subject.known = (checkpoint,)
    finding = subject.check(subject.live(exact=True), subject.resolve(AUDIT))
    assert finding.facts["missing"] == ["the values of 2 rows of customers"]
    assert finding.loss is not None
    assert f"it does not bring back what the checkpoint of {checkpoint.taken} holds" in finding.loss.text


def test_values_of_dropped_columns_are_counted(sample: Sample) -> None:
    sample.run("UPDATE customers SET phone = '1'  WHERE id = 2")
    _, _, finding = find(sample, FIRST)
    assert finding.problems == ()
    assert finding.facts["lossless"] is False
    assert finding.loss is not None
    assert finding.loss.tables == {"customers": {"only_live": 1}, "orders": {"only_live": 2}}
    assert "2 values of column orders.note" in finding.loss.text
    assert finding.loss.since == "2026-02-01T10:00:00Z"  # when the oldest undone migration was made


def test_what_is_too_large_to_be_tried_out_is_never_certain(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alembic_trial, "LARGEST", 0)
    _, _, finding = find(sample, PHONE)
    assert finding.facts["lossless"] is False
    assert finding.loss is not None
    assert "were not tried out" in finding.loss.text


@pytest.mark.parametrize(
    ("downgrade", "words"),
    [
        ("raise NotImplementedError('no way back')", "raises an error"),
        ('"""Nothing."""', "is empty"),
        ("pass", "is empty"),
    ],
)
def test_an_irreversible_step_is_a_problem_that_offers_the_restore(sample: Sample, downgrade: str, words: str) -> None:
    sample.write("4e00000000aa", AUDIT, upgrade="op.drop_index('by_total', 'orders')", downgrade=downgrade)
    sample.stamp("4e00000000aa")
    _, _, finding = find(sample, PHONE, restored_by="shop-data")
    assert len(finding.problems) == 1
    assert words in finding.problems[0]
    assert "4e00000000aa" in finding.problems[0]
    assert "component shop-data" in finding.problems[0]
    assert finding.facts["reversible"] is False
    assert finding.facts["restored_by"] == "shop-data"


def test_a_revision_that_does_nothing_is_undone_by_doing_nothing(sample: Sample) -> None:
    sample.write("4e00000000aa", AUDIT)
    sample.upgrade()
    _, target, finding = find(sample, PHONE)
    assert finding.problems == ()
    driver(sample).apply(target)
    assert sample.revision() == [PHONE]


def test_a_merge_is_not_crossed(sample: Sample) -> None:
    sample.write("5f00000000aa", NOTE)
    sample.write("5f00000000bb", ("5f00000000aa", AUDIT))
    sample.upgrade()
    _, _, finding = find(sample, NOTE)
    assert "merges several lines" in finding.problems[0]
    with pytest.raises(Refused, match="merges several lines"):
        driver(sample).resolve("-2")


def test_a_newer_revision_named_by_hand_is_refused(sample: Sample) -> None:
    driver(sample).apply(driver(sample).resolve(NOTE))
    _, _, finding = find(sample, AUDIT)
    assert "would be an upgrade" in finding.problems[0]


def test_an_env_py_that_ignores_the_address_is_found_out(sample: Sample) -> None:
    env = sample.project / "migrations" / "env.py"
    env.write_text(env.read_text().replace('os.environ.get("DATABASE_URL") or ', ""))
    before = sample.dump()
    _, _, finding = find(sample, PHONE)
    assert "does not take the database's address" in finding.problems[0]
    assert sample.dump() == before


def test_an_env_py_of_another_database_is_found_out(sample: Sample) -> None:
    env = sample.project / "migrations" / "env.py"
    env.write_text(env.read_text().replace("shop.sqlite", "other.sqlite"))
    _, _, finding = find(sample, PHONE, url_environment=None)
    assert "env.py uses another database" in finding.problems[0]


def test_check_writes_nothing(sample: Sample) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.project.parent.rglob("*")}
    find(sample, FIRST)
    assert {path: path.stat().st_mtime_ns for path in sample.project.parent.rglob("*")} == before


def test_the_sql_is_shown_where_it_can_be(sample: Sample) -> None:
    _, _, simple = find(sample, PHONE)
    assert "DROP INDEX by_total" in simple.facts["sql"]
    _, _, batch = find(sample, NOTE)
    assert batch.facts["sql"] == ""
    assert any("batch mode" in note for note in batch.notes)
