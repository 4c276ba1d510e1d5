# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives: hostile and damaged ones are refused before anything is written outside; good ones come back whole."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.archive import Contents, check_harmless, read_archive, summary_of
from ansible.module_utils.rollbackctl.archive_write import pack, settle
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.files_tree import Tally, open_tree, read_tree

Member = tuple[tarfile.TarInfo, bytes]


def tally(max_bytes: int = 10_000_000, max_entries: int = 1000) -> Tally:
    return Tally("app: the backup", max_bytes, max_entries, 60)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Member:
    header = tarfile.TarInfo(name)
    header.type, header.linkname, header.mode = kind, link, mode
    header.size = len(data)
    return header, data


def tar(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for header, data in members:
            archive.addfile(header, io.BytesIO(data))
    return out.getvalue()


def read(data: bytes, limits: Tally | None = None) -> Contents:
    limits = limits or tally()
    contents = read_archive(io.BytesIO(data), limits)
    check_harmless(contents, limits)
    return contents


def unpack(data: bytes, into: Path, limits: Tally | None = None) -> Contents:
    handle = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        contents = read_archive(io.BytesIO(data), limits or tally(), handle)
        settle(contents, handle)
    finally:
        os.close(handle)
    return contents


GOOD = member("app.py", b"print(1)\n")
FOLDER = member("sub", kind=tarfile.DIRTYPE, mode=0o755)


HOSTILE = {
    "parent": (tar(GOOD, member("../evil", b"x")), "outside the directory"),
    "parent inside": (tar(GOOD, member("sub/../../evil", b"x")), "outside the directory"),
    "absolute": (tar(member("/etc/cron.d/evil", b"x")), "outside the directory"),
    "only dots": (tar(member("..", kind=tarfile.DIRTYPE)), "outside the directory"),
    "absolute link": (tar(member("l", kind=tarfile.SYMTYPE, link="/etc/passwd")), "leaves the directory"),
    "climbing link": (tar(member("l", kind=tarfile.SYMTYPE, link="../../etc")), "leaves the directory"),
    "climbing after a descent": (
        tar(
            FOLDER,
            member("sub/up", kind=tarfile.SYMTYPE, link=".."),
            member("l", kind=tarfile.SYMTYPE, link="sub/up/../x"),
        ),
        "leaves the directory",
    ),
    "through a link": (
        tar(member("l", kind=tarfile.SYMTYPE, link="."), member("l/evil", b"x")),
        "which is no folder",
    ),
    "through a file": (tar(GOOD, member("app.py/evil", b"x")), "which is no folder"),
    "link then folder": (
        tar(member("l", kind=tarfile.SYMTYPE, link="sub"), member("l", kind=tarfile.DIRTYPE)),
        "comes twice",
    ),
    "hard link outside": (tar(member("h", kind=tarfile.LNKTYPE, link="/etc/shadow")), "outside the directory"),
    "hard link climbing": (tar(member("h", kind=tarfile.LNKTYPE, link="../x")), "outside the directory"),
    "hard link to nothing": (tar(member("h", kind=tarfile.LNKTYPE, link="later")), "hard link"),
    "hard link to a link": (
        tar(member("l", kind=tarfile.SYMTYPE, link="x"), member("h", kind=tarfile.LNKTYPE, link="l")),
        "hard link",
    ),
    "character device": (tar(member("d", kind=tarfile.CHRTYPE)), "a device"),
    "block device": (tar(member("d", kind=tarfile.BLKTYPE)), "a device"),
    "pipe": (tar(member("p", kind=tarfile.FIFOTYPE)), "a named pipe"),
    "unknown kind": (tar(member("u", kind=b"Z")), "unknown kind"),
    "setuid": (tar(member("su", b"x", mode=0o4755)), "setuid"),
    "setgid": (tar(member("su", b"x", mode=0o2755)), "setuid or setgid"),
    "setuid folder": (tar(member("d", kind=tarfile.DIRTYPE, mode=0o4755)), "setuid"),
    "twice": (tar(GOOD, GOOD), "comes twice"),
    "twice, spelt differently": (tar(GOOD, member("./app.py", b"x")), "comes twice"),
    "long name": (tar(member("n" * 300, b"x")), "longer name"),
    "file as top": (tar(member(".", b"x")), "no folder"),
    "zip": (b"PK\x03\x04" + b"\0" * 1000, "neither a tar nor a tar.gz"),
    "text": (b"<html>404</html>" * 100, "damaged"),
    "nothing": (b"", "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_and_writes_nothing_outside(name: str, tmp_path: Path) -> None:
    data, words = HOSTILE[name]
    with pytest.raises(Refused, match=words) as refusal:
        read(data)
    assert "Nothing was changed" in refusal.value.message
    inside = tmp_path / "deep" / "er" / "inside"
    inside.mkdir(parents=True)
    try:
        contents = unpack(data, inside)
    except Refused:
        pass
    else:
        with pytest.raises(Refused):
            check_harmless(contents, tally())
    assert [path.name for path in tmp_path.rglob("*") if inside not in path.parents] == ["deep", "er", "inside"]


def test_a_link_that_stays_inside_is_accepted() -> None:
    data = tar(FOLDER, GOOD, member("sub/l", kind=tarfile.SYMTYPE, link="../app.py"))
    assert [item.target for item in read(data).items if item.kind == "l"] == ["../app.py"]


def test_a_setgid_folder_is_accepted() -> None:
    assert read(tar(member("d", kind=tarfile.DIRTYPE, mode=0o2775))).items[0].mode == 0o2775


def test_a_control_character_in_a_name_does_not_reach_the_message() -> None:
    with pytest.raises(Refused) as refusal:
        read(tar(member("../\x1b[2Jevil", b"x")))
    assert "\x1b" not in refusal.value.message


def test_gzip_bomb_is_stopped_by_what_it_unpacks_to() -> None:
    bomb = gzip.compress(tar(member("zeros", b"\0" * 20_000_000)), compresslevel=1)
    limits = tally(max_bytes=1_000_000)
    with pytest.raises(Refused, match=r"more than 1\.0 MB"):
        read(bomb, limits)


def test_bytes_after_the_end_mark_are_counted_too() -> None:
    bomb = gzip.compress(tar(GOOD) + b"\0" * 30_000_000, compresslevel=1)
    with pytest.raises(Refused, match=r"more than 1\.0 MB"):
        read(bomb, tally(max_bytes=1_000_000))


def test_declared_size_over_the_limit_is_refused_before_it_is_read() -> None:
    header, _ = member("big")
    header.size = 1 << 40
    with pytest.raises(Refused, match="more than"):
        read(header.tobuf() + b"\0" * 10240)


def test_too_many_names_are_refused() -> None:
    with pytest.raises(Refused, match="more than 1000 names"):
        read(tar(*(member(f"f{number}") for number in range(1001))))


def test_implied_folders_count_as_names() -> None:
    with pytest.raises(Refused, match="more than 10 names"):
        read(tar(member("/".join("abcdefghijkl"), b"x")), tally(max_entries=10))


def test_many_hard_links_to_one_big_file_are_a_bomb() -> None:
    links = [member(f"l{number}", kind=tarfile.LNKTYPE, link="big") for number in range(20)]
    with pytest.raises(Refused, match=r"more than 1\.0 MB"):
        read(tar(member("big", b"x" * 100_000), *links), tally(max_bytes=1_000_000))


def test_a_name_of_many_megabytes_does_not_fill_the_memory() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5_000_000
    with pytest.raises(Refused, match="longer than 1 MB"):
        read(header.tobuf() + b"n" * 5_000_000)


def example(root: Path) -> Path:
    tree = root / "app"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "app.py").write_text("print(1)\n")
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o750)
    (tree / "sub" / ("long" * 40)).write_text("long")
    (tree / "sub" / "grün").write_text("umlaut")
    Path(os.fsdecode(bytes(tree / "sub") + b"/latin-\xfc")).write_text("not utf-8")
    (tree / "link").symlink_to("app.py")
    (tree / "dangling").symlink_to("gone")
    os.link(tree / "app.py", tree / "sub" / "same")
    (tree / "sub").chmod(0o2775)
    return tree


@pytest.mark.parametrize("options", [["-cf"], ["-czf"], ["--format=pax", "-czf"], ["--format=gnu", "-cf"]])
def test_what_gnu_tar_wrote_comes_back_equal(options: list[str], tmp_path: Path) -> None:
    tree = example(tmp_path)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-C", str(tree), *options, str(archive), "."], check=True)
    data = archive.read_bytes()
    live = read_tree(tree, (), tally())
    assert summary_of(read(data), ()).digest == live.digest
    (tmp_path / "out").mkdir()
    unpack(data, tmp_path / "out")
    assert read_tree(tmp_path / "out", (), tally()) == live
    assert (tmp_path / "out" / "app.py").stat().st_mtime == int((tree / "app.py").stat().st_mtime)
    assert (tmp_path / "out" / "sub" / "same").samefile(tmp_path / "out" / "app.py")


def test_own_archive_is_readable_by_tar_and_comes_back_equal(tmp_path: Path) -> None:
    tree = example(tmp_path)
    packed = pack(open_tree(tree), tmp_path / "own.tar", (), tally())
    assert packed.summary == read_tree(tree, (), tally())
    assert packed.summary.digest == summary_of(read((tmp_path / "own.tar").read_bytes()), ()).digest
    assert packed.size == (tmp_path / "own.tar").stat().st_size
    assert (tmp_path / "own.tar").stat().st_mode & 0o777 == 0o600
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-C", str(tmp_path / "out"), "-xpf", str(tmp_path / "own.tar")], check=True)
    assert read_tree(tmp_path / "out", (), tally()) == packed.summary


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    tree = example(tmp_path)
    pack(open_tree(tree), tmp_path / "own.tar", (), tally())
    data = (tmp_path / "own.tar").read_bytes()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for length in [*range(0, end, 512), *range(1, end, 997)]:
        with pytest.raises(Refused, match="damaged"):
            read(data[:length])
    squeezed = gzip.compress(data)
    for length in range(0, len(squeezed), 7):
        with pytest.raises(Refused, match="damaged"):
            read(squeezed[:length])


@pytest.mark.parametrize("seed", range(5))
def test_random_damage_is_refused_or_harmless_and_never_a_crash(seed: int, tmp_path: Path) -> None:
    tree = example(tmp_path)
    pack(open_tree(tree), tmp_path / "own.tar", (), tally())
    data = (tmp_path / "own.tar").read_bytes()
    dice = random.Random(seed)  # noqa: S311 - damage needs a seed, not secrecy
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(dice.randrange(1, 6)):
            damaged[dice.randrange(len(data))] = dice.randrange(256)
        try:
            read(bytes(damaged))
        except Refused:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax", "--sparse-version=1.0"]])
def test_sparse_files_are_refused(options: list[str], tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 20)
    subprocess.run(["tar", "-C", str(tmp_path), "-S", *options, "-cf", str(tmp_path / "a.tar"), "holes"], check=True)
    with pytest.raises(Refused, match="sparse"):
        read((tmp_path / "a.tar").read_bytes())


def test_time_limit_is_kept() -> None:
    with pytest.raises(Refused, match="within 0 seconds"):
        read(tar(GOOD), Tally("app: the backup", 1000, 1000, 0))
