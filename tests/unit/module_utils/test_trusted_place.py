# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a state folder is: nobody else can write into it, or swap a folder or link on the way to it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.store import DirectoryStore
from ansible.module_utils.rollbackctl.trusted_place import check_trusted

SOMEBODY = 12345


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder three levels below one of our own (these tests give folders away: as root)."""
    assert os.geteuid() == 0, "these tests give folders away: run them as root"
    made = tmp_path / "srv" / "shop" / "state"
    DirectoryStore(str(made)).create()
    return made


def test_what_is_ours_is_trusted_and_was_made_for_us_alone(state: Path) -> None:
    check_trusted(str(state))
    for folder in (state, state.parent, state.parent.parent, state / "runs"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_not_there_yet_is_made_below_what_is_trusted(state: Path) -> None:
    check_trusted(str(state / "not" / "yet"))
    state.chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        check_trusted(str(state / "not" / "yet"))


@pytest.mark.parametrize("place", ["srv/shop/state", "srv/shop", "srv"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o702])
def test_what_others_can_write_into_is_refused(state: Path, tmp_path: Path, place: str, mode: int) -> None:
    (tmp_path / place).chmod(mode)
    with pytest.raises(Refused, match=f"others can write into {tmp_path / place} ") as refusal:
        check_trusted(str(state))
    mended(refusal.value, state)


@pytest.mark.parametrize("place", ["srv/shop/state", "srv/shop", "srv"])
def test_what_belongs_to_somebody_else_is_refused(state: Path, tmp_path: Path, place: str) -> None:
    os.chown(tmp_path / place, SOMEBODY, -1)
    with pytest.raises(Refused, match=f"{tmp_path / place} belongs to {SOMEBODY}") as refusal:
        check_trusted(str(state))
    mended(refusal.value, state)


def mended(refusal: Refused, state: Path) -> None:
    """Type what the refusal says, and see that it is enough."""
    subprocess.run(shlex.split(refusal.next_step.partition("    ")[0]), check=True, timeout=60)
    check_trusted(str(state))


def test_the_sticky_bit_guards_what_is_ours_in_it(state: Path) -> None:
    """As /tmp; it does not guard the folder itself, in which others could make what is not there yet."""
    state.parent.chmod(0o1777)
    check_trusted(str(state))
    state.chmod(0o1777)
    with pytest.raises(Refused, match="others can write"):
        check_trusted(str(state))


def test_a_link_counts_as_does_what_it_leads_to(state: Path, tmp_path: Path) -> None:
    for target in (str(state), "srv/shop/../shop/state"):
        link = tmp_path / f"link{len(target)}"
        link.symlink_to(target)
        check_trusted(str(link))
        os.chown(link, SOMEBODY, -1, follow_symlinks=False)
        with pytest.raises(Refused, match="belongs to"):
            check_trusted(str(link))
        os.chown(link, 0, -1, follow_symlinks=False)
        state.parent.chmod(0o777)
        with pytest.raises(Refused, match="others can write"):
            check_trusted(str(link))
        state.parent.chmod(0o700)


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Refused, match="too many links"):
        check_trusted(str(tmp_path / "a"))
