"""Writes deployments/rbac/: for each flow the minimal role for its identity in a mesh's cluster.

    python -m prefect_linkerd.deployments.roles                  # the files of deployments/rbac/
    python -m prefect_linkerd.deployments.roles FLOW MESH_FILE   # for one mesh, to stdout
    python -m prefect_linkerd.deployments.roles upgrade MESH_FILE --to VERSION

The objects are named `prefect-linkerd-<flow>`; each binding's subject is a ServiceAccount of that
name in namespace `prefect`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from prefect_linkerd.deployments import grants
from prefect_linkerd.deployments.grants import RBAC, Grant, Held, Objects
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.charts import ChartName
from prefect_linkerd.mesh.install.namespaces import namespaces
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Object
from prefect_linkerd.mesh.probe.options import NAMESPACE as PROBE
from prefect_linkerd.mesh.probe.workloads import namespace as probe_namespace
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.tasks.declared import declared_flows

FOLDER = Path(__file__).with_name("rbac")
HOME = "prefect"
"""The namespace of the flows' ServiceAccounts."""

FLOWS = tuple(name for name, flow in declared_flows().items() if flow.declaration.grants)
"""The flows that access a mesh's cluster themselves."""


def grants_of(flow: str, config: MeshConfig, objects: Objects) -> Sequence[Held | Grant]:
    """Everything that a flow may do, on a mesh whose charts contain these objects."""
    declaration = declared_flows()[flow].declaration
    function = getattr(grants, declaration.grants)
    return function(config, objects) if declaration.changes else function(config)


def manifests(flow: str, config: MeshConfig, objects: Objects | None = None) -> list[Object]:
    """The ServiceAccount of a flow, its roles and their bindings, ready to be applied.

    Includes the mesh's namespaces for bootstrap, and the probe's for flows with a probe, because
    roles cannot be in a namespace that does not exist.

    Args:
        objects: what each chart installs, for a flow that installs charts.
    """
    name = f"prefect-linkerd-{flow.replace('_', '-')}"
    granted = grants_of(flow, config, objects or {})
    found: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": HOME, "labels": MADE_HERE},
        }
    ]
    if flow == "bootstrap":
        found += namespaces(config)
    if any(grant.namespace == PROBE for grant in granted):
        found.append(probe_namespace())
    for namespace in sorted({grant.namespace for grant in granted}):
        scope = "" if namespace else "Cluster"
        metadata: Object = {"name": name, "labels": MADE_HERE}
        if namespace:
            metadata["namespace"] = namespace
        found += [
            _object(f"{scope}Role", metadata, rules=rules(granted, namespace)),
            _object(
                f"{scope}RoleBinding",
                metadata,
                roleRef={"apiGroup": RBAC, "kind": f"{scope}Role", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": name, "namespace": HOME}],
            ),
        ]
    return found


def rules(granted: Iterable[Held | Grant], namespace: str) -> list[Object]:
    """The rules of one role: each resource once with its verbs, then the rules of charts' roles."""
    verbs: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    held: list[Object] = []
    for grant in granted:
        if grant.namespace != namespace:
            continue
        if isinstance(grant, Held):
            if grant.rule not in held:
                held.append(grant.rule)
            continue
        for resource in grant.resources:
            known = verbs.setdefault((grant.group, resource, grant.names), [])
            known += [verb for verb in grant.verbs if verb not in known]
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (group, resource, names), found in verbs.items():
        # Verbs that are granted on the whole kind need no rule for single names.
        wide = verbs.get((group, resource, ()), []) if names else []
        if left := tuple(sorted(set(found) - set(wide))):
            alike.setdefault((group, left, names), []).append(resource)
    made = [
        {
            "apiGroups": [group],
            "resources": sorted(resources),
            "verbs": list(found),
            **({"resourceNames": list(names)} if names else {}),
        }
        for (group, found, names), resources in alike.items()
    ]
    return made + held


def _object(kind: str, metadata: Object, **content: object) -> Object:
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": dict(metadata), **content}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def as_yaml(objects: Iterable[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, explicit_start=True)


def files(config: MeshConfig, helm: str = "helm") -> dict[Path, str]:
    """The content of every file of deployments/rbac/, for a mesh with the defaults.

    The probe's namespace has its own file, because several flows have roles in it and Kustomize
    rejects duplicate objects. The kustomization leaves out flows with roles in namespaces that
    nothing here creates, such as that of the application that `smoke_test` uses.
    """
    objects, shared = grants.render(config, helm), probe_namespace()
    content = {PROBE: [shared]} | {
        flow: [obj for obj in manifests(flow, config, objects) if obj != shared] for flow in FLOWS
    }
    there = {HOME, "kube-system"} | {
        str(obj["metadata"]["name"])
        for made in content.values()
        for obj in made
        if obj["kind"] == "Namespace"
    }
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(
            f"{name}.yaml"
            for name, made in content.items()
            if {obj["metadata"].get("namespace", HOME) for obj in made} <= there
        ),
    }
    found = {FOLDER / f"{name}.yaml": as_yaml(made) for name, made in content.items()}
    return {**found, FOLDER / "kustomization.yaml": yaml.safe_dump(kustomization, sort_keys=False)}


def both(before: Objects, after: Objects) -> Objects:
    """What the charts of two versions install."""
    joined: dict[ChartName, list[Object]] = {}
    for objects in (before, after):
        for name, content in objects.items():
            joined.setdefault(name, []).extend(content)
    return joined


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m prefect_linkerd.deployments.roles", description=__doc__
    )
    parser.add_argument("flow", nargs="?", choices=FLOWS)
    parser.add_argument("mesh", nargs="?", type=Path, help="the mesh's configuration")
    parser.add_argument("--to", help="for upgrade: the version to upgrade to")
    given = parser.parse_args(arguments)
    config = load_mesh(given.mesh, key="unused")
    if given.flow:
        objects = grants.render(config) if declared_flows()[given.flow].declaration.changes else {}
        if given.to:
            target = load_mesh(given.mesh, settings=[f"version={given.to}"], key="unused")
            objects = both(objects, grants.render(target))
        print(as_yaml(manifests(given.flow, config, objects)), end="")
        return
    for path, content in files(config).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main()
