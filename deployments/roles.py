"""Writes deployments/rbac/: for each flow the least that its identity needs in a mesh's cluster.

    python -m deployments.roles                  # the files of deployments/rbac/
    python -m deployments.roles FLOW MESH_FILE   # for namespaces of its own, to stdout

The objects are named `prefect-linkerd-<flow>`; each binding's subject is a ServiceAccount of that
name in namespace `prefect`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mesh.cluster import Object
from mesh.config import MeshConfig
from mesh.namespaces import namespaces
from mesh.snapshot import INGRESS_KINDS, POLICY_KINDS, secret_names
from mesh.trust_anchor import TRUST_ROOTS
from prefect_linkerd.mesh_file import load_mesh

FOLDER = Path(__file__).with_name("rbac")
HOME = "prefect"
"""The namespace of the ServiceAccounts that flows run with."""

RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Grant:
    """Verbs on resources of a group, in a namespace or (empty) the cluster; `names` narrows."""

    verbs: tuple[str, ...]
    group: str
    resources: tuple[str, ...]
    namespace: str = ""
    names: tuple[str, ...] = ()

    def rule(self) -> Object:
        rule: Object = {
            "apiGroups": [self.group],
            "resources": list(self.resources),
            "verbs": list(self.verbs),
        }
        return {**rule, "resourceNames": list(self.names)} if self.names else rule


def certificate_reads(config: MeshConfig) -> list[Grant]:
    """What `check_certificates` reads: the trust bundle and a handful of Secrets, by name."""
    linkerd = config.namespaces.linkerd
    return [
        Grant(("get",), "", ("configmaps",), linkerd, (TRUST_ROOTS,)),
        Grant(("get",), "", ("secrets",), linkerd, _secrets(config, in_linkerd=True)),
        _extension_secrets(config),
    ]


def _secrets(config: MeshConfig, *, in_linkerd: bool) -> tuple[str, ...]:
    linkerd = config.namespaces.linkerd
    return tuple(name for place, name in secret_names(config) if (place == linkerd) == in_linkerd)


def _extension_secrets(config: MeshConfig) -> Grant:
    # By name in every namespace: an extension's is there or not.
    return Grant(("get",), "", ("secrets",), "", _secrets(config, in_linkerd=False))


def mesh_reads(config: MeshConfig) -> list[Grant]:
    """What `verify_mesh` reads.

    Secrets by list, too, as Helm keeps its releases in them: only in the mesh's namespaces. By the
    subresources `proxy` the API server asks viz's Prometheus and a sample of the proxies.
    """
    linkerd = config.namespaces.linkerd
    read = ("list",)
    plurals: dict[str, set[str]] = {}
    for group, kind in (*POLICY_KINDS, *INGRESS_KINDS):
        plurals.setdefault(group, set()).add(_plural(kind))
    named = (TRUST_ROOTS, "linkerd-config", "linkerd-cni-config", "prometheus-config")
    return [
        Grant(read, "", ("namespaces", "nodes", "pods", "serviceaccounts", "services")),
        Grant(read, "apps", ("daemonsets", "deployments", "statefulsets")),
        Grant(read, "discovery.k8s.io", ("endpointslices",)),
        Grant(read, "apiextensions.k8s.io", ("customresourcedefinitions",)),
        Grant(read, "apiregistration.k8s.io", ("apiservices",)),
        Grant(
            read,
            "admissionregistration.k8s.io",
            ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        ),
        Grant(read, RBAC, ("clusterrolebindings", "clusterroles")),
        *(Grant(read, group, tuple(sorted(names))) for group, names in sorted(plurals.items())),
        Grant(read, "cert-manager.io", ("certificates",)),
        _extension_secrets(config),
        # As those of viz and of the CNI plugin.
        Grant(("get",), "", ("configmaps",), "", named),
        Grant(("get",), "", ("services/proxy",), "", ("http:prometheus:9090",)),
        Grant(("get",), "", ("pods/proxy",)),
        Grant(read, "apps", ("replicasets",), linkerd),
        Grant(read, RBAC, ("rolebindings",), "kube-system"),
        Grant(
            ("get",), "", ("configmaps",), "kube-system", ("extension-apiserver-authentication",)
        ),
        *(
            Grant(("get", "list"), "", ("secrets",), namespace["metadata"]["name"])
            for namespace in namespaces(config)
        ),
    ]


def _plural(kind: str) -> str:
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}{'e' * lower.endswith('s')}s"


READING: dict[str, Callable[[MeshConfig], list[Grant]]] = {
    "check_certificates": certificate_reads,
    "verify_mesh": mesh_reads,
}
"""The flows that only read. `verify_meshes` runs `verify_mesh`, with each mesh's own identity."""


def manifests(flow: str, config: MeshConfig) -> list[Object]:
    """The ServiceAccount of a flow, its roles and their bindings, ready to be applied."""
    name = f"prefect-linkerd-{flow.replace('_', '-')}"
    labels = {"app.kubernetes.io/managed-by": "prefect-linkerd"}
    grants = READING[flow](config)
    found: list[Object] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": HOME, "labels": labels},
        }
    ]
    for namespace in sorted({grant.namespace for grant in grants}):
        scope = "" if namespace else "Cluster"
        metadata: Object = {"name": name, "labels": labels}
        if namespace:
            metadata["namespace"] = namespace
        rules = [grant.rule() for grant in grants if grant.namespace == namespace]
        found += [
            _object(f"{scope}Role", metadata, rules=rules),
            _object(
                f"{scope}RoleBinding",
                metadata,
                roleRef={"apiGroup": RBAC, "kind": f"{scope}Role", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": name, "namespace": HOME}],
            ),
        ]
    return found


def _object(kind: str, metadata: Object, **content: object) -> Object:
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": dict(metadata), **content}


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def as_yaml(objects: Iterable[Object]) -> str:
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, explicit_start=True)


def files() -> dict[Path, str]:
    """The content of every file of deployments/rbac/: a mesh with the default namespaces."""
    config = MeshConfig()
    return {FOLDER / f"{flow}.yaml": as_yaml(manifests(flow, config)) for flow in READING}


def main(arguments: Sequence[str]) -> None:
    if arguments:
        flow, path = arguments
        print(as_yaml(manifests(flow, load_mesh(Path(path)))), end="")
        return
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main(sys.argv[1:])
