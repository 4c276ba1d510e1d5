# SPDX-License-Identifier: GPL-3.0-or-later
"""Time-stamped backups: which files a word names, what is in them, and which are refused without showing a value."""

from __future__ import annotations

import base64
import json
import os
import re
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.component import LIVE, OTHER, TARGET
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_client import Client
from ansible.module_utils.rollbackctl.kube_config_backup import ConfigBackup, files_named, read_backup
from ansible.module_utils.rollbackctl.kube_config_content import Ref

from lab.kubernetes.cluster import Cluster
from tests.support.kube import fresh_namespace
from tests.unit.module_utils.kube_config_parts import (
    BAD_SECRET,
    CANARY_BAD,
    CANARY_GOOD,
    GOOD_MAP,
    GOOD_SECRET,
    MAP,
    SECRET,
    Scene,
    encoded,
    listed,
    manifest,
    told,
)

CONFIG, LOGIN = Ref("configmap", MAP), Ref("secret", SECRET)
GOOD_FILES = {
    f"{MAP}-20260115-1200.yaml": manifest("configmap", MAP, GOOD_MAP),
    f"{SECRET}-20260115-1200.yaml": manifest("secret", SECRET, GOOD_SECRET),
}


def save(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, want: str, namespace: str = "production") -> ConfigBackup:
    files = files_named("settings", str(folder), want)
    return read_backup("settings", str(folder), files, [CONFIG, LOGIN], namespace)


def refusal(folder: Path, want: str) -> Refused:
    with pytest.raises(Refused) as refused:
        read(folder, want)
    return refused.value


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "found"),
    [
        ("20260115-1200", ["b-20260115-1200.yaml", "s-2026-01-15T12:00.json"]),
        ("2026-01-15_12-00", ["b-20260115-1200.yaml", "s-2026-01-15T12:00.json"]),
        ("20260116T120000Z"[:-1], ["b-20260116T120000Z.yml"]),
        ("20260117", ["b-20260117.yaml"]),
        ("1768478400", ["b-1768478400.yaml"]),
        ("b-20260115-1200.yaml", ["b-20260115-1200.yaml"]),
        ("latest.yaml", ["latest.yaml"]),
    ],
)
def test_a_word_names_a_file_or_all_files_of_a_time_stamp(tmp_path: Path, want: str, found: list[str]) -> None:
    names = ["b-20260115-1200.yaml", "b-20260116T120000Z.yml", "b-20260117.yaml", "b-1768478400.yaml", "latest.yaml"]
    save(tmp_path, dict.fromkeys([*names, "notes-20260115-1200.txt", "b-20260115-1200.yaml.sha256"], ""))
    stamped = "s-2026-01-15T12-00.json"
    save(tmp_path, {stamped: ""})
    assert files_named("settings", str(tmp_path), want) == [name.replace("12:00", "12-00") for name in found]


@pytest.mark.parametrize("want", ["20260115", "20260115-12", "2026", "latest", "../x.yaml", "*", "", "-1200"])
def test_an_unknown_word_is_refused_with_what_there_is(tmp_path: Path, want: str) -> None:
    save(tmp_path, {**GOOD_FILES, "a-20251231-2359.yaml": ""})
    refused = refusal(tmp_path, want)
    assert "Known: 20260115-1200, 20251231-2359, " in refused.message
    assert f"{MAP}-20260115-1200.yaml" in refused.message
    assert "Nothing was changed." in refused.message


def test_a_backup_needs_a_directory_in_the_profile(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not say where backups are"):
        read_backup("settings", "", files_named("settings", "", "20260115-1200"), [CONFIG], "production")
    assert "none were found" in refusal(tmp_path / "missing", "20260115-1200").message


def test_a_link_is_no_backup(tmp_path: Path) -> None:
    save(tmp_path, {"real": manifest("configmap", MAP, GOOD_MAP)})
    (tmp_path / "link-20260115-1200.yaml").symlink_to("real")
    with pytest.raises(Refused, match="cannot be opened"):
        read_backup("settings", str(tmp_path), ["link-20260115-1200.yaml"], [CONFIG], "production")


# -- contents ----------------------------------------------------------------------------------------------------------


def test_files_of_one_time_stamp_belong_together(tmp_path: Path) -> None:
    other = {"worker-20260115-1200.yaml": manifest("configmap", "worker", {"a": "b"})}
    backup = read(save(tmp_path, {**GOOD_FILES, **other}), "20260115-1200")
    assert backup.contents[CONFIG].data == GOOD_MAP
    assert backup.contents[LOGIN].data == encoded(GOOD_SECRET)
    assert backup.doubts == ()
    assert set(backup.files) == set(GOOD_FILES) | set(other)


@pytest.mark.parametrize("form", ["list", "documents", "json", "crlf"])
def test_all_that_kubectl_writes_is_read(tmp_path: Path, form: str) -> None:
    both = list(GOOD_FILES.values())
    texts = {
        "list": listed(*both),
        "documents": "---\n" + "---\n".join(both) + "---\n",
        "crlf": ("---\n".join(both)).replace("\n", "\r\n"),
        "json": json.dumps(
            {
                "kind": "List",
                "items": [
                    {"kind": "ConfigMap", "metadata": {"name": MAP}, "data": GOOD_MAP},
                    {"kind": "Secret", "metadata": {"name": SECRET}, "data": encoded(GOOD_SECRET)},
                ],
            }
        ),
    }
    name = "all.json" if form == "json" else "all.yaml"
    backup = read(save(tmp_path, {name: texts[form]}), name)
    assert backup.contents[CONFIG].data == GOOD_MAP
    assert backup.contents[LOGIN].data == encoded(GOOD_SECRET)
    assert backup.doubts == ()


def test_string_data_and_broken_base64_lines_are_what_the_api_server_makes_of_them(tmp_path: Path) -> None:
    wrapped = base64.encodebytes(b"x" * 100).decode()
    text = (
        f"kind: Secret\nmetadata: {{name: {SECRET}}}\ndata: {{PIN: MDAwMA==, long: {json.dumps(wrapped)}, none: }}\n"
        'stringData: {PIN: "4711"}\n'
    )
    content = read(save(tmp_path, {"s.yaml": text}), "s.yaml").contents[LOGIN]
    assert content.data == {"PIN": "NDcxMQ==", "long": base64.b64encode(b"x" * 100).decode(), "none": ""}
    assert content.type == ""
    binary = f'kind: ConfigMap\nmetadata: {{name: {MAP}}}\nbinaryData: {{logo: "AA\\n EC"}}\nimmutable: true\n'
    found = read(save(tmp_path, {"c.yaml": binary}), "c.yaml").contents[CONFIG]
    assert (found.binary, found.immutable) == ({"logo": "AAEC"}, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("---\n---\n", "is empty"),
        ("kind: List\nitems: []\n", "is empty"),
        ("- a\n- b\n", "is no manifest"),
        ("kind: List\nitems: [1]\n", "is no manifest"),
        (f"kind: Secret\ndata: {{a: {CANARY_GOOD}}}\n", "no metadata.name"),
        (f"kind: Secret\nmetadata: {{name: {SECRET}}}\ndata: {{a: {CANARY_GOOD}: b}}\n", "is no YAML (line 3)"),
        (f"kind: Secret\nmetadata: {{name: {SECRET}}}\ndata: {{a: '{CANARY_GOOD}'}}\n", "a is not base64"),
        (f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\nbinaryData: {{a: '{CANARY_GOOD}'}}\n", "a is not base64"),
        (f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: {{PORT: 4711}}\n", "data.PORT is no text"),
        (f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: {{on: x}}\n", "data has a key that cannot be one: 'True'"),
        (f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: {{'a b': x}}\n", "key that cannot be one: 'a b'"),
        (f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: [{CANARY_GOOD}]\n", "data is no mapping"),
        (
            f"kind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: {{a: x}}\nbinaryData: {{a: AAEC}}\n",
            "the same key in data and in binaryData",
        ),
    ],
)
def test_what_is_no_manifest_is_refused_and_not_shown(tmp_path: Path, text: str, words: str) -> None:
    refused = refusal(save(tmp_path, {"b.yaml": text}), "b.yaml")
    assert words in refused.message
    assert "Nothing was changed." in refused.message
    assert CANARY_GOOD not in "".join(traceback.format_exception(refused)) + repr(vars(refused))


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b'{"kind": "Secret", "data": {"a": "canary-good-4711"'])
def test_damaged_bytes_are_refused_and_not_shown(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "b.json").write_bytes(raw)
    refused = refusal(tmp_path, "b.json")
    assert "cannot be read as a manifest" in refused.message
    assert "canary" not in "".join(traceback.format_exception(refused))


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    document = {"kind": "ConfigMap", "metadata": {"name": MAP}, "data": {"a": f"\ud800{CANARY_GOOD}"}}
    refused = refusal(save(tmp_path, {"b.json": json.dumps(document)}), "b.json")
    assert "data.a is no text" in refused.message
    assert CANARY_GOOD not in "".join(traceback.format_exception(refused))


def test_a_bomb_of_aliases_is_no_text(tmp_path: Path) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    lines += [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)]
    text = "\n".join(lines) + f"\nkind: ConfigMap\nmetadata: {{name: {MAP}}}\ndata: {{x: *j}}\n"
    began = time.monotonic()
    assert "data.x is no text" in refusal(save(tmp_path, {"b.yaml": text}), "b.yaml").message
    assert time.monotonic() - began < 20


def test_an_object_with_two_contents_is_refused(tmp_path: Path) -> None:
    twice = {f"z-{MAP}-20260115-1200.yaml": manifest("configmap", MAP, {"other": "content"})}
    message = refusal(save(tmp_path, {**GOOD_FILES, **twice}), "20260115-1200").message
    assert f"configmap/{MAP} is in {MAP}-20260115-1200.yaml and, with another content, in z-{MAP}" in message


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        (manifest("configmap", MAP, GOOD_MAP), f"the backup does not hold secret/{SECRET}"),
        (
            listed(*GOOD_FILES.values(), manifest("configmap", "stranger", {"a": "b"})),
            "the backup also holds configmap/stranger",
        ),
        (
            listed(*GOOD_FILES.values(), "kind: Deployment\nmetadata: {name: api}\n"),
            "the backup also holds deployment/api",
        ),
        (
            listed(
                manifest("configmap", MAP, GOOD_MAP, namespace="staging"), GOOD_FILES[f"{SECRET}-20260115-1200.yaml"]
            ),
            f"configmap/{MAP} in the backup is of namespace staging, not production",
        ),
    ],
)
def test_what_may_be_the_wrong_backup_is_doubted(tmp_path: Path, text: str, doubt: str) -> None:
    (found,) = read(save(tmp_path, {"b.yaml": text}), "b.yaml").doubts
    assert doubt in found


def test_what_every_namespace_has_is_no_stranger(tmp_path: Path) -> None:
    text = listed(*GOOD_FILES.values(), manifest("configmap", "kube-root-ca.crt", {"ca.crt": "x"}))
    assert read(save(tmp_path, {"b.yaml": text}), "b.yaml").doubts == ()


# -- with a cluster ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(admin: Client) -> Iterator[str]:
    with fresh_namespace(admin) as name:
        yield name


@pytest.fixture
def scene(admin: Client, shared: str, tmp_path: Path) -> Scene:
    return Scene(admin, shared, save(tmp_path, GOOD_FILES)).emptied()


def test_what_kubectl_saved_comes_back(scene: Scene, lab_cluster: Cluster, tmp_path: Path) -> None:
    scene.make_good()
    scene.client.merge_patch(scene.path("configmap", MAP), {"binaryData": {"logo": "AAEC"}})
    saved = lab_cluster.kubectl("get", "-n", scene.namespace, f"configmap/{MAP}", f"secret/{SECRET}", "-o", "yaml")
    save(tmp_path, {"settings-20260701-0930.yaml": saved})
    scene.break_it()
    entry, finding = scene.plan("20260701-0930")
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET
    assert scene.is_good()


@pytest.mark.parametrize("recorded", [True, False], ids=["with a key", "before anything was recorded"])
def test_a_time_stamp_comes_back_and_goes_again(scene: Scene, *, recorded: bool) -> None:
    scene.make_good()
    scene.break_it()
    if recorded:
        scene.record("cp-1")
    entry, finding = scene.plan("20260115-1200")
    assert finding.problems == ()
    assert ("unrecorded" in entry.live.text + entry.target.text) is not recorded
    driver = scene.driver()
    state, reading = driver.state(entry, opened=False)
    assert state == LIVE
    before = driver.record(scene.shelf("kept"))  # makes the key, where there is none
    assert scene.driver().state(entry, opened=False)[0] == LIVE
    driver.apply(entry.target)
    assert scene.is_good()
    state, reading = scene.driver().state(entry, opened=False)
    assert state == TARGET
    assert not scene.driver().matches(reading, before, exact=True)
    scene.driver().apply(before)
    assert scene.is_bad()
    assert scene.driver().matches(scene.driver().live(exact=True), before, exact=True)
    seen = told(entry.live) + told(entry.target) + told(finding)
    for value in (CANARY_GOOD, CANARY_BAD, *encoded(GOOD_SECRET).values(), *encoded(BAD_SECRET).values()):
        assert value not in seen


def test_without_a_key_a_plan_is_the_same_each_time(scene: Scene) -> None:
    scene.make_good()
    scene.break_it()
    first, _ = scene.plan("20260115-1200")
    second, _ = scene.plan("20260115-1200")
    assert (first.live, first.target) == (second.live, second.target)


def test_without_a_key_other_contents_are_still_told_apart(scene: Scene) -> None:
    scene.make_good()
    scene.break_it()
    entry, _ = scene.plan("20260115-1200")
    scene.set("secret", SECRET, {"PASSWORD": "third"})
    assert scene.driver().state(entry, opened=False)[0] == OTHER


def test_without_a_key_what_is_there_already_is_nothing_to_do(scene: Scene) -> None:
    scene.make_good()
    driver = scene.driver()
    live = driver.live(exact=True)
    assert driver.matches(live, driver.resolve("20260115-1200"), exact=True)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_file_that_changes_after_the_plan_is_not_used(scene: Scene, tmp_path: Path, *, recorded: bool) -> None:
    scene.make_good()
    scene.break_it()
    if recorded:
        scene.record("cp-1")
    entry, _ = scene.plan("20260115-1200")
    save(tmp_path, {f"{SECRET}-20260115-1200.yaml": manifest("secret", SECRET, {"PASSWORD": "another"})})
    driver = scene.driver()
    words = "is not what it was when it was chosen" if recorded else "was written to since it was chosen"
    with pytest.raises(Refused, match=words):
        driver._load(entry.target, driver._look())
    assert scene.is_bad()


def test_a_backup_is_told_by_its_age(scene: Scene, tmp_path: Path) -> None:
    scene.make_good()
    for name in GOOD_FILES:
        os.utime(tmp_path / name, (time.time() - 3 * 86400, time.time() - 3 * 86400))
    text = scene.driver().resolve("20260115-1200").text
    assert re.match(r"backup 20260115-1200, 3 days old, written 2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\dZ: 1 ConfigMap, ", text)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"b.yaml": manifest("configmap", MAP, GOOD_MAP)}, f"the backup does not hold secret/{SECRET}"),
        (
            {"b.yaml": listed(manifest("configmap", MAP, {"LOG_LEVEL": "x"}), *list(GOOD_FILES.values())[1:])},
            f"2 of 3 keys of configmap/{MAP} would disappear (CURRENCY, NEW_FLOW)",
        ),
        (
            {"b.yaml": listed(manifest("configmap", MAP, {}), *list(GOOD_FILES.values())[1:])},
            f"the backup of configmap/{MAP} holds no key",
        ),
    ],
)
def test_a_doubtful_backup_is_refused_unless_it_is_accepted(
    scene: Scene, tmp_path: Path, files: dict[str, str], words: str
) -> None:
    scene.make_good()
    scene.break_it()
    scene.record("cp-1")
    save(tmp_path, files)
    _, finding = scene.plan("b.yaml")
    (problem,) = finding.problems
    assert words in problem
    assert re.search(r"[^?][.] If that is right: -e rollback_accept_unverified_backup=true$|backup[?] If", problem)
    entry, finding = scene.plan("b.yaml", accept_unverified=True)
    assert finding.problems == ()
    assert scene.roll(entry, accept_unverified=True) == TARGET
    if "does not hold" in words:
        assert f"secret/{SECRET} is not in the backup and stays as it is." in finding.notes
        assert scene.data("secret", SECRET) == BAD_SECRET
        scene.set("secret", SECRET, {"PASSWORD": "third"})
        assert scene.driver().state(entry, opened=False)[0] == OTHER, "what the plan left alone is part of it"


def test_a_backup_without_a_type_keeps_the_present_one(scene: Scene) -> None:
    scene.make("configmap", MAP, data=GOOD_MAP)
    scene.make("secret", SECRET, stringData=BAD_SECRET, type="example.org/login")
    entry, finding = scene.plan("20260115-1200")
    assert finding.problems == ()
    assert scene.roll(entry) == TARGET
    assert scene.get("secret", SECRET)["type"] == "example.org/login"


def test_a_backup_may_be_made_a_checkpoint(scene: Scene) -> None:
    """`adopt` resolves a name once; later runs resolve what was kept of that."""
    scene.make_good()
    scene.break_it()
    scene.record("cp-1")
    adopted = scene.driver().resolve("20260115-1200")
    entry, finding = scene.plan(adopted)
    assert finding.problems == ()
    assert entry.target.identity == adopted.identity
    assert scene.roll(entry) == TARGET
    assert scene.is_good()
