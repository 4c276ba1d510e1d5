# SPDX-License-Identifier: GPL-3.0-or-later
"""What a SQLite schema promises, so that two can be compared by meaning: tables, columns, constraints, indexes,
triggers, views.

The texts of two CREATE TABLE that mean the same differ: alembic's batch mode writes a table anew, with other quotes, in
another order, with a constraint where a column said it. So what PRAGMAs tell is taken from them, and the rest (CHECK,
COLLATE, generated columns, AUTOINCREMENT) from the text, taken apart into words.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_WORD = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|$)
    | [^\W\d][\w$]* | \d[\w.]* | [<>=!|]{2} | \S""",
    re.VERBOSE | re.DOTALL,
)
# A word of a constraint, and what the constraint is called.
_KINDS = {"primary": "PRIMARY KEY", "key": "PRIMARY KEY", "unique": "UNIQUE", "null": "NOT NULL"}
_TABLE_CONSTRAINTS = {"constraint", "primary", "unique", "check", "foreign"}
# SQLite's rules, https://sqlite.org/datatype3.html#determination_of_column_affinity
_AFFINITIES = (
    (("INT",), "INTEGER"),
    (("CHAR", "CLOB", "TEXT"), "TEXT"),
    (("BLOB",), "BLOB"),
    (("REAL", "FLOA", "DOUB"), "REAL"),
)

# How FTS and R*Tree name the tables in which they keep their content.
_SHADOWS = ("data", "idx", "content", "docsize", "config", "segments", "segdir", "stat", "node", "parent", "rowid")


class _Token(str):
    """A word as it is compared; quoted: it is a name, whatever it reads like."""

    __slots__ = ("quoted",)
    quoted: bool


def _tokens(sql: str) -> list[_Token]:
    """Return the words of a statement: names without quotes and in lower case, texts as they are, no comments."""
    found = []
    for match in _WORD.finditer(sql):
        word = match.group()
        if word.startswith(("--", "/*")):
            continue
        quoted = word[0] in '"`[' and len(word) > 1
        text = word[1:-1].replace(word[0] * 2, word[0]).lower() if quoted else word if word[0] == "'" else word.lower()
        one = _Token(text)
        one.quoted = quoted
        found.append(one)
    return found


def _bare(tokens: list[_Token]) -> list[_Token]:
    """Return an expression without the brackets around all of it."""
    while len(tokens) > 1 and tokens[0] == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: list[_Token], opening: int) -> int:
    """Return where the bracket that opens at a place is closed; the last place when it never is."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at] == "(") - (tokens[at] == ")")
        if depth == 0:
            return at
    return len(tokens) - 1


def _parts(tokens: list[_Token]) -> Iterator[list[_Token]]:
    """Yield what stands between the commas of a definition, commas inside brackets aside."""
    part: list[_Token] = []
    depth = 0
    for one in tokens:
        depth += (one == "(") - (one == ")")
        if one == "," and depth == 0:
            yield part
            part = []
        else:
            part.append(one)
    yield part


def _expression(sql: str) -> str:
    return " ".join(_bare(_tokens(sql)))


def _default(sql: str) -> str:
    """Return a default as an expression; in it quoted is a text, because it may name no column."""
    return sql if sql[:1] in {'"', "`", "["} else _expression(sql)


def promises(connection: sqlite3.Connection, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """Return what the schema of an open database promises: a phrase for people, e.g. "trigger audit" or "NOT NULL of
    orders.email", and a value that is equal where it means the same.

    :param without: tables that do not count.
    """
    found: dict[str, Any] = {}
    left_out = {name.lower() for name in without}
    rows = connection.execute("SELECT type, name, tbl_name, coalesce(sql, ''), rootpage FROM sqlite_master").fetchall()
    virtual = {name for kind, name, _, sql, _ in rows if kind == "table" and _is_virtual(sql)}
    for kind, name, table, sql, _ in rows:
        if (
            name.startswith("sqlite_")
            or table.lower() in left_out
            or (kind in {"table", "index"} and _is_shadow(table, virtual))
        ):
            continue
        if kind == "table" and name not in virtual:
            found.update(_of_table(connection, name, sql))
        elif sql:  # an index without a text belongs to a constraint, which the table's own PRAGMAs tell
            where = f" on {table}" if kind in {"index", "trigger"} else ""
            found[f"{kind if kind != 'table' else 'virtual table'} {name}{where}"] = _definition(sql)
    for mark in ("user_version", "application_id"):
        if number := connection.execute(f"PRAGMA {mark}").fetchone()[0]:
            found[f"{mark} {number}"] = True
    return found


def found_by_number(connection: sqlite3.Connection) -> set[str]:
    """Return the tables, in lower case, whose rows a full text index finds by their numbers (FTS: content=TABLE)."""
    rows = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND rootpage = 0").fetchall()
    found = set()
    for (sql,) in rows:
        words = _tokens(sql or "")
        for name, sign, value in zip(words, words[1:], words[2:]):
            if (name, sign) == ("content", "="):
                found.add(value.strip("'").lower())
    return found


def lacking(held: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a phrase for each promise of one schema that the other does not keep; what a missing table or column takes
    along is not said again."""
    found = [name for name in held if name not in other]
    changed = [name for name in held if name in other and held[name] != other[name]]
    gone = [name[len("table ") :] for name in found if name.startswith("table ")]
    columns = [name[len("column ") :] for name in found if name.startswith("column ")]
    kept = [
        name
        for name in found
        if not any(_belongs(name, table) for table in gone) and not any(name == f"NOT NULL of {one}" for one in columns)
    ]
    return (*kept, *(f"{name} (it reads otherwise)" for name in changed))


def _belongs(phrase: str, table: str) -> bool:
    if phrase.startswith("table "):
        return False
    return bool(re.search(rf"(?:^| )(?:of|on|column|key|UNIQUE) {re.escape(table)}(?:\.| |$)", phrase))


def _is_virtual(sql: str) -> bool:
    return _tokens(sql)[:2] == ["create", "virtual"]


def _is_shadow(name: str, virtual: set[str]) -> bool:
    """Say whether a table is one in which a virtual table keeps its content; its rows are compared, not its text."""
    owner, _, end = name.rpartition("_")
    return owner in virtual and end in _SHADOWS


def _definition(sql: str) -> str:
    """Return an index's, a trigger's or a view's text by its words, without those that say nothing."""
    words = [word for word in _tokens(sql) if word != "asc"]
    return " ".join(words).replace("if not exists ", "", 1).removesuffix(" ;")


def _of_table(connection: sqlite3.Connection, table: str, sql: str) -> dict[str, Any]:
    tokens = _tokens(sql)
    opening = tokens.index("(") if "(" in tokens else len(tokens) - 1  # type: ignore[arg-type]
    end = _closing(tokens, opening)
    options = sorted(" ".join(part) for part in _parts(tokens[end + 1 :]) if part)
    found: dict[str, Any] = {f"table {table}": options}
    written: dict[str, dict[str, Any]] = {}
    for part in _parts(tokens[opening + 1 : end]):
        column = part[0] if part and (part[0].quoted or part[0] not in _TABLE_CONSTRAINTS) else ""
        said = _said(part)
        found.update({f"CHECK ({check}) of {table}": True for check in said.pop("checks")})
        found.update({f"{rule} of {table} ({', '.join(on)})": True for rule, on in said.pop("rules")})
        if said.pop("autoincrement"):
            found[f"AUTOINCREMENT of {table}"] = True
        written[column] = said
    info = connection.execute(f"PRAGMA table_xinfo({_quoted(table)})").fetchall()
    key = [row[1] for row in sorted((row for row in info if row[5]), key=lambda row: row[5])]
    for _, name, kind, not_null, default, _, hidden in info:
        said = written.get(name.lower(), {})
        value = (_affinity(kind), None if default is None else _default(default))
        found[f"column {table}.{name}"] = [*value, said.get("collate", "binary"), said.get("generated", ""), hidden]
        # An INTEGER PRIMARY KEY is the row number, which is never NULL; any other key may be.
        if not_null and (key != [name] or kind.upper() != "INTEGER"):
            found[f"NOT NULL of {table}.{name}"] = True
    if key:
        found[f"primary key {table} ({', '.join(key).lower()})"] = True
        # A key that is not the row number has an index.
        indexes = connection.execute(f"PRAGMA index_list({_quoted(table)})").fetchall()
        if len(key) == 1 and not any(row[3] == "pk" for row in indexes):
            found[f"numbers for new rows in {table}.{key[0]} (INTEGER PRIMARY KEY)"] = True
    found.update(_unique(connection, table))
    found.update(_foreign_keys(connection, table))
    return found


def _said(part: list[_Token]) -> dict[str, Any]:
    """Return what a column or a constraint says that no PRAGMA tells."""
    said: dict[str, Any] = {"checks": [], "autoincrement": False, "rules": []}
    at, kind = 0, ""
    listed = part[:1] if part and (part[0].quoted or part[0] not in _TABLE_CONSTRAINTS) else []
    while at < len(part):
        word, following = part[at], part[at + 1] if at + 1 < len(part) else ""
        end = _closing(part, at + 1) if following == "(" else at
        if word.quoted or (at == 0 and word not in _TABLE_CONSTRAINTS):
            pass
        elif word == "check" and following == "(":
            said["checks"].append(" ".join(_bare(part[at + 1 : end + 1])))
            at = end
        elif word == "as" and following == "(":
            said["generated"] = " ".join(_bare(part[at + 1 : end + 1]))
            at = end
        elif word == "collate":
            said["collate"] = str(following)
        elif word == "autoincrement":
            said["autoincrement"] = True
        elif word in _KINDS:
            kind = _KINDS[word]
            if following == "(" and word in {"unique", "key"}:
                listed = [one[0] for one in _parts(part[at + 2 : end])]
                at = end
        elif rule := _rule(part, at, kind):
            said["rules"].append((rule, listed))
        at += 1
    return said


def _rule(part: list[_Token], at: int, kind: str) -> str:
    """Return what begins at a place of a constraint of this kind, if it is how or when it acts; else nothing."""
    words = part[at : at + 3]
    if words[:2] == ["on", "conflict"] and words[2] != "abort":  # which is what happens without
        return f"{kind} ON CONFLICT {words[2].upper()}"
    deferred = words == ["deferrable", "initially", "deferred"] and (at == 0 or part[at - 1] != "not")
    return "DEFERRABLE INITIALLY DEFERRED" if deferred else ""


def _affinity(kind: str) -> str:
    upper = kind.upper()
    if not upper:
        return "BLOB"
    return next((name for words, name in _AFFINITIES if any(word in upper for word in words)), "NUMERIC")


def _unique(connection: sqlite3.Connection, table: str) -> dict[str, Any]:
    """Return the columns that are unique together, whether a constraint or an index on all rows says so."""
    found = {}
    for _, name, unique, origin, partial in connection.execute(f"PRAGMA index_list({_quoted(table)})").fetchall():
        if not unique or partial or origin == "pk":
            continue
        parts = connection.execute(f"PRAGMA index_xinfo({_quoted(name)})").fetchall()
        keys = [(row[2], row[4]) for row in parts if row[5]]
        if all(column is not None for column, _ in keys):
            listed = ", ".join(
                column.lower() + ("" if order == "BINARY" else f" {order.lower()}") for column, order in keys
            )
            found[f"UNIQUE {table} ({listed})"] = True
    return found


def _foreign_keys(connection: sqlite3.Connection, table: str) -> dict[str, Any]:
    keys: dict[int, list[Any]] = {}
    for row in connection.execute(f"PRAGMA foreign_key_list({_quoted(table)})").fetchall():
        keys.setdefault(row[0], []).append(row)
    found = {}
    for rows in keys.values():
        rows.sort(key=lambda row: row[1])
        parent, on_update, on_delete = rows[0][2], rows[0][5], rows[0][6]
        there = [row[4] for row in rows]
        if there[0] is None:  # it refers to the primary key without naming it
            info = connection.execute(f"PRAGMA table_info({_quoted(parent)})").fetchall()
            there = [row[1] for row in sorted((row for row in info if row[5]), key=lambda row: row[5])]
        pair = f"({', '.join(row[3] for row in rows)}) -> {parent} ({', '.join(there)})".lower()
        words = [f" ON {verb} {rule}" for verb, rule in (("UPDATE", on_update), ("DELETE", on_delete))]
        words = [word for word in words if not word.endswith("NO ACTION")]
        found[f"foreign key {table} {pair}{''.join(words)}"] = True
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
