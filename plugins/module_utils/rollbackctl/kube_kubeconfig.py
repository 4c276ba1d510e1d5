# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubeconfig files: which context is meant, and what it says about the server and the user.

Several files are put together as kubectl does: for each name the first file that has it wins, the current context is
that of the first file that has one. Relative paths are relative to the file that they stand in.
https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .errors import Refused
from .kube_credentials import Given, Part, Provider, Source, check_readable, decoded
from .kube_exec import VERSIONS, Plugin
from .names import printable

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One named cluster, user or context. directory: that of its file."""

    kind: str
    name: str
    values: Mapping[str, Any]
    directory: str

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise Refused(f"{self}: {key} must be a text.")
        return value

    def truth(self, key: str) -> bool:
        return self.values.get(key) is True

    def part(self, key: str, what: str) -> Part:
        """Return `KEY-data` or the file that `KEY` names; the data win, as in kubectl."""
        if data := self.text(f"{key}-data"):
            return Part(what, inline=decoded(f"{self}: {key}-data", data))
        path = self.text(key)
        return Part(what, path=os.path.join(self.directory, path) if path else "")

    def __str__(self) -> str:
        return f"{self.kind} {printable(self.name)!r} of the kubeconfig"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What one context says."""

    context: str
    server: str
    namespace: str
    ca: Part
    verify: bool
    tls_name: str
    proxy: str = dataclasses.field(repr=False)
    source: Source = dataclasses.field(repr=False)
    impersonate: tuple[tuple[str, str], ...] = ()


def read(paths: Sequence[str], context: str, environ: Mapping[str, str]) -> Chosen:
    """Return what the context (empty: the current one) in these files says.

    :raises Refused: no such file, no such context, or something that cannot be used.
    """
    documents = [(path, _load(path)) for path in paths if os.path.lexists(path)]
    if not documents:
        raise Refused(f"there is no kubeconfig at {' or '.join(repr(path) for path in paths)}.")
    contexts, clusters, users = (_named(documents, kind) for kind in ("context", "cluster", "user"))
    name = context or next((str(doc["current-context"]) for _, doc in documents if doc.get("current-context")), "")
    if name not in contexts:
        asked = f"has no context {printable(name)!r}" if name else "has no current-context, and the profile names none"
        known = ", ".join(sorted(printable(known) for known in contexts)) or "none"
        raise Refused(f"the kubeconfig {', '.join(path for path, _ in documents)} {asked}. Its contexts: {known}.")
    chosen = contexts[name]
    cluster = _of(chosen, "cluster", clusters)
    user = _of(chosen, "user", users) if chosen.text("user") else _Entry("user", "", {}, chosen.directory)
    if cluster.truth("insecure-skip-tls-verify") and cluster.part("certificate-authority", ""):
        raise Refused(f"{cluster} has both a certificate-authority and insecure-skip-tls-verify; one must go.")
    ca = cluster.part("certificate-authority", "certificate-authority")
    check_readable(ca)
    return Chosen(
        context=name,
        server=cluster.text("server"),
        namespace=chosen.text("namespace"),
        ca=ca,
        verify=not cluster.truth("insecure-skip-tls-verify"),
        tls_name=cluster.text("tls-server-name"),
        proxy=cluster.text("proxy-url"),
        source=_source(user, cluster, name, environ),
        impersonate=_impersonate(user),
    )


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.load(file, _LOADER)  # noqa: S506 - a safe loader
    except OSError as exc:
        raise Refused(f"the kubeconfig {path!r} cannot be read: {exc.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):  # the parser's own text quotes lines, and they hold tokens
        raise Refused(f"the kubeconfig {path!r} is not YAML.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Refused(f"the kubeconfig {path!r} is not a mapping.")
    return document


def _named(documents: Sequence[tuple[str, Mapping[str, Any]]], kind: str) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for path, document in documents:
        listed = document.get(f"{kind}s") or []
        if not isinstance(listed, list):
            raise Refused(f"{kind}s of the kubeconfig {path!r} is not a list.")
        for item in listed:
            name, values = (item.get("name"), item.get(kind) or {}) if isinstance(item, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(values, dict):
                raise Refused(f"{kind}s of the kubeconfig {path!r}: each needs a name and a {kind}.")
            found.setdefault(name, _Entry(kind, name, values, os.path.dirname(os.path.abspath(path))))
    return found


def _of(chosen: _Entry, kind: str, entries: Mapping[str, _Entry]) -> _Entry:
    name = chosen.text(kind)
    if name not in entries:
        raise Refused(f"{chosen} names the {kind} {printable(name)!r}, which is not there.")
    return entries[name]


def _source(user: _Entry, cluster: _Entry, context: str, environ: Mapping[str, str]) -> Source:
    token = Part("token", inline=user.text("token").encode())
    if path := user.text("tokenFile"):
        token = Part("token file", path=os.path.join(user.directory, path))
    certificate, key = user.part("client-certificate", "client certificate"), user.part("client-key", "client key")
    if bool(certificate) != bool(key):
        raise Refused(f"{user} needs both a client-certificate and a client-key.")
    check_readable(token, certificate, key)
    if token or certificate:
        return Given(token, certificate, key)
    if "exec" in user.values:
        return _plugin(user, cluster, environ)
    if "auth-provider" in user.values:
        return _provider(user, cluster, context)
    if user.text("username") or user.text("password"):
        raise Refused(f"{user} has a name and password; API servers no longer take them. Use a token or a certificate.")
    return Given()


def _plugin(user: _Entry, cluster: _Entry, environ: Mapping[str, str]) -> Plugin:
    described = _Entry("exec plugin of user", user.name, user.values["exec"] or {}, user.directory)
    version, command = described.text("apiVersion"), described.text("command")
    if version not in VERSIONS:
        raise Refused(f"{described}: apiVersion {printable(version)!r} is not known; known: {', '.join(VERSIONS)}.")
    if described.text("interactiveMode") == "Always":
        raise Refused(f"{described} wants to ask somebody (interactiveMode Always); nobody is there to answer.")
    arguments, extra = described.values.get("args") or [], described.values.get("env") or []
    if not command or not all(isinstance(argument, str) for argument in arguments):
        raise Refused(f"{described} needs a command, and args that are texts.")
    if not all(isinstance(pair, dict) and isinstance(pair.get("name"), str) for pair in extra):
        raise Refused(f"{described}: env must be a list of name and value.")
    return Plugin(
        version=version,
        command=os.path.join(user.directory, command) if os.sep in command else command,
        arguments=tuple(arguments),
        environ={**environ, **{pair["name"]: str(pair.get("value", "")) for pair in extra}},
        hint=printable(" ".join(described.text("installHint").split())),
        cluster=_cluster_info(cluster) if described.truth("provideClusterInfo") else None,
    )


def _cluster_info(cluster: _Entry) -> dict[str, Any]:
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    return {name: cluster.values[name] for name in names if name in cluster.values}


def _provider(user: _Entry, cluster: _Entry, context: str) -> Provider:
    described = user.values["auth-provider"]
    name = described.get("name") if isinstance(described, dict) else None
    document = {
        "current-context": context,
        "contexts": [{"name": context, "context": {"cluster": cluster.name, "user": user.name}}],
        "clusters": [{"name": cluster.name, "cluster": dict(cluster.values)}],
        "users": [{"name": user.name, "user": {"auth-provider": described}}],
    }
    return Provider(str(name), document, context, user.directory)


def _impersonate(user: _Entry) -> tuple[tuple[str, str], ...]:
    """Return the headers of `as`: to leave them out would be to act with other rights than the person chose."""
    if user.values.get("as-user-extra"):
        raise Refused(f"{user} has as-user-extra, which is not supported; use `as` and `as-groups`.")
    headers = [("Impersonate-User", user.text("as")), ("Impersonate-Uid", user.text("as-uid"))]
    headers += [("Impersonate-Group", str(group)) for group in user.values.get("as-groups") or []]
    for name, value in headers:
        if not value.isascii() or not value.isprintable():
            raise Refused(f"{user}: {name} must be ASCII without control characters.")
    return tuple((name, value) for name, value in headers if value)
