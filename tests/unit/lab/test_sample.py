# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample service is what drills believe it is."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lab.sample.build import API_KEY, BAD_API_KEY, Sample, create, inventory_of
from lab.sample.profile import profile


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    made = create(tmp_path)
    try:
        yield made
    finally:
        made.remove()


def test_it_serves_orders(sample: Sample) -> None:
    sample.start()
    assert sample.get("/health") == (200, {"status": "ok", "version": "1.4.0", "revision": "0002"})
    assert sample.get("/orders/count") == (200, {"count": 200})
    number = sample.order("mia", 250)[1]["id"]
    expected = {"id": number, "customer": "mia", "email": "mia@example.org", "cents": 250}
    assert sample.get(f"/orders/{number}") == (200, expected)
    assert sample.get("/orders/9999")[0] == 404
    assert sample.get("/version") == (200, {"version": "1.4.0"})


def test_a_bad_release_breaks_it_and_destroys_data(sample: Sample) -> None:
    sample.start()
    before = sample.inspect()
    good = sample.commit()
    sample.deploy_bad()
    assert sample.get("/health")[0] == 500
    assert sample.get("/version") == (200, {"version": "1.5.0"})
    assert sample.get("/orders/7")[0] == 500
    assert sample.order("mia")[0] == 201  # writes go on: they are what a restore would lose
    assert "ERROR GET /health failed" in sample.log.read_text()
    assert sample.revision() == "0003"
    with sqlite3.connect(sample.databases[0]) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(orders)")]
        assert columns == ["id", "client", "cents"]
    assert BAD_API_KEY in sample.env_file.read_text()
    # The origin has it too, on top of what was there.
    pushed = subprocess.run(["git", "rev-list", "main"], cwd=sample.origin, capture_output=True, text=True, check=True)
    assert pushed.stdout.split()[:2] == [sample.commit(), good]
    after = sample.inspect()
    assert {"shop.db", "shop.env", "git app", "git origin.git", "supervisor", "app/VERSION", "static/shop.css"} <= {
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    }


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"code": True, "settings": False, "files": False, "migration": ""}, "no such column: client_name"),
        ({"code": False, "settings": True, "files": False, "migration": ""}, "SHOP_CURRENCY must be EUR or USD"),
        ({"code": False, "settings": False, "files": False, "migration": "destroys"}, "no such column: customer"),
        ({"code": True, "settings": False, "files": False, "migration": "adds"}, "no such column: client_name"),
    ],
)
def test_each_part_of_the_bad_release_breaks_it_alone(sample: Sample, parts: dict[str, bool], expected: str) -> None:
    sample.start()
    sample.deploy_bad(**parts)  # type: ignore[arg-type]
    status, document = sample.get("/health")
    assert status == 500
    assert document["error"] == expected


def test_the_digest_is_that_of_the_service_not_of_looking_at_it(sample: Sample) -> None:
    sample.start()
    first = sample.digest()
    assert sample.get("/health")[0] == 200
    sample.state.joinpath("lease.json").write_text("{}")
    assert sample.digest() == first
    sample.env_file.chmod(0o644)
    second = sample.digest()
    assert second != first
    sample.restart()
    third = sample.digest()
    assert third != second
    sample.order("mia")
    assert sample.digest() != third


def test_stopping_leaves_nothing_and_starting_again_works(sample: Sample) -> None:
    pid = sample.start()
    program = int(sample.supervisor("pid", "shop"))
    sample.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{program}").exists()
    sample.stop()
    sample.start()
    sample.remove()
    assert not sample.root.exists()


def test_two_services_with_two_databases(tmp_path: Path) -> None:
    shops = [create(tmp_path, name=name, databases=("orders", "audit")) for name in ("north", "south")]
    try:
        for shop in shops:
            shop.start()
        assert shops[0].order("mia")[0] == 201
        shops[0].deploy_bad()
        assert [shops[0].revision(0), shops[0].revision(1)] == ["0003", "0003"]
        assert shops[0].get("/health")[0] == 500
        assert shops[1].get("/health")[0] == 200
        assert list(inventory_of(shops)["all"]["hosts"]) == ["north", "south"]
    finally:
        for shop in shops:
            shop.remove()


def test_a_long_path_is_no_problem(tmp_path: Path) -> None:
    sample = create(tmp_path / ("x" * 100))
    try:
        sample.start()
        assert sample.get("/health")[0] == 200
    finally:
        sample.remove()
    assert not sample.socket.parent.exists()


def test_the_inventory_holds_the_profile_and_no_secret(sample: Sample, tmp_path: Path) -> None:
    path = sample.inventory(tmp_path / "inventory" / "hosts", rollback_soak_seconds=5)
    assert API_KEY not in path.read_text()
    variables = yaml.safe_load(path.read_text())["all"]["hosts"]["shop"]
    assert variables == {**profile(sample), "rollback_soak_seconds": 5}


def test_the_profile_for_people_is_the_one_that_drills_use(
    sample: Sample, root: Path, ansible_env: dict[str, str]
) -> None:
    place = {"SHOP_ROOT": str(sample.root), "SHOP_PORT": str(sample.port), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    show = ["-m", "ansible.builtin.debug", "-a", "var=hostvars[inventory_hostname]"]
    argv = ["ansible", "all", "-i", "inventories/demo", *show]
    done = subprocess.run(argv, cwd=root, env={**ansible_env, **place}, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout.partition("=>")[2])["hostvars[inventory_hostname]"]
    expected = profile(sample)
    assert {key: shown[key] for key in expected} == expected
