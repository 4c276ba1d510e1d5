# SPDX-License-Identifier: GPL-3.0-or-later
"""What cannot be read before a run begins is refused with file and line, by plain Ansible and by the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.bench import BIN, Bench, refused, unchanged

LEVEL3 = "rollback-level3.yml"
MEANT = ("run", "3", "shop", "--reason", "x", "--yes")


@pytest.fixture
def inventory(bench: Bench, tmp_path: Path) -> Path:
    """The service's inventory with its profile in a file of its own."""
    document = yaml.safe_load(bench.hosts.read_text(encoding="utf-8"))
    profile = document["all"]["hosts"]["shop"]
    document["all"]["hosts"]["shop"] = {}
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "shop.yml").write_text(yaml.safe_dump(profile, sort_keys=False), encoding="utf-8")
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return tmp_path / "hosts.yml"


def profile_of(inventory: Path) -> Path:
    return inventory.parent / "host_vars" / "shop.yml"


def cut_off(inventory: Path) -> list[str]:
    path = profile_of(inventory)
    text = path.read_text(encoding="utf-8") + "rollback_budgets: {level1: 60\n"
    path.write_text(text, encoding="utf-8")
    return [f"{path}, line {len(text.splitlines()) + 1}: no YAML"]


def name_a_key_twice(inventory: Path) -> list[str]:
    path = profile_of(inventory)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, "rollback_soak_seconds: 0"]), encoding="utf-8")
    first = lines.index("rollback_soak_seconds: 0") + 1
    return [f"{path}, line {len(lines) + 1}: rollback_soak_seconds stands in line {first} already"]


def use_an_undefined_variable(inventory: Path) -> list[str]:
    path = profile_of(inventory)
    lines = path.read_text(encoding="utf-8").splitlines()
    number = next(number for number, line in enumerate(lines) if "shop.env" in line)
    lines[number] = '  path: "{{ shop_home }}/shop.env"'
    path.write_text("\n".join(lines), encoding="utf-8")
    return [f"restore_env: 'shop_home' is undefined ({path}, line {number + 1})"]


def encrypt_it(inventory: Path) -> list[str]:
    path = profile_of(inventory)
    password = inventory.parent / "password"
    password.write_text("a password of the test\n", encoding="utf-8")
    argv = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(password), str(path)]
    subprocess.run(argv, check=True, capture_output=True)
    return [f"{path} is encrypted", "ANSIBLE_VAULT_PASSWORD_FILE"]


@pytest.mark.parametrize("spoil", [cut_off, name_a_key_twice, use_an_undefined_variable, encrypt_it])
def test_a_profile_that_cannot_be_read(bench: Bench, inventory: Path, spoil: Callable[[Path], list[str]]) -> None:
    words = spoil(inventory)
    refused(bench, bench.play(LEVEL3, hosts=inventory, rollback_reason="x"), *words)
    ran = bench.rollbackctl(*MEANT, "--inventory", str(inventory))
    assert ran.code == 2, ran.output
    refused(bench, ran, *words)


def test_an_inventory_that_cannot_be_read(bench: Bench, inventory: Path) -> None:
    text = inventory.read_text(encoding="utf-8") + "bad: [not closed\n"
    inventory.write_text(text, encoding="utf-8")
    for words in (MEANT, ("plan", "3", "shop"), ("status", "shop"), ("checkpoint", "shop", "--reason", "x")):
        ran = bench.rollbackctl(*words, "--inventory", str(inventory))
        assert ran.code == 2, ran.output
        assert "Refused, nothing was changed" in ran.output
        assert f"{inventory}, line {len(text.splitlines()) + 1}: no YAML" in ran.output
    unchanged(bench)


def test_a_service_that_is_nearly_there(bench: Bench, inventory: Path) -> None:
    words = "shpo is not in the inventory; did you mean shop?"
    refused(bench, bench.play(LEVEL3, hosts=inventory, limit="", rollback_services="shpo", rollback_reason="x"), words)
    ran = bench.rollbackctl("run", "3", "shpo", "--reason", "x", "--yes", "--inventory", str(inventory))
    assert ran.code == 2, ran.output
    refused(bench, ran, words)


def test_plain_ansible_shows_the_plan_that_the_command_line_shows(bench: Bench) -> None:
    plain = bench.play(LEVEL3, "--check", rollback_reason="x", rollback_accept_data_loss_since=bench.taken)
    wrapped = bench.rollbackctl(
        "plan", "3", "shop", "--accept-data-loss-since", bench.taken, "--inventory", str(bench.hosts),
        env={"COLUMNS": "80"},
    )  # fmt: skip
    lines = [line for line in wrapped.output.splitlines() if line.startswith("  ") and " s  " not in line]
    assert len(lines) > 15, wrapped.output
    assert [line for line in lines if line not in plain.output.splitlines()] == []
    end = plain.output[plain.output.index("Checked, this would work; nothing was changed") :]
    assert f"  run      {plain.record['run']} (rollback level 3" in end
    assert f"  report   rollbackctl report {plain.record['run']}" in end
    unchanged(bench)
