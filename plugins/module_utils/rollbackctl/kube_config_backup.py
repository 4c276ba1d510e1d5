# SPDX-License-Identifier: GPL-3.0-or-later
"""Time-stamped backups of ConfigMaps and Secrets: manifests in a directory on the controller.

    kubectl get configmap app-config -o yaml > backups/app-config-20260115-1200.yaml
    kubectl get configmap,secret -o yaml     > backups/config-20260115-1200.yaml

A file's name names that file; a time stamp names all files that carry it, so that a ConfigMap and the Secret that was
saved with it come back together. No message quotes what a file holds: a parser's own messages do.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import yaml

from .component import unknown_target
from .errors import Refused
from .files_backup import candidates, open_backup
from .kube_config_content import CONFIGMAP, OPAQUE, SECRET, Content, Ref, is_key, plain_base64
from .names import printable

_ENDINGS = (".yaml", ".yml", ".json")
_LIMIT = 16 << 20
# 20260115-1200, 20260115T120000Z, 2026-01-15_12-00, 20260115, or seconds since 1970.
_STAMP = re.compile(r"(?<!\d)(?:\d{4}-?\d\d-?\d\d(?:[-_.T]?\d\d[-_.:]?\d\d(?:[-_.:]?\d\d)?)?|\d{10})(?!\d)")
_KINDS = {"ConfigMap": CONFIGMAP, "Secret": SECRET}
_LISTS = {"List": "", "ConfigMapList": "ConfigMap", "SecretList": "Secret"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OTHER = "Use another backup, or a checkpoint."


@dataclass(frozen=True)
class ConfigBackup:
    """What a backup holds of a component.

    files: name -> its size and time of change, which say whether it is still the same file. modified: the oldest of
    these times. doubts: why it may be the wrong backup.
    """

    contents: Mapping[Ref, Content] = field(repr=False)
    files: Mapping[str, str]
    modified: float
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    ref: Ref
    namespace: str
    file: str
    content: Content = field(repr=False)


def files_named(component: str, directory: str, want: str) -> list[str]:
    """Return the backup files that the operator's word names: one by its name, or all that carry a time stamp.

    :raises Refused: there is none; the time stamps and files that there are are listed.
    """
    present = [name for name in candidates(directory) if name.endswith(_ENDINGS)] if directory else []
    if want.partition("@")[0] in present or not directory:
        return [want]
    digits = _digits(want)
    stamped = sorted(name for name in present if digits and _STAMP.fullmatch(want) and digits in _stamps(name))
    if not stamped:
        stamps = sorted({stamp for name in present for stamp in _STAMP.findall(name)}, key=_digits, reverse=True)
        raise unknown_target(component, printable(want), [*stamps, *present], "time stamp or file")
    return stamped


def read_backup(
    component: str, directory: str, files: Sequence[str], refs: Sequence[Ref], namespace: str
) -> ConfigBackup:
    """Read the component's objects out of backup files.

    :param refs: the component's objects. namespace: where they are.
    :raises Refused: a file is unsafe, damaged or no manifest, or an object is in it twice with different contents.
    """
    proofs: dict[str, str] = {}
    oldest = float("inf")
    found: list[_Found] = []
    others: list[str] = []
    for given in files:
        backup = open_backup(component, directory, given)
        with backup.file as file:
            raw = file.read(_LIMIT + 1)
        proofs[given] = f"{backup.size}-{backup.modified:.6f}"
        oldest = min(oldest, backup.modified)
        where = f"{component}: the backup {backup.name} in {directory}"
        for document in _documents(where, backup.name, raw):
            one = _object(where, backup.name, document)
            if isinstance(one, _Found) and one.ref in refs:
                found.append(one)
            elif isinstance(one, _Found):
                others.append(str(one.ref))
            elif one:
                others.append(one)
    doubts = list(_foreign(found, namespace))
    # Files that share a time stamp may be other components'; a file that was named is expected to be this one's.
    others = sorted({other for other in others if other != "configmap/kube-root-ca.crt"})
    if others and len(files) == 1:
        doubts.append(f"the backup also holds {_listed(others)}, which the profile does not name here")
    contents = _contents(component, found)
    missing = [str(ref) for ref in refs if ref not in contents]
    if missing:
        doubts.append(f"the backup does not hold {_listed(missing)}, and a configuration belongs together")
    return ConfigBackup(contents, proofs, oldest, tuple(doubts))


def _digits(stamp: str) -> str:
    return re.sub(r"\D", "", stamp)


def _stamps(name: str) -> set[str]:
    return {_digits(stamp) for stamp in _STAMP.findall(name)}


def _documents(where: str, name: str, raw: bytes) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a manifest, those of lists one by one."""
    if len(raw) > _LIMIT:
        raise Refused(f"{where} is bigger than {_LIMIT >> 20} MB. Nothing was changed.", _OTHER)
    try:
        text = raw.decode("utf-8-sig")
        documents = [json.loads(text)] if name.endswith(".json") else list(yaml.load_all(text, _LOADER))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise Refused(f"{where} is no YAML{line}. Nothing was changed.", _OTHER) from None
    except (ValueError, RecursionError):  # also UnicodeDecodeError and JSONDecodeError, which carry the whole text
        raise Refused(f"{where} cannot be read as a manifest. Nothing was changed.", _OTHER) from None
    found = 0
    for document in documents:
        if document is None:
            continue
        kind = document.get("kind") if isinstance(document, Mapping) else None
        for item in (document.get("items") or []) if kind in _LISTS else [document]:
            if not isinstance(item, Mapping):
                raise Refused(f"{where} is no manifest: an object was expected. Nothing was changed.", _OTHER)
            found += 1
            yield {"kind": _LISTS.get(str(kind)), **item}
    if not found:
        raise Refused(f"{where} is empty. Nothing was changed.", _OTHER)


def _object(where: str, file: str, item: Mapping[str, Any]) -> _Found | str:
    """Return a ConfigMap or Secret, or the name of something else."""
    kind = str(item.get("kind"))
    given = item.get("metadata")
    metadata = given if isinstance(given, Mapping) else {}
    name = metadata.get("name")
    if not isinstance(name, str):
        raise Refused(f"{where} is no manifest: an object in it has no metadata.name. Nothing was changed.", _OTHER)
    if kind not in _KINDS:
        return printable(f"{kind.lower()}/{name}")
    ref = Ref(_KINDS[kind], name)
    reader = _Reader(f"{where}, {printable(str(ref))}")
    data = reader.texts(item, "data")
    binary = reader.texts(item, "binaryData") if ref.kind == CONFIGMAP else {}
    if ref.kind == SECRET:
        # What the API server does with it: https://kubernetes.io/docs/concepts/configuration/secret/
        written = reader.texts(item, "stringData").items()
        data = reader.encoded(data)
        data.update({key: base64.b64encode(value.encode()).decode() for key, value in written})
    binary = reader.encoded(binary)
    if set(data) & set(binary):
        reader.refuse("has the same key in data and in binaryData")
    content = Content(
        data,
        binary,
        str(item.get("type") or "") if ref.kind == SECRET else "",
        item.get("immutable") is True,
        reader.texts(metadata, "labels", keys=False),
        reader.texts(metadata, "annotations", keys=False),
    )
    return _Found(ref, str(metadata.get("namespace") or ""), file, content)


class _Reader:
    """Takes texts out of a manifest; refuses what the API server would not take, without showing it."""

    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, what: str) -> NoReturn:
        raise Refused(f"{self.where}: {what}. Nothing was changed.", _OTHER)

    def texts(self, item: Any, name: str, *, keys: bool = True) -> dict[str, str]:
        given = item.get(name) or {}
        if not isinstance(given, Mapping):
            self.refuse(f"{name} is no mapping")
        found: dict[str, str] = {}
        for key, value in given.items():
            if not isinstance(key, str) or (keys and not is_key(key)):
                self.refuse(f"{name} has a key that cannot be one: {printable(str(key))[:60]!r}")
            if value is None:
                value = ""  # noqa: PLW2901 - as the API server reads it
            if not isinstance(value, str) or not _is_utf8(value):
                self.refuse(f"{name}.{printable(key)} is no text (numbers and yes/no need quotes)")
            found[key] = value
        return found

    def encoded(self, given: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, value in given.items():
            plain = plain_base64(value)
            if plain is None:
                self.refuse(f"{key} is not base64")
            found[key] = plain
        return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _contents(component: str, found: Sequence[_Found]) -> dict[Ref, Content]:
    contents: dict[Ref, Content] = {}
    first: dict[Ref, str] = {}
    for one in found:
        known = contents.setdefault(one.ref, one.content)
        if not known.same(one.content):
            raise Refused(
                f"{component}: {one.ref} is in {first[one.ref]} and, with another content, in {one.file}. Nothing was "
                "changed.",
                "Name one of the files.",
            )
        first.setdefault(one.ref, one.file)
    return contents


def _foreign(found: Sequence[_Found], namespace: str) -> Iterator[str]:
    for one in found:
        if one.namespace not in {"", namespace}:
            yield f"{one.ref} in the backup is of namespace {printable(one.namespace)}, not {namespace}"


def with_type(content: Content, present: Content | None, kind: str) -> Content:
    """Return a content with its type filled in: a manifest without one means the present one, or Opaque."""
    if kind != SECRET or content.type:
        return content
    return replace(content, type=present.type if present is not None else OPAQUE)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
