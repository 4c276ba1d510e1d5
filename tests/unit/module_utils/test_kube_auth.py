# SPDX-License-Identifier: GPL-3.0-or-later
"""Who we are and where the API server is: kubeconfigs, AWX, pods; really used against servers on loopback."""

from __future__ import annotations

import base64
import json
import pickle
import socket
import socketserver
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_auth, kube_exec
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_auth import Access, find_access
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError

from tests.unit.module_utils.kube_server import Handler, Keys, Server, kubeconfig, serving

SECRET = "s3cr3t-t0ken"
HERE = {"server": "http://127.0.0.1:1"}


def whoami(handler: Handler) -> None:
    """Answer with who asks."""
    handler.reply(200, {"token": handler.asked.token, "user": handler.asked.user})


def inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def plain() -> Iterator[Server]:
    with serving(whoami) as server:
        yield server


def asks(access: Access) -> dict[str, Any]:
    client = Client(access)
    try:
        return client.get("/whoami")
    finally:
        client.close()


# Where it is looked for.


def test_the_order_in_which_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> str:
        return str(kubeconfig(tmp_path / name / "config", HERE, {"token": SECRET}, name=name))

    pod = tmp_path / "pod"
    pod.mkdir()
    (pod / "token").write_text(SECRET)
    (pod / "ca.crt").write_text("")
    (pod / "namespace").write_text("shop\n")
    monkeypatch.setattr(kube_auth, "SERVICE_ACCOUNT", str(pod))
    settings = {"kubeconfig": made("profile")}
    made("home/.kube")
    environ = {
        "K8S_AUTH_HOST": "https://awx.example.com:6443",
        "K8S_AUTH_API_KEY": SECRET,
        "K8S_AUTH_KUBECONFIG": made("awx"),
        "KUBECONFIG": made("variable"),
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "HOME": str(tmp_path / "home"),
    }
    assert find_access(settings, environ).text == "http://127.0.0.1:1 as context profile"
    assert find_access({}, environ).text == "https://awx.example.com:6443 as the credential in K8S_AUTH_*"
    del environ["K8S_AUTH_HOST"]
    assert find_access({}, environ).text.endswith("context awx")
    del environ["K8S_AUTH_KUBECONFIG"]
    assert find_access({}, environ).text.endswith("context variable")
    del environ["KUBECONFIG"]
    found = find_access({}, environ)
    assert (found.text, found.namespace) == ("https://10.96.0.1:443 as the service account of this pod", "shop")
    del environ["KUBERNETES_SERVICE_HOST"]
    assert find_access({}, environ).text.endswith("context home/.kube")


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        find_access({}, {"HOME": str(tmp_path)})
    for name in (
        "rollback_state.kubeconfig",
        "K8S_AUTH_HOST",
        "KUBECONFIG",
        "service account",
        f"{tmp_path}/.kube/config",
    ):
        assert name in caught.value.message
    assert "kubeconfig: /path" in caught.value.next_step


def test_a_kubeconfig_that_is_named_and_missing_is_not_passed_over(tmp_path: Path) -> None:
    kubeconfig(tmp_path / ".kube" / "config", HERE, {"token": SECRET})
    for settings, environ in (({"kubeconfig": "/no/such"}, {}), ({}, {"KUBECONFIG": "/no/such:/nor/this"})):
        with pytest.raises(Refused, match="there is no kubeconfig at '/no/such'"):
            find_access(settings, {"HOME": str(tmp_path), **environ})


def test_a_path_in_the_profile_is_absolute_or_at_home(tmp_path: Path) -> None:
    kubeconfig(tmp_path / "config", HERE, {"token": SECRET})
    assert find_access({"kubeconfig": "~/config"}, {"HOME": str(tmp_path)}).namespace == "default"
    with pytest.raises(Refused, match="must be an absolute path"):
        find_access({"kubeconfig": "config"}, {"HOME": str(tmp_path)})


def test_awx_puts_the_credential_into_variables(keys: Keys) -> None:
    with serving(whoami, keys.server()) as server:
        environ = {"K8S_AUTH_HOST": server.url, "K8S_AUTH_API_KEY": SECRET, "K8S_AUTH_SSL_CA_CERT": str(keys.ca)}
        assert asks(find_access({}, environ)) == {"token": SECRET, "user": ""}
        del environ["K8S_AUTH_SSL_CA_CERT"]
        with pytest.raises(KubeError, match="certificate is not trusted"):
            asks(find_access({}, environ))
        access = find_access({}, {**environ, "K8S_AUTH_VERIFY_SSL": "False"})
        assert access.text.endswith("(its certificate is not verified)")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asks(access)["token"] == SECRET


def test_a_server_of_awx_has_no_contexts() -> None:
    with pytest.raises(Refused, match="must not be guessed"):
        find_access({"context": "production"}, {"K8S_AUTH_HOST": "https://a", "K8S_AUTH_API_KEY": SECRET})


def test_a_pod_is_not_used_when_a_context_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(SECRET)
    monkeypatch.setattr(kube_auth, "SERVICE_ACCOUNT", str(tmp_path))
    with pytest.raises(Refused, match="names no context, and one is asked for"):
        find_access({"context": "a"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOME": str(tmp_path)})


# Kubeconfig files.


def test_several_files_are_put_together_as_kubectl_does(tmp_path: Path, plain: Server) -> None:
    first = tmp_path / "first"
    first.write_text("users:\n- name: lab\n  user: {token: of-the-first}\n")
    second = kubeconfig(tmp_path / "b" / "second", {"server": plain.url}, {"token": "of-two"}, namespace="shop")
    third = kubeconfig(tmp_path / "c" / "third", {"server": plain.url}, {"token": "of-three"}, name="other")
    environ = {"KUBECONFIG": f"{first}:{tmp_path}/missing:{second}:{third}"}
    access = find_access({}, environ)
    assert (access.namespace, access.text) == ("shop", f"{plain.url} as context lab")
    assert asks(access)["token"] == "of-the-first"
    assert asks(find_access({"context": "other"}, environ))["token"] == "of-three"
    with pytest.raises(Refused, match=r"has no context 'third'. Its contexts: lab, other\."):
        find_access({"context": "third"}, environ)
    assert asks(find_access({}, {**environ, "K8S_AUTH_CONTEXT": "other"}))["token"] == "of-three"


def test_paths_are_relative_to_the_file_that_they_stand_in(tmp_path: Path, keys: Keys) -> None:
    keys.make("me", "me")
    with serving(whoami, keys.server()) as server:
        cluster = {"server": server.url, "certificate-authority": "../keys/ca.crt"}
        user = {"client-certificate": "../keys/me.crt", "client-key": "../keys/me.key"}
        path = kubeconfig(tmp_path / "conf" / "config", cluster, user)
        assert asks(find_access({"kubeconfig": str(path)}, {}))["user"] == "me"


def test_inline_certificates_are_used_without_a_file(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = keys.make("me", "me")
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setenv("TMPDIR", str(empty))
    with serving(whoami, keys.server()) as server:
        cluster = {"server": server.url, "certificate-authority-data": inline(keys.ca)}
        user = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
        path = kubeconfig(tmp_path / "config", cluster, user)
        assert asks(find_access({"kubeconfig": str(path)}, {}))["user"] == "me"
    assert list(empty.iterdir()) == []


def test_a_damaged_key_is_said_without_showing_it(tmp_path: Path, keys: Keys) -> None:
    certificate, _ = keys.make("me", "me")
    _, other = keys.make("other", "other")
    user = {"client-certificate-data": inline(certificate), "client-key-data": inline(other)}
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority-data": inline(keys.ca)}
    access = find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", cluster, user))}, {})
    with pytest.raises(KubeError, match="must be PEM, belong together") as caught:
        asks(access)
    assert (caught.value.status, caught.value.sent) == (401, False)


def test_tls_server_name(tmp_path: Path, keys: Keys) -> None:
    with serving(whoami, keys.server("api.internal")) as server:
        cluster = {"server": server.url, "certificate-authority-data": inline(keys.ca)}
        path = str(kubeconfig(tmp_path / "config", cluster, {"token": SECRET}))
        began = time.monotonic()
        with pytest.raises(KubeError, match="certificate is not trusted") as caught:
            asks(find_access({"kubeconfig": path}, {}))
        assert (caught.value.status, caught.value.reason, caught.value.sent) == (0, "Unreachable", False)
        assert time.monotonic() - began < 5  # asking again would not help
        kubeconfig(tmp_path / "config", {**cluster, "tls-server-name": "api.internal"}, {"token": SECRET})
        assert asks(find_access({"kubeconfig": path}, {}))["token"] == SECRET


def test_insecure_skip_tls_verify(tmp_path: Path, keys: Keys) -> None:
    with serving(whoami, keys.server("elsewhere")) as server:
        cluster = {"server": server.url, "insecure-skip-tls-verify": True}
        access = find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", cluster, {"token": SECRET}))}, {})
        assert "not verified" in access.text
        assert asks(access)["token"] == SECRET


def test_acting_as_somebody_else_is_not_left_out(tmp_path: Path, plain: Server) -> None:
    user = {"token": SECRET, "as": "deployer", "as-groups": ["one", "two"]}
    access = find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", {"server": plain.url}, user))}, {})
    assert access.text.endswith("acting as deployer")
    asks(access)
    headers = plain.asked[0].headers
    assert (headers["impersonate-user"], headers["impersonate-group"]) == (["deployer"], ["one", "two"])


def test_a_server_below_a_path(tmp_path: Path, plain: Server) -> None:
    cluster = {"server": f"{plain.url}/k8s/clusters/c-1/"}
    asks(find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", cluster, {"token": SECRET}))}, {}))
    assert plain.paths() == ["/k8s/clusters/c-1/whoami"]


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        (HERE, {"username": "admin", "password": SECRET}, "API servers no longer take them"),
        (HERE, {"client-certificate-data": "QUJD"}, "both a client-certificate and a client-key"),
        (HERE, {"client-certificate": "/no/such.crt", "client-key": "/no/such.key"}, "'/no/such.crt' cannot be read"),
        (HERE, {"tokenFile": "/no/such/token"}, "'/no/such/token' cannot be read"),
        (HERE, {"token": 12345}, "token must be a text"),
        (HERE, {"token": SECRET, "as": "a\nb"}, "Impersonate-User must be ASCII"),
        (HERE, {"token": SECRET, "as-user-extra": {"a": ["b"]}}, "as-user-extra"),
        ({**HERE, "certificate-authority-data": "?"}, {}, "is not base64"),
        ({**HERE, "certificate-authority": "/no/ca.crt"}, {}, "'/no/ca.crt' cannot be read"),
        (
            {**HERE, "certificate-authority-data": "QUJD", "insecure-skip-tls-verify": True},
            {},
            "both a certificate-authority and insecure",
        ),
        ({"server": "127.0.0.1:6443"}, {}, "must be a URL that begins with https://"),
        ({"server": f"https://admin:{SECRET}@a"}, {}, "must hold no name, password"),
        ({"server": "http://192.0.2.1:8080"}, {"token": SECRET}, "is not https: a token would be readable"),
        ({"server": "https://a", "proxy-url": "socks5://b:1"}, {}, "the proxy must be a URL"),
        (
            HERE,
            {"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "a"}},
            "is not known; known:",
        ),
        (
            HERE,
            {"exec": {"apiVersion": kube_exec.VERSIONS[0], "command": "a", "interactiveMode": "Always"}},
            "nobody is there to answer",
        ),
        (HERE, {"exec": {"apiVersion": kube_exec.VERSIONS[0]}}, "needs a command"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words) as caught:
        find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", cluster, user))}, {})
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"users: [{{name: a, user: {{token: {SECRET}\n- ", "is not YAML"),
        (f"- {SECRET}", "is not a mapping"),
        ("contexts: 1", "is not a list"),
        ("contexts: [{context: {}}]", "each needs a name"),
        ("", "has no current-context"),
        ("current-context: a", "has no context 'a'. Its contexts: none"),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]",
            "names the cluster 'c', which is not there",
        ),
    ],
)
def test_a_damaged_kubeconfig_is_refused_and_not_quoted(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match=words) as caught:
        find_access({"kubeconfig": str(path)}, {})
    assert SECRET not in caught.value.message


def test_a_token_file_is_read_again_when_the_token_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    def answer(handler: Handler) -> None:
        if handler.asked.token == "new":
            whoami(handler)
        else:
            token.write_text("new\n")
            handler.refuse(401, "Unauthorized")

    with serving(answer) as server:
        path = kubeconfig(tmp_path / "config", {"server": server.url}, {"tokenFile": "token"})
        assert asks(find_access({"kubeconfig": str(path)}, {}))["token"] == "new"
        assert [one.token for one in server.asked] == ["old", "new"]


# Proxies.


class Tunnel(socketserver.ThreadingTCPServer):
    """A proxy that understands CONNECT, and always connects to `to`."""

    daemon_threads = True

    def __init__(self, to: int) -> None:
        self.heads: list[str] = []

        class Connection(socketserver.StreamRequestHandler):
            def handle(handler) -> None:  # noqa: N805 - the outer self is wanted
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += handler.rfile.readline()
                self.heads.append(head.decode())
                handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                with socket.create_connection(("127.0.0.1", to)) as back:
                    threading.Thread(target=pump, args=(back.recv, handler.connection.sendall), daemon=True).start()
                    pump(handler.rfile.read1, back.sendall)

        super().__init__(("127.0.0.1", 0), Connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up."""


def pump(read: Any, write: Any) -> None:
    try:
        while data := read(65536):
            write(data)
    except OSError:
        pass


@pytest.mark.parametrize("how", ["kubeconfig", "environment"])
def test_a_proxy_is_used_and_said_without_its_password(tmp_path: Path, keys: Keys, how: str) -> None:
    certificate, key = keys.make("me", "me")
    with serving(whoami, keys.server("api.invalid")) as server, Tunnel(server.server_port) as tunnel:
        threading.Thread(target=lambda: tunnel.serve_forever(0.02), daemon=True).start()
        proxy = f"http://robot:{SECRET}@127.0.0.1:{tunnel.server_address[1]}"
        cluster = {"server": "https://api.invalid:6443", "certificate-authority-data": inline(keys.ca)}
        user = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
        environ = {}
        if how == "kubeconfig":
            cluster["proxy-url"] = proxy
        else:
            environ = {"HTTPS_PROXY": proxy, "NO_PROXY": "10.0.0.0/8,.example.com"}
        path = kubeconfig(tmp_path / "config", cluster, user)
        access = find_access({"kubeconfig": str(path)}, environ)
        assert access.text.endswith(f"through the proxy http://127.0.0.1:{tunnel.server_address[1]}")
        assert SECRET not in repr(access)
        assert asks(access)["user"] == "me"
        tunnel.shutdown()
    assert tunnel.heads[0].startswith("CONNECT api.invalid:6443 ")
    assert base64.b64encode(f"robot:{SECRET}".encode()).decode() in tunnel.heads[0]


@pytest.mark.parametrize(
    ("host", "no_proxy", "used"),
    [
        ("api.example.com", "", True),
        ("api.example.com", "example.com", False),
        ("api.example.com", ".example.com", False),
        ("api.example.com", "*.example.com", False),
        ("example.com", ".example.com", True),
        ("notexample.com", "example.com", True),
        ("api.example.com", "example.com:6443", False),
        ("api.example.com", "example.com:443", True),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("10.1.2.3", "192.168.0.0/16, *", False),
        ("127.0.0.1", "", False),
        ("localhost", "", False),
    ],
)
def test_which_servers_are_reached_without_the_proxy(tmp_path: Path, host: str, no_proxy: str, used: bool) -> None:  # noqa: FBT001 - a table
    path = kubeconfig(tmp_path / "config", {"server": f"https://{host}:6443"}, {"token": SECRET})
    access = find_access({"kubeconfig": str(path)}, {"https_proxy": "proxy.corp:3128", "no_proxy": no_proxy})
    assert access.proxy == ("http://proxy.corp:3128" if used else "")


# Exec plugins.


def plugin(folder: Path, body: str) -> str:
    """Write an executable in Python; return its path."""
    path = folder / "plug in"
    path.write_text(f"#!{sys.executable} -S\nimport json, os, sys\n{body}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def exec_config(tmp_path: Path, server: str, command: str, **more: Any) -> Access:
    described = {"apiVersion": kube_exec.VERSIONS[0], "command": command, "interactiveMode": "Never", **more}
    path = kubeconfig(tmp_path / "config", {"server": server}, {"exec": described})
    return find_access({"kubeconfig": str(path)}, {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})


CREDENTIAL = (
    'print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}))'
)


def test_a_plugin_is_an_argument_list_with_its_environment(tmp_path: Path, plain: Server) -> None:
    seen = tmp_path / "seen"
    body = (
        f"open({str(seen)!r}, 'w').write(json.dumps([sys.argv[1:], dict(os.environ), sys.stdin.read()]))\n"
        f"status = {{'token': {SECRET!r}}}\n{CREDENTIAL}"
    )
    arguments = ["get-token", "$(id)", "; touch x", "a b"]
    access = exec_config(
        tmp_path,
        plain.url,
        plugin(tmp_path, body),
        args=arguments,
        env=[{"name": "PROFILE", "value": "prod"}],
        provideClusterInfo=True,
    )
    assert SECRET not in repr(access)
    assert asks(access)["token"] == SECRET
    argv, environ, stdin = json.loads(seen.read_text())
    assert (argv, environ["PROFILE"], environ["HOME"], stdin) == (arguments, "prod", str(tmp_path), "")
    info = json.loads(environ["KUBERNETES_EXEC_INFO"])
    assert info["kind"] == "ExecCredential"
    assert info["spec"] == {"interactive": False, "cluster": {"server": plain.url}}


def test_a_plugin_is_found_on_the_path_or_beside_the_kubeconfig(tmp_path: Path, plain: Server) -> None:
    plugin(tmp_path, f"status = {{'token': {SECRET!r}}}\n{CREDENTIAL}")
    assert asks(exec_config(tmp_path, plain.url, "./plug in"))["token"] == SECRET
    with pytest.raises(KubeError, match=r"exec plugin 'plug in' is not installed\. Get it at example\.com"):
        asks(exec_config(tmp_path, plain.url, "plug in", installHint="Get it at\nexample.com"))


def test_a_plugin_runs_once_until_its_token_is_refused_or_ends(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("")
    body = (
        f"count = open({str(count)!r}, 'a'); count.write('x'); count.close()\n"
        f"number = os.path.getsize({str(count)!r})\n"
        "status = {'token': f'token-{number}', 'expirationTimestamp': '2999-01-01T00:00:00Z'}\n"
        f"{CREDENTIAL}"
    )
    refused = {"token-1"}

    def answer(handler: Handler) -> None:
        if handler.asked.token in refused:
            handler.refuse(401, "Unauthorized")
        else:
            whoami(handler)

    with serving(answer) as server:
        client = Client(exec_config(tmp_path, server.url, plugin(tmp_path, body)))
        answers = client.each(lambda _: client.get("/x"), range(12))
        assert {one["token"] for one in answers} == {"token-2"}
        assert count.read_text() == "xx"
        refused.add("token-2")
        refused.add("token-3")
        with pytest.raises(KubeError) as caught:
            client.get("/x")
        assert caught.value.status == 401
        assert "Log in" in caught.value.next_step
        assert count.read_text() == "xxx"


def test_a_token_that_ends_soon_is_replaced_before_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.module_utils.rollbackctl.kube_http._FETCH_AT_MOST_EVERY", 0.0)
    count = tmp_path / "count"
    body = (
        f"count = open({str(count)!r}, 'a'); count.write('x'); count.close()\n"
        f"number = os.path.getsize({str(count)!r})\n"
        "status = {'token': f'token-{number}', 'expirationTimestamp': '2001-01-01T00:00:00Z' if number < 2 else None}\n"
        f"{CREDENTIAL}"
    )
    with serving(whoami) as server:
        client = Client(exec_config(tmp_path, server.url, plugin(tmp_path, body)))
        assert [client.get("/x")["token"] for _ in range(3)] == ["token-1", "token-2", "token-2"]


def test_a_plugin_may_bring_a_certificate(tmp_path: Path, keys: Keys) -> None:
    certificate, key = keys.make("me", "me")
    body = (
        f"status = {{'clientCertificateData': open({str(certificate)!r}).read(), "
        f"'clientKeyData': open({str(key)!r}).read()}}\n{CREDENTIAL}"
    )
    with serving(whoami, keys.server()) as server:
        described = {"apiVersion": kube_exec.VERSIONS[0], "command": plugin(tmp_path, body)}
        cluster = {"server": server.url, "certificate-authority-data": inline(keys.ca)}
        path = kubeconfig(tmp_path / "config", cluster, {"exec": described})
        assert asks(find_access({"kubeconfig": str(path)}, {}))["user"] == "me"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            f"print({SECRET!r}); print('no\\x1b[31m session', file=sys.stderr); sys.exit(3)",
            r"ended with 3: no\\x1b\[31m session",
        ),
        (f"print({SECRET!r}); sys.exit(3)", "ended with 3: it said nothing"),
        (f"print({SECRET!r})", "printed no ExecCredential"),
        (f"status = {{'token': ['{SECRET}']}}\n{CREDENTIAL}", "printed no ExecCredential"),
        (f"status = {{'token': '{SECRET}\\nX: y'}}\n{CREDENTIAL}", "holds characters that no token has"),
        (f"status = {{'clientCertificateData': '{SECRET}'}}\n{CREDENTIAL}", "printed no ExecCredential"),
        (
            f"status = {{'token': '{SECRET}'}}\n{CREDENTIAL.replace('io/v1', 'io/v1beta1')}",
            "printed another apiVersion than client.authentication.k8s.io/v1,",
        ),
        ("import subprocess; subprocess.run(['sleep', '60'])", "did not end within 0.5 s"),
    ],
)
def test_a_plugin_that_fails_is_said_and_its_output_is_not(
    tmp_path: Path, plain: Server, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    if "sleep" in body:
        monkeypatch.setattr(kube_exec, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(KubeError, match=words) as caught:
        asks(exec_config(tmp_path, plain.url, plugin(tmp_path, body)))
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert (caught.value.status, caught.value.sent, plain.asked) == (401, False, [])
    assert time.monotonic() - began < 10


# Auth providers.


def jwt(expires: int) -> str:
    parts = ({"alg": "none"}, {"exp": expires})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2ln"])


def test_an_auth_provider_is_left_to_the_official_client(tmp_path: Path, plain: Server) -> None:
    token = jwt(32503680000)
    user = {"auth-provider": {"name": "oidc", "config": {"id-token": token, "idp-issuer-url": "https://idp.invalid"}}}
    access = find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", {"server": plain.url}, user))}, {})
    assert token not in repr(access)
    assert asks(access)["token"] == token


def test_an_auth_provider_that_brings_nothing_is_said(tmp_path: Path, plain: Server) -> None:
    user = {"auth-provider": {"name": "ldap", "config": {"access-token": SECRET}}}
    access = find_access({"kubeconfig": str(kubeconfig(tmp_path / "config", {"server": plain.url}, user))}, {})
    with pytest.raises(KubeError, match="auth-provider 'ldap' of the kubeconfig gave no token") as caught:
        asks(access)
    assert SECRET not in str(caught.value)


# What is shown.


def test_nothing_that_is_printed_holds_a_secret(tmp_path: Path, keys: Keys) -> None:
    certificate, key = keys.make("me", "me")
    user = {
        "token": SECRET,
        "client-certificate-data": inline(certificate),
        "client-key-data": inline(key),
    }
    path = kubeconfig(
        tmp_path / "config", {"server": "https://127.0.0.1:1", "proxy-url": f"http://u:{SECRET}@p:1"}, user
    )
    access = find_access({"kubeconfig": str(path)}, {})
    credentials = access.source.fetch()
    assert credentials.token == SECRET
    for thing in (access, access.source, access.source.__dict__["token"], credentials, Client(access)):
        for text in (repr(thing), str(thing), f"{thing}"):
            assert SECRET not in text
            assert "PRIVATE KEY" not in text


def test_access_can_be_handed_to_another_process(tmp_path: Path, plain: Server) -> None:
    for user in ({"token": SECRET}, {"exec": {"apiVersion": kube_exec.VERSIONS[1], "command": "true"}}):
        path = kubeconfig(tmp_path / "config", {"server": plain.url}, user)
        access = find_access({"kubeconfig": str(path)}, {"PATH": "/bin"})
        assert pickle.loads(pickle.dumps(access)) == access  # noqa: S301 - its own
