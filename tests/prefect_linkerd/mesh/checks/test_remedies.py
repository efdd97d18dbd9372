"""Following the remedy of a check fixes what it found."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from prefect_linkerd.mesh.helm.client import Helm
from prefect_linkerd.mesh.helm.records import Release, read_releases
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.records.rotation import RECORD, RotationClaim
from prefect_linkerd.mesh.rotation.webhooks import inspect_webhooks, renew_webhooks
from tests.prefect_linkerd.mesh.checks.healthy import allowed
from tests.support.advice import follows
from tests.support.certificates import NOW, make
from tests.support.installed import DEFAULT, InstalledMesh, on

DAY = timedelta(days=1)
INJECTOR = "linkerd-proxy-injector"
WEBHOOK = "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"


def replace_with_expiring_certificate(mesh: InstalledMesh) -> None:
    """The injector's certificate has ten days left, and the API server trusts it."""
    start, host = datetime.now(UTC) - NOW, f"{INJECTOR}.linkerd.svc"
    own = make(host, starts=start - 355 * DAY, ends=start + 10 * DAY, dns_names=(host,))
    data = {
        "tls.crt": base64.b64encode(own.pem.encode()).decode(),
        "tls.key": base64.b64encode(own.pair.private_key.get_secret_value().encode()).decode(),
    }
    mesh.cluster.merge("v1", "Secret", f"{INJECTOR}-k8s-tls", "linkerd", {"data": data})
    found = mesh.cluster.get(*WEBHOOK, f"{INJECTOR}-webhook-config")
    assert found is not None
    found["webhooks"][0]["clientConfig"]["caBundle"] = data["tls.crt"]
    mesh.cluster.replace(found)


def content(mesh: InstalledMesh) -> dict[str, Release]:
    """The releases without revision and update time."""
    unset = {"revision": 0, "updated": NOW}
    found = read_releases(mesh.cluster, ["linkerd", "linkerd-viz", "linkerd-jaeger"], values=True)
    return {release.name: replace(release, **unset) for release in found}


@follows(
    "Run rotate_webhooks, or let cert-manager keep it:",
    "Run rotate_webhooks, which has the chart make a new one;",
)
@pytest.mark.parametrize("mesh", [on(DEFAULT)], indirect=True, scope="package")
def test_rotate_webhooks_renews_an_old_certificate_and_changes_nothing_else(
    mesh: InstalledMesh, helm_path: str
) -> None:
    releases = content(mesh)
    replace_with_expiring_certificate(mesh)
    expected = allowed(mesh) | {
        ("pl-webhook-days-left", "warning"),
        ("l5d-proxy-injector-webhook-cert-not-expiring-soon", "warning"),
    }
    assert mesh.settles_to(expected) == expected
    for result in mesh.report().failing:
        if (result.check.id, result.outcome) not in allowed(mesh):
            assert all("Run rotate_webhooks" in problem.remedy for problem in result.problems)

    config, cluster = mesh.config, mesh.cluster
    before = inspect_webhooks(Mesh(cluster, config))
    helm, quiet = Helm(cluster, helm_path), lambda *_: None
    with RotationClaim(cluster, "linkerd", "test", 30) as claim:
        done = renew_webhooks(Mesh(cluster, config, helm), claim, before, quiet)
        revisions = read_releases(cluster, ["linkerd", "linkerd-viz", "linkerd-jaeger"])
        # A retry after a transient failure does not repeat what the step has done.
        again = renew_webhooks(Mesh(cluster, config, helm), claim, before, quiet)
    cluster.delete("v1", "ConfigMap", RECORD, "linkerd")

    assert done == again
    assert read_releases(cluster, ["linkerd", "linkerd-viz", "linkerd-jaeger"]) == revisions
    assert sorted(each.secret for each in done.renewed) == sorted(
        f"Secret/{key}" for key in before if not key.endswith("identity-issuer")
    )
    assert len(done.renewed) == 6
    assert all(each.after.not_after > datetime.now(UTC) + 300 * DAY for each in done.renewed)
    assert done.left == ()
    assert content(mesh) == releases
    assert mesh.settles_to(allowed(mesh)) == allowed(mesh)


@follows("Make Helm recreate it: `helm rollback` the release to its current revision.")
@pytest.mark.parametrize("mesh", [on(DEFAULT)], indirect=True, scope="package")
def test_helm_makes_again_what_a_release_lacks(mesh: InstalledMesh, helm_path: str) -> None:
    config = "v1", "ConfigMap", "linkerd-config", "linkerd"
    mesh.cluster.delete("v1", "ServiceAccount", "linkerd-heartbeat", "linkerd")
    broken = {"data": {"values": "[: not yaml"}}
    mesh.cluster.merge(*config, broken)
    found = {(result.check.id, result.outcome) for result in mesh.report().failing}
    assert ("l5d-existence-linkerd-config", "error") in found
    [release] = [r for r in read_releases(mesh.cluster, ["linkerd"]) if r.name.endswith("plane")]
    with mesh.cluster.kubeconfig_file() as file:
        where = ["--namespace", release.namespace, "--kubeconfig", str(file)]
        command = [helm_path, "rollback", release.name, str(release.revision), *where]
        subprocess.run(command, check=True, capture_output=True)
    assert mesh.settles_to(allowed(mesh)) == allowed(mesh)
    [after] = [r for r in read_releases(mesh.cluster, ["linkerd"]) if r.name == release.name]
    assert after.labels == release.labels
