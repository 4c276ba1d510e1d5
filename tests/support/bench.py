# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample service that really runs, and the shipped playbooks run on it as a person would run them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.rollbackctl.durable import read_document, write_document
from ansible.module_utils.rollbackctl.store import DirectoryStore

from lab.sample.build import Sample, create

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
# Of one program, on a busy machine; below what a whole test may take.
PATIENCE_SECONDS = 240.0


@dataclass(frozen=True)
class Ran:
    """A program that ended: its exit code, all it wrote, and the run record it left; empty when it left none."""

    code: int
    output: str
    record: Mapping[str, Any]

    @property
    def said(self) -> str:
        """What the record tells a person: the message, each problem, and what to type next."""
        services = self.record.get("services", {}).values()
        problems = [problem for service in services for problem in service["problems"]]
        return "\n".join([str(self.record.get("message")), str(self.record.get("next")), *problems])


class Bench:
    """A sample service below a folder, its inventory, and where the controller keeps records."""

    def __init__(self, folder: Path, **options: Any) -> None:
        """Make the service and start it. options: as lab.sample.build.create takes them."""
        self.folder = folder
        self.sample: Sample = create(folder / "s", **options)
        self.sample.start(die_with_parent=True)
        self.hosts = self.sample.inventory(folder / "inventory" / "hosts.yml")
        self.records = folder / "records"
        self.checkpoint = ""
        self.taken = ""
        self.before: dict[str, Any] = {}

    def profile(self, name: str, **changes: Any) -> Path:
        """Return an inventory in which the service's profile is changed."""
        return self.sample.inventory(self.folder / "inventory" / f"{name}.yml", **changes)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment to start Ansible in: the project's settings, and nothing of the caller's own."""
        own = ("ANSIBLE_", "ROLLBACKCTL_", "GIT_", "PYTHON")
        env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        env["PATH"] = f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}"
        env |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return env | {"ROLLBACKCTL_RECORDS": str(self.records), "XDG_STATE_HOME": str(self.folder / "xdg")} | more

    # -- running programs --------------------------------------------------------------------------------------------

    def start(
        self,
        playbook: str,
        *words: str,
        limit: str = "shop",
        hosts: Path | None = None,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
        **values: Any,
    ) -> subprocess.Popen[str]:
        """Start ansible-playbook. values: extra variables, as JSON; limit: empty for none."""
        path = playbook if "/" in playbook or cwd != ROOT else f"playbooks/{playbook}"
        argv = ["ansible-playbook", path, "--inventory", str(hosts or self.hosts), *words]
        argv += ["--limit", limit] if limit else []
        argv += ["--extra-vars", json.dumps(values)] if values else []
        environment = self.environment(**(env or {}))
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="surrogateescape",
        )

    def end(self, process: subprocess.Popen[str]) -> Ran:
        """Wait for a program that was started."""
        try:
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"it did not end within {PATIENCE_SECONDS} s:\n{output}") from None
        return Ran(process.returncode, output, self.record_of(process.pid))

    def play(self, playbook: str, *words: str, **more: Any) -> Ran:
        """Run a playbook to its end; as start takes it."""
        return self.end(self.start(playbook, *words, **more))

    def rollbackctl(self, *words: str, env: Mapping[str, str] | None = None) -> Ran:
        """Run the command line; its record is the newest one that this run made."""
        before = {path: path.stat().st_mtime_ns for path in self.records.glob("*.json")}
        argv = [str(BIN / "rollbackctl"), *words]
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(**{"COLUMNS": "200", **(env or {})}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        # A run that goes on writes its record anew, and renames the earlier one.
        now = {path: path.stat().st_mtime_ns for path in self.records.glob("*.json")}
        made = sorted((path for path in now if now[path] != before.get(path)), key=lambda path: now[path])
        record = json.loads(made[-1].read_text(encoding="utf-8")) if made else {}
        return Ran(done.returncode, done.stdout + done.stderr, record)

    def record_of(self, pid: int) -> dict[str, Any]:
        """Return the record that the ansible-playbook with this process id wrote; empty when there is none."""
        newest = sorted(self.records.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["pid"] == pid:
                return found
        return {}

    @contextlib.contextmanager
    def paused(self, failpoint: str, playbook: str, **more: Any) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """Run a playbook up to a failpoint; yield the process and the file to remove for it to go on.

        Left alone, it is asked to stop, goes on, and is waited for.
        """
        mark = self.folder / "paused"
        mark.unlink(missing_ok=True)
        process = self.start(playbook, env={"ROLLBACKCTL_FAILPOINT": f"{failpoint}:pause={mark}"}, **more)
        try:
            end = time.monotonic() + PATIENCE_SECONDS
            while not mark.exists() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            if not mark.exists():
                process.kill()
                raise AssertionError(f"it never came to {failpoint}:\n{process.communicate()[0]}")
            yield process, mark
        finally:
            if process.poll() is None and mark.exists():
                process.send_signal(signal.SIGTERM)
                mark.unlink()
            if process.stdout is not None and not process.stdout.closed:
                process.communicate(timeout=PATIENCE_SECONDS)

    # -- the service -------------------------------------------------------------------------------------------------

    def prove_checkpoint(self) -> None:
        """Take a checkpoint of what runs; the sample's soak time is 0, so it is proven at once."""
        ran = self.play("checkpoint.yml", rollback_reason="before the release")
        assert ran.record.get("outcome") == "done", ran.output
        (document,) = DirectoryStore(str(self.sample.state)).checkpoints()
        assert document["state"] == "proven", document
        self.checkpoint, self.taken = document["id"], document["components"]["shop-db"]["taken"]

    def variant(self, name: str) -> Path:
        """Return the folder of a copy of the checkpoint, whole and under another name, to be damaged."""
        folder = self.sample.state / "checkpoints" / name
        source = self.sample.state / "checkpoints" / self.checkpoint
        for path in sorted(source.rglob("*")):
            there = folder / path.relative_to(source)
            there.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.suffix == ".json" and (document := read_document(path)) is not None:
                write_document(there, json.loads(json.dumps(document).replace(self.checkpoint, name)))
            elif path.is_file():
                there.write_bytes(path.read_bytes())
                there.chmod(0o600)
        return folder


def broken(folder: Path, **release: Any) -> Bench:
    """Return a service with a proven checkpoint of release 1.4.0 that was broken by release 1.5.0.

    release: what the bad release consists of, as the sample's deploy_bad takes it.
    """
    bench = Bench(folder)
    bench.prove_checkpoint()
    bench.sample.deploy_bad(**release)
    bench.before = bench.sample.inspect()
    return bench


def refused(bench: Bench, ran: Ran, *words: str) -> None:
    """Assert that a run was refused, that it said all of the words, and that nothing of the service changed."""
    assert ran.code != 0, ran.output
    assert ran.record.get("outcome") == "refused", f"{ran.said}\n{ran.output}"
    assert ran.record["exit_code"] == 2
    assert "othing was changed" in ran.said, ran.said
    missing = [word for word in words if word not in ran.said]
    assert not missing, f"it did not say {missing}: {ran.said}"
    unchanged(bench)


def unchanged(bench: Bench) -> None:
    """Assert that everything the service owns is as it was."""
    now = bench.sample.inspect()
    assert {key: now[key] for key in now if now[key] != bench.before.get(key)} == {}
    assert sorted(now) == sorted(bench.before)


def tree(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Return everything in a folder: mode, time of the last change and content of each file and folder."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found
