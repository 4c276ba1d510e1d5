# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service as a whole reads as."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import Place
from ansible.module_utils.rollbackctl.plan import Plan
from ansible.module_utils.rollbackctl.readback import (
    NEITHER,
    NEW,
    OLD,
    STRANGE,
    Component,
    Picture,
    captured,
    place_of,
    read_service,
)
from ansible.module_utils.rollbackctl.registry import drivers_of

from tests.unit.module_utils.engine_parts import HALF, RUN, DataDriver, Service, register, text_component

TO = {"db": "good", "app": "good"}


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ((), NEW),
        (("target",), NEW),
        (("target", "target"), NEW),
        (("live",), OLD),
        (("live", "live"), OLD),
        (("live", "target"), NEITHER),
        (("between",), NEITHER),
        (("between", "live", "target"), NEITHER),
        (("other",), STRANGE),
        (("unread",), STRANGE),
        (("other", "target"), STRANGE),
        (("unread", "between", "live"), STRANGE),
        (("anything else",), STRANGE),
    ],
)
def test_the_word_for_a_service(states: tuple[str, ...], word: str) -> None:
    for order in itertools.permutations(states):
        assert Picture(tuple(Component(f"c{n}", state, "text") for n, state in enumerate(order))).word == word


def test_the_text_names_every_component() -> None:
    picture = Picture((Component("app", "live", "commit 1"), Component("db", "unread", "gone")))
    assert picture.text == "app: live (commit 1), db: unread (gone)"
    assert Picture(()).text == "nothing to read"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    register(monkeypatch)
    made = Service(
        tmp_path,
        {
            "data": [text_component(tmp_path, "db", "v2\nrow 1\n", "v1\n")],
            "text": [text_component(tmp_path, "app", "bad\n", "good\n")],
        },
    )
    made.begin(rollback_to=TO)
    return made


def read(service: Service, *, roles: tuple[str, ...] = ()) -> Picture:
    plan = Plan.from_dict(service.store.read_plan(RUN) or {})
    return read_service(service.store, service.run, plan, drivers_of(service.roles(*roles), Place(run=RUN)))


def states(picture: Picture) -> list[str]:
    return [component.state for component in picture.components]


def write(service: Service, name: str, text: str) -> None:
    (service.folder / f"{name}.txt").write_text(text, encoding="utf-8")


def test_before_during_and_after(service: Service) -> None:
    assert read(service).word == OLD
    service.go("capture")
    assert read(service).word == OLD
    write(service, "app", HALF)
    assert (read(service).word, states(read(service))) == (NEITHER, ["live", "between"])
    service.go("rollback")
    assert read(service).word == NEW


def test_what_was_kept_counts_as_old_only_when_it_is_exactly_that(service: Service) -> None:
    journal = service.store.journal(RUN)
    journal.append("fence-closing")
    service.go("capture")
    write(service, "db", "v2\nrow 1\nrow 2\n")
    assert (read(service).word, states(read(service))) == (NEITHER, ["between", "live"])
    journal.append("fence-opening")
    assert states(read(service)) == ["live", "live"]


def test_before_anything_was_kept_users_may_write(service: Service) -> None:
    write(service, "db", "v2\nrow 1\nrow 2\n")
    assert read(service).word == OLD


def test_what_was_kept_late_is_old_although_the_plan_saw_it_otherwise(service: Service) -> None:
    write(service, "db", "v2\nrow 1\nrow 2\n")
    service.go("capture")
    assert read(service).word == OLD


def test_what_cannot_be_read_is_said(service: Service) -> None:
    (service.folder / "db.txt").unlink()
    picture = read(service)
    assert (picture.word, states(picture)) == (STRANGE, ["unread", "live"])
    assert "No such file" in picture.components[0].text


def test_a_component_that_left_the_profile_is_unread(service: Service) -> None:
    picture = read(service, roles=("text",))
    assert (picture.word, states(picture)) == (STRANGE, ["unread", "live"])
    assert "no longer in the profile" in picture.components[0].text


def test_what_was_kept_last_counts(service: Service) -> None:
    assert captured(service.store, RUN, "db") is None
    service.go("capture")
    write(service, "db", "v2\nrow 1\nrow 2\n")
    service.go("capture")
    found = captured(service.store, RUN, "db")
    assert found is not None
    assert found.identity["rows"] == "row 1\nrow 2\n"
    assert captured(service.store, RUN, "app") is None


def test_a_place_is_private_and_names_the_run(service: Service) -> None:
    place = place_of(service.store, service.run, DataDriver({"name": "db", "path": "/x"}, Place()))
    assert (place.run, place.reason) == (RUN, "it broke")
    assert place.work is not None
    assert place.work.stat().st_mode & 0o777 == 0o700
