# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a project's migrations; runs inside the project's own virtual environment, as a part of alembic_child.

Standard library only, and no relative import: on the other side there is nothing else. Because alembic's own loader
executes each migration file's top level, it is run with a timeout and with the rights of the project's owner.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from typing import Any

# Operations that give nothing away: https://alembic.sqlalchemy.org/en/latest/ops.html
HARMLESS = {
    "add_column",
    "create_check_constraint",
    "create_exclude_constraint",
    "create_foreign_key",
    "create_index",
    "create_primary_key",
    "create_table",
    "create_table_comment",
    "create_unique_constraint",
    "drop_constraint",
    "drop_index",
    "drop_table_comment",
    "f",
    "get_context",
    "rename_table",
}
# alter_column keywords that leave every value as it is.
_KEEPS_VALUES = {"nullable", "new_column_name", "existing_type", "existing_server_default", "existing_nullable"}
_KEEPS_VALUES |= {"server_default", "comment", "existing_comment", "schema", "table_name", "column_name"}
_HARMLESS_SQL = re.compile(r"\s*(CREATE|COMMENT|GRANT)\s", re.IGNORECASE)
_CREATED = re.compile(r"^Create Date:\s*(\S+[ T]\S+)", re.MULTILINE)
_MISSING = re.compile(r"Revision (\S+) referenced from")


def read_change(source: str, function: str) -> dict[str, Any]:
    """Say what upgrade() or downgrade() of a migration file does, without running it.

    :returns: kind: empty, raises, missing or normal; columns: [table, column] it drops; tables: names it drops;
        unknown: one sentence for each thing that only running it can tell.
    """
    tree = ast.parse(source)
    result: dict[str, Any] = {"kind": "missing", "columns": [], "tables": [], "unknown": []}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == function:
            body = [statement for statement in node.body if not _does_nothing(statement)]
            if not body:
                result["kind"] = "empty"
            elif any(isinstance(statement, ast.Raise) for statement in body):
                result["kind"] = "raises"
            else:
                result["kind"] = "normal"
                _Operations(_names_of_op(tree), result).visit_all(body)
    return result


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)  # docstring or ...
    if isinstance(statement, ast.Return):
        return statement.value is None or isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


def _names_of_op(tree: ast.Module) -> set[str]:
    names = {"op"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "alembic":
            names.update(alias.asname or alias.name for alias in node.names if alias.name == "op")
    return names


class _Operations(ast.NodeVisitor):
    """Collects the calls of op.* and of the batch objects made by op.batch_alter_table."""

    def __init__(self, names: set[str], result: dict[str, Any]) -> None:
        self.names = names
        self.result = result
        self.batches: dict[str, str | None] = {}

    def visit_all(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            call = item.context_expr
            batch = isinstance(call, ast.Call) and self._operation(call) == "batch_alter_table"
            if batch and isinstance(call, ast.Call) and isinstance(item.optional_vars, ast.Name):
                self.batches[item.optional_vars.id] = _text(call, 0, "table_name")
            else:
                self.visit(call)
        self.visit_all(node.body)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._unknown(node, "may raise an error")

    def visit_Call(self, node: ast.Call) -> None:
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = owner.id if isinstance(owner, ast.Name) else ""
        if name in self.batches and isinstance(node.func, ast.Attribute):
            self._judge(node, node.func.attr, self.batches[name], in_batch=True)
        elif self._operation(node):
            self._judge(node, self._operation(node), None, in_batch=False)
        else:
            self._unknown(node, f"calls {ast.unparse(node.func)}()")

    def _operation(self, node: ast.Call) -> str:
        function = node.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            return function.attr if function.value.id in self.names else ""
        return ""

    def _judge(self, node: ast.Call, operation: str, table: str | None, *, in_batch: bool) -> None:
        if operation == "drop_table":
            dropped = _text(node, 0, "table_name")
            if dropped:
                self.result["tables"].append(dropped)
            else:
                self._unknown(node, "drops a table whose name is computed")
        elif operation == "drop_column":
            table = table if in_batch else _text(node, 0, "table_name")
            column = _text(node, 0 if in_batch else 1, "column_name")
            if table and column:
                self.result["columns"].append([table, column])
            else:
                self._unknown(node, "drops a column whose name is computed")
        elif operation == "alter_column":
            changed = {keyword.arg for keyword in node.keywords} - _KEEPS_VALUES
            if changed:
                self._unknown(node, "changes the type of a column")
        elif operation == "execute":
            statement = _text(node, 0, "sqltext") or ""
            if not _HARMLESS_SQL.match(statement):
                self._unknown(node, "runs its own SQL (op.execute)")
        elif operation not in HARMLESS:
            self._unknown(node, f"calls op.{operation}()")

    def _unknown(self, node: ast.stmt | ast.expr, what: str) -> None:
        self.result["unknown"].append(f"line {node.lineno} {what}")


def _text(node: ast.Call, position: int, keyword: str) -> str | None:
    """Return an argument that is a literal string; also op.f("name") and text("...")."""
    value: ast.expr | None = node.args[position] if len(node.args) > position else None
    for given in node.keywords:
        if given.arg == keyword:
            value = given.value
    if isinstance(value, ast.Call) and value.args:
        value = value.args[0]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    return None


def _many(value: Any) -> list[str]:
    if not value:
        return []
    return [value] if isinstance(value, str) else list(value)


def read_revisions(open_directory: Any) -> dict[str, Any]:
    """Return heads and revisions of the ScriptDirectory that the function opens, or an error with what is missing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            directory = open_directory()
            scripts = list(directory.walk_revisions("base", "heads"))
            heads = list(directory.get_heads())
        except Exception as exc:  # noqa: BLE001 - a migration file may raise anything while it is loaded
            missing = {name for note in caught for name in _MISSING.findall(str(note.message))}
            return {"error": f"{type(exc).__name__}: {exc}", "missing": sorted(missing)}
    revisions = []
    for script in scripts:
        with open(script.path, encoding="utf-8") as file:
            source = file.read()
        created = _CREATED.search(script.module.__doc__ or "")
        revisions.append({
            "id": script.revision,
            "down": _many(script.down_revision),
            "depends": _many(script.dependencies),
            "path": script.path,
            "text": (script.doc or "").strip(),
            "created": created.group(1) if created else "",
            "changed": os.stat(script.path).st_mtime,
            "upgrade": read_change(source, "upgrade"),
            "downgrade": read_change(source, "downgrade"),
        })  # fmt: skip
    return {"heads": heads, "revisions": revisions}
