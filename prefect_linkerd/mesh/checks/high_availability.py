"""What high availability requires, and extensions' namespace labels, which have to be unique.

Source: linkerd2 `pkg/healthcheck`, categories linkerd-ha-checks and linkerd-extension-checks.
"""

from __future__ import annotations

from collections import defaultdict

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.checks.config import COMPONENTS
from prefect_linkerd.mesh.checks.existence import installed_values
from prefect_linkerd.mesh.checks.resources import labels_of
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.spans import versions_where
from prefect_linkerd.mesh.snapshot.mesh import EXTENSION, Snapshot

ha = Category[Snapshot]("linkerd-ha-checks", "control-plane")
extension = Category[Snapshot]("linkerd-extension-checks", "control-plane")

ADMISSION_WEBHOOKS = "config.linkerd.io/admission-webhooks"


@ha.check(
    "l5d-injection-disabled",
    "pod injection disabled on kube-system",
    "warning",
    versions=versions_where(lambda facts: facts.checks_injection_disabled),
)
def injection_disabled(snapshot: Snapshot) -> Problems:
    found = snapshot.mutating_webhooks.get("linkerd-proxy-injector-webhook-config", {})
    hooks: list[Object] = found.get("webhooks") or []
    if len(hooks) != 1 or hooks[0].get("failurePolicy") != "Fail":
        raise Skip("Linkerd is not installed for high availability")
    labels = labels_of(snapshot.namespaces).get("kube-system", {})
    if labels.get(ADMISSION_WEBHOOKS) != "disabled":
        yield Problem(
            "Namespace/kube-system",
            "the injector fails closed, so its outage would block the cluster's own pods",
            f"Label it {ADMISSION_WEBHOOKS}=disabled.",
        )


@ha.check("l5d-control-plane-replicas", "multiple replicas of control plane pods", "warning")
def control_plane_replicas(snapshot: Snapshot) -> Problems:
    if not installed_values(snapshot).get("highAvailability"):
        raise Skip("Linkerd is not installed for high availability")
    namespace = snapshot.config.namespaces.linkerd
    for component in COMPONENTS:
        found = snapshot.workload("Deployment", namespace, f"linkerd-{component}")
        ready = found.ready if found is not None else 0
        if ready <= 1:
            subject = f"Deployment/{namespace}/linkerd-{component}"
            text = f"{ready} of its pods are available, and there should be at least two"
            yield Problem(subject, text, "Scale it, or look at the pods that are not ready.")


@extension.check(
    "l5d-extension-namespaces",
    "namespace configuration for extensions",
    "warning",
    versions=versions_where(lambda facts: facts.checks_extension_namespaces),
)
def extension_namespaces(snapshot: Snapshot) -> Problems:
    by_extension: dict[str, list[str]] = defaultdict(list)
    for name, labels in sorted(labels_of(snapshot.namespaces).items()):
        if EXTENSION in labels:
            by_extension[labels[EXTENSION]].append(name)
    for label, names in by_extension.items():
        if len(names) > 1:
            text = f"label {EXTENSION}={label} is on more than one namespace: {', '.join(names)}"
            yield Problem(
                f"Namespace/{names[0]}", text, "Keep the label on the extension's own namespace."
            )
