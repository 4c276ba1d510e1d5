# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor, on this very project: what is there is found, what is missing is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rollbackctl import doctor

PROFILE = {
    "rollback_service": "{name: shop, environment: test}",
    "rollback_state": "{kind: directory, path: /nowhere/state}",
    "ansible_connection": "local",
    "ansible_python_interpreter": sys.executable,
}


@pytest.fixture(autouse=True)
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "records"
    monkeypatch.setenv("ROLLBACKCTL_RECORDS", str(folder))
    return folder


def test_this_project_is_ready(tmp_path: Path, records: Path) -> None:
    inventory = tmp_path / "hosts"
    profile = "".join(f"      {name}: {value}\n" for name, value in PROFILE.items())
    inventory.write_text(f"all:\n  hosts:\n    shop:\n{profile}    bare:\n", encoding="utf-8")
    found = {finding.name: finding for finding in doctor.examine(["shop", "bare", "gone"], [str(inventory)])}
    wrong = {name: finding.text for name, finding in found.items() if not finding.ok}
    assert wrong == {
        "bare": "its profile lacks rollback_service and rollback_state",
        "gone": "is not in the inventory; there are bare, shop",
        "shop: checkpoint": "there is none to go back to: rollbackctl checkpoint shop --reason 'it is healthy'",
        "shop": "There is nothing to put back: none of this playbook's roles has a component here.",
    }
    assert {"Python", "ansible-core", "run record", "collections", "disk space", "playbooks", "shop: host"} <= set(
        found
    )
    assert records.stat().st_mode & 0o777 == 0o700


def test_records_that_others_can_read(records: Path) -> None:
    records.mkdir(mode=0o755)
    assert doctor._records().text == f"{records} is open to others (755); chmod 700 {records}"


def test_records_that_cannot_be_written(records: Path) -> None:
    records.write_text("", encoding="utf-8")
    finding = doctor._records()
    assert not finding.ok
    assert "cannot be written" in finding.text


def test_an_inventory_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("[broken\n", encoding="utf-8")
    findings = list(doctor._inventory(["shop"], [str(tmp_path / "hosts.yml")]))
    assert [(finding.name, finding.ok) for finding in findings] == [("inventory", False)]
    assert findings[0].text


def test_a_service_without_an_inventory() -> None:
    assert [finding.ok for finding in doctor._inventory(["shop"], [])] == [False]
