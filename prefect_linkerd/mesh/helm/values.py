"""Computes each chart's Helm values from a mesh's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import yaml
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import ExtraValues, MeshConfig, PrivateRegistry
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.helm.charts import Chart, ChartName
from prefect_linkerd.mesh.helm.images import image_values
from prefect_linkerd.mesh.linkerd.facts import release_facts
from prefect_linkerd.mesh.linkerd.spans import versions_where

Values = dict[str, Any]
Key = tuple[str, ...]
"""The keys that lead to a value, from the outermost inwards."""

_IDENTITY: tuple[Key, ...] = (
    ("clusterDomain",),
    ("identityTrustDomain",),
    ("identityTrustAnchorsPEM",),
    ("identity", "issuer", "scheme"),
    ("identity", "issuer", "tls", "crtPEM"),
    ("identity", "issuer", "tls", "keyPEM"),
)
_NAMESPACE: tuple[Key, ...] = (("namespace",), ("installNamespace",))
_EXTENSION: tuple[Key, ...] = (
    ("clusterDomain",),
    ("identityTrustDomain",),
    ("linkerdNamespace",),
    *_NAMESPACE,
)
SAFETY: Mapping[str, tuple[Key, ...]] = {
    "linkerd2": (*_IDENTITY, *_NAMESPACE),
    "linkerd-control-plane": _IDENTITY,
    "linkerd-viz": _EXTENSION,
    "linkerd-jaeger": _EXTENSION,
}
"""By chart, the values without which proxies and control plane do not trust or find each other.

They follow from the mesh's configuration and its trust anchor, never from extra values.
`identity.externalCA` is not among them, because only extra values say that the bundle has another
owner: a plan refuses it if Helm would then delete or overwrite the bundle.

Source: linkerd2 `charts/linkerd2/values.yaml` (2.11), `charts/linkerd-control-plane/values.yaml`,
`viz/charts/linkerd-viz/values.yaml` and `jaeger/charts/linkerd-jaeger/values.yaml`.
"""


@dataclass(frozen=True)
class ClusterFacts:
    """What values depend on: the Kubernetes version (`v1.34.4`) and the served API versions.

    `gateway_api_owner` names the owner of the Gateway API's CRDs: a Helm release as
    `namespace/name`, any other owner by its name in messages; empty if there are no such CRDs.
    """

    version: str
    api_versions: frozenset[str]
    gateway_api_owner: str = ""
    webhook_authorities: dict[str, str] = field(default_factory=dict[str, str])
    """The CA certificate (PEM) of each namespace's webhooks, for charts that need it as a value."""
    webhook_keepers: dict[str, str] = field(default_factory=dict[str, str])
    """Somebody else's Certificate that takes the place of ours, by our `namespace/name`."""


def values_for(
    chart: Chart, config: MeshConfig, facts: ClusterFacts, *, trust_bundle: str = ""
) -> Values:
    """The values of one chart's release: computed, then the user's files, then inline values.

    What the mesh depends on (`SAFETY`) is computed whatever the user's values say;
    `helm.safety_values` reports those that differ. No private key is ever among the values: issuer
    and anchor are Secrets that are created outside Helm.

    Args:
        trust_bundle: the PEM of every anchor that the mesh trusts, for the control plane's chart.

    Raises:
        InvalidInput: a values file cannot be read.
    """
    safety = SAFETY.get(chart.name, ())
    extra = [without(layer, safety) for layer in load_extra_values(extra_of(chart.name, config))]
    return merge(computed_values(chart, config, facts, trust_bundle=trust_bundle), *extra)


def computed_values(
    chart: Chart, config: MeshConfig, facts: ClusterFacts, *, trust_bundle: str = ""
) -> Values:
    """The values of one chart's release without the user's own."""
    computed = {
        "linkerd2": _control_plane,
        "linkerd-crds": _crds,
        "linkerd-control-plane": _control_plane,
        "linkerd-viz": _viz,
        "linkerd-jaeger": _jaeger,
        "cert-manager": _cert_manager,
        "traefik": _traefik,
    }[chart.name](chart, config, facts, trust_bundle)
    high_availability = chart.ha if config.ha else {}
    images: Values = {}
    if config.registry is not None:
        images = image_values(chart.name, chart.defaults, config.registry.host)
        if config.registry.username is not None:
            images = merge(images, _pull_secrets(chart, config.registry.pull_secret))
    return merge(high_availability, computed, images)


def own_keys(chart: Chart, config: MeshConfig, facts: ClusterFacts) -> frozenset[Key]:
    """The keys that these flows compute for a chart, as if all optional features were on.

    High availability is left out: people set its keys (replicas, resources), too.
    """
    full = config.model_copy(
        update={
            "ha": False,
            "issuer": "cert-manager",
            "cert_manager": config.cert_manager.model_copy(update={"webhook_certificates": True}),
            "viz": config.viz.model_copy(
                update={"dashboard": config.viz.dashboard.model_copy(update={"host": "any"})}
            ),
            "registry": PrivateRegistry(host="any", username="any", password=SecretStr("any")),
        }
    )
    return frozenset(key for key, _ in leaves(computed_values(chart, full, facts)))


FIELDS: Mapping[str, str] = {
    "linkerd2": "values",
    "linkerd-control-plane": "values",
    "linkerd-viz": "viz.values",
    "linkerd-jaeger": "jaeger.values",
    "cert-manager": "cert_manager.values",
    "traefik": "traefik.values",
}
"""The field of the configuration that holds a chart's extra values, by chart."""


def extra_of(chart: ChartName, config: MeshConfig) -> ExtraValues:
    """The user's values for a chart."""
    found: Any = config
    for name in FIELDS.get(chart, "").split("."):
        found = getattr(found, name, None)
    return cast("ExtraValues", found) if found is not None else ExtraValues()


def without(values: Mapping[str, Any], keys: Iterable[Key]) -> Values:
    """Values without some keys, and without non-mappings in the place of their parents."""
    kept = deepcopy(dict(values))
    for key in keys:
        place: Values = kept
        for part in key[:-1]:
            below = place.get(part)
            if not isinstance(below, dict):
                place.pop(part, None)
                break
            place = cast("Values", below)
        else:
            place.pop(key[-1], None)
    return kept


def proxy_version(config: MeshConfig) -> str:
    """The version of the mesh's proxies: Linkerd's own, unless extra values set another.

    Raises:
        InvalidInput: a values file cannot be read.
    """
    proxy: object = merge(*load_extra_values(config.values)).get("proxy")
    image: object = cast("Values", proxy).get("image") if isinstance(proxy, dict) else None
    version: object = cast("Values", image).get("version") if isinstance(image, dict) else None
    return str(version or config.linkerd)


def merge(*layers: Mapping[str, Any]) -> Values:
    """Merges layers of values: later ones win, mappings are merged, lists are replaced."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                merged[key] = merge(
                    cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value)
                )
            else:
                merged[key] = deepcopy(cast("Any", value))
    return merged


def text_at(values: Mapping[str, Any], *path: str) -> str:
    """The value at a path as text; empty if there is no such value."""
    found: Any = values
    for key in path:
        found = cast("Mapping[str, Any]", found).get(key) if isinstance(found, Mapping) else None
    return str(found or "")


def leaves(values: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every value that is not a mapping, or is an empty one, with its keys."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(cast("Mapping[str, Any]", value), (*path, str(key)))
        else:
            yield (*path, str(key)), value


def load_extra_values(extra: ExtraValues) -> list[Values]:
    """The user's values in layers, in order of increasing precedence.

    Raises:
        InvalidInput: a file cannot be read or is not a mapping.
    """
    layers: list[Values] = []
    for path in extra.files:
        try:
            content: object = yaml.safe_load(path.expanduser().read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise InvalidInput(
                f"values file {path}",
                expected="readable YAML",
                found=type(error).__name__,
                remedy="Name an existing YAML file.",
            ) from None
        if not isinstance(content, dict):
            raise InvalidInput(
                f"values file {path}",
                expected="a mapping of values",
                found=type(content).__name__,
                remedy="Write keys and values, as in a chart's values.yaml.",
            )
        layers.append(cast("Values", content))
    return [*layers, extra.inline]


@dataclass(frozen=True)
class Unsupported:
    """A part of a configuration that does not work on a cluster."""

    subject: str
    message: str
    remedy: str


def check_combination(config: MeshConfig, facts: ClusterFacts) -> list[Unsupported]:
    """Everything in a configuration that does not work on this cluster."""
    problems: list[Unsupported] = []
    release = release_facts(config.linkerd)
    is_beta = release.has_beta_disruption_budgets
    if config.ha and is_beta and "policy/v1beta1" not in facts.api_versions:
        later = versions_where(lambda facts: not facts.has_beta_disruption_budgets)
        problems.append(
            Unsupported(
                f"high availability of {config.linkerd}",
                "its chart has PodDisruptionBudgets of policy/v1beta1, which Kubernetes "
                f"{facts.version} no longer serves",
                f"Turn ha off, choose {later.first_stable} or newer, or use Kubernetes 1.24.",
            )
        )
    has_credentials = config.registry is not None and config.registry.username is not None
    if has_credentials and config.jaeger.enabled and not release.jaeger_takes_pull_secrets:
        problems.append(
            Unsupported(
                f"linkerd-jaeger of {config.linkerd}",
                "its chart cannot use pull secrets",
                "Turn jaeger off, or let the nodes log in to the registry.",
            )
        )
    return problems


def _control_plane(
    chart: Chart, config: MeshConfig, facts: ClusterFacts, trust_bundle: str
) -> Values:
    namespaces = config.namespaces
    values: Values = {
        "clusterDomain": config.cluster_domain,
        "identityTrustDomain": config.trust_domain,
        "identityTrustAnchorsPEM": trust_bundle,
        "identity": {
            "issuer": {
                # The Secret is ours or cert-manager's, in both issuer modes.
                "scheme": "kubernetes.io/tls",
                "issuanceLifetime": f"{config.lifetimes.leaf_hours}h0m0s",
            }
        },
    }
    if "installNamespace" in chart.defaults:
        values |= {"namespace": namespaces.linkerd, "installNamespace": False}
    has_beta_heartbeat = release_facts(config.linkerd).has_beta_heartbeat
    if has_beta_heartbeat and "batch/v1beta1" not in facts.api_versions:
        # Kubernetes 1.25 removed that API.
        values["disableHeartBeat"] = True
    if config.issuer == "cert-manager" and config.cert_manager.webhook_certificates:
        for key, certificate in (
            ("proxyInjector", "linkerd-proxy-injector"),
            ("profileValidator", "linkerd-sp-validator"),
            ("policyValidator", "linkerd-policy-validator"),
        ):
            values[key] = _external(chart, key, namespaces.linkerd, certificate, facts)
    return values


def _external(
    chart: Chart, key: str, namespace: str, certificate: str, facts: ClusterFacts
) -> Values:
    """A webhook whose certificate cert-manager keeps; cainjector injects the CA if it can."""
    if "injectCaFrom" in chart.defaults.get(key, {}):
        name = facts.webhook_keepers.get(f"{namespace}/{certificate}", certificate)
        return {"externalSecret": True, "injectCaFrom": f"{namespace}/{name}"}
    return {"externalSecret": True, "caBundle": facts.webhook_authorities.get(namespace, "")}


def _crds(chart: Chart, _config: MeshConfig, facts: ClusterFacts, _trust_bundle: str) -> Values:
    foreign = facts.gateway_api_owner not in ("", f"{_config.namespaces.linkerd}/linkerd-crds")
    if "installGatewayAPI" in chart.defaults:
        return {"installGatewayAPI": not foreign}
    if "enableHttpRoutes" in chart.defaults and foreign:
        # 2.13 and 2.14: the chart's own switch for gateway.networking.k8s.io's HTTPRoute.
        return {"enableHttpRoutes": False}
    return {}


def _viz(chart: Chart, config: MeshConfig, facts: ClusterFacts, _trust_bundle: str) -> Values:
    namespaces = config.namespaces
    values: Values = {
        "linkerdNamespace": namespaces.linkerd,
        "clusterDomain": config.cluster_domain,
        "identityTrustDomain": config.trust_domain,
    }
    if "installNamespace" in chart.defaults:
        values |= {"installNamespace": False, "namespace": namespaces.viz}
    if host := config.viz.dashboard.host:
        # The dashboard refuses unknown hosts, to prevent DNS rebinding.
        # Source: https://linkerd.io/2/tasks/exposing-dashboard/
        values["dashboard"] = {"enforcedHostRegexp": f"^{re.escape(host)}$"}
    if config.issuer == "cert-manager" and config.cert_manager.webhook_certificates:
        values["tap"] = _external(chart, "tap", namespaces.viz, "tap", facts)
        values["tapInjector"] = _external(
            chart, "tapInjector", namespaces.viz, "linkerd-tap-injector", facts
        )
    return values


def _jaeger(chart: Chart, config: MeshConfig, facts: ClusterFacts, _trust_bundle: str) -> Values:
    namespaces = config.namespaces
    values: Values = {}
    if "linkerdNamespace" in chart.defaults:
        values["linkerdNamespace"] = namespaces.linkerd
    if "clusterDomain" in chart.defaults:
        values["clusterDomain"] = config.cluster_domain
    if "installNamespace" in chart.defaults:
        values |= {"installNamespace": False, "namespace": namespaces.jaeger}
    if config.issuer == "cert-manager" and config.cert_manager.webhook_certificates:
        values["webhook"] = _external(chart, "webhook", namespaces.jaeger, "jaeger-injector", facts)
    return values


def _cert_manager(
    chart: Chart, config: MeshConfig, _facts: ClusterFacts, _trust_bundle: str
) -> Values:
    values: Values = (
        # `crds.keep` keeps the CRDs, and so every certificate, when the release is uninstalled.
        {"crds": {"enabled": True, "keep": True}}
        if "crds" in chart.defaults
        else {"installCRDs": True}
    )
    if config.ha:
        # Source: https://cert-manager.io/docs/installation/best-practice/#high-availability
        values |= {"replicaCount": 2, "webhook": {"replicaCount": 3}}
        values["cainjector"] = {"replicaCount": 2}
    return values


def _traefik(_chart: Chart, config: MeshConfig, _facts: ClusterFacts, _trust_bundle: str) -> Values:
    return {
        "deployment": {
            # In ingress mode the proxy routes by l5d-dst-override instead of the address.
            # Source: https://linkerd.io/2/tasks/using-ingress/#ingress-mode
            "podAnnotations": {"linkerd.io/inject": "ingress"},
            **({"replicas": 3} if config.ha else {}),
        }
    }


def _pull_secrets(chart: Chart, name: str) -> Values:
    reference = [{"name": name}]
    if chart.name == "cert-manager":
        return {"global": {"imagePullSecrets": reference}}
    if chart.name == "traefik":
        return {"deployment": {"imagePullSecrets": reference}}
    return {"imagePullSecrets": reference} if "imagePullSecrets" in chart.defaults else {}
