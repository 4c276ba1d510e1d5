# SPDX-License-Identifier: GPL-3.0-or-later
"""Why an inventory or a profile cannot be read, with file and line. Controller only.

Ansible says where for a template; for a file that is no YAML it does not once the file is a vars file (ansible-core
2.19 makes a new exception of the old one's text), so those files are looked through here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.context import CLIARGS
from ansible.errors import AnsibleError

from .names import did_you_mean, printable

_SUFFIXES = ("", ".yml", ".yaml", ".json")
_VAULT = "Name the file with the password: ANSIBLE_VAULT_PASSWORD_FILE, or ansible-playbook --vault-password-file"
_ENCRYPTED = "$ANSIBLE_VAULT;"


def error_words(error: Exception) -> str:
    """Return what an exception of Ansible's says, and where, when it knows: "... (hosts.yml, line 12)"."""
    message = printable(" ".join(str(getattr(error, "message", "") or error).split()))
    origin = str(getattr(error, "_formatted_source_context", None) or "").partition("\n")[0]
    return f"{message} ({place})" if (place := _place(origin.removeprefix("Origin: "))) else message


def _place(origin: str) -> str:
    path, _, position = origin.partition(":")
    line = position.partition(":")[0]
    return f"{printable(path)}, line {line}" if path.startswith("/") and line.isdigit() else ""


def play_problems(play: Any, extra: Mapping[str, Any]) -> list[str]:
    """Return why a play cannot begin: a service that is not in the inventory, or whose variables cannot be read.

    :param play: Ansible's.
    :param extra: the extra variables.
    """
    manager = play.get_variable_manager()
    inventory = manager._inventory  # noqa: SLF001 - there is no public name
    asked = extra.get("rollback_services") or []
    asked = asked.split(",") if isinstance(asked, str) else asked
    groups = {name: group.get_hosts() for name, group in inventory.groups.items()}
    known = {*inventory.hosts, *groups}
    problems = [
        f"{printable(str(name))} is not in the inventory{did_you_mean(str(name), known)}"
        for name in asked
        if name not in known
    ]
    problems += [
        f"{printable(str(name))} is a group without a host: no service was named. Name one: --limit SERVICE"
        for name in asked
        if name not in inventory.hosts and groups.get(name) == []
    ]
    for host in inventory.get_hosts(play.hosts) if not problems else ():
        problems += _unreadable(manager, play, host)
    return list(dict.fromkeys(problems))


def _unreadable(manager: Any, play: Any, host: Any) -> list[str]:
    try:
        manager.get_vars(play=play, host=host, include_hostvars=False)
    except AnsibleError as error:
        sources = CLIARGS.get("inventory") or ()
        if "vault" in str(error) or "decrypt" in str(error):
            files = ", ".join(encrypted_files(sources)) or "the inventory"
            return [f"{files} is encrypted: {error_words(error)} {_VAULT}"]
        return file_faults(sources) or [f"{host.get_name()}: {error_words(error)}"]
    return []


def file_faults(sources: Iterable[str]) -> list[str]:
    """Return a sentence for each inventory or vars file that is no YAML, names a key twice, or cannot be read.

    :param sources: the inventories, as they were named; their host_vars and group_vars are looked at too.
    """
    return [fault for path in dict.fromkeys(_files(sources)) for fault in _faults(path)]


def encrypted_files(sources: Iterable[str]) -> list[str]:
    """Return the vars files that ansible-vault encrypted as a whole."""
    return [str(path) for path in dict.fromkeys(_files(sources)) if _read(path).startswith(_ENCRYPTED)]


def _files(sources: Iterable[str]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if "," in source or not path.exists():
            continue
        folder = path if path.is_dir() else path.parent
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.is_file() and file.suffix in _SUFFIXES[1:])
        for name in ("host_vars", "group_vars"):
            beside = sorted((folder / name).rglob("*"))
            yield from (file for file in beside if file.is_file() and file.suffix in _SUFFIXES)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _faults(path: Path) -> Iterator[str]:
    shown = printable(str(path))
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        yield f"{shown} cannot be read: {error.strerror}"
        return
    except UnicodeDecodeError:
        yield f"{shown} is no text (UTF-8)"
        return
    if text.startswith((_ENCRYPTED, "#!")) or (not path.suffix and _is_ini(text)):
        return
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        yield f"{shown}{line}: no YAML: {error.problem}"
    except yaml.YAMLError as error:
        yield f"{shown}: no YAML: {' '.join(str(error).split())[:200]}"
    else:
        yield from _keys_named_twice(shown, node)


def _is_ini(text: str) -> bool:
    """Say whether an inventory without a suffix is of the old form: a host, or [group], in a line of its own."""
    first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    return not first.startswith("---") and (first.startswith("[") or ":" not in first)


def _keys_named_twice(shown: str, node: object) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(getattr(key, "value", "")), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and name in seen and name != "<<":
                yield f"{shown}, line {line}: {printable(name)} stands in line {seen[name]} already"
            seen[name] = line
            yield from _keys_named_twice(shown, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _keys_named_twice(shown, item)
