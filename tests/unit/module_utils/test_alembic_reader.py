# SPDX-License-Identifier: GPL-3.0-or-later
"""What the source of a migration tells without being run, and what is left out of messages."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.alembic_command import redacted
from ansible.module_utils.rollbackctl.alembic_reader import read_change


def change(body: str, before: str = "from alembic import op") -> dict[str, Any]:
    """Read a downgrade() with this body."""
    return read_change(f"{before}\ndef downgrade():\n{textwrap.indent(body, '    ')}\n", "downgrade")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("pass", "empty"),
        ("...", "empty"),
        ('"""Only words."""', "empty"),
        ("return", "empty"),
        ("return None", "empty"),
        ("raise RuntimeError('no')", "raises"),
        ("print('careful')\nraise NotImplementedError", "raises"),
        ("op.drop_index('i')", "normal"),
    ],
)
def test_the_kind_of_a_downgrade(body: str, kind: str) -> None:
    assert change(body)["kind"] == kind


def test_a_migration_without_a_downgrade_is_missing_one() -> None:
    assert read_change("def upgrade():\n    pass\n", "downgrade")["kind"] == "missing"


@pytest.mark.parametrize(
    ("body", "columns", "tables"),
    [
        ("op.drop_column('t', 'c')", [["t", "c"]], []),
        ("op.drop_column(column_name='c', table_name='t')", [["t", "c"]], []),
        ("with op.batch_alter_table('t', schema=None) as b:\n    b.drop_column(b.f('c'))", [["t", "c"]], []),
        ("op.drop_table(op.f('t'))", [], ["t"]),
        ("if True:\n    op.drop_table('t')", [], ["t"]),
        ("for _ in [1]:\n    op.drop_table('t')", [], ["t"]),
    ],
)
def test_what_is_dropped_is_named(body: str, columns: list[list[str]], tables: list[str]) -> None:
    found = change(body)
    assert (found["columns"], found["tables"]) == (columns, tables)


def test_op_under_another_name_is_still_op() -> None:
    assert change("o.drop_table('t')", "from alembic import op as o")["tables"] == ["t"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("op.execute('DELETE FROM t')", "own SQL"),
        ("op.execute(STATEMENT)", "own SQL"),
        ("op.drop_table(NAME)", "name is computed"),
        ("op.drop_column('t', NAME)", "name is computed"),
        ("op.alter_column('t', 'c', type_=sa.Integer())", "type of a column"),
        ("op.get_bind()", "op.get_bind"),
        ("helper()", "calls helper()"),
        ("session.query(User).delete()", "calls session.query"),
        ("if x:\n    raise ValueError", "may raise"),
    ],
)
def test_what_only_running_it_can_tell_is_said(body: str, words: str) -> None:
    assert any(words in text for text in change(body)["unknown"])


@pytest.mark.parametrize(
    "body",
    [
        "op.create_index('i', 't', ['c'])",
        "op.add_column('t', sa.Column('c', sa.Text(), nullable=True))",
        "op.alter_column('t', 'c', nullable=True, existing_type=sa.Text())",
        "op.drop_constraint(op.f('k'), 't', type_='foreignkey')",
        "op.execute('CREATE VIEW v AS SELECT 1')",
        "op.execute(sa.text('CREATE VIEW v AS SELECT 1'))",
        "with op.batch_alter_table('t') as b:\n    b.create_index(b.f('i'), ['c'], unique=False)",
    ],
)
def test_what_keeps_every_value_is_not_suspected(body: str) -> None:
    found = change(body, "from alembic import op\nimport sqlalchemy as sa")
    assert (found["unknown"], found["columns"], found["tables"]) == ([], [], [])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach postgresql://shop:p%40ss-word@db/shop", "cannot reach ***"),
        ("password p%40ss-word is wrong", "password *** is wrong"),
        ("password p@ss-word is wrong", "password *** is wrong"),
        ("mysql://root:another@db failed", "mysql://root:***@db failed"),
        ("nothing secret", "nothing secret"),
    ],
)
def test_values_and_passwords_are_left_out(text: str, shown: str) -> None:
    assert redacted(text, {"DSN": "postgresql://shop:p%40ss-word@db/shop", "N": "1"}) == shown
