# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading rollback_checks: what is refused, with which words, and what is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.rollbackctl.check_controller import read_checks
from ansible.module_utils.rollbackctl.check_model import SECRET_OPTIONS
from ansible.module_utils.rollbackctl.check_profile import COMMON, KINDS, give_secrets, load_checks, take_secrets
from ansible.module_utils.rollbackctl.errors import Refused

CANARY = "canary-7f3a"
HTTP = {"name": "health", "kind": "http", "url": "http://127.0.0.1:8000/health"}
LOG = {"name": "log", "kind": "log", "path": "/x", "pattern": "ERROR", "time_format": "%Y-%m-%d %H:%M:%S"}
SQL = {"name": "sql", "kind": "sql", "database": "/x", "query": "SELECT count(*) FROM orders", "expect": {"value": 1}}


def refused(*documents: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        load_checks(documents)
    assert "Nothing was changed." in caught.value.message
    assert caught.value.next_step
    return caught.value.message


def test_what_is_not_given_is_filled_in() -> None:
    health, port, sql, metrics = load_checks(
        [
            HTTP,
            {"name": "port", "kind": "tcp", "host": "localhost", "port": 80, "view": "outside", "in_a_row": 5},
            SQL,
            {**HTTP, "name": "metrics", "source": "metrics"},
        ]
    )
    assert (health.view, health.timeout, health.in_a_row, health.within) == ("inside", 5, 3, 30)
    assert (port.view, port.in_a_row) == ("outside", 5)
    assert (sql.in_a_row, sql.within) == (1, 0)
    assert (metrics.in_a_row, metrics.within) == (1, 3)
    assert load_checks([{**HTTP, "latency": {"p95_seconds": 0.5, "samples": None}}])[0].in_a_row == 1


def test_all_problems_of_all_checks_are_told_at_once() -> None:
    message = refused(
        {**HTTP, "url": "ftp://x"}, HTTP, HTTP, {"name": "x y", "kind": "tcp"}, {"name": "a", "kind": "dns"}
    )
    assert "check health: `url` must look like" in message
    assert "its name is used by another check" in message
    assert "check number 4: `name` must be" in message
    assert "check a: `kind` must be one of http, tcp," in message


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({**HTTP, "port": 80}, "http checks do not know port"),
        ({"name": "p", "kind": "tcp", "host": "x"}, "tcp checks need port"),
        ({"name": "p", "kind": "tcp", "host": "x", "port": 65536}, "`port` must be between"),
        ({"name": "p", "kind": "tcp", "host": "a b", "port": 1}, "`host` must be"),
        ({**HTTP, "view": "above"}, "`view` must be inside or outside"),
        ({**HTTP, "timeout": 0}, "`timeout` must be between"),
        ({**HTTP, "in_a_row": 0}, "`in_a_row` must be between"),
        ({**HTTP, "timeout": "soon"}, "wrong type"),
        ({**HTTP, "status": "ok", "latency": "fast"}, "wrong type"),
        ({**HTTP, "url": "http://x/\r\nHost: y"}, "`url` must be ASCII"),
        ({**HTTP, "url": "http://x:99999/"}, "`url` is not a URL"),
        ({**HTTP, "url": "http:///path"}, "`url` must look like"),
        ({**HTTP, "version": {"value": "1"}}, "read from either `header` or `json`"),
        ({**HTTP, "version": {"header": "X", "value": "1", "component": "c"}}, "either a `value` or"),
        ({**HTTP, "view": "outside", "version": {"header": "X", "component": "c"}}, "with view inside"),
        ({**HTTP, "latency": {"p95_seconds": 0}}, "`latency` wants"),
        ({**HTTP, "method": "HEAD", "contains": "x"}, "HEAD request has no body"),
        ({"name": "c", "kind": "command", "argv": []}, "`argv` must be a list"),
        ({"name": "c", "kind": "command", "argv": ["a"], "cleanup": [""]}, "`cleanup` must be a list"),
        ({"name": "c", "kind": "command", "argv": ["a"], "chdir": "here"}, "`chdir` must be an absolute path"),
        ({**SQL, "query": "DELETE FROM orders"}, "`query` must be one SELECT"),
        ({**SQL, "query": ""}, "`query` must be one SELECT"),
        ({**SQL, "database": "shop.db"}, "`database` must be an absolute path"),
        ({**SQL, "expect": {}}, "`expect` wants either"),
        ({**SQL, "expect": {"value": 1, "min": 1}}, "`expect` wants either"),
        ({**SQL, "expect": {"min": "many"}}, "as numbers"),
        ({"name": "f", "kind": "file", "path": "x"}, "`path` must be absolute"),
        ({"name": "f", "kind": "file", "path": "/x", "sha256": "abc"}, "64 lowercase"),
        ({"name": "f", "kind": "file", "path": "/x", "exists": False, "contains": "a"}, "has no content"),
        ({**HTTP, "json": {}}, "`json` is empty"),
        ({**HTTP, "contains": ""}, "`contains` is empty"),
        ({**HTTP, "status": []}, "`status` is empty"),
        ({"name": "c", "kind": "command", "argv": ["a"], "stdout_contains": ""}, "`stdout_contains` is empty"),
        ({"name": "f", "kind": "file", "path": "/x", "contains": ""}, "`contains` is empty"),
        ({**SQL, "query": "SELECT 1"}, "reads from no table"),
        ({**SQL, "query": "select\n sqlite_version()"}, "reads from no table"),
        ({"name": "p", "kind": "process", "process": "x", "argument": ""}, "`argument` is empty"),
        ({"name": "p", "kind": "process", "process": "x", "folder": "here"}, "`folder` must be an absolute path"),
        ({**LOG, "pattern": "("}, "not a regular expression"),
        ({**LOG, "time_format": "%H"}, "`time_format` must hold"),
        ({**LOG, "max_lines": -1}, "must not be negative"),
        ({"name": "p", "kind": "process"}, "either `process` or `pid_file`"),
        ({"name": "p", "kind": "process", "process": "x", "started_after": "noon"}, "`started_after` must be"),
        ({"name": "p", "kind": "process", "process": "x", "min_count": 0}, "`min_count` must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(document: dict[str, Any], complaint: str) -> None:
    assert complaint in refused(document)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {CANARY}\n"},
        {"Authorization": f"Bearer {CANARY}\u00e9"},
        {"Authorization": [CANARY]},
        {"Author ization": CANARY},
        {"": CANARY},
        [CANARY],
        CANARY,
    ],
)
def test_a_refusal_never_shows_a_secret(headers: Any) -> None:
    assert CANARY not in refused({**HTTP, "headers": headers})
    assert CANARY not in refused({"name": "c", "kind": "command", "argv": ["x"], "environment": headers})
    assert CANARY not in refused({**HTTP, "url": f"http://user:{CANARY}@example.com/"})


def test_secrets_travel_apart() -> None:
    documents: list[dict[str, Any]] = [
        {**HTTP, "headers": {"Authorization": CANARY}},
        {"name": "c", "kind": "command", "environment": None},
    ]
    public, secrets = take_secrets(documents)
    assert CANARY not in str(public)
    assert secrets == [{"headers": {"Authorization": CANARY}}, {}]
    assert give_secrets(public, secrets)[0] == documents[0]
    assert documents[0]["headers"] == {"Authorization": CANARY}  # the caller's own is untouched


def test_the_argument_spec_and_the_kinds_know_the_same_options(root: Path) -> None:
    spec = yaml.safe_load((root / "roles/run_verify/meta/argument_specs.yml").read_text(encoding="utf-8"))[
        "argument_specs"
    ]
    for entry in ("all", "inside", "outside"):
        options = spec[entry]["options"]["rollback_checks"]["options"]
        assert set(options) == COMMON.union(*(kind.keys for kind in KINDS.values()))
        assert options["kind"]["choices"] == list(KINDS)
        for name in SECRET_OPTIONS:
            assert options[name] == {"description": options[name]["description"], "type": "dict"}


def test_the_readmes_example_is_a_valid_profile(root: Path) -> None:
    text = (root / "roles/run_verify/README.md").read_text(encoding="utf-8")
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["rollback_checks"]
    assert {check.kind for check in read_checks(example, {"kind": "kubernetes"})[1]} == set(KINDS)
