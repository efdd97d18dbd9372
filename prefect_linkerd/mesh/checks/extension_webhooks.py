"""Whether the API server accepts the injectors of viz and jaeger.

Linkerd's own checks do this for the control plane's webhooks and for tap. If the API server rejects
an extension's injector, pods come up without tap or tracing, and nothing else reports it.
"""

from __future__ import annotations

from typing import Any

from prefect_linkerd.mesh.checks.check import Category, Problem, Problems
from prefect_linkerd.mesh.checks.webhooks import not_served
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.mesh.snapshot.webhooks import decoded

INJECTORS = ("linkerd-tap-injector-webhook-config", "linkerd-jaeger-injector-webhook-config")

extension_webhooks = Category[Snapshot]("pl-extension-webhooks", "beyond")


@extension_webhooks.check(
    "pl-extension-webhook-authority", "extensions' injectors match their caBundle"
)
def extension_webhook_authority(snapshot: Snapshot) -> Problems:
    for name in INJECTORS:
        configuration = snapshot.mutating_webhooks.get(name) or {}
        webhooks: list[dict[str, Any]] = configuration.get("webhooks") or []
        for webhook in webhooks:
            client: dict[str, Any] = webhook.get("clientConfig") or {}
            service: dict[str, str] | None = client.get("service")
            if service is None:
                continue
            namespace, server = service["namespace"], service["name"]
            authority = decoded(client.get("caBundle", ""))
            host = f"{server}.{namespace}.svc"
            for problem in not_served(snapshot, namespace, f"{server}-k8s-tls", authority, host):
                text = f"{problem.subject}: {problem.message}"
                yield Problem(f"MutatingWebhookConfiguration/{name}", text, problem.remedy)
