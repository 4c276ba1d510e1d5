# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cluster of the lab is built on: programs that are built once, processes that are never mistaken."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from lab.kubernetes import build
from lab.kubernetes.layout import Layout
from lab.kubernetes.processes import Process


def test_a_number_that_was_handed_out_again_is_nobody_of_ours(tmp_path: Path) -> None:
    process = Process(tmp_path, "shop")
    with subprocess.Popen(["sleep", "30"]) as stranger:
        (tmp_path / "shop.pid").write_text(f"{stranger.pid} another-boot:12345\n", encoding="ascii")
        assert process.pid == 0
        process.stop()
        process.kill()
        assert stranger.poll() is None
        stranger.kill()


def test_a_program_that_was_started_is_known_until_its_end(tmp_path: Path) -> None:
    process = Process(tmp_path, "shop")
    process.start(["sh", "-c", "echo began; exec sleep 30"], os.environ)
    assert process.pid != 0
    assert Process(tmp_path, "shop").pid == process.pid
    end = time.monotonic() + 20
    while process.tail() != "began":
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    assert process.pid == 0


def test_a_program_that_does_not_compile_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "main.go").write_text("package main\n\nfunc main() { undefinedWord() }\n", encoding="utf-8")
    (tmp_path / "sample" / "go.mod").write_text("module x\n\ngo 1.24.0\n", encoding="utf-8")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "cache", lambda: tmp_path / "cache")
    with pytest.raises(build.BuildError, match="undefinedWord"):
        build.sample()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


def test_what_was_built_is_built_again_when_a_source_changes(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text("package main\n", encoding="utf-8")
    (tmp_path / "go.mod").write_text("module x\n", encoding="utf-8")
    keys = [build._key(tmp_path, "-s"), build._key(tmp_path, "-s"), build._key(tmp_path, "-w")]
    (tmp_path / "go.mod").write_text("module y\n", encoding="utf-8")
    keys.append(build._key(tmp_path, "-s"))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_program_has_the_version_it_says(root: Path) -> None:
    sources = (root / "lab" / "kubernetes" / "program" / "go.mod").read_text(encoding="utf-8")
    assert f"k8s.io/kubernetes {build.KUBERNETES}\n" in sources
    done = subprocess.run([build.program() / "kubelet", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"Kubernetes {build.KUBERNETES}"


def test_clusters_have_ports_of_their_own() -> None:
    first, second = Layout("lab"), Layout("other")
    assert first.server == "https://127.0.0.1:16443"
    names = ("etcd", "etcd-peer", "kube-apiserver", "kubelet", "proxy-metrics")
    assert not {first.port(name) for name in names} & {second.port(name) for name in names}
    assert max(Layout(f"t{n}").port("proxy-metrics") for n in range(500)) < 30000


@pytest.mark.parametrize("name", ["", "../up", "Lab", "a b", "-x"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="lower-case"):
        Layout(name)
