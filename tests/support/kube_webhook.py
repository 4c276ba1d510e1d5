# SPDX-License-Identifier: GPL-3.0-or-later
"""A webhook of our own that changes what is sent to the API server, as meshes do: a process, because it speaks TLS.

Started as a program it answers until it is killed: kube_webhook.py FOLDER, where what to write stands in writes.json.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.kube_service import KubeService

_CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
RULES = {
    "pods": {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
    "deployments": {
        "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"],
    },
}  # fmt: skip


@contextlib.contextmanager
def webhook(
    service: KubeService, folder: Path, asked: str, known: Callable[[], bool], **writes: Any
) -> Iterator[Callable[..., None]]:
    """Have everything of one kind that is written in the service's namespace changed; the block gets `write`, which
    says what from now on: containers, initContainers (by name, in place of those), annotations, image (of all).

    :param asked: pods or deployments. known: says whether the API server asks the webhook already, by a try of its own.
    """
    from tests.support.kube import proxy_keys  # noqa: PLC0415 - the program needs nothing of it

    folder.mkdir()

    def write(**what: Any) -> None:
        (folder / "new").write_text(json.dumps(what), encoding="utf-8")
        (folder / "new").replace(folder / "writes.json")

    write(**writes)
    authority, (certificate, key) = proxy_keys()
    command = [sys.executable, __file__, str(folder), str(certificate), str(key)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    hook = {
        "name": "mesh.example.com",
        "clientConfig": {"url": url, "caBundle": base64.b64encode(authority.encode()).decode()},
        "rules": [RULES[asked]],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": service.namespace}},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    name = f"{service.namespace}-{asked}"
    service.admin.create(_CONFIGURATIONS, {"metadata": {"name": name}, "webhooks": [hook]})
    try:
        service.until(known)
        yield write
    finally:
        service.admin.delete(f"{_CONFIGURATIONS}/{name}")
        server.kill()
        server.wait()


def patch_of(item: Mapping[str, Any], writes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the JSON patch that writes into a pod, or into the template of what has one."""
    template = item.get("spec", {}).get("template")
    holder, base = (template, "/spec/template") if template else (item, "")
    found: list[dict[str, Any]] = []
    for field in ("containers", "initContainers"):
        mine = {one["name"]: one for one in writes.get(field, [])}
        there = [one for one in holder["spec"].get(field) or [] if one["name"] not in mine]
        if mine:
            found.append({"op": "add", "path": f"{base}/spec/{field}", "value": [*there, *mine.values()]})
    if writes.get("image"):
        found.append({"op": "replace", "path": f"{base}/spec/containers/0/image", "value": writes["image"]})
    if writes.get("annotations"):
        notes = {**(holder["metadata"].get("annotations") or {}), **writes["annotations"]}
        found.append({"op": "add", "path": f"{base}/metadata/annotations", "value": notes})
    return found


def _serve(folder: Path, certificate: str, key: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            writes = json.loads((folder / "writes.json").read_text(encoding="utf-8"))
            patch = json.dumps(patch_of(request["object"], writes)).encode()
            answer = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch"}
            answer["patch"] = base64.b64encode(patch).decode()
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    sys.stdout.write(f"https://127.0.0.1:{server.server_address[1]}/\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), *sys.argv[2:])
