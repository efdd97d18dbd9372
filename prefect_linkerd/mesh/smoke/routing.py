"""Splits traffic between Services, with the kind that each Linkerd version supports.

`mesh.linkerd.facts` has the kinds: a `TrafficSplit`, a `ServiceProfile` with `dstOverrides`, or an
`HTTPRoute`: the Gateway API's or, if the cluster does not serve that, Linkerd's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.linkerd.facts import GATEWAY_API, release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.load.workloads import PORT

# Source: linkerd2 `policy-controller/k8s/status`.
_POLICY_CONTROLLER = "linkerd.io/policy-controller"


@dataclass(frozen=True)
class SplitApi:
    """The kind with which this mesh splits traffic."""

    api_version: str
    kind: str

    @property
    def has_status(self) -> bool:
        """Whether Linkerd reports in the object's status that it accepted it."""
        return self.kind == "HTTPRoute"


def choose_split(version: LinkerdVersion, serves: Callable[[str, str], bool]) -> SplitApi:
    """The first kind for this version that the API server serves.

    Raises:
        InvalidInput: it serves none; the message says whose CRDs are missing.
    """
    facts = release_facts(version)
    candidates = facts.splits
    for api_version, kind in candidates:
        if serves(api_version, kind):
            return SplitApi(api_version, kind)
    api_version, kind = candidates[-1]
    raise InvalidInput(
        f"{kind} ({api_version.split('/')[0]})",
        expected=f"the API server to serve what {version} splits traffic with: "
        + " or ".join(f"{kind} {api_version}" for api_version, kind in candidates),
        found="none of these",
        remedy=f"Its CRD comes with chart {facts.crds_chart}: reinstall that release.",
    )


def split(
    api: SplitApi,
    name: str,
    namespace: str,
    service: str,
    weights: Mapping[str, int],
    cluster_domain: str,
) -> Object:
    """The object that splits the requests to a Service over other Services.

    Args:
        name: the object's name, if the kind allows any name.
        weights: percent by Service name; they add up to 100.
    """
    builders: dict[str, Callable[[], tuple[str, Object]]] = {
        "HTTPRoute": lambda: (name, _http_route(api, service, weights)),
        "TrafficSplit": lambda: (name, _traffic_split(service, weights)),
        # Linkerd finds a profile only by its name, the Service's FQDN.
        "ServiceProfile": lambda: (
            _fqdn(service, namespace, cluster_domain),
            _profile(namespace, weights, cluster_domain),
        ),
    }
    chosen, spec = builders[api.kind]()
    return {
        "apiVersion": api.api_version,
        "kind": api.kind,
        "metadata": {"name": chosen, "namespace": namespace},
        "spec": spec,
    }


def _http_route(api: SplitApi, service: str, weights: Mapping[str, int]) -> Object:
    # The core group is empty in the Gateway API; Linkerd's own CRD documents it as `core`.
    group = "" if api.api_version.startswith(GATEWAY_API) else "core"
    parent = {"group": group, "kind": "Service", "name": service, "port": PORT}
    backends = [
        {"kind": "Service", "name": name, "port": PORT, "weight": weight}
        for name, weight in weights.items()
    ]
    return {"parentRefs": [parent], "rules": [{"backendRefs": backends}]}


def _traffic_split(service: str, weights: Mapping[str, int]) -> Object:
    backends = [{"service": name, "weight": weight} for name, weight in weights.items()]
    return {"service": service, "backends": backends}


def _profile(namespace: str, weights: Mapping[str, int], cluster_domain: str) -> Object:
    overrides = [
        {"authority": f"{_fqdn(name, namespace, cluster_domain)}.:{PORT}", "weight": weight}
        for name, weight in weights.items()
    ]
    return {"routes": [], "dstOverrides": overrides}


def _fqdn(service: str, namespace: str, cluster_domain: str) -> str:
    return f"{service}.{namespace}.svc.{cluster_domain}"


def refusal(route: Object) -> str | None:
    """Why Linkerd does not accept a route; empty if it does, None while it has not reported."""
    for parent in route.get("status", {}).get("parents", []):
        if parent.get("controllerName") != _POLICY_CONTROLLER:
            continue
        for condition in parent.get("conditions", []):
            if condition["type"] == "Accepted":
                if condition["status"] == "True":
                    return ""
                return f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    return None
