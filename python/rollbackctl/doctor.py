# SPDX-License-Identifier: GPL-3.0-or-later
"""Could this controller roll back these services now? It is looked at on this machine, and the services are asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import yaml

from . import execute, parameters, records
from ._project import ROOT, ledger, names, profile_errors
from .execute import Order

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
        faults = profile_errors.file_faults(inventories) or [_last(output) or "it does not parse"]
        yield from (Finding("inventory", ok=False, text=fault) for fault in faults)
        return
    hosts = {host for group in found.values() if isinstance(group, dict) for host in group.get("hosts", ())}
    hosts |= set(found.get("_meta", {}).get("hostvars", {}))
    yield Finding("inventory", bool(hosts), f"{len(hosts)} hosts" if len(hosts) != 1 else "1 host")
    for service in services:
        profile = found.get("_meta", {}).get("hostvars", {}).get(service, {})
        missing = [name for name in ("rollback_service", "rollback_state") if name not in profile]
        if service not in hosts:
            hint = names.did_you_mean(service, hosts)
            text = f"is not in the inventory; there are {', '.join(sorted(hosts)) or 'none'}{hint}"
            yield Finding(names.printable(service), ok=False, text=text)
        elif missing:
            yield Finding(names.printable(service), ok=False, text=f"its profile lacks {' and '.join(missing)}")
        else:
            yield from _service(service, profile, inventories)


def _service(service: str, profile: Mapping[str, Any], inventories: Sequence[str]) -> Iterator[Finding]:
    """Ask the service itself, by the shipped preflight: it reads and proves, takes no lease and writes nothing."""
    found = _preflight(service, inventories)
    store = found.get("status") or {}
    candidates = [each["id"] for each in store.get("checkpoints") or [] if each["state"] == ledger.CANDIDATE]
    proven = [each["id"] for each in store.get("checkpoints") or [] if each["state"] == ledger.PROVEN]
    if candidates and not proven:
        found = _preflight(service, inventories, candidates[0])
    if not store:
        for problem in found.get("problems") or [found.get("message") or "it could not be asked"]:
            yield Finding(service, ok=False, text=_in_words(problem))
        return
    yield _machine(service, store.get("machine") or {}, str(store.get("host")))
    identity = (profile["rollback_service"] or {}).get("identity")
    text = "proven" if identity else "none is set: nothing keeps a wrong inventory from rolling back another machine"
    yield Finding(f"{service}: identity", ok=True, text=text)
    yield _checkpoint(service, proven, candidates)
    for damage in store.get("damaged") or []:
        yield Finding(f"{service}: state store", ok=False, text=_in_words(damage))
    yield from _components(service, found, known=bool(proven or candidates))


def _checkpoint(service: str, proven: Sequence[str], candidates: Sequence[str]) -> Finding:
    text = f"there is none to go back to: rollbackctl checkpoint {service} --reason 'it is healthy'"
    if candidates:
        text = f"{candidates[0]} is a candidate, none is proven yet"
    if proven:
        text = f"{proven[0]} is proven"
    return Finding(f"{service}: checkpoint", ok=bool(proven or candidates), text=text)


def _components(service: str, found: Mapping[str, Any], *, known: bool) -> Iterator[Finding]:
    """Tell how each component reads and what stands in the way. known: there is a checkpoint to be compared with."""
    entries = (found.get("plan") or {}).get("entries") or []
    steps = {step["component"]: step for step in found.get("steps") or [] if step["phase"] == "preflight"}
    said: set[str] = set()
    for name, step in steps.items():
        live = next((entry["live"]["text"] for entry in entries if entry["name"] == name), "")
        problems = [part for part in step["text"].split("; ") if known or not part.startswith(ledger.NONE_PROVEN)]
        wrong = step["status"] == "refused" and bool(problems)
        said.update(problems if wrong else ())
        text = _in_words("; ".join(problems)) if wrong else f"reads as {live}" if live else step["text"]
        yield Finding(f"{service}: {name}", ok=not wrong, text=text)
    for problem in found.get("problems") or []:
        repeated = any(part in problem for part in said) or ledger.NONE_PROVEN in problem
        if not repeated:
            yield Finding(service, ok=False, text=_in_words(problem))


def _machine(service: str, machine: Mapping[str, Any], host: str) -> Finding:
    python, free = str(machine.get("python")), machine.get("free_bytes")
    short = free is not None and free < _FREE_BYTES
    old = tuple(map(int, python.split(".")[:2])) < (3, 9) if python[:1].isdigit() else True
    space = "" if free is None else f", {free // 1024 // 1024:,} MiB free for its state"
    needed = " (3.9 is needed)" * old + f" ({_FREE_BYTES // 1024 // 1024} MiB are needed)" * short
    text = f"{host}: Python {python}, user id {machine.get('user')}{space}{needed}"
    return Finding(f"{service}: host", ok=not (short or old), text=text)


def _preflight(service: str, inventories: Sequence[str], checkpoint: str = "") -> Mapping[str, Any]:
    """Return the service's part of the record of a preflight; a loss is no problem of a look."""
    values: dict[str, object] = {"rollback_services": [service], "rollback_reason": "doctor"}
    values["rollback_accept_data_loss_since"] = "1970-01-01T00:00:00Z"
    values |= {"rollback_checkpoint": checkpoint} if checkpoint else {}
    record, result = execute.look(Order("preflight.yml", tuple(inventories), values), check=False)
    if record is None:
        return {"message": _last(result.output) or "ansible-playbook ended before it could look"}
    found: Mapping[str, Any] = record["services"].get(service) or {"message": record.get("message")}
    return found


def _in_words(message: str) -> str:
    return parameters.in_flags(message.removeprefix("Refused, nothing was changed: "))


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
