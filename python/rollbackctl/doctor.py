# SPDX-License-Identifier: GPL-3.0-or-later
"""Could this controller roll back now? Nothing here needs the network: what a run needs must be on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import yaml

from . import records
from ._project import ROOT, names

_DEADLINE = 120  # seconds; a program that hangs is a finding
_FREE_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str


def examine(services: Sequence[str], inventories: Sequence[str]) -> list[Finding]:
    """Return everything that was looked at. Services and inventories are checked only as far as they are named."""
    return [
        _python(),
        *_packages(),
        _callback(),
        *_collections(),
        _records(),
        _space(),
        _playbooks(),
        *_inventory(services, inventories),
    ]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info >= (3, 11), f"{found} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement  # noqa: PLC0415 - only needed here

    for line in requires("rollbackctl") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, ok=False, text=f"is not installed; {requirement} is needed")
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Finding(requirement.name, fits, found if fits else f"{found}; {requirement} is needed")


def _callback() -> Finding:
    path = ROOT / "playbooks" / "callback_plugins" / "rollback_record.py"
    return Finding(
        "run record", path.is_file(), f"{path}" if path.is_file() else f"{path} is missing: runs would be refused"
    )


def _collections() -> Iterator[Finding]:
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text(encoding="utf-8")) or {}
    listed = wanted.get("collections") or [] if isinstance(wanted, dict) else []
    named = [str(item.get("name")) if isinstance(item, dict) else str(item) for item in listed]
    used = _text_of_project()
    needed = sorted(name for name in named if f"{name}." in used)
    if not needed:
        yield Finding("collections", ok=True, text="none is needed by what this project holds")
        return
    code, output = _ask("ansible-galaxy", "collection", "list", "--format", "json")
    try:
        there = {name for place in json.loads(output or "{}").values() for name in place} if code in {0, 5} else set()
    except ValueError:
        there = set()
    missing = sorted(set(needed) - there)
    yield Finding("collections", not missing, f"missing: {', '.join(missing)}" if missing else ", ".join(needed))


def _text_of_project() -> str:
    """Return everything in which a collection can be used, as one text."""
    files = (path for place in ("playbooks", "roles", "plugins") for path in (ROOT / place).rglob("*.[py][ym]*"))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file())


def _records() -> Finding:
    folder = records.directory()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"rollbackctl")
    except OSError as error:
        return Finding("records", ok=False, text=f"{folder} cannot be written: {error.strerror}")
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("records", ok=False, text=f"{folder} is open to others ({mode:o}); chmod 700 {folder}")
    return Finding("records", ok=True, text=str(folder))


def _space() -> Finding:
    places = {Path(tempfile.gettempdir()), records.directory()}
    free = {place: shutil.disk_usage(place).free for place in places if place.exists()}
    short = [f"{place}: {left // 1024 // 1024} MiB" for place, left in free.items() if left < _FREE_BYTES]
    if short:
        return Finding("disk space", ok=False, text=f"{', '.join(short)}; {_FREE_BYTES // 1024 // 1024} MiB are needed")
    least = min(free.values(), default=0)
    return Finding("disk space", ok=True, text=f"{least // 1024 // 1024:,} MiB free at least")


def _playbooks() -> Finding:
    paths = sorted((ROOT / "playbooks").glob("*.yml"))
    if not paths:
        return Finding("playbooks", ok=False, text=f"there are none in {ROOT / 'playbooks'}")
    code, output = _ask("ansible-playbook", "--syntax-check", "-i", "localhost,", "--", *map(str, paths))
    if code != 0:
        return Finding("playbooks", ok=False, text=_last(output))
    return Finding("playbooks", ok=True, text=f"{len(paths)} parse")


def _inventory(services: Sequence[str], inventories: Sequence[str]) -> Iterator[Finding]:
    if not inventories:
        if services:
            yield Finding("inventory", ok=False, text="--inventory is missing: name the one that holds the service")
        return
    sources = [part for source in inventories for part in ("-i", source)]
    code, output = _ask("ansible-inventory", "--list", *sources)
    try:
        found = json.loads(output) if code == 0 else {}
    except ValueError:
        found = {}
    if not found:
        yield Finding("inventory", ok=False, text=_last(output) or "it does not parse")
        return
    hosts = {host for group in found.values() if isinstance(group, dict) for host in group.get("hosts", ())}
    hosts |= set(found.get("_meta", {}).get("hostvars", {}))
    yield Finding("inventory", bool(hosts), f"{len(hosts)} hosts" if len(hosts) != 1 else "1 host")
    for service in services:
        profile = found.get("_meta", {}).get("hostvars", {}).get(service, {})
        if service not in hosts:
            text = f"is not in the inventory; there are {', '.join(sorted(hosts)) or 'none'}"
            yield Finding(names.printable(service), ok=False, text=text)
        else:
            missing = [name for name in ("rollback_service", "rollback_state") if name not in profile]
            text = f"its profile lacks {' and '.join(missing)}" if missing else "has a profile"
            yield Finding(names.printable(service), not missing, text)


def _ask(program: str, *arguments: str) -> tuple[int, str]:
    """Return exit code and output of one of Ansible's programs, of the environment the wrapper is installed in."""
    path = Path(sys.executable).parent / program
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    try:
        done = subprocess.run(
            [str(path) if path.exists() else program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE,
            env=environment,
            cwd=ROOT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{program}: {error}"
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr or done.stdout


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return names.printable(" ".join(lines[-3:]))[:300]
