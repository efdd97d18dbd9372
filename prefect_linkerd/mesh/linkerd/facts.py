"""Every fact about a Linkerd version: what it consists of, what it needs, and what it supports.

`HISTORY` has one row for each change in Linkerd that these flows have to know. A row starts with a
stable release, an edge, or both, and holds until a later row says otherwise, so a version without a
row has the facts of the last row before it. All other code calls `release_facts(version)` and never
compares versions.

Which chart versions make up a release is in `mesh.linkerd.releases`. Facts that a chart contains
are read from the chart: its `kubeVersion`, and which values it has.

Sources are paths in https://github.com/linkerd/linkerd2, as `tag:path`, or addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast, get_args

from prefect_linkerd.mesh.linkerd.version import OLDEST, Channel, LinkerdVersion

ControlPlaneChart = Literal["linkerd2", "linkerd-control-plane"]
CrdsChart = Literal["linkerd2", "linkerd-crds"]
ExtensionChart = Literal["linkerd-viz", "linkerd-jaeger"]
LinkerdChart = Literal[CrdsChart, ControlPlaneChart, ExtensionChart]

CONTROL_PLANE_CHARTS: tuple[ControlPlaneChart, ...] = get_args(ControlPlaneChart)
"""The charts that install a control plane, in any version."""
CRDS_CHARTS: tuple[CrdsChart, ...] = get_args(CrdsChart)
"""The charts that install Linkerd's CRDs, in any version."""
EXTENSION_CHARTS: tuple[ExtensionChart, ...] = get_args(ExtensionChart)
"""The extensions that these flows install, in any version."""
LINKERD_CHARTS: tuple[LinkerdChart, ...] = get_args(LinkerdChart)

TRUST_ROOTS = "linkerd-identity-trust-roots"
"""The ConfigMap of the trust bundle, in any version."""

Numbers = tuple[int, int, int]
AS_BEFORE: Any = object()
"""The value of a fact that a row does not change."""
ENDED: Any = object()
"""The value of an entry that a row removes from a mapping."""
Kind = tuple[str, str]
"""An API version and a kind."""

GATEWAY_API = "gateway.networking.k8s.io"
_GATEWAY_V1: Kind = (f"{GATEWAY_API}/v1", "HTTPRoute")
_GATEWAY_V1BETA1: Kind = (f"{GATEWAY_API}/v1beta1", "HTTPRoute")
_POLICY_ROUTES: tuple[Kind, ...] = (
    ("policy.linkerd.io/v1beta3", "HTTPRoute"),
    ("policy.linkerd.io/v1beta2", "HTTPRoute"),
)
_PROFILES: tuple[Kind, ...] = (("linkerd.io/v1alpha2", "ServiceProfile"),)
_SPLITS: tuple[Kind, ...] = (
    ("split.smi-spec.io/v1alpha2", "TrafficSplit"),
    ("split.smi-spec.io/v1alpha1", "TrafficSplit"),
)
SPLIT_KINDS = (_GATEWAY_V1, _GATEWAY_V1BETA1, *_POLICY_ROUTES, *_PROFILES, *_SPLITS)
"""Every kind that splits traffic in some version of Linkerd, in each of its API versions."""


@dataclass(frozen=True, kw_only=True)
class ReleaseFacts:
    """The facts of one Linkerd version; in a row of `HISTORY`, those that change with it.

    Attributes:
        series: The x of the Linkerd 2.x that it belongs to.
        crds_chart: The chart with Linkerd's CRDs.
        control_plane_chart: The chart with the control plane; the same one until the split.
        extensions: The charts of the extensions that it has.
        chart_numbers: How its charts are numbered: by Linkerd's version, by each chart's own
            (`mesh.linkerd.releases`), or by the release's date.
        minimum_kubernetes: The oldest Kubernetes version that `linkerd check` accepts.
        crds: The CRDs that `linkerd check` looks for, each with its latest version.
        checks_crd_versions: Whether it looks for those versions, not only for the names.
        splits: The kinds by which its proxies split traffic, the preferred one first.
        renamed_values: Values of its control plane's chart by their former names.
        allows_rsa_anchors: Whether a trust anchor may be RSA, not only ECDSA P-256.
        publishes_trust_bundle: Whether proxies are compared with the ConfigMap
            `linkerd-identity-trust-roots` instead of the values in `linkerd-config`.
        labels_pod_security: Whether namespaces are labelled for Pod Security Admission.
        injects_extensions_by_namespace: Whether extensions are injected because their namespace
            is annotated, not because their own pods are.
        labels_extensions_by_job: Whether each extension's chart has a Job that labels the
            namespace, with a Role of its own.
        has_beta_heartbeat: Whether the control plane's CronJob uses batch/v1beta1.
        has_beta_disruption_budgets: Whether PodDisruptionBudgets use policy/v1beta1.
        jaeger_takes_pull_secrets: Whether linkerd-jaeger can name image pull secrets.
        finds_pods_by_label: Whether `linkerd check` finds the pods of the control plane and of
            extensions by their labels.
        counts_terminated_as_over: Whether a pod with status Terminated needs no ready proxy.
        compares_running_proxies_only: Whether only proxies of running pods are compared with the
            CLI's version.
        checks_nothing_is_installed: Whether `linkerd check --pre` looks for a control plane.
        checks_networks_can_be_verified: Whether nodes without a podCIDR are a warning.
        checks_networks_of_pods: Whether clusterNetworks has to contain the pods' addresses.
        checks_networks_of_services: Whether it has to contain the Services' addresses.
        viz_roles_are_errors: Whether missing RBAC of viz is an error, not a warning.
        viz_client_comes_first: Whether viz's client is checked before its objects.
        checks_prometheus_authorization: Whether viz's Prometheus must be allowed to scrape.
        checks_injection_disabled: Whether high availability requires a label on kube-system.
        checks_extension_namespaces: Whether an extension may have only one namespace.
        checks_gateway_api: Whether the Gateway API's CRDs have to be installed.
        gateway_api_release: The Gateway API release that this check says to install.
    """

    series: int = AS_BEFORE
    crds_chart: CrdsChart = AS_BEFORE
    control_plane_chart: ControlPlaneChart = AS_BEFORE
    extensions: tuple[ExtensionChart, ...] = AS_BEFORE
    chart_numbers: Literal["version", "own", "date"] = AS_BEFORE
    minimum_kubernetes: tuple[int, int] = AS_BEFORE
    crds: Mapping[str, str] = AS_BEFORE
    checks_crd_versions: bool = AS_BEFORE
    splits: tuple[Kind, ...] = AS_BEFORE
    renamed_values: Mapping[str, str] = AS_BEFORE
    allows_rsa_anchors: bool = AS_BEFORE
    publishes_trust_bundle: bool = AS_BEFORE
    labels_pod_security: bool = AS_BEFORE
    injects_extensions_by_namespace: bool = AS_BEFORE
    labels_extensions_by_job: bool = AS_BEFORE
    has_beta_heartbeat: bool = AS_BEFORE
    has_beta_disruption_budgets: bool = AS_BEFORE
    jaeger_takes_pull_secrets: bool = AS_BEFORE
    finds_pods_by_label: bool = AS_BEFORE
    counts_terminated_as_over: bool = AS_BEFORE
    compares_running_proxies_only: bool = AS_BEFORE
    checks_nothing_is_installed: bool = AS_BEFORE
    checks_networks_can_be_verified: bool = AS_BEFORE
    checks_networks_of_pods: bool = AS_BEFORE
    checks_networks_of_services: bool = AS_BEFORE
    viz_roles_are_errors: bool = AS_BEFORE
    viz_client_comes_first: bool = AS_BEFORE
    checks_prometheus_authorization: bool = AS_BEFORE
    checks_injection_disabled: bool = AS_BEFORE
    checks_extension_namespaces: bool = AS_BEFORE
    checks_gateway_api: bool = AS_BEFORE
    gateway_api_release: str = AS_BEFORE

    @property
    def charts(self) -> tuple[LinkerdChart, ...]:
        """The charts of the CRDs and the control plane, in the order of their installation."""
        if self.crds_chart == self.control_plane_chart:
            return (self.control_plane_chart,)
        return (self.crds_chart, self.control_plane_chart)

    @property
    def has_one_chart(self) -> bool:
        """Whether one chart has both the CRDs and the control plane."""
        return len(self.charts) == 1

    def splits_by(self, kind: str) -> bool:
        """Whether its proxies split traffic by a kind, such as `HTTPRoute`."""
        return any(kind == name for _, name in self.splits)


@dataclass(frozen=True)
class Row:
    """A change in Linkerd, with the first stable release and the first edge that have it.

    `stable` is None for a change after the last stable release; `changes` has only the facts that
    change.
    """

    stable: Numbers | None
    edge: Numbers | None
    source: tuple[str, ...]
    changes: ReleaseFacts

    @property
    def changed(self) -> dict[str, Any]:
        """The changed facts by name; a mapping has only new entries, and ENDED for removed ones."""
        return {name: v for name, v in vars(self.changes).items() if v is not AS_BEFORE}

    def holds_for(self, version: LinkerdVersion) -> bool:
        """Whether a version is the row's first one or later."""
        first = self.stable if version.channel == "stable" else self.edge
        return first is not None and version.numbers >= first


def _row(
    *source: str,
    changes: ReleaseFacts,
    stable: Numbers | None = None,
    edge: Numbers | None = None,
) -> Row:
    return Row(stable, edge, source, changes)


HISTORY: tuple[Row, ...] = (
    _row(
        "stable-2.11.0:charts/linkerd2",
        "stable-2.11.0:viz/charts/linkerd-viz",
        "stable-2.11.0:jaeger/charts/linkerd-jaeger",
        "stable-2.11.0:pkg/healthcheck/healthcheck.go",
        "stable-2.11.0:pkg/issuercerts/issuercerts.go",
        "https://linkerd.io/2.11/features/traffic-split/",
        stable=(2, 11, 0),
        edge=(21, 9, 5),
        changes=ReleaseFacts(
            series=11,
            crds_chart="linkerd2",
            control_plane_chart="linkerd2",
            extensions=("linkerd-viz", "linkerd-jaeger"),
            chart_numbers="version",
            minimum_kubernetes=(1, 16),
            crds={"serviceprofiles.linkerd.io": "v1alpha2"},
            checks_crd_versions=False,
            splits=_SPLITS,
            renamed_values={},
            allows_rsa_anchors=False,
            publishes_trust_bundle=False,
            labels_pod_security=False,
            injects_extensions_by_namespace=True,
            labels_extensions_by_job=False,
            has_beta_heartbeat=True,
            has_beta_disruption_budgets=True,
            jaeger_takes_pull_secrets=False,
            finds_pods_by_label=False,
            counts_terminated_as_over=False,
            compares_running_proxies_only=False,
            checks_nothing_is_installed=True,
            checks_networks_can_be_verified=False,
            checks_networks_of_pods=False,
            checks_networks_of_services=False,
            viz_roles_are_errors=False,
            viz_client_comes_first=False,
            checks_prometheus_authorization=False,
            checks_injection_disabled=True,
            checks_extension_namespaces=False,
            checks_gateway_api=False,
            gateway_api_release="",
        ),
    ),
    _row(
        "stable-2.11.1:pkg/k8s/k8s.go",
        stable=(2, 11, 1),
        edge=(21, 10, 2),
        changes=ReleaseFacts(
            minimum_kubernetes=(1, 17),
        ),
    ),
    _row(
        "stable-2.11.2:pkg/healthcheck/healthcheck.go",
        stable=(2, 11, 2),
        edge=(22, 2, 4),
        changes=ReleaseFacts(
            checks_networks_can_be_verified=True,
        ),
    ),
    # Edges before 22.8.3 got these one by one, but are too old for these flows.
    _row(
        "https://linkerd.io/2.12/tasks/upgrade/#upgrade-notice-stable-2120",
        "stable-2.12.0:charts/linkerd-control-plane",
        "stable-2.12.0:charts/linkerd-crds",
        "stable-2.12.0:viz/charts/linkerd-viz/templates/namespace-metadata.yaml",
        "stable-2.12.0:jaeger/charts/linkerd-jaeger",
        "stable-2.12.0:pkg/k8s/api.go",
        "stable-2.12.0:pkg/healthcheck/healthcheck.go",
        "stable-2.12.0:pkg/issuercerts/issuercerts.go",
        "stable-2.12.0:viz/pkg/healthcheck/healthcheck.go",
        "https://linkerd.io/2/reference/service-profiles/",
        stable=(2, 12, 0),
        edge=(22, 8, 3),
        changes=ReleaseFacts(
            series=12,
            crds_chart="linkerd-crds",
            control_plane_chart="linkerd-control-plane",
            chart_numbers="own",
            minimum_kubernetes=(1, 21),
            crds={
                "authorizationpolicies.policy.linkerd.io": "v1alpha1",
                "httproutes.policy.linkerd.io": "v1beta1",
                "meshtlsauthentications.policy.linkerd.io": "v1alpha1",
                "networkauthentications.policy.linkerd.io": "v1alpha1",
                "serverauthorizations.policy.linkerd.io": "v1beta1",
                "servers.policy.linkerd.io": "v1beta1",
            },
            checks_crd_versions=True,
            # Its HTTPRoute has no backendRefs yet, and SMI's TrafficSplit is an extension that
            # writes these same overrides.
            splits=_PROFILES,
            renamed_values={"policyController.defaultAllowPolicy": "proxy.defaultInboundPolicy"},
            allows_rsa_anchors=True,
            publishes_trust_bundle=True,
            # The charts set the labels from 2.13 on, but 2.12's linkerd-init needs them too.
            labels_pod_security=True,
            injects_extensions_by_namespace=False,
            labels_extensions_by_job=True,
            has_beta_heartbeat=False,
            jaeger_takes_pull_secrets=True,
            finds_pods_by_label=True,
            counts_terminated_as_over=True,
            checks_nothing_is_installed=False,
            checks_networks_can_be_verified=False,
            checks_networks_of_pods=True,
            checks_prometheus_authorization=True,
        ),
    ),
    _row(
        "stable-2.12.1:charts/linkerd-control-plane/templates/destination.yaml",
        stable=(2, 12, 1),
        edge=(22, 9, 1),
        changes=ReleaseFacts(
            has_beta_disruption_budgets=False,
        ),
    ),
    _row(
        "stable-2.12.2:pkg/healthcheck/healthcheck.go",
        "stable-2.12.2:viz/pkg/healthcheck/healthcheck.go",
        stable=(2, 12, 2),
        edge=(22, 10, 2),
        changes=ReleaseFacts(
            checks_networks_of_services=True,
            viz_roles_are_errors=True,
        ),
    ),
    _row(
        "edge-23.1.2:charts/linkerd-crds/templates/policy/httproute.yaml",
        stable=(2, 13, 0),
        edge=(23, 1, 2),
        changes=ReleaseFacts(
            crds={"httproutes.policy.linkerd.io": "v1beta2"},
        ),
    ),
    _row(
        "edge-23.3.2:CHANGES.md",
        "https://linkerd.io/2/reference/httproute/",
        stable=(2, 13, 0),
        edge=(23, 3, 2),
        changes=ReleaseFacts(
            splits=_POLICY_ROUTES,
        ),
    ),
    _row(
        "edge-23.3.4:viz/pkg/healthcheck/healthcheck.go",
        stable=(2, 13, 0),
        edge=(23, 3, 4),
        changes=ReleaseFacts(
            viz_client_comes_first=True,
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        stable=(2, 13, 0),
        edge=(23, 4, 1),
        changes=ReleaseFacts(
            series=13,
        ),
    ),
    _row(
        "edge-23.6.1:charts/linkerd-crds/templates/policy/httproute.yaml",
        stable=(2, 14, 0),
        edge=(23, 6, 1),
        changes=ReleaseFacts(
            crds={"httproutes.policy.linkerd.io": "v1beta3"},
        ),
    ),
    _row(
        "edge-23.7.1:charts/linkerd-crds/templates/gateway.networking.k8s.io_httproutes.yaml",
        "edge-23.7.1:policy-controller/k8s/index/src/outbound/index.rs",
        stable=(2, 14, 0),
        edge=(23, 7, 1),
        changes=ReleaseFacts(
            crds={"httproutes.gateway.networking.k8s.io": "v1beta1"},
            # The policy controller reads v1beta1.
            splits=(_GATEWAY_V1BETA1, _GATEWAY_V1, *_POLICY_ROUTES),
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        stable=(2, 14, 0),
        edge=(23, 8, 3),
        changes=ReleaseFacts(
            series=14,
        ),
    ),
    _row(
        "stable-2.14.1:pkg/healthcheck/healthcheck.go",
        stable=(2, 14, 1),
        edge=(23, 9, 2),
        changes=ReleaseFacts(
            compares_running_proxies_only=True,
        ),
    ),
    _row(
        "edge-23.11.4:pkg/healthcheck/healthcheck.go",
        edge=(23, 11, 4),
        changes=ReleaseFacts(
            checks_extension_namespaces=True,
        ),
    ),
    _row(
        "edge-23.12.2:pkg/k8s/api.go",
        edge=(23, 12, 2),
        changes=ReleaseFacts(
            minimum_kubernetes=(1, 22),
        ),
    ),
    _row(
        "edge-24.1.1:charts/linkerd-crds/templates",
        edge=(24, 1, 1),
        changes=ReleaseFacts(
            crds={
                "externalworkloads.workload.linkerd.io": "v1alpha1",
                "servers.policy.linkerd.io": "v1beta2",
            },
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        "edge-24.2.4:charts/linkerd-crds/templates/workload/external-workload.yaml",
        edge=(24, 2, 4),
        changes=ReleaseFacts(
            series=15,
            crds={"externalworkloads.workload.linkerd.io": "v1beta1"},
        ),
    ),
    _row(
        "edge-24.3.1:bin/helm-build",
        edge=(24, 3, 1),
        changes=ReleaseFacts(
            chart_numbers="date",
        ),
    ),
    _row(
        "edge-24.3.4:pkg/healthcheck/healthcheck.go",
        edge=(24, 3, 4),
        changes=ReleaseFacts(
            checks_injection_disabled=False,
        ),
    ),
    _row(
        "edge-24.5.2:charts/linkerd-crds/templates/gateway.networking.k8s.io_grpcroutes.yaml",
        edge=(24, 5, 2),
        changes=ReleaseFacts(
            crds={"grpcroutes.gateway.networking.k8s.io": "v1alpha2"},
        ),
    ),
    _row(
        "edge-24.7.4:charts/linkerd-crds/templates/policy/server.yaml",
        edge=(24, 7, 4),
        changes=ReleaseFacts(
            crds={"servers.policy.linkerd.io": "v1beta3"},
        ),
    ),
    # The Gateway API's CRDs are optional from here on.
    _row(
        "edge-24.8.1:cli/cmd/check.go",
        edge=(24, 8, 1),
        changes=ReleaseFacts(
            crds={
                "grpcroutes.gateway.networking.k8s.io": ENDED,
                "httproutes.gateway.networking.k8s.io": ENDED,
            },
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        edge=(24, 8, 2),
        changes=ReleaseFacts(
            series=16,
        ),
    ),
    _row(
        "edge-24.10.4:charts/linkerd-crds/templates/policy/egress-network.yaml",
        edge=(24, 10, 4),
        changes=ReleaseFacts(
            crds={"egressnetworks.policy.linkerd.io": "v1alpha1"},
        ),
    ),
    _row(
        "edge-24.11.2:charts/linkerd-crds/templates/policy/http-local-ratelimit-policy.yaml",
        edge=(24, 11, 2),
        changes=ReleaseFacts(
            crds={"httplocalratelimitpolicies.policy.linkerd.io": "v1alpha1"},
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        edge=(24, 11, 8),
        changes=ReleaseFacts(
            series=17,
        ),
    ),
    _row(
        "edge-25.2.3:pkg/k8s/api.go",
        "edge-25.2.3:policy-controller/k8s/api/Cargo.toml",
        edge=(25, 2, 3),
        changes=ReleaseFacts(
            minimum_kubernetes=(1, 23),
            splits=(_GATEWAY_V1, _GATEWAY_V1BETA1, *_POLICY_ROUTES),
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        edge=(25, 4, 4),
        changes=ReleaseFacts(
            series=18,
        ),
    ),
    _row(
        "https://github.com/linkerd/linkerd2/pull/14558",
        edge=(25, 10, 1),
        changes=ReleaseFacts(
            extensions=("linkerd-viz",),
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        edge=(25, 10, 7),
        changes=ReleaseFacts(
            series=19,
        ),
    ),
    _row(
        "edge-26.5.1:pkg/k8s/api.go",
        edge=(26, 5, 1),
        changes=ReleaseFacts(
            minimum_kubernetes=(1, 31),
        ),
    ),
    _row(
        "https://linkerd.io/releases/",
        "edge-26.7.1:pkg/healthcheck/healthcheck.go",
        edge=(26, 7, 1),
        changes=ReleaseFacts(
            series=20,
            checks_gateway_api=True,
            gateway_api_release="v1.2.1",
        ),
    ),
    _row(
        "edge-26.8.2:pkg/healthcheck/healthcheck.go",
        edge=(26, 8, 2),
        changes=ReleaseFacts(
            gateway_api_release="v1.5.1",
        ),
    ),
)
"""Every change in Linkerd that these flows have to know, in the order of its edges."""


@cache
def release_facts(version: LinkerdVersion) -> ReleaseFacts:
    """The facts of a Linkerd version; one newer than every row has the last row's.

    Example:
        >>> release_facts(LinkerdVersion.parse("stable-2.11.5")).charts
        ('linkerd2',)
        >>> release_facts(LinkerdVersion.parse("edge-26.8.3")).extensions
        ('linkerd-viz',)
    """
    facts: dict[str, Any] = {}
    for row in HISTORY:
        if row.holds_for(version):
            for name, value in row.changed.items():
                is_more = isinstance(value, Mapping) and name in facts
                facts[name] = {**facts[name], **value} if is_more else value
    return ReleaseFacts(**{name: _without_ended(value) for name, value in facts.items()})


def _without_ended(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    entries = cast("Mapping[str, Any]", value)
    return {key: entry for key, entry in entries.items() if entry is not ENDED}


LAST_STABLE = max(row.stable for row in HISTORY if row.stable)[:2]
"""The last minor for which the project published stable releases; edge follows it."""

LAST_STABLE_MINOR = f"stable-{LAST_STABLE[0]}.{LAST_STABLE[1]}"

FIRST_EDGES: Mapping[int, Numbers] = {
    row.changes.series: row.edge for row in HISTORY if "series" in row.changed and row.edge
}
"""The first edge of each Linkerd 2.x; later edges belong to it until the next 2.x."""


def first_versions(channel: Channel) -> tuple[LinkerdVersion, ...]:
    """The oldest supported version of a channel, then each version at which a fact changed."""
    oldest = LinkerdVersion(channel, OLDEST[channel])
    firsts = {row.stable if channel == "stable" else row.edge for row in HISTORY}
    changed = {LinkerdVersion(channel, numbers) for numbers in firsts if numbers is not None}
    return (oldest, *sorted(version for version in changed if version > oldest))


def skipped_minors(current: LinkerdVersion, target: LinkerdVersion) -> tuple[str, ...]:
    """The stable minors between a version and a later one, such as `stable-2.13`.

    Every edge comes after the last stable minor.
    """
    if current.channel == "edge":
        return ()
    major, first = current.numbers[:2]
    last = target.numbers[1] if target.channel == "stable" else LAST_STABLE[1] + 1
    return tuple(f"stable-{major}.{minor}" for minor in range(first + 1, last))


def last_with(extension: ExtensionChart) -> LinkerdVersion:
    """The newest version with a row in `HISTORY` whose facts still have an extension."""
    versions = (*first_versions("stable"), *first_versions("edge"))
    return max(v for v in versions if extension in release_facts(v).extensions)
