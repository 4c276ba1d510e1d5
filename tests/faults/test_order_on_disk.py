# SPDX-License-Identifier: GPL-3.0-or-later
"""What a real level 3 run asks of the kernel, in which order: nothing is changed before what is said of it is durable.

A power cut cannot be had in a test; the order of system calls says what one would leave. `strace` writes it down.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible.module_utils.rollbackctl.store import DirectoryStore

from tests.support.bench import BIN, PATIENCE_SECONDS, ROOT, Bench, broken

# A run that is traced takes longer, and the machine may be busy.
pytestmark = pytest.mark.timeout(900)
WRITES = ("write", "pwrite64", "ftruncate")
SYNCS = ("fsync", "fdatasync")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat")
# What a power cut may undo; that something of ours is there still is no harm.
MAKES = ("rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat")
# Only the journal reserves space, when it is made: its name is new then, as its content is.
RESERVES = "fallocate"
TRACED = (*WRITES, *SYNCS, *NAMES, *MAKES, RESERVES, "sendto")
_LINE = re.compile(r"^(\d+)\s+(.*)$")
_CALL = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)", re.DOTALL)
_FILE = re.compile(r"^\d+<([^>]*)>")
# `4</folder>, "name"`, `AT_FDCWD</folder>, "name"`, a name alone.
_PLACE = re.compile(r'(?:(?:\d+|AT_FDCWD)<([^>]*)>, )?"([^"]*)"')
_EVENT = re.compile(r'\\"event\\": \\"([a-z-]+)\\"(?:.*?\\"component\\": \\"([^\\]+)\\")?')


@dataclass(frozen=True)
class Call:
    """One system call that succeeded. began, ended: its place in the order of all. text: its arguments as written."""

    pid: int
    name: str
    paths: tuple[str, ...]
    text: str
    began: int
    ended: int


@dataclass(frozen=True)
class Traced:
    """A run and what it asked of the kernel."""

    bench: Bench
    run: str
    lines: tuple[str, ...]

    @property
    def journal(self) -> str:
        return str(self.bench.sample.state / "runs" / self.run / "journal.jsonl")


def calls(lines: Iterable[str]) -> Iterator[Call]:
    """Read what strace wrote; a call during which another process was heard stands in two lines."""
    halves: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        matched = _LINE.match(line)
        if matched is None:
            continue
        pid, rest, began = int(matched[1]), matched[2], number
        if rest.endswith("<unfinished ...>"):
            halves[pid] = number, rest.removesuffix("<unfinished ...>")
            continue
        if rest.startswith("<... "):
            began, first = halves.pop(pid, (number, ""))
            rest = first + rest.partition(" resumed>")[2]
        told = _CALL.match(rest)
        if told is None or int(told[3]) < 0:
            continue
        if told[1] in (*WRITES, *SYNCS, RESERVES, "sendto"):
            paths = tuple(_FILE.findall(told[2]))
        else:
            paths = tuple(str(Path(folder) / name) for folder, name in _PLACE.findall(told[2]))
        yield Call(pid, told[1], paths, told[2], began, number)


def problems(traced: Traced, lines: Iterable[str]) -> list[str]:
    """Return every place where something was not durable when it had to be."""
    found: list[str] = []
    state = str(traced.bench.sample.state)
    dirty: dict[int, dict[str, Call]] = defaultdict(dict)  # of each process: what a power cut would still lose
    written: list[tuple[str, str, int, int]] = []  # event, component, when it was asked for, when it was durable
    changes: list[tuple[str, Call]] = []
    for call in calls(lines):
        mine = dirty[call.pid]
        if call.name in SYNCS and call.paths:
            done = mine.pop(call.paths[0], None)
            if done is not None and call.paths[0] == traced.journal:
                event = _EVENT.search(done.text)
                written += [(event[1], event[2] or "", done.began, call.ended)] if event else []
            continue
        component = changed(traced, call)
        logs = call.name == "pwrite64" and call.paths == (traced.journal,)
        if (component or logs) and mine:
            found += [f"{path} is not durable when {component or 'the journal'} is written" for path in mine]
        changes += [(component, call)] if component else []
        if call.name in WRITES and call.paths and call.paths[0].startswith(f"{state}/"):
            mine[call.paths[0]] = call
        elif call.name == RESERVES and call.paths[0].startswith(f"{state}/"):
            mine[call.paths[0]] = mine[str(Path(call.paths[0]).parent)] = call
        elif call.name in MAKES and call.paths and call.paths[-1].startswith(f"{state}/"):
            if call.name.startswith("rename") and call.paths[0] in mine:
                found.append(f"{call.paths[0]} is not durable when it gets its name")
            mine[str(Path(call.paths[-1]).parent)] = call
    found += [f"{path} is not durable when its process ends" for mine in dirty.values() for path in mine]
    return found + out_of_order(written, changes)


def out_of_order(written: list[tuple[str, str, int, int]], changes: list[tuple[str, Call]]) -> list[str]:
    """Return what was changed before it was durable that it begins, or after it was said that it ended."""
    found = []
    for component, call in changes:
        word = "fence-closing" if component == "shop-web" else "begin"
        begun = [end for event, name, _, end in written if event == word and (word != "begin" or name == component)]
        applied = [start for event, name, start, _ in written if (event, name) == ("applied", component)]
        if not begun or begun[0] >= call.began:
            found.append(f"{component} is changed by {call.name} before it is durable that it begins")
        if applied and call.ended > applied[0]:
            found.append(f"{component} is changed by {call.name} after it was said to be applied")
    return found


def changed(traced: Traced, call: Call) -> str:
    """Return the component that a call changes; empty when it is none."""
    sample = traced.bench.sample
    if call.name == "sendto":
        return "shop-web" if "stopProcess" in call.text else ""
    if call.name not in NAMES or not call.paths:
        return ""
    # Of a link the old name stays as it was; a rename changes both, and swaps them in either order.
    paths = [path.replace("/./", "/") for path in (call.paths if call.name.startswith("rename") else call.paths[-1:])]
    named = {
        str(sample.databases[0]): "shop-db",
        f"{sample.databases[0]}-wal": "shop-db",
        str(sample.env_file): "shop-env",
        str(sample.static): "shop-static",
        str(sample.app / "VERSION"): "shop-code",
        str(sample.app / "app.py"): "shop-code",
        str(sample.origin / "refs/heads/main"): "shop-code",
    }
    # Folders that are the service's are worked on through a descriptor.
    held = {f"/proc/self/fd/{sample.static.name}": "shop-static"}
    paths += [re.sub(r"^(/proc/self/fd)/\d+/", r"\1/", path) for path in paths]
    return next(({**named, **held}[path] for path in paths if path in named or path in held), "")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """A level 3 run of the playbook, by ansible-playbook, with all its processes."""
    bench = broken(tmp_path_factory.mktemp("traced"))
    out = bench.folder / "strace"
    accepted = {"rollback_reason": "traced", "rollback_accept_data_loss_since": bench.taken}
    argv = ["strace", "-f", "-y", "-qq", "-s", "400", "--seccomp-bpf", "-e", f"trace={','.join(TRACED)}"]
    argv += ["-e", "signal=none", "-o", str(out), str(BIN / "ansible-playbook"), "playbooks/rollback-level3.yml"]
    argv += ["-i", str(bench.hosts), "-l", "shop", "-e", json.dumps(accepted)]
    ran = subprocess.run(
        argv,
        cwd=ROOT,
        env=bench.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS * 2,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    store = DirectoryStore(str(bench.sample.state))
    (run,) = [name for name in store.runs() if store.read_plan(name) is not None]
    yield Traced(bench, run, tuple(out.read_text(encoding="utf-8", errors="replace").splitlines()))
    bench.sample.remove()


def test_nothing_is_changed_before_what_is_said_of_it_is_durable(traced: Traced) -> None:
    assert problems(traced, traced.lines) == []


def test_all_of_the_run_was_seen(traced: Traced) -> None:
    """Every event of the journal is in the trace, and a change of every component that the run changes."""
    seen = [
        event[1]
        for call in calls(traced.lines)
        if call.name == "pwrite64" and call.paths == (traced.journal,) and (event := _EVENT.search(call.text))
    ]
    events = DirectoryStore(str(traced.bench.sample.state)).journal(traced.run).events()
    assert seen == [event["event"] for event in events]
    assert seen[-1] == "finished"
    known = {component for call in calls(traced.lines) if (component := changed(traced, call))}
    assert known == {"shop-db", "shop-env", "shop-static", "shop-code", "shop-web"}


def test_a_sync_that_is_left_out_would_be_found(traced: Traced) -> None:
    """Those of the run's own files, one after another: the plan's and the journal's."""
    own = f"{traced.bench.sample.state}/runs/{traced.run}"
    places = [
        number
        for number, line in enumerate(traced.lines)
        if re.match(rf"^\d+\s+fsync\(\d+<{re.escape(own)}/(journal\.jsonl|\.plan\.json\.\d+\.tmp)>", line)
    ]
    assert len(places) > 10
    for place in places:
        less = traced.lines[:place] + traced.lines[place + 1 :]
        assert problems(traced, less), traced.lines[place]
