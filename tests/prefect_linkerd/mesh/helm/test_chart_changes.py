"""What changes between two versions of a chart."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.helm.chart_changes import (
    HIDDEN,
    changed_fields,
    comparable,
    crd_changes,
    lost_values,
    merge_patch,
    object_changes,
    values_change,
)
from prefect_linkerd.mesh.helm.records import (
    RELEASE_NAME,
    RELEASE_NAMESPACE,
    ReleaseRef,
    Revision,
    read,
    record,
)
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.planning.chart_split import decide_split
from tests.support.crds import versioned_crd

LEAVES = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
VALUES = st.dictionaries(
    st.sampled_from("abcd"),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1)),
)


def test_values_are_renamed_removed_and_added() -> None:
    old = {"proxy": {"image": "x", "port": 1}, "gone": True, "free": {"any": 1}}
    new = {"proxy": {"port": 1}, "sidecar": {"image": "x"}, "free": {}}
    change = values_change("c", old, new)
    assert change.renamed == (("proxy.image", "sidecar.image"),)
    assert change.removed == ("gone",)
    assert change.added == ("sidecar.image", "free")
    known = values_change("c", {"a": {"b": 1}}, {"x": {"y": 2}}, {"a.b": "x.y"})
    assert known.renamed == (("a.b", "x.y"),)


def test_only_values_that_the_user_set_and_that_lose_their_meaning_are_named() -> None:
    old = {"a": 1, "b": {"c": 2}, "labels": {}}
    new = {"b": {"c": 2}, "labels": {}}
    user = {"a": 5, "b": {"c": 7}, "labels": {"mine": "x"}, "never": 1}
    assert lost_values(user, old, new) == ("a",)


@settings(deadline=None)
@given(VALUES)
def test_a_chart_does_not_differ_from_itself(values: dict[str, Any]) -> None:
    change = values_change("c", values, values)
    assert (change.removed, change.renamed, change.added) == ((), (), ())
    assert lost_values(values, values, values) == ()


def applied(patch: Any, target: Any) -> Any:
    """Applies a merge patch as RFC 7386 defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = applied(value, result.get(key))
    return result


@settings(deadline=None)
@given(VALUES, VALUES)
def test_a_patch_makes_the_new_manifest_of_the_old(old: Object, new: Object) -> None:
    result = applied(merge_patch(old, new), old)
    # Nested keys that the new manifest lacks may leave only empty mappings.
    assert list(changed_fields(result, new)) == []


def test_crds_are_created_changed_and_kept_but_never_deleted() -> None:
    before = [versioned_crd("gone", "v1"), versioned_crd("same", "v1"), versioned_crd("more", "v1")]
    after = [
        versioned_crd("same", "v1"),
        versioned_crd("more", "v1", "v2", unserved=("v1",)),
        versioned_crd("new", "v1"),
    ]
    found = {change.name: change for change in crd_changes(before, after)}
    assert {name: change.change for name, change in found.items()} == {
        "gone": "kept",
        "more": "update",
        "new": "create",
    }
    assert (found["more"].served_added, found["more"].served_removed) == (("v2",), ("v1",))
    assert found["more"].storage == "v1 to v2"


def test_secrets_are_hidden() -> None:
    secret = {"kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}
    assert comparable(secret)["data"] == {"k": HIDDEN}


def config_map(name: str, **data: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": data,
    }


def test_owners_and_what_helm_keeps_are_known(cluster: Cluster, namespace: str) -> None:
    own, other = ReleaseRef("mesh", namespace), ReleaseRef("other", namespace)
    policy = {"helm.sh/resource-policy": "keep"}

    def made(name: str, owner: ReleaseRef | None = None, **annotations: str) -> Object:
        marks = dict(annotations)
        if owner is not None:
            marks |= {RELEASE_NAME: owner.name, RELEASE_NAMESPACE: owner.namespace}
        obj = config_map(name, a="1")
        obj["metadata"] |= {"namespace": namespace, "annotations": marks}
        cluster.create(obj)
        return config_map(name, a="1")

    installed = [
        made("ours", own),
        made("handed-over", other),
        made("unmarked"),
        made("kept", own, **policy),
        made("gone", own),
        config_map("not-there"),
    ]
    new = [made("theirs", other), made("somebodys"), made("back", own)]
    wanted = [*installed[:3], *new]
    found = object_changes(cluster, namespace, installed, wanted, {own})
    assert [c.subject.rpartition("/")[2] for c in found if c.change == "delete"] == ["gone"]

    def taken(objects: list[Object]) -> dict[str, bool]:
        found = object_changes(cluster, namespace, installed, objects, {own})
        return {c.subject.rpartition("/")[2]: c.is_new for c in found if c.taken_from}

    assert taken(wanted) == {"handed-over": False, "theirs": True, "somebodys": True}
    # As the plan advises: turn it off in the chart's values, or have its owner delete it.
    without_theirs = [obj for obj in wanted if obj is not new[0]]
    assert taken(without_theirs) == {"handed-over": False, "somebodys": True}
    cluster.delete("v1", "ConfigMap", "theirs", namespace)
    assert taken(wanted) == {"handed-over": False, "somebodys": True}
    # What its owner has deleted is taken over without asking.
    for name in ("handed-over", "somebodys"):
        cluster.delete("v1", "ConfigMap", name, namespace)
    assert taken(wanted) == {}


def test_the_api_server_says_what_would_change(cluster: Cluster, namespace: str) -> None:
    old = [config_map("kept", a="1", b="2"), config_map("gone", a="1"), config_map("same", a="1")]
    for obj in old:
        cluster.create({**obj, "metadata": {**obj["metadata"], "namespace": namespace}})
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "refused"},
        "spec": {"ports": [{"port": 0}]},
    }
    hook = config_map("hook")
    hook["metadata"]["annotations"] = {"helm.sh/hook": "post-install"}
    new = [config_map("kept", a="3"), config_map("same", a="1"), config_map("new"), service, hook]
    found = {c.subject.split("/")[-1]: c for c in object_changes(cluster, namespace, old, new)}
    assert {name: change.change for name, change in found.items()} == {
        "kept": "update",
        "gone": "delete",
        "new": "create",
        "refused": "create",
    }
    assert found["kept"].fields == ("data.a", "data.b")
    assert "+  a: '3'" in found["kept"].diff
    assert "spec.ports[0].port" in found["refused"].refused
    # Nothing was written.
    kept = cluster.get("v1", "ConfigMap", "kept", namespace)
    assert kept is not None
    assert kept["data"] == {"a": "1", "b": "2"}
    assert cluster.get("v1", "ConfigMap", "new", namespace) is None


def old_release() -> Revision:
    documents: list[tuple[str, Object]] = [
        ("kind: Namespace", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "l"}}),
        (
            "crd: servers",
            {"apiVersion": "apiextensions.k8s.io/v1", **versioned_crd("servers", "v1")},
        ),
        ("crd: splits", {"apiVersion": "apiextensions.k8s.io/v1", **versioned_crd("splits", "v1")}),
        ("kind: ConfigMap", config_map("c")),
        ("kind: Old", {"apiVersion": "old/v1", "kind": "Old", "metadata": {"name": "o"}}),
    ]
    chart = {"metadata": {"name": "linkerd2", "version": "2.11.5"}, "values": {"a": 1}}
    return Revision(
        "linkerd2", "linkerd", 3, "deployed", "linkerd2", "2.11.5", "", {"x": 1}, {"a": 1},
        tuple(documents), {"chart": chart, "config": {"x": 1}, "version": 3},
    )  # fmt: skip


def test_the_split_leaves_nothing_out_but_what_must_not_be_owned() -> None:
    old = old_release()
    split = decide_split(old, {"servers", "httproutes"}, {"v1", "apiextensions.k8s.io/v1"})
    assert [text for text, _ in split.crds] == ["crd: servers"]
    assert [text for text, _ in split.control_plane] == ["kind: ConfigMap"]
    assert [obj["metadata"]["name"] for obj in split.left] == ["splits"]
    assert split.new_crds == ("httproutes", "servers")


def test_a_record_is_read_as_it_was_written() -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: 'yes'"
    secret = record(old_release(), "linkerd-crds", "linkerd", [manifest], datetime.now(UTC))
    found = read(secret)
    assert (found.name, found.number, found.status) == ("linkerd-crds", 1, "deployed")
    assert (found.chart, found.values, found.defaults) == ("linkerd2", {"x": 1}, {"a": 1})
    assert [obj["data"] for obj in found.manifest] == [{"a": "yes"}]
