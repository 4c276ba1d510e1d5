# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs whose API server is slow, overloaded or forgetful, says no, or is another one than the profile means.

The runs have a ServiceAccount's token with exactly the rights that ship for level 1, and pass the fault proxy.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from ansible.module_utils.rollbackctl import kube_retry, outcome
from ansible.module_utils.rollbackctl.errors import Refused
from ansible.module_utils.rollbackctl.kube_auth import find_access
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError, Rule
from ansible.module_utils.rollbackctl.names import new_id
from ansible.module_utils.rollbackctl.runs import open_run
from ansible.module_utils.rollbackctl.store import host_name

from lab.kubernetes.cluster import Cluster, cluster
from tests.faults.conftest import THOROUGH
from tests.faults.harness import Run
from tests.faults.kubernetes import outside
from tests.faults.kubernetes.cases import Case
from tests.faults.kubernetes.scenes import API, Bench, Scene, Stage, scene_called
from tests.faults.shop import wait_for
from tests.faults.tasks import Answer
from tests.support.far_proxy import FarProxy, far_proxy_of
from tests.support.hosts import Worker
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import Fault, Request
from tests.support.kube_rights import LEVEL1
from tests.support.kube_service import KubeService
from tests.unit.module_utils.kube_server import Handler, Keys, serving

RBAC = "/apis/rbac.authorization.k8s.io/v1"
# A change, not one that is only tried (dryRun=All).
DEPLOYMENTS = r"/deployments/[a-z]+$"
WRITTEN = r"^[^?]*$"
BUSY = ((500, ""), (502, ""), (503, ""), (504, ""), (429, "1"), (503, "1"))


@pytest.fixture(scope="module")
def proxy(lab_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarProxy]:
    with far_proxy_of(lab_cluster, tmp_path_factory.mktemp("proxy") / "log") as made:
        yield made


def _two(service: KubeService) -> None:
    for name in ("api", "worker"):
        service.make(f"deployment/{name}", wait=False)
    for name in ("api", "worker"):
        service.wait(f"deployment/{name}")
    service.serve()


def _new_versions(service: KubeService) -> None:
    for name in ("api", "worker"):
        service.deploy(f"deployment/{name}", wait=False)
    for name in ("api", "worker"):
        service.wait(f"deployment/{name}")


TWO = Scene(
    "two workloads",
    [("rollback_kubernetes", {**API, "workloads": ["deployment/api", "deployment/worker"]})],
    _two,
    _new_versions,
)


@pytest.fixture(scope="module")
def stage(kube_bench: Bench, proxy: FarProxy, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A service of two workloads; what its runs ask of the API server can be spoilt."""
    folder = tmp_path_factory.mktemp("kubeconfig")
    lab = kube_bench.lab
    return kube_bench.fresh(TWO, lambda space: token_kubeconfig(lab, space, LEVEL1, folder, server=proxy.url))


@pytest.fixture
def case(stage: Stage, proxy: FarProxy) -> Case:
    """The broken service, and a proxy that does no harm yet."""
    proxy.serve()
    return Case(stage)


def finished(case: Case, run: Run, ending: Answer) -> str:
    """Check a run that got through, and return its word."""
    assert ending["outcome"] == "done", ending
    case.ended_as(outside.NEW)
    case.stage.ended(str(run.run["id"]))
    return str(ending["outcome"])


def events(case: Case, run: Run) -> list[str]:
    return [str(event["event"]) for event in case.store.journal(str(run.run["id"])).events()]


USUAL = ["opened", "planned", "captured", "begin", "applied", "finished"]


class Every(Fault):
    """Spoils each n-th request that matches: n is `skip`."""

    def takes(self, request: Request) -> bool:
        if not re.search(self.path, request.path) or (self.method and not re.fullmatch(self.method, request.method)):
            return False
        self.met += 1
        return self.met % self.skip == 0


# -- busy, slow, forgetful ---------------------------------------------------------------------------------------------


def test_reads_are_tried_again(case: Case, proxy: FarProxy) -> None:
    """K1: every third read fails, each time in another way."""
    proxy.serve(
        *(
            Every("", "GET", skip=3 * len(BUSY) + number, status=status, retry_after=after)
            for number, (status, after) in enumerate(BUSY)
        ),
        Every("", "GET", skip=5, status=500),
    )
    run = case.run()
    finished(case, run, run.go())
    assert events(case, run) == USUAL
    assert len(proxy.spoilt()) > 8


@pytest.mark.parametrize(("status", "after"), [(429, "1"), (503, "1")])
def test_a_write_that_was_not_taken_is_sent_again(case: Case, proxy: FarProxy, status: int, after: str) -> None:
    """K1: the server says that it did not take it."""
    proxy.serve(Every("", "POST|PUT|PATCH", skip=3, status=status, retry_after=after))
    run = case.run()
    finished(case, run, run.go())
    assert events(case, run) == USUAL


@pytest.mark.parametrize("status", [500, 504])
def test_a_write_of_which_nobody_knows_is_read_back(case: Case, proxy: FarProxy, status: int) -> None:
    """K1: an error of the server while a workload is changed ends the step; what was done is taken back."""
    proxy.serve(Fault(DEPLOYMENTS, "PATCH", skip=1, status=status))
    run = case.run()
    ending = run.go()
    assert ending["outcome"] == "restored", ending
    assert f"answered {status}" in ending["message"]
    case.ended_as(outside.OLD)
    assert case.go_on(str(run.run["id"])) == "done"


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("first", [0, 1])
def test_each_write_is_applied_once_also_when_its_answer_is_lost(
    case: Case, proxy: FarProxy, drop: str, first: int
) -> None:
    """N4: of every write of a run, the request does not come or the answer is lost."""

    class EveryOther(Fault):
        def takes(self, request: Request) -> bool:
            if request.method == "GET" or re.search("selfsubjectaccessreviews|dryRun=All", request.path):
                return False
            self.met += 1
            return self.met % 2 == first

    before = {name: case.service.get(f"deployment/{name}")["metadata"]["generation"] for name in ("api", "worker")}
    proxy.serve(EveryOther(drop=drop))
    run = case.run()
    finished(case, run, run.go())
    assert events(case, run) == USUAL
    for name, generation in before.items():
        assert case.service.get(f"deployment/{name}")["metadata"]["generation"] == generation + 1
    lost = proxy.spoilt()
    assert len(lost) >= 6
    assert sum("deployments" in seen.path for seen in lost) >= (1 if drop == "after" else 2)


def test_watches_are_cut_and_grow_too_old(case: Case, proxy: FarProxy) -> None:
    """K4: 410 Gone, and connections that end in the middle."""
    proxy.serve(
        Every("watch=true", "GET", skip=3, status=410, reason="Expired"),
        Every("watch=true", "GET", skip=2, events=1),
        Every("watch=true", "GET", skip=5, drop="before"),
    )
    run = case.run()
    finished(case, run, run.go())
    assert any(seen.status == 410 for seen in proxy.spoilt())


def test_a_slow_network(case: Case, proxy: FarProxy) -> None:
    proxy.serve(latency=0.08)
    run = case.run()
    finished(case, run, run.go())


def test_it_stays_away_while_the_run_ends(case: Case, proxy: FarProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be said about the service: unknown, and what to type."""
    monkeypatch.setattr(kube_retry, "TOTAL_SECONDS", 2.0)
    run = case.run(before={"finish": lambda: proxy.serve(Fault(times=None, drop="before"))})
    ending = run.go()
    proxy.serve()
    assert ending["outcome"] == "unknown", ending
    assert case.go_on(str(run.run["id"])) == "done"


# -- others write as well ----------------------------------------------------------------------------------------------


def test_a_conflict_is_read_again(case: Case, proxy: FarProxy) -> None:
    """K2: somebody annotates the workload between read and write; nothing of that is lost."""
    path = case.service.path("deployment/api")
    note = {"metadata": {"annotations": {"example.com/touched": new_id("x")}}}

    def touch(_request: Request) -> None:
        case.service.admin.merge_patch(path, note)

    proxy.serve(Fault(DEPLOYMENTS, "PATCH", times=2, call=touch))
    run = case.run()
    finished(case, run, run.go())
    notes = case.service.get()["metadata"]["annotations"]
    assert notes["example.com/touched"] == note["metadata"]["annotations"]["example.com/touched"]


def test_a_409_alone_is_no_reason_to_stop(case: Case, proxy: FarProxy) -> None:
    """K2."""
    proxy.serve(Every(WRITTEN, "PUT|PATCH", skip=2, status=409))
    run = case.run()
    finished(case, run, run.go())
    assert events(case, run) == USUAL


def test_another_deploy_in_this_very_moment_stops_the_run(case: Case, proxy: FarProxy) -> None:
    """K2, E8: a third version is neither overwritten nor taken back."""
    service = case.service

    def deploy(_request: Request) -> None:
        service.deploy("deployment/api", "1.6.0", wait=False)

    proxy.serve(Fault(r"/deployments/api$", "PATCH", call=deploy))
    run = case.run()
    ending = run.go()
    assert ending["outcome"] in {"unknown", "resumable"}, ending
    assert "somebody else" in ending["message"].lower()
    assert service.get()["spec"]["template"]["spec"]["containers"][0]["image"].endswith("1.6.0")
    service.deploy()  # the lab puts the scene back
    service.deploy("deployment/worker")
    assert case.word() == outside.OLD


# -- the server says no ------------------------------------------------------------------------------------------------


@contextmanager
def without_rights(case: Case, refused: Callable[[dict[str, Any]], bool]) -> Iterator[Callable[[], None]]:
    """Give a function that takes rights from the runs' Role; they are given back in the end.

    refused: whether a right (one resource, one verb) is taken away.
    """
    admin, space = case.service.admin, case.service.namespace
    (role,) = admin.list(f"{RBAC}/namespaces/{space}/roles")
    path = f"{RBAC}/namespaces/{space}/roles/{role['metadata']['name']}"
    single = [
        {"apiGroups": rule["apiGroups"], "resources": [resource], "verbs": [verb]}
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]

    def take() -> None:
        left = [rule for rule in single if not refused(rule)]
        admin.json_patch(path, [{"op": "replace", "path": "/rules", "value": left}])
        robot = Client(find_access({"kubeconfig": str(case.service.kubeconfig)}, os.environ))
        end = time.monotonic() + 20
        while _still_may(robot, space, refused, single):
            assert time.monotonic() < end
            time.sleep(0.05)
        robot.close()

    try:
        yield take
    finally:
        admin.json_patch(path, [{"op": "replace", "path": "/rules", "value": role["rules"]}])


def _still_may(
    robot: Client, space: str, refused: Callable[[dict[str, Any]], bool], single: list[dict[str, Any]]
) -> bool:
    """Say whether the API server has not yet heard of it; asked past the proxy's faults, which come later."""
    rule = next(rule for rule in single if refused(rule))
    review = {
        "spec": {
            "resourceAttributes": {
                "verb": rule["verbs"][0],
                "resource": rule["resources"][0],
                "group": rule["apiGroups"][0],
                "namespace": space,
            }
        }
    }
    answer = robot.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def no_patch(rule: dict[str, Any]) -> bool:
    return bool(rule["resources"] == ["deployments"] and rule["verbs"] == ["patch"])


def nothing(rule: dict[str, Any]) -> bool:
    return bool(rule["verbs"] != ["never"])


def test_a_missing_right_is_found_before_anything_changes(case: Case) -> None:
    """K3: preflight asks for every verb of the plan."""
    with without_rights(case, no_patch) as take:
        take()
        ending = case.run().go()
    assert ending["outcome"] == "refused", ending
    assert "patch deployments.apps" in ending["message"]
    assert case.word() == outside.OLD


def test_a_right_that_is_lost_before_the_change_changes_nothing(case: Case) -> None:
    """K3: 403 for the write itself; the state can be read, and is what it was."""
    with without_rights(case, no_patch) as take:
        run = case.run(before={"rollback": take})
        ending = run.go()
    assert ending["outcome"] == "restored", ending
    assert "403 Forbidden" in ending["message"]
    assert case.go_on(str(run.run["id"])) == "done"


def test_a_right_that_is_lost_half_way_is_resumable(case: Case, proxy: FarProxy) -> None:
    """K3: one workload is new, the other one old, and neither can be written any more."""
    with without_rights(case, no_patch) as take:
        proxy.serve(Fault(r"/deployments/worker$", "PATCH", seconds=1.0, call=lambda _request: take()))
        run = case.run()
        ending = run.go()
    assert ending["outcome"] == "resumable", ending
    assert outcome.exit_code(ending["outcome"]) == 4
    assert "403 Forbidden" in ending["message"]
    assert "neither old nor new" in ending["message"]
    assert ending["next"].startswith(f"rollbackctl resume {run.run['id']}")
    assert case.parts() == {"deployment/api template": "new", "deployment/worker template": "old"}
    assert case.go_on(str(run.run["id"])) == "restored"  # it was being taken back when it stopped
    assert case.go_on(str(run.run["id"])) == "done"


@pytest.mark.parametrize(("status", "word"), [(401, "Log in to the cluster again"), (403, "Ask for the missing right")])
def test_credentials_that_end_in_mid_run_are_resumable(case: Case, proxy: FarProxy, status: int, word: str) -> None:
    """K3: nothing can be read any more. Every object is whole, and a resume with new credentials goes on."""
    fault = Fault(times=None, status=status)
    proxy.serve(Fault(DEPLOYMENTS, "PATCH", skip=1, call=lambda _request: proxy.faults.insert(0, fault)))
    run = case.run()
    ending = run.go()
    proxy.serve()
    assert ending["outcome"] == "resumable", ending
    assert outcome.exit_code(ending["outcome"]) == 4
    assert f"{status}" in ending["message"]
    assert "could not be read" in ending["message"]
    assert ending["next"] == f"{word}, then: rollbackctl resume {run.run['id']}"
    case.parts()
    assert case.go_on(str(run.run["id"])) == "done"


def test_credentials_that_end_before_the_plan_are_a_refusal(case: Case, proxy: FarProxy) -> None:
    run = case.run(before={"preflight": lambda: proxy.serve(Fault(times=None, status=401))})
    ending = run.go()
    proxy.serve()
    assert ending["outcome"] == "refused", ending
    assert case.word() == outside.OLD
    case.lose_controller(str(run.run["id"]))


if THOROUGH:  # the API server goes on believing a token for ten seconds

    def test_a_token_that_was_really_revoked(case: Case, kube_bench: Bench, tmp_path: Path) -> None:
        """K3: its ServiceAccount is deleted in mid-run; a resume with another one goes on."""
        service, space = case.service, case.service.namespace
        usual = service.kubeconfig
        service.kubeconfig = token_kubeconfig(kube_bench.lab, space, LEVEL1, tmp_path)
        name = service.kubeconfig.name.partition(".")[0]

        def revoke() -> None:
            service.admin.delete(f"/api/v1/namespaces/{space}/serviceaccounts/{name}")
            robot = Client(find_access({"kubeconfig": str(service.kubeconfig)}, os.environ))
            wait_for(lambda: is_refused(robot), "the token to be worth nothing")

        run = case.run(before={"rollback": revoke})
        ending = run.go()
        service.kubeconfig = usual
        assert ending["outcome"] == "resumable", ending
        assert "401" in ending["message"]
        assert case.go_on(str(run.run["id"])) == "done"


def is_refused(robot: Client) -> bool:
    try:
        robot.get("/version")
        robot.allowed([Rule("get", "pods", "", "default")])
    except KubeError as error:
        return error.status == 401
    return False


# -- admission ---------------------------------------------------------------------------------------------------------


class Webhook:
    """Has every change of a Deployment in the case's namespace admitted, or not, by a server of our own.

    It speaks TLS, so it is a process of its own: see far_proxy.py.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.space = case.service.namespace
        self.path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
        folder.mkdir()

    def deny(self, name: str) -> None:
        """From now on, deny changes of one Deployment by anybody but the cluster's own controllers."""
        (self.folder / "denied").write_text(name, encoding="ascii")

    def fall_silent(self) -> None:
        """From now on, say nothing."""
        (self.folder / "silent").touch()

    def __enter__(self) -> Self:
        keys = Keys(self.folder / "keys")
        self.worker = Worker(lambda me: self._serve(me, keys))
        rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"]}
        authority = base64.b64encode(keys.ca.read_bytes()).decode()
        hook = {
            "name": "guard.example.com",
            "clientConfig": {"url": f"{self.worker.hear()}/", "caBundle": authority},
            "rules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.space}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
        }
        self.case.service.admin.create(self.path, {"metadata": {"name": self.space}, "webhooks": [hook]})
        wait_for(self._is_asked, "the API server to know of the webhook")
        return self

    def __exit__(self, *exc: object) -> None:
        self.case.service.admin.delete(f"{self.path}/{self.space}")
        (self.folder / "asked").unlink()
        wait_for(lambda: not self._is_asked(), "the API server to forget the webhook")
        self.worker.kill()

    def _is_asked(self) -> bool:
        (self.folder / "asked").unlink(missing_ok=True)
        note = [{"op": "add", "path": "/metadata/annotations/example.com~1asks", "value": "yes"}]
        with contextlib.suppress(KubeError):
            self.case.service.admin.json_patch(self.case.service.path("deployment/api"), note, dry_run=True)
        return (self.folder / "asked").exists()

    def _serve(self, me: Worker, keys: Keys) -> None:
        with serving(self._answer, keys.server(ask=False)) as server:
            me.say(server.url)
            me.hear(3600.0)

    def _answer(self, handler: Handler) -> None:
        (self.folder / "asked").touch()
        request = json.loads(handler.asked.body)["request"]
        if (self.folder / "silent").exists():
            time.sleep(5)
        denied = self.folder / "denied"
        names = denied.read_text(encoding="ascii").split() if denied.exists() else []
        own = request["userInfo"]["username"].startswith("system:serviceaccount:kube-system:")
        answer: dict[str, Any] = {"uid": request["uid"], "allowed": own or request["name"] not in names}
        if not answer["allowed"]:
            answer["status"] = {"code": 403, "message": "changes are frozen until Monday"}
        handler.reply(200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer})


def test_an_admission_webhook_that_denies_is_found_before_anything_changes(case: Case, tmp_path: Path) -> None:
    """K19: preflight tries the change (dryRun), so who will deny it is heard."""
    with Webhook(case, tmp_path / "webhook") as hook:
        hook.deny("worker")
        ending = case.run().go()
        assert ending["outcome"] == "refused", ending
        assert "changes are frozen until Monday" in ending["message"]
        case.ended_as(outside.OLD)


def test_an_admission_webhook_that_denies_later_leaves_nothing_half(case: Case, tmp_path: Path) -> None:
    """K19: the second of two workloads is not admitted; the first one is taken back."""
    with Webhook(case, tmp_path / "webhook") as hook:
        run = case.run(before={"rollback": lambda: hook.deny("worker")})
        ending = run.go()
        assert ending["outcome"] == "restored", ending
        assert "changes are frozen until Monday" in ending["message"]
        case.ended_as(outside.OLD)
    assert case.go_on(str(run.run["id"])) == "done"


def test_an_admission_webhook_that_never_answers_is_heard(case: Case, tmp_path: Path) -> None:
    """K19: failurePolicy Fail, and nobody answers within its second."""
    with Webhook(case, tmp_path / "webhook") as hook:
        run = case.run(before={"rollback": hook.fall_silent})
        ending = run.go()
        assert ending["outcome"] == "restored", ending
        assert "guard.example.com" in ending["message"]
        assert case.word() == outside.OLD
    assert case.go_on(str(run.run["id"])) == "done"


# -- another place than the profile means ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other() -> Iterator[Cluster]:
    """Another cluster: a control plane without nodes."""
    made = cluster("elsewhere")
    made.up()
    yield made
    made.down()


def guard_run(service: KubeService, **state: Any) -> dict[str, Any]:
    return {
        "id": new_id("rb"),
        "kind": "rollback",
        "level": 1,
        "state": {**service.state, **state},
        "holder": "tests",
        "controller": host_name(),
        "pid": os.getpid(),
        "lease_seconds": 30,
    }


def test_the_same_namespace_of_another_cluster_is_refused(case: Case, other: Cluster) -> None:
    """K21: the name is the same, the UID is not; nothing is written there."""
    service, space = case.service, case.service.namespace
    uid = service.admin.get(f"/api/v1/namespaces/{space}")["metadata"]["uid"]
    identity = {"identity": {"namespace_uid": uid}}
    other.kubectl("create", "namespace", space)
    with pytest.raises(Refused, match=r"Identity proof failed.*This is another place"):
        open_run(guard_run(service, kubeconfig=str(other.kubeconfig)), identity, {}, dry=False)
    left = other.kubectl("--namespace", space, "get", "leases,configmaps,secrets", "--output=name").split()
    assert left in ([], ["configmap/kube-root-ca.crt"])
    assert open_run(guard_run(service), identity, {}, dry=True)["token"] == 0


def test_who_may_work_on_staging_cannot_start_a_run_on_production(
    case: Case, kube_bench: Bench, admin: Client, tmp_path: Path
) -> None:
    """X15: credentials of one environment, the profile of another one."""
    staging = kube_bench.fresh(scene_called("undo")).service
    usual = case.service.kubeconfig
    case.service.kubeconfig = token_kubeconfig(kube_bench.lab, staging.namespace, LEVEL1, tmp_path)
    before = case.service.objects()
    ending = case.run().go()
    case.service.kubeconfig = usual
    assert ending["outcome"] == "refused", ending
    assert "403 Forbidden" in ending["message"]
    assert case.service.objects() == before
    assert admin.find(f"{case.store._leases}/{case.store.prefix}")["metadata"]["resourceVersion"]  # type: ignore[index]
    assert case.store.lease() is None


# -- check mode --------------------------------------------------------------------------------------------------------


def test_check_mode_only_looks(case: Case, kube_bench: Bench, root: Path, tmp_path: Path) -> None:
    """E16: by the API server's own word, its audit log."""
    service, space = case.service, case.service.namespace
    kubeconfig = token_kubeconfig(kube_bench.lab, space, LEVEL1, tmp_path)
    user = f"system:serviceaccount:{space}:{kubeconfig.name.partition('.')[0]}"
    state = {**service.state, "kubeconfig": str(kubeconfig)}
    state.pop("service")
    host = {
        "ansible_connection": "local",
        "rollback_service": {"name": "shop", "environment": "demo"},
        "rollback_state": state,
        "rollback_kubernetes": [dict(TWO.components[0][1])],
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"shop": host}}}), encoding="utf-8")
    before = service.objects()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    env.update(ANSIBLE_CONFIG=str(root / "ansible.cfg"), ROLLBACKCTL_RECORDS=str(tmp_path / "records"))
    argv = [str(root / ".venv/bin/ansible-playbook"), "-i", str(tmp_path / "hosts.yml"), "-l", "shop", "--check"]
    argv += ["playbooks/rollback-level1.yml", "-e", json.dumps({"rollback_reason": "would it work"})]
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout
    assert service.objects() == before
    asked = [entry for entry in kube_bench.lab.audit() if entry["user"].get("username") == user]
    assert any(entry["verb"] in {"get", "list"} for entry in asked)
    # Whether one may, and whether a change would be admitted, is asked by a POST and a PATCH that change nothing.
    other = {
        (entry["verb"], entry["objectRef"]["resource"])
        for entry in asked
        if entry["verb"] not in {"get", "list", "watch"} and "dryRun=All" not in entry["requestURI"]
    }
    assert other <= {("create", "selfsubjectaccessreviews")}
