# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the API server is, and who we are there.

Looked for in this order, and the first that is there is taken: the profile's `kubeconfig`; what an AWX credential puts
into the environment (K8S_AUTH_*); KUBECONFIG; the service account of the pod that this runs in; ~/.kube/config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from . import kube_kubeconfig
from .errors import Refused
from .kube_credentials import Given, Part, Source, check_readable
from .names import printable

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclasses.dataclass(frozen=True)
class Access:
    """Everything needed to talk to one API server.

    server: its URL, perhaps with a path in front of every request's own (Rancher). namespace: where to work when
    nothing else is said. text: one line for people. ca: certificates (PEM) to trust; empty: those of the system.
    Printing it shows no secret; a pickle holds them.
    """

    server: str
    namespace: str
    text: str
    source: Source = dataclasses.field(default=Given(), repr=False)
    ca: Part = dataclasses.field(default=Part("certificate authority"), repr=False)
    verify: bool = True
    tls_name: str = ""
    proxy: str = dataclasses.field(default="", repr=False)  # it may hold a password
    impersonate: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return the line for people."""
        return self.text


def find_access(settings: Mapping[str, Any], environ: Mapping[str, str]) -> Access:
    """Return the access that is meant, without asking the server.

    settings: the profile's rollback_state; its `kubeconfig` and `context` count here.

    :raises Refused: nothing was found, or what was found cannot be used; the message says which.
    """
    context = str(settings.get("context") or environ.get("K8S_AUTH_CONTEXT") or "")
    if path := str(settings.get("kubeconfig") or ""):
        path = _at_home(path, environ)
        if not os.path.isabs(path):
            raise Refused(f"rollback_state.kubeconfig must be an absolute path or begin with ~/, not {path!r}.")
        return _from_files([path], context, environ)
    if environ.get("K8S_AUTH_HOST"):
        return _from_credential(context, environ)
    if path := environ.get("K8S_AUTH_KUBECONFIG", ""):
        return _from_files([_at_home(path, environ)], context, environ)
    if paths := [path for path in environ.get("KUBECONFIG", "").split(os.pathsep) if path]:
        return _from_files(paths, context, environ)
    if _in_cluster(environ) and not context:
        return _from_service_account(environ)
    default = _at_home("~/.kube/config", environ)
    if os.path.lexists(default):
        return _from_files([default], context, environ)
    pod = "it names no context, and one is asked for" if _in_cluster(environ) else "not in a pod"
    raise Refused(
        "no way to a Kubernetes API server was found. Looked for, in this order: rollback_state.kubeconfig in the "
        "profile (not set), K8S_AUTH_HOST or K8S_AUTH_KUBECONFIG of an AWX credential (not set), KUBECONFIG (not set), "
        f"the pod's service account ({pod}), {default} (not there).",
        "Name a kubeconfig in the profile: rollback_state: {kind: kubernetes, kubeconfig: /path/to/kubeconfig}.",
    )


def _at_home(path: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(home, path[2:]) if path.startswith("~/") else path


def _from_files(paths: list[str], context: str, environ: Mapping[str, str]) -> Access:
    chosen = kube_kubeconfig.read(paths, context, environ)
    return _access(
        Access(
            server=chosen.server,
            namespace=chosen.namespace or "default",
            text=f"context {printable(chosen.context)}",
            source=chosen.source,
            ca=chosen.ca,
            verify=chosen.verify,
            tls_name=chosen.tls_name,
            proxy=chosen.proxy,
            impersonate=chosen.impersonate,
        ),
        environ,
    )


def _from_credential(context: str, environ: Mapping[str, str]) -> Access:
    if context:
        raise Refused(
            f"the context {printable(context)!r} is asked for, but K8S_AUTH_HOST (an AWX credential) names a server, "
            "and that has no contexts. Which of the two is meant must not be guessed: remove one.",
        )
    token = Part("K8S_AUTH_API_KEY", inline=environ.get("K8S_AUTH_API_KEY", "").encode())
    certificate = Part("K8S_AUTH_CERT_FILE", path=environ.get("K8S_AUTH_CERT_FILE", ""))
    key = Part("K8S_AUTH_KEY_FILE", path=environ.get("K8S_AUTH_KEY_FILE", "") or certificate.path)
    if not token and not certificate:
        raise Refused("K8S_AUTH_HOST is set, but neither K8S_AUTH_API_KEY nor K8S_AUTH_CERT_FILE.")
    ca = Part("K8S_AUTH_SSL_CA_CERT", path=environ.get("K8S_AUTH_SSL_CA_CERT", ""))
    check_readable(ca, certificate, key)
    return _access(
        Access(
            server=environ["K8S_AUTH_HOST"],
            namespace="default",
            text="the credential in K8S_AUTH_*",
            source=Given(token, certificate, key),
            ca=ca,
            verify=environ.get("K8S_AUTH_VERIFY_SSL", "").lower() not in {"false", "no", "0", "off"},
            proxy=environ.get("K8S_AUTH_PROXY", ""),
        ),
        environ,
    )


def _in_cluster(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("KUBERNETES_SERVICE_HOST")) and os.path.exists(os.path.join(SERVICE_ACCOUNT, "token"))


def _from_service_account(environ: Mapping[str, str]) -> Access:
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = Part("service account token", path=os.path.join(SERVICE_ACCOUNT, "token"))
    ca = Part("service account CA", path=os.path.join(SERVICE_ACCOUNT, "ca.crt"))
    namespace = Part("service account namespace", path=os.path.join(SERVICE_ACCOUNT, "namespace"))
    return _access(
        Access(
            server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
            namespace=namespace.read().decode().strip(),
            text="the service account of this pod",
            source=Given(token),
            ca=ca,
        ),
        environ,
    )


def _access(access: Access, environ: Mapping[str, str]) -> Access:
    """Check the addresses and put the line for people together."""
    server = _address("the API server's address", access.server, keep_path=True)
    parts = urlsplit(server)
    host = str(parts.hostname)
    if parts.scheme == "http" and not _is_loopback(host) and access.source != Given():
        raise Refused(f"{server} is not https: a token would be readable on its way. Use https.")
    proxy = access.proxy or _proxy_of(
        environ, parts.scheme, host, parts.port or (443 if parts.scheme == "https" else 80)
    )
    words = f"{server} as {access.text}"
    if proxy:
        words += f" through the proxy {_address('the proxy', proxy)}"
    if not access.verify:
        words += " (its certificate is not verified)"
    if access.impersonate:
        words += f" acting as {printable(access.impersonate[0][1])}"
    return dataclasses.replace(access, server=server, proxy=proxy, text=words)


def _address(what: str, url: str, *, keep_path: bool = False) -> str:
    """Return url for a message. A proxy's may hold a name and password, which are left out; the server's may not."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused(f"{what} is not a URL.") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise Refused(f"{what} must be a URL that begins with https:// or http://.")
    if keep_path and (parts.username is not None or parts.query or parts.fragment):
        raise Refused(f"{what} must hold no name, password, query or fragment.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = f"{parts.scheme}://{host}" + (f":{port}" if port else "")
    return printable(f"{place}{parts.path.rstrip('/')}" if keep_path else place)


def _proxy_of(environ: Mapping[str, str], scheme: str, host: str, port: int) -> str:
    """Return the proxy that kubectl would use in this environment: HTTPS_PROXY, but for what NO_PROXY lists.

    https://pkg.go.dev/golang.org/x/net/http/httpproxy
    """
    name = f"{scheme}_proxy"
    proxy = environ.get(name.upper()) or environ.get(name) or ""
    if not proxy or _is_loopback(host):
        return ""
    listed = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    if any(_is_listed(entry.strip().lower(), host.lower(), port) for entry in listed.split(",")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_listed(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    name, _, number = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
    if not name or (number and number != str(port)):
        return False
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
