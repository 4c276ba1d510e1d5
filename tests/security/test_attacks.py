# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpus through real processes: ansible-playbook with extra variables of each form, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.security.corpus import SHELL, TEMPLATES, aimed
from tests.support.bench import Bench, Ran, refused, unchanged

LEVEL1, LEVEL3 = "rollback-level1.yml", "rollback-level3.yml"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that only a text that was run would make. It is in no folder that anything else looks at."""
    (tmp_path / "aimed-at").mkdir()
    return tmp_path / "aimed-at" / "canary"


def harmless(bench: Bench, canary: Path, ran: Ran) -> None:
    """Assert that nothing was run, nothing changed, and that what was said cannot drive a terminal."""
    assert list(canary.parent.iterdir()) == []
    unchanged(bench)
    said = ran.output.replace("\n", "")
    assert not set(said) & {"\x1b", "\x00", "\x9b", "\u202e"}, ran.output


def test_templates_in_extra_variables_are_never_run(bench: Bench, canary: Path) -> None:
    """As key=value, the form in which Ansible trusts them; each parameter of the run holds one."""
    text = aimed("{{ lookup('ansible.builtin.pipe','touch CANARY') }}", canary)
    names = ["rollback_reason", "rollback_services", "rollback_checkpoint", "rollback_run", "rollback_confirm"]
    words = [word for name in names for word in ("--extra-vars", f'{name}="{text}"')]
    ran = bench.play(LEVEL3, *words, limit="")
    refused(bench, ran, *(f"{name} holds template marks" for name in names))
    harmless(bench, canary, ran)


@pytest.mark.parametrize("where", ["key", "value", "list"])
def test_templates_in_a_file_of_variables_are_never_run(bench: Bench, canary: Path, tmp_path: Path, where: str) -> None:
    text = aimed(TEMPLATES[0], canary)
    nested = {"key": {text: "v1"}, "value": {"shop-code": {"deep": [text]}}, "list": ["v1", text]}[where]
    (tmp_path / "vars.yml").write_text(json.dumps({"rollback_reason": "x", "rollback_to": nested}), encoding="utf-8")
    ran = bench.play(LEVEL3, "--extra-vars", f"@{tmp_path}/vars.yml")
    # Ansible runs no template in a key; so that one comes as far as the guard, as text.
    refused(bench, ran, "is not a component name" if where == "key" else "rollback_to holds template marks")
    harmless(bench, canary, ran)


def test_a_file_that_yaml_would_run_is_not_read(bench: Bench, canary: Path, tmp_path: Path) -> None:
    text = f"rollback_reason: !!python/object/apply:os.system ['touch {canary}']\n"
    (tmp_path / "vars.yml").write_text(text, encoding="ascii")
    ran = bench.play(LEVEL3, "--extra-vars", f"@{tmp_path}/vars.yml")
    assert ran.code != 0
    harmless(bench, canary, ran)


def test_every_parameter_is_refused_at_once(bench: Bench, canary: Path) -> None:
    text = aimed("x; touch CANARY\x1b[2J", canary)
    values = {
        "rollback_reason": text,
        "rollback_checkpoint": "../../../../etc/passwd",
        "rollback_to": {text: text},
        "rollback_components": [text, "-oProxyCommand=x"],
        "rollback_plan": text,
        "rollback_run": "../runs/x",
        "rollback_confirm": text,
        "rollback_accept_data_loss_since": text,
        "rollback_release": "A" * 65536,
    }
    ran = bench.play(LEVEL3, **values)
    refused(bench, ran, *(name for name in values))
    harmless(bench, canary, ran)


def test_versions_are_looked_up_and_never_run(bench: Bench, canary: Path) -> None:
    """Free text reaches each driver: git, SQLite, alembic, files and settings say that there is no such thing."""
    to = {
        "shop-code": aimed("$(touch CANARY)", canary),
        "shop-db": aimed("/tmp/`touch CANARY`.sqlite", canary),
        "shop-static": aimed("../x; touch CANARY", canary),
        "shop-env": "../../../../etc/passwd",
    }
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_to=to)
    refused(bench, ran, "shop-code: ", "shop-db: ", "shop-env, shop-static: ")
    harmless(bench, canary, ran)
    schema = bench.play(
        "rollback-schema.yml", rollback_reason="x", rollback_to={"shop-schema": aimed(SHELL[0], canary)}
    )
    refused(bench, schema, "shop-schema: ", "does not exist")
    harmless(bench, canary, schema)


@pytest.mark.parametrize("path", ["/etc/passwd", "/dev/zero", "/proc/self/environ", "/etc/../etc/shadow"])
def test_a_path_that_is_no_backup(bench: Bench, canary: Path, path: str) -> None:
    values = {"rollback_to": {"shop-db": path}, "rollback_components": ["shop-db"]}
    ran = bench.play(LEVEL3, rollback_reason="x", rollback_accept_unverified_backup=True, **values)
    refused(bench, ran, "shop-db: ", path)
    assert "root:" not in ran.output
    harmless(bench, canary, ran)


HOSTILE_WORDS = {
    "service": ["run", "1", "shop; touch CANARY", "--reason", "x", "--yes"],
    "service pattern": ["run", "1", "*", "--reason", "x", "--yes"],
    "level": ["run", "1; touch CANARY", "shop", "--reason", "x", "--yes"],
    "escape": ["plan", "3", "shop", "--reason", "\x1b]0;owned\x07", "--to", "shop-code=\x1b[2J"],
    "option": ["plan", "1", "shop", "--reason", "x", "--to", "shop-code=--upload-pack=touch CANARY"],
    "template": ["plan", "1", "shop", "--reason", "x", "--to", "shop-code={{ lookup('pipe', 'touch CANARY') }}"],
    "run": ["resume", "../../../etc/passwd", "shop", "--level", "1"],
    "quarantine": ["quarantine", "release", "$(touch CANARY)", "shop", "--reason", "x"],
}


@pytest.mark.parametrize("words", HOSTILE_WORDS.values(), ids=HOSTILE_WORDS)
def test_the_command_line_refuses(bench: Bench, canary: Path, words: list[str]) -> None:
    ran = bench.rollbackctl(*(aimed(word, canary) for word in words), "--inventory", str(bench.hosts))
    assert ran.code == 2, ran.output
    assert "Refused" in ran.output
    assert "othing was changed" in ran.output
    harmless(bench, canary, ran)
