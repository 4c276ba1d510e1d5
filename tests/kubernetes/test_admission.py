# SPDX-License-Identifier: GPL-3.0-or-later
"""What webhooks write is theirs: a mesh that goes to another version changes pods and templates behind a service's
back, and is no reason to refuse a version, nor to call it one. The images of all containers of a version are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_objects import image_text, images

from lab.kubernetes import build
from lab.kubernetes.cluster import Cluster
from tests.support.kube_refusal import refused
from tests.support.kube_service import BAD, GOOD, KubeService
from tests.support.kube_webhook import webhook

MESH = "mesh.example.com/revision"


@pytest.fixture
def service(lab_cluster: Cluster, admin: Client, namespace: str) -> KubeService:
    """Nothing is made yet."""
    return KubeService(lab_cluster, admin, namespace)


@pytest.fixture
def tag(service: KubeService) -> Iterator[str]:
    """An image under a tag of its own, which move() lets mean another one."""
    found = f"tag-{service.namespace.rpartition('-')[2]}"
    service.lab.image(found)
    yield found
    service.lab.remove_image(reference(service, found))


def reference(service: KubeService, tag: str) -> str:
    return f"{service.lab.image(GOOD).rpartition(':')[0]}:{tag}"


def move(service: KubeService, tag: str) -> None:
    service.lab._images().make(reference(service, tag), build.sample(), [], {"VERSION": "6.6.6"})


def beside(service: KubeService, name: str, tag: str, **more: Any) -> dict[str, Any]:
    """Return a container that does nothing, or nothing but end."""
    found = {"name": name, "image": reference(service, tag), "args": ["pause"], "imagePullPolicy": "IfNotPresent"}
    return {**found, **more}


# -- injected into pods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["containers", "initContainers"])
def test_a_sidecar_that_a_webhook_injects_may_be_another_one_today(
    service: KubeService, tmp_path: Path, field: str
) -> None:
    sidecar = {"restartPolicy": "Always"} if field == "initContainers" else {}
    old, new = ([beside(service, "mesh", word, **sidecar)] for word in (GOOD, "1.3.0"))
    service.lab.image("1.3.0")
    (path,) = (f"/api/v1/namespaces/{service.namespace}/pods",)

    def known() -> bool:
        body = {"metadata": {"name": "try"}, "spec": {"containers": [beside(service, "x", GOOD)]}}
        service.admin.create(path, body)
        made = service.admin.get(f"{path}/try")
        service.admin.delete(f"{path}/try")
        return "mesh" in images(made)

    with webhook(service, tmp_path / "hook", "pods", known, **{field: old}) as write:
        service.make()
        service.serve()
        service.checkpoint()
        write(**{field: new})
        service.deploy()
        ended = service.run()
    assert ended.outcome == "done", ended
    assert service.version() == GOOD
    (pod,) = service.pods(app="api")
    assert images(pod)["mesh"] == reference(service, "1.3.0")
    (said,) = [note for note in ended.notes() if "mesh" in note]
    assert said.startswith(
        f"deployment/api: its pods also had mesh ({reference(service, GOOD)}), injected by a webhook"
    )


@pytest.mark.parametrize("kind", ["first", "sidecar", "beside"])
def test_a_moved_tag_of_any_container_of_the_template_is_noticed(service: KubeService, tag: str, kind: str) -> None:
    """One that runs first and ends, a native sidecar, and one beside the others."""
    template = service.template(GOOD, labels={"app": "api"})
    if kind == "first":
        service.make("deployment/peer")
        (peer,) = service.pods(app="peer")
        ends = ["get", f"http://{peer['status']['podIP']}:8080/health"]
        template["spec"]["initContainers"] = [beside(service, "other", tag, args=ends)]
    elif kind == "sidecar":
        template["spec"]["initContainers"] = [beside(service, "other", tag, restartPolicy="Always")]
    else:
        template["spec"]["containers"].append(beside(service, "other", tag))
    service.make(spec={"template": template})
    service.serve()
    service.checkpoint()
    service.deploy()
    move(service, tag)
    ended = service.run()
    assert ended.outcome == "restored", ended
    assert "deployment/api, container other: its image's tag has been moved. It runs " in ended.message
    assert service.version() == BAD


# -- written into templates -------------------------------------------------------------------------------------------


@pytest.fixture
def meshed(service: KubeService, tmp_path: Path) -> Iterator[Any]:
    """A service whose template a webhook writes a note into; `write` lets it write another one."""

    def known() -> bool:
        template = service.template(GOOD, labels={"app": "try"})
        spec = {"selector": {"matchLabels": {"app": "try"}}, "replicas": 0, "template": template}
        body = {"metadata": {"name": "try"}, "spec": spec}
        path = f"/apis/apps/v1/namespaces/{service.namespace}/deployments"
        made = service.admin.create(path, body)
        service.admin.delete(f"{path}/try")
        return "annotations" in made["spec"]["template"]["metadata"]

    with webhook(service, tmp_path / "hook", "deployments", known, annotations={MESH: "1"}) as write:
        service.make()
        service.serve()
        service.checkpoint()
        yield write


def note(service: KubeService) -> str:
    return str(service.get()["spec"]["template"]["metadata"]["annotations"][MESH])


@pytest.mark.parametrize("strategy", ["undo", "fast", "recreate"])
def test_what_a_webhook_writes_into_templates_may_be_another_value_today(
    service: KubeService, meshed: Any, strategy: str
) -> None:
    service.component["strategy"] = strategy
    meshed(annotations={MESH: "2", "mesh.example.com/more": "x"})
    service.deploy()
    ended = service.run()
    assert ended.outcome == "done", ended
    assert (service.version(), note(service)) == (GOOD, "2")
    (said,) = [one for one in ended.notes() if "by itself" in one]
    assert f"template.metadata.annotations.{MESH}" in said
    assert "template.metadata.annotations.mesh.example.com/more" in said
    again = service.run()
    assert again.outcome == "already", again
    forward = service.run("undo", named=ended.run)
    assert forward.outcome == "done", forward
    assert service.version() == BAD


def test_a_named_version_is_reached_beside_a_webhook_too(service: KubeService, meshed: Any) -> None:
    service.deploy()
    meshed(annotations={MESH: "2"})
    assert service.run(to="version:1.4.0").outcome == "done"
    assert (service.version(), note(service)) == (GOOD, "2")


def test_a_webhook_that_goes_on_writing_others_does_not_stop_a_run_half_way(service: KubeService, meshed: Any) -> None:
    """Another value in each phase; then the run is taken back, beside it too."""
    service.deploy()
    turns = iter(range(2, 99))
    change = lambda: meshed(annotations={MESH: str(next(turns))})  # noqa: E731
    meshed(annotations={MESH: "0"})
    ended = service.run(before={"rollback": change, "verify": change})
    assert ended.outcome == "done", ended
    service.deploy()
    ended = service.run(before={"rollback": change, "undo": change}, break_after="verify")
    assert ended.outcome == "restored", ended
    assert service.version() == BAD


def test_what_a_colleague_writes_beside_a_webhook_is_still_somebody_else_s_change(
    service: KubeService, meshed: Any
) -> None:
    service.deploy()
    meshed(annotations={MESH: "2"})
    hotfix = '{"spec": {"template": {"metadata": {"annotations": {"example.com/hotfix": "1"}}}}}'
    patch = ("-n", service.namespace, "patch", "deployment/api", "--type=merge", f"--patch={hotfix}")
    ended = service.run(before={"verify": lambda: service.lab.kubectl(*patch)})
    assert ended.outcome not in {"done", "already"}, ended
    assert "template.metadata.annotations.example.com/hotfix" in ended.message


@pytest.mark.parametrize("to", ["", "version:1.4.0"])
def test_a_webhook_that_makes_another_version_of_it_is_a_reason_to_refuse(
    service: KubeService, meshed: Any, to: str
) -> None:
    """It puts its own image into our own container."""
    service.deploy()
    service.lab.image("1.3.0")
    meshed(annotations={MESH: "1"}, image=reference(service, "1.3.0"))
    refused(service, "would make something else of", "template.spec.containers[shop].image", to=to)
    assert image_text(service.get()["spec"]["template"]) == "shop:1.5.0"


def test_many_workloads_are_tried_only_as_far_as_it_is_needed(service: KubeService, meshed: Any) -> None:
    """Twelve, each in its history as it is gone back to: a webhook that has changed since is found all the same."""
    names = [f"deployment/api-{number}" for number in range(12)]
    for name in names:
        service.make(name, replicas=0, wait=False)
    service.component.update(workloads=names, service="")
    for name in names:
        service.wait(name)
    service.checkpoint()
    for name in names:
        service.deploy(name, wait=False)
    for name in names:
        service.wait(name)
    meshed(annotations={MESH: "2"})
    ended = service.run()
    assert ended.outcome == "done", ended
    assert sum("by itself" in one for one in ended.notes()) == len(names)
    assert {image_text(service.get(name)["spec"]["template"]) for name in names} == {"shop:1.4.0"}


def test_the_api_server_s_own_refusal_is_still_heard(service: KubeService, meshed: Any) -> None:
    service.deploy()
    with pytest.raises(KubeError, match="is invalid"):
        service.edit("deployment/api", {"op": "add", "path": "/spec/template/spec/containers/0/name", "value": "!"})
    meshed(annotations={"not a name": "2"})
    refused(service, "the API server would refuse it: ")
