# SPDX-License-Identifier: GPL-3.0-or-later
"""ConfigMap, Secret and application came back as one, and no secret was told to anybody: seen by kubectl and curl."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
from collections.abc import Iterator

from testinfra.host import Host

from lab.kubernetes.proof import Drill
from lab.kubernetes.scenes import API_KEY, BAD_API_KEY, BAD_SETTINGS, SETTINGS
from lab.sample import proof

NAME = "catalytic-saas-api"
OWN = "app.kubernetes.io/managed-by=rollbackctl"


def test_it_was_really_broken(kube: Drill) -> None:
    answer = kube.seen("bad")["answers"][NAME]
    assert (answer["version"], answer["settings"]) == ("1.5.0", {**BAD_SETTINGS, "SHOP_API_KEY": BAD_API_KEY})


def test_every_pod_reads_the_old_values_again(kube: Drill, host: Host) -> None:
    addresses = host.check_output(
        "kubectl --namespace %s get pods --selector app=%s --output 'jsonpath={.items[*].status.podIP}'",
        kube.namespace,
        NAME,
    ).split()
    assert len(addresses) == 2
    for address in addresses:
        said = json.loads(host.check_output("curl -sS --max-time 5 http://%s:8080/version", address))
        assert (said["version"], said["settings"]) == ("1.4.0", {**SETTINGS, "SHOP_API_KEY": API_KEY})


def test_the_objects_hold_what_they_held(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    assert now["configmap/catalytic-saas-config"] == good["configmap/catalytic-saas-config"]
    assert now["secret/catalytic-saas-secrets"] == good["secret/catalytic-saas-secrets"]


def test_there_was_one_rollout(host: Host, kube: Drill) -> None:
    history = host.check_output("kubectl --namespace %s rollout history deployment/%s", kube.namespace, NAME)
    causes = [line.split(maxsplit=1)[1].strip() for line in history.splitlines() if line[:1].isdigit()]
    # What is gone back to is not the ReplicaSet of old: its pods have to start anew to read the old values.
    assert causes == ["release 1.4.0", "release 1.5.0", "release 1.4.0"]


def test_the_autoscaler_and_the_jobs_were_not_touched(kube: Drill) -> None:
    good, now = kube.seen("good")["objects"], kube.objects()
    others = [name for name in good if name.startswith(("horizontalpodautoscaler/", "cronjob/", "service/"))]
    assert len(others) == 4
    assert {name: now[name] for name in others} == {name: good[name] for name in others}


def test_no_secret_was_said(kube: Drill) -> None:
    log = (kube.root.parent / "ansible.log").read_text(encoding="utf-8")
    assert "release 1.5.0 takes dollars for euros" in log
    assert not [key for key in (API_KEY, BAD_API_KEY) if key in log or encoded(key) in log]


def test_no_secret_is_in_a_record(kube: Drill) -> None:
    records = [path.read_text(encoding="utf-8") for path in (kube.root / "records").iterdir() if path.is_file()]
    assert records
    assert not [text for text in records for key in (API_KEY, BAD_API_KEY) if key in text or encoded(key) in text]


def test_no_secret_is_in_an_object_but_in_secrets(kube: Drill) -> None:
    kept = kube.get("configmaps,leases", "--selector", OWN)["items"]
    assert {item["kind"] for item in kept} == {"ConfigMap", "Lease"}
    texts = [text for item in kept for text in unpacked(json.dumps(item))]
    assert any("takes dollars for euros" in text for text in texts), "nothing of the run was unpacked"
    assert not [text for text in texts for key in (API_KEY, BAD_API_KEY) if key in text]
    secrets = kube.get("secrets", "--selector", OWN)["items"]
    copies = [text for item in secrets for value in item["data"].values() for text in unpacked(value)]
    assert any(encoded(API_KEY) in text or API_KEY in text for text in copies), "the checkpoint holds no copy"


def test_the_second_run_found_all_in_place(kube: Drill, drill: proof.Drill) -> None:
    assert drill.outcomes(name=NAME) == ["done", "already"]
    assert kube.objects() == kube.seen("after")["objects"]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def unpacked(text: str) -> Iterator[str]:
    """Return a text, and every text that is in it encoded or compressed, however deep."""
    yield text
    for piece in re.findall(r"[A-Za-z0-9+/]{16,}={0,2}", text):
        try:
            raw = base64.b64decode(piece, validate=True)
            inner = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            yield from unpacked(inner.decode())
        except (binascii.Error, ValueError, OSError, EOFError):
            continue
