# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed documents in real ConfigMaps and Secrets: whole or refused, cut where they are large."""

from __future__ import annotations

import base64
import gzip
import random
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.rollbackctl import kube_shelf
from ansible.module_utils.rollbackctl.errors import RollbackError
from ansible.module_utils.rollbackctl.kube_client import Client, KubeError
from ansible.module_utils.rollbackctl.kube_shelf import Shelf, pack, part_of_name, read_shelf, unpack
from ansible.module_utils.rollbackctl.kube_store import KubernetesStore

from lab.kubernetes.cluster import Cluster
from tests.support.kube import token_kubeconfig
from tests.support.kube_proxy import FaultProxy
from tests.unit.module_utils.engine_parts import RUN
from tests.unit.module_utils.kube_store_parts import (
    STORE_RULES,
    Place,
    place,
    shared_kubeconfig,
    shared_namespace,
    store,
)

__all__ = ["place", "shared_kubeconfig", "shared_namespace", "store"]
DOCUMENT = {"objects": {"settings": {"A": "1", "ü": '"\n{{ x }}'}}}


@pytest.fixture(autouse=True)
def _small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut early, but for the test that shows how large a piece may be."""
    if "real_pieces" not in request.fixturenames:
        monkeypatch.setattr(kube_shelf, "PIECE_BYTES", 4000)


@pytest.fixture
def real_pieces() -> int:
    return kube_shelf.PIECE_BYTES


def large(seed: int = 1, pieces: float = 4.5) -> dict[str, Any]:
    """A document that hardly compresses, of some pieces."""
    size = int(kube_shelf.PIECE_BYTES * pieces * 0.75)
    return {"text": random.Random(seed).randbytes(size).decode("latin-1")}  # noqa: S311


def shelf(store: KubernetesStore, component: str = "settings") -> Shelf:
    return store.kept_shelf(RUN, component, "before-1")


def path(place: Place, name: str, folder: str = "configmaps") -> str:
    return f"/api/v1/namespaces/{place.namespace}/{folder}/{name}"


def read(place: Place, name: str, *, secret: bool = False) -> dict[str, Any]:
    store = place.store
    return read_shelf(store.client, place.namespace, name, secret=secret)


@pytest.mark.parametrize("secret", [False, True])
def test_a_document_comes_back(place: Place, store: KubernetesStore, *, secret: bool) -> None:
    name = shelf(store).save(DOCUMENT, secret=secret)
    assert read(place, name, secret=secret) == DOCUMENT
    with pytest.raises(RollbackError, match="is no longer in namespace"):
        read(place, name, secret=not secret)
    made = place.admin.get(path(place, name, "secrets" if secret else "configmaps"))
    assert made["metadata"]["labels"] == {
        "app.kubernetes.io/managed-by": "rollbackctl",
        "rollbackctl.io/service": place.service,
        "rollbackctl.io/kind": "kept",
        "rollbackctl.io/run": RUN,
    }
    assert made.get("type") == ("rollbackctl.io/recorded" if secret else None)


@pytest.mark.parametrize("secret", [False, True])
def test_what_is_large_is_cut(place: Place, store: KubernetesStore, *, secret: bool) -> None:
    document = large()
    name = shelf(store).save(document, secret=secret)
    assert read(place, name, secret=secret) == document
    folder = "secrets" if secret else "configmaps"
    found = [item["metadata"]["name"] for item in place.admin.names(path(place, "", folder)[:-1])]
    pieces = sorted(one for one in found if one.startswith(name))
    assert len(pieces) > 4
    assert pieces[:2] == [name, f"{name}-1"]


@pytest.mark.parametrize("secret", [False, True])
def test_a_whole_piece_fits_into_an_object(
    place: Place, store: KubernetesStore, real_pieces: int, *, secret: bool
) -> None:
    document = large(pieces=1.5)
    name = shelf(store).save(document, secret=secret)
    item = place.admin.get(path(place, name, "secrets" if secret else "configmaps"))
    assert len(item["data" if secret else "binaryData"]["piece"]) == real_pieces
    assert read(place, name, secret=secret) == document


def test_a_missing_piece_is_said(place: Place, store: KubernetesStore) -> None:
    name = shelf(store).save(large())
    place.admin.delete(path(place, f"{name}-2"))
    with pytest.raises(RollbackError, match="no longer in namespace"):
        read(place, name)


def test_pieces_of_two_documents_are_no_document(place: Place, store: KubernetesStore) -> None:
    name = shelf(store).save(large())
    piece = place.admin.get(path(place, f"{name}-2"))["binaryData"]
    shelf(store).save(large(2))
    place.admin.merge_patch(path(place, f"{name}-2"), {"binaryData": piece})
    with pytest.raises(RollbackError, match="damaged"):
        read(place, name)


def test_half_a_document_is_none_at_all(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    """What says how many pieces there are is written last."""
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    store = Place(lab_cluster, place.admin, place.namespace, place.service, kubeconfig).store
    fault_proxy.add("/configmaps", "POST", skip=3, times=None, status=403)
    with pytest.raises(KubeError):
        shelf(store).save(large())
    with pytest.raises(RollbackError, match="no longer in namespace"):
        read(place, shelf(store).name)
    assert place.admin.find(path(place, f"{shelf(store).name}-4")) is not None


def test_it_can_be_written_again(place: Place, store: KubernetesStore) -> None:
    """A killed run records once more when it is resumed."""
    shelf(store).save(large())
    name = shelf(store).save(DOCUMENT)
    assert read(place, name) == DOCUMENT


@pytest.mark.parametrize("drop", ["before", "after"])
@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_lost_answer_does_no_harm(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path, drop: str, *, secret: bool, there: bool
) -> None:
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    store = Place(lab_cluster, place.admin, place.namespace, place.service, kubeconfig).store
    if there:
        shelf(store).save({"older": True}, secret=secret)
    fault_proxy.add("/secrets" if secret else "/configmaps", "PATCH" if there else "POST", drop=drop)
    name = shelf(store).save(DOCUMENT, secret=secret)
    assert read(place, name, secret=secret) == DOCUMENT


@pytest.mark.parametrize("at", [0, 10, 100, -1, -5])
def test_one_byte_of_damage_is_found(place: Place, store: KubernetesStore, at: int) -> None:
    name = shelf(store).save({**DOCUMENT, "more": list(range(200))})
    held = place.admin.get(path(place, name))["binaryData"]["piece"]
    raw = bytearray(base64.b64decode(held))
    raw[at] ^= 0x10
    place.admin.merge_patch(path(place, name), {"binaryData": {"piece": base64.b64encode(raw).decode()}})
    with pytest.raises(RollbackError, match="damaged"):
        read(place, name)


@pytest.mark.parametrize("change", [{"pieces": "eA=="}, {"pieces": None}, {"piece": None}, {"piece": ""}])
def test_what_is_no_piece_is_damage(place: Place, store: KubernetesStore, change: dict[str, Any]) -> None:
    name = shelf(store).save(DOCUMENT)
    place.admin.merge_patch(path(place, name), {"binaryData": change})
    with pytest.raises(RollbackError, match="damaged"):
        read(place, name)


def test_a_document_that_unpacks_to_more_than_is_ever_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_shelf, "UNPACKED_BYTES", 1000)
    packed = base64.b64encode(gzip.compress(b" " * 1001)).decode()
    with pytest.raises(RollbackError, match="larger than anything"):
        unpack({"binaryData": {"plan.json.gz": packed}}, "plan", "The plan")


def test_packing_the_same_twice_gives_the_same(place: Place) -> None:
    del place
    assert pack("plan", DOCUMENT) == pack("plan", DOCUMENT)


@pytest.mark.parametrize("name", ["a", "api", "shop-db", "0", "a" * 63])
def test_a_plain_name_stays(name: str) -> None:
    assert part_of_name(name) == name


def test_other_names_become_different_names(admin: Client) -> None:
    del admin
    names = ["DB", "db.", "db_", "Db", "d_b", "d.b", "D-B", "A" * 63, "a" * 62 + ".", "x-", "9.9"]
    parts = [part_of_name(name) for name in names]
    assert len(set(parts)) == len(names)
    assert all(kube_shelf._PLAIN_PART.fullmatch(part) for part in parts), parts
    assert max(map(len, parts)) <= 72


@pytest.mark.parametrize("component", ["DB", "shop.db", "a_b", "x-", "A" * 63])
def test_a_component_of_any_name_can_be_recorded(place: Place, store: KubernetesStore, component: str) -> None:
    name = shelf(store, component).save(DOCUMENT)
    assert read(place, name) == DOCUMENT


def test_names_that_look_alike_are_two_places(place: Place, store: KubernetesStore) -> None:
    names = {shelf(store, component).save({"is": component}) for component in ("DB", "db", "Db", "d-b", "d.b")}
    assert len(names) == 5
    assert {read(place, name)["is"] for name in names} == {"DB", "db", "Db", "d-b", "d.b"}


def test_an_api_server_that_does_not_take_it_is_said(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path, admin: Client
) -> None:
    del admin
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    store = Place(lab_cluster, place.admin, place.namespace, place.service, kubeconfig).store
    fault_proxy.add("/configmaps", "POST", status=413)
    with pytest.raises(KubeError, match="413"):
        shelf(store).save(DOCUMENT)


def test_one_that_never_answers_is_said(
    lab_cluster: Cluster, place: Place, fault_proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = token_kubeconfig(lab_cluster, place.namespace, STORE_RULES, tmp_path, server=fault_proxy.url)
    store = Place(lab_cluster, place.admin, place.namespace, place.service, kubeconfig).store
    fault = fault_proxy.add("/configmaps", "POST", times=None, drop="before")
    with pytest.raises(KubeError, match="whether it took effect is not known"):
        shelf(store).save(DOCUMENT)
    assert fault.met == kube_shelf.ATTEMPTS
