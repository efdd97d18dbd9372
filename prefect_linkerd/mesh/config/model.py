"""The user's configuration of a mesh: one model, validated as a whole before anything changes."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from prefect_linkerd.mesh.linkerd.facts import LINKERD_CHARTS, release_facts
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.linkerd.version_range import is_constraint

EMOJIVOTO = (
    "https://raw.githubusercontent.com/linkerd/website/e867ceadf1163b10aaa19d9800a90ffb4e8d1964"
    "/run.linkerd.io/public/emojivoto.yml"
)
"""The manifest that https://run.linkerd.io/emojivoto.yml serves, pinned to a commit."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")


def _dns_label(value: str) -> str:
    if not _LABEL.match(value):
        raise ValueError(
            f"{value!r} is not a Kubernetes name: use lower-case letters, digits and dashes, "
            "at most 63, starting and ending with a letter or digit (RFC 1123)"
        )
    return value


def _dns_name(value: str) -> str:
    labels = value.split(".")
    if len(value) > 253 or not all(_LABEL.match(label) for label in labels):
        raise ValueError(
            f"{value!r} is not a DNS name: write labels of lower-case letters, digits and dashes "
            "joined by dots, such as cluster.local (RFC 1123)"
        )
    return value


def _host(value: str) -> str:
    if "://" in value or "/" in value:
        raise ValueError(f"{value!r} is a URL, not a host: leave out the scheme and the path")
    if ":" in value:
        raise ValueError(f"{value!r} has a port: give the host alone")
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        raise ValueError(f"{value!r} is an address: an ingress host must be a DNS name")
    if "*" in value:
        raise ValueError(f"{value!r} is a wildcard: give one DNS name")
    name = _dns_name(value)
    if "." not in name:
        raise ValueError(f"{value!r} has one label: give a full name such as viz.example.com")
    return name


Namespace = Annotated[str, AfterValidator(_dns_label)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
Host = Annotated[str, AfterValidator(_host)]
Dependency = Literal["cert-manager", "traefik"]
"""What the mesh may need besides Linkerd."""

ApprovalHours = Annotated[
    float,
    Field(
        gt=0,
        le=24 * 30,
        title="Approval (hours)",
        description="How long the run waits for approval before it fails. Run it again to be asked "
        "again.",
    ),
]
LeaseSeconds = Annotated[
    float,
    Field(
        ge=3,
        le=3600,
        title="Lease (seconds)",
        description="After this time another run may take over from one that died. Two runs never "
        "change a mesh at once, even from different servers.",
    ),
]


class Section(BaseModel):
    """The base of every model that a user fills in."""

    # Unknown fields are typos; an error is better than a setting without effect.
    # Inputs are hidden in validation errors, as one may be a secret.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # Makes an optional plain field one box in Prefect's forms; as a choice between text and
        # nothing it would be two tabs. The server accepts null either way.
        schema = handler(core_schema)
        content = handler.resolve_ref_schema(schema)
        # A block's form uses this as the heading of a section.
        content["title"] = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).capitalize()
        properties: dict[str, Any] = content.get("properties", {})
        for field in properties.values():
            match field:
                case {
                    "anyOf": [
                        {"type": "string" | "integer" | "number" | "boolean"} as plain,
                        {"type": "null"},
                    ]
                }:
                    # Null would not be a valid value of an enumeration.
                    if "enum" not in plain:
                        del field["anyOf"]
                        field |= plain
                        field.pop("default", None)
                case {"anyOf": [{"$ref": _} as section, {"type": "null"} as nothing]}:
                    # A form starts with the first choice and would require the section's fields.
                    # Without a title, the choice's label would be empty.
                    field["anyOf"] = [nothing | {"title": "None"}, section]
                case _:
                    pass
        return schema


class ClusterAccess(Section):
    """How the Kubernetes API is reached, where no Kubernetes Credentials block is chosen."""

    kubeconfig: Path | None = Field(
        default=None,
        title="Kubeconfig file",
        description="A kubeconfig on the machine where the flow runs. Empty: like kubectl, the "
        "merged files of KUBECONFIG, else ~/.kube/config.",
    )
    context: str | None = Field(
        default=None,
        title="Context",
        description="The kubeconfig's context. Empty: its current one.",
    )
    in_cluster: bool = Field(
        default=False,
        title="In cluster",
        description="Use the service account of the pod that the flow runs in.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> ClusterAccess:
        if self.in_cluster and (self.kubeconfig or self.context):
            raise ValueError(
                "in_cluster uses the pod's service account: leave kubeconfig and context empty, "
                "or turn in_cluster off"
            )
        return self


class Namespaces(Section):
    """The namespaces of the mesh and of what comes with it."""

    linkerd: Namespace = Field(
        default="linkerd", title="Linkerd", description="Namespace of the control plane."
    )
    viz: Namespace = Field(
        default="linkerd-viz", title="Viz", description="Namespace of linkerd-viz."
    )
    jaeger: Namespace = Field(
        default="linkerd-jaeger", title="Jaeger", description="Namespace of linkerd-jaeger."
    )
    cert_manager: Namespace = Field(
        default="cert-manager", title="cert-manager", description="Namespace of cert-manager."
    )
    traefik: Namespace = Field(
        default="traefik", title="Traefik", description="Namespace of Traefik."
    )
    emojivoto: Namespace = Field(
        default="emojivoto",
        title="emojivoto",
        description="Namespace of the demo application.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Namespaces:
        names = [str(name) for name in self.__dict__.values()]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"namespace {double[0]} is used twice: give each part its own")
        return self

    @property
    def of_linkerd(self) -> tuple[str, str, str]:
        """The namespaces of Linkerd's own charts."""
        return (self.linkerd, self.viz, self.jaeger)

    def of_chart(self, chart: str) -> str:
        """Returns the namespace for a chart that has no release yet."""
        return {
            "linkerd-viz": self.viz,
            "linkerd-jaeger": self.jaeger,
            "cert-manager": self.cert_manager,
            "traefik": self.traefik,
        }.get(chart, self.linkerd)


class ExtraValues(Section):
    """The user's Helm values, which override all others except those that the mesh depends on."""

    files: list[Path] = Field(
        default_factory=list[Path],
        title="Values files",
        description="YAML files; later ones override earlier ones.",
    )
    inline: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        title="Inline values",
        description="Values that override the files.",
    )


class ChartSources(Section):
    """Where charts come from: an https repository, an oci:// registry path, or a folder."""

    mirror: Path | None = Field(
        default=None,
        title="Mirror folder",
        description="A folder with the subfolders stable, edge, jetstack and traefik, for machines "
        "without internet access. It replaces every source below that is empty.",
    )
    linkerd: str | None = Field(
        default=None,
        title="Linkerd charts",
        description="Empty: the mirror, else the upstream repository of the version's channel.",
    )
    cert_manager: str | None = Field(
        default=None,
        title="cert-manager chart",
        description="Empty: the mirror, else https://charts.jetstack.io.",
    )
    traefik: str | None = Field(
        default=None,
        title="Traefik chart",
        description="Empty: the mirror, else https://traefik.github.io/charts.",
    )
    versions: dict[str, dict[str, str]] = Field(
        default_factory=dict[str, dict[str, str]],
        title="Chart versions",
        description="For Linkerd releases with charts of your own: the version of each chart, by "
        "release, such as {stable-2.14.10: {linkerd-crds: 1.8.0-acme.1}}. Empty: upstream's own.",
    )

    @field_validator("versions")
    @classmethod
    def _versions(cls, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for charts in value.values():
            for chart, version in charts.items():
                if chart not in LINKERD_CHARTS:
                    raise ValueError(
                        f"{chart!r} is not a chart of Linkerd: write one of "
                        f"{', '.join(LINKERD_CHARTS)}"
                    )
                if not version:
                    raise ValueError(f"chart {chart} has an empty version: write one")
        return {str(LinkerdVersion.parse(release)): charts for release, charts in value.items()}

    @field_validator("linkerd", "cert_manager", "traefik")
    @classmethod
    def _source(cls, value: str | None) -> str | None:
        if value and "://" in value and not value.startswith(("https://", "http://", "oci://")):
            raise ValueError(
                f"{value!r} is not a chart source: give https://…, oci://… or the path of a folder"
            )
        return value


class PrivateRegistry(Section):
    """A registry that holds every image, with the same repository names as upstream."""

    host: str = Field(
        title="Registry",
        description="Host, optional port and path that replace the registry of every image, "
        "such as registry.example.com/mirror.",
    )
    username: str | None = Field(
        default=None, title="User name", description="Empty: no pull secret."
    )
    password: SecretStr | None = Field(
        default=None,
        title="Password",
        description="Stored in pull secrets in the mesh's namespaces.",
    )
    pull_secret: Namespace = Field(
        default="prefect-linkerd-registry",
        title="Pull secret",
        description="Name of the pull secret, which is created if a user name is given.",
    )

    @field_validator("host")
    @classmethod
    def _registry(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(f"{value!r} has a scheme: image names have none, leave it out")
        value = value.rstrip("/")
        if not re.match(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?(:\d+)?(/[-._a-z0-9]+)*$", value):
            raise ValueError(
                f"{value!r} is not a registry: write host[:port][/path] in lower case, "
                "such as registry.example.com:5000/mirror"
            )
        return value

    @model_validator(mode="after")
    def _credentials(self) -> PrivateRegistry:
        if (self.username is None) != (self.password is None):
            raise ValueError("user name and password of a registry go together: give both or none")
        return self


class Dashboard(Section):
    """The viz dashboard behind Traefik, with a password."""

    host: Host | None = Field(
        default=None,
        title="Host",
        description="DNS name under which the dashboard is served. Empty: no ingress.",
    )
    username: str = Field(
        default="admin", title="User name", description="The dashboard's basic-auth user name."
    )
    password: SecretStr | None = Field(
        default=None,
        title="Password",
        description="Empty: a generated one, stored in Secret web-ingress-auth (key password).",
    )

    @field_validator("username")
    @classmethod
    def _username(cls, value: str) -> str:
        if not value or ":" in value or not value.isprintable():
            raise ValueError("a basic-auth user name is not empty and has no colon (RFC 7617)")
        return value


class Viz(Section):
    """The viz extension: metrics, tap and the dashboard."""

    enabled: bool | None = Field(
        default=None,
        title="Install",
        description="Install linkerd-viz. Empty: in profile demo only.",
    )
    values: ExtraValues = Field(
        default_factory=ExtraValues, title="Values", description="Extra values for linkerd-viz."
    )
    dashboard: Dashboard = Field(
        default_factory=Dashboard, title="Dashboard", description="The dashboard's ingress."
    )


class Jaeger(Section):
    """The jaeger extension: distributed tracing."""

    enabled: bool = Field(default=False, title="Install", description="Install linkerd-jaeger.")
    values: ExtraValues = Field(
        default_factory=ExtraValues, title="Values", description="Extra values for linkerd-jaeger."
    )


class CertManager(Section):
    """cert-manager, used when the issuer's mode is cert-manager."""

    install: bool = Field(
        default=True,
        title="Install",
        description="Install its chart if the cluster has no cert-manager, and upgrade that "
        "release. Off: never write anything of cert-manager's.",
    )
    adopt: bool = Field(
        default=False,
        title="Adopt",
        description="Upgrade a Helm release of cert-manager that these flows did not install (or "
        "installed before they labelled their releases) to this configuration's values. "
        "Off: such a release is used as it is and never changed.",
    )
    version: str | None = Field(
        default=None,
        title="Chart version",
        description="Empty: the newest release of the chart source.",
    )
    values: ExtraValues = Field(
        default_factory=ExtraValues, title="Values", description="Extra values for cert-manager."
    )
    issuer_kind: Literal["Issuer", "ClusterIssuer"] = Field(
        default="Issuer",
        title="Issuer kind",
        description="Issuer keeps the trust anchor's key in Linkerd's namespace, "
        "ClusterIssuer in cert-manager's.",
    )
    webhook_certificates: bool = Field(
        default=True,
        title="Webhook certificates",
        description="Let cert-manager issue and renew the certificates of Linkerd's webhooks too.",
    )


class Traefik(Section):
    """The ingress controller."""

    enabled: bool | None = Field(
        default=None,
        title="Ingress",
        description="Set up ingress through Traefik. Empty: in profile demo only.",
    )
    install: bool = Field(
        default=True,
        title="Install",
        description="Install its chart if the cluster has no Traefik, and upgrade that release. "
        "Off: never write anything of Traefik's.",
    )
    adopt: bool = Field(
        default=False,
        title="Adopt",
        description="Upgrade a Helm release of Traefik that these flows did not install (or "
        "installed before they labelled their releases) to this configuration's values. "
        "Off: such a release is used as it is and never changed.",
    )
    version: str | None = Field(
        default=None,
        title="Chart version",
        description="Empty: the newest release of the chart source.",
    )
    values: ExtraValues = Field(
        default_factory=ExtraValues, title="Values", description="Extra values for Traefik."
    )


class TrustAnchorConfig(Section):
    """The root of trust: created here or provided, and where its private key is kept."""

    custody: Literal["offline", "in-cluster"] = Field(
        default="offline",
        title="Private key",
        description="offline: outside the cluster. in-cluster: in Secret linkerd-trust-anchor, "
        "which cert-manager needs to sign issuers.",
    )
    key_file: Path | None = Field(
        default=None,
        title="Key file",
        description="offline: the file that holds the key, encrypted with the passphrase; it is "
        "written once. Empty: a Prefect Secret block holds the key.",
    )
    secret_block: str | None = Field(
        default=None,
        title="Secret block",
        description="offline: the Prefect Secret block that holds the key. "
        "Empty: `linkerd-<mesh name>-trust-anchor`.",
    )
    passphrase: SecretStr | None = Field(
        default=None,
        title="Passphrase",
        description="Encrypts the key file; at least 12 characters. Commands ask for it if the "
        "mesh file does not have it.",
    )
    share_anchor: bool = Field(
        default=False,
        title="Share the anchor",
        description="offline: adopt an anchor that another cluster's bootstrap stored in this key "
        "file or Secret block, as multi-cluster needs. Off: never use another cluster's anchor.",
    )
    certificate: str | None = Field(
        default=None,
        title="Own certificate (PEM)",
        description="Use this trust anchor instead of creating one.",
    )
    certificate_file: Path | None = Field(
        default=None, title="Own certificate file", description="The same, as a PEM file."
    )
    private_key: SecretStr | None = Field(
        default=None,
        title="Own private key (PEM)",
        description="The provided anchor's key, encrypted with the passphrase or not.",
    )
    private_key_file: Path | None = Field(
        default=None, title="Own private key file", description="The same, as a PEM file."
    )

    @property
    def provided(self) -> bool:
        return bool(self.certificate or self.certificate_file)

    @model_validator(mode="after")
    def _combination(self) -> TrustAnchorConfig:
        if self.certificate and self.certificate_file:
            raise ValueError(
                "the trust anchor is given twice: give certificate or certificate_file"
            )
        if self.private_key and self.private_key_file:
            raise ValueError(
                "the trust anchor's key is given twice: give private_key or private_key_file"
            )
        if (self.private_key or self.private_key_file) and not self.provided:
            raise ValueError("a private key without its certificate: give the certificate too")
        if self.custody == "in-cluster" and (self.key_file or self.secret_block):
            raise ValueError(
                "in-cluster custody keeps the key in a Kubernetes Secret: "
                "leave key_file and secret_block empty, or choose offline"
            )
        if self.key_file and self.secret_block:
            raise ValueError(
                "the key can be kept in one place: give key_file or secret_block, not both"
            )
        if self.share_anchor and self.custody == "in-cluster":
            raise ValueError(
                "share_anchor is for a key that clusters can reach in one place: with in-cluster "
                "custody give each of them the certificate and private_key instead"
            )
        if self.key_file and self.passphrase is None:
            raise ValueError(
                "a key file is written encrypted: give a passphrase (the command line also takes "
                "it from PREFECT_LINKERD_PASSPHRASE)"
            )
        if self.passphrase and len(self.passphrase.get_secret_value()) < 12:
            raise ValueError("the passphrase is shorter than 12 characters: give a longer one")
        return self


class Emojivoto(Section):
    """Linkerd's demo application, meshed and behind the ingress."""

    enabled: bool | None = Field(
        default=None,
        title="Install",
        description="Deploy emojivoto. Empty: in profile demo only.",
    )
    manifest: str = Field(
        default=EMOJIVOTO,
        title="Manifest",
        description="URL or file of its manifest. The default is a fixed commit of Linkerd's.",
    )


class Lifetimes(Section):
    """Lifetimes of certificates."""

    anchor_days: int = Field(
        default=3650,
        ge=1,
        le=36500,
        title="Trust anchor (days)",
        description="Lifetime of a trust anchor that these flows create.",
    )
    issuer_days: int = Field(
        default=365,
        ge=1,
        le=3650,
        title="Self-signed issuer (days)",
        description="Lifetime of an issuer that these flows sign.",
    )
    issuer_hours: int = Field(
        default=48,
        ge=1,
        title="cert-manager issuer (hours)",
        description="Duration of the issuer's Certificate in cert-manager.",
    )
    issuer_renew_before_hours: int = Field(
        default=25,
        ge=1,
        title="cert-manager renewal (hours)",
        description="How long before its expiry cert-manager renews the issuer.",
    )
    leaf_hours: int = Field(
        default=24,
        ge=1,
        title="Proxy leaf (hours)",
        description="Lifetime of a proxy's certificate.",
    )

    @model_validator(mode="after")
    def _order(self) -> Lifetimes:
        if self.issuer_renew_before_hours >= self.issuer_hours:
            raise ValueError(
                "issuer_renew_before_hours must be less than issuer_hours: otherwise cert-manager "
                "would renew it continuously"
            )
        if self.issuer_days > self.anchor_days or self.issuer_hours > self.anchor_days * 24:
            raise ValueError(
                "the issuer would outlive its trust anchor: shorten the issuer or "
                "lengthen anchor_days"
            )
        if self.leaf_hours > self.issuer_days * 24:
            raise ValueError(
                "leaf_hours is longer than the issuer's lifetime: shorten it or lengthen "
                "issuer_days"
            )
        return self

    @property
    def anchor(self) -> timedelta:
        return timedelta(days=self.anchor_days)

    @property
    def issuer(self) -> timedelta:
        return timedelta(days=self.issuer_days)


class MaintenanceWindow(Section):
    """When a mesh may be upgraded: for some time after each time of a cron expression."""

    cron: str = Field(
        default="0 2 * * 2",
        title="Opens (cron)",
        description="Cron expression for when the window opens.",
    )
    duration_minutes: int = Field(
        default=120,
        ge=5,
        le=10080,
        title="Duration (minutes)",
        description="How long it stays open. An upgrade that has begun finishes even after it "
        "closes.",
    )
    timezone: str = Field(
        default="UTC",
        title="Time zone",
        description="IANA time zone of the cron expression, such as Europe/Berlin.",
    )

    @field_validator("cron")
    @classmethod
    def _cron(cls, value: str) -> str:
        try:
            CronSim(value, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(
                f"{value!r} is not a cron expression ({error}): give minute, hour, day, month and "
                "weekday, such as `0 2 * * 2`"
            ) from None
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError(
                f"{value!r} is not a time zone: give an IANA name such as UTC or Europe/Berlin"
            )
        return value

    def opening(self, now: datetime) -> datetime:
        """Returns when the window that is open at `now` opened, else when the next one opens."""
        zone = ZoneInfo(self.timezone)
        # Compares in UTC and searches backwards from a later time: when clocks are set back, a
        # local time occurs twice, and CronSim takes it for the first.
        before = CronSim(self.cron, (now + timedelta(hours=3)).astimezone(zone), reverse=True)
        last = next((o for opened in before if (o := opened.astimezone(UTC)) <= now), None)
        if last is not None and now - last < timedelta(minutes=self.duration_minutes):
            return last
        after = CronSim(self.cron, now.astimezone(zone))
        return next(o for opening in after if (o := opening.astimezone(UTC)) > now)


class UpgradePolicy(Section):
    """Which Linkerd releases a mesh takes, and when and how it takes them."""

    channel: Literal["stable", "edge"] | None = Field(
        default=None,
        title="Channel",
        description="The channel whose releases start an upgrade. Empty: that of the version.",
    )
    constraint: str | None = Field(
        default=None,
        title="Version constraint",
        description="Which versions to take, as comparators such as `>=2.12 <2.15` "
        "or `<27`. Empty: every version of the channel.",
    )
    window: MaintenanceWindow | None = Field(
        default=None,
        title="Maintenance window",
        description="Upgrades begin only in this window. Empty: at any time.",
    )
    automatic: Literal["off", "approved", "unattended"] = Field(
        default="off",
        title="Automatic upgrades",
        description="Whether a new release in the channel starts an upgrade. approved: it does, "
        "and waits for approval of its plan. unattended: it does, without asking. In a file, `on` "
        "is approved. Run `prefect deploy --all` after changing this.",
    )
    approval: bool = Field(
        default=False,
        title="Approval",
        description="Every upgrade, including one that you start, pauses after its plan until it "
        "is approved.",
    )
    approval_hours: ApprovalHours = 72
    soak_minutes: int = Field(
        default=0,
        ge=0,
        le=1440,
        title="Soak (minutes)",
        description="How long the new control plane runs before the data plane is restarted.",
    )
    settle_seconds: int = Field(
        default=60,
        ge=0,
        le=3600,
        title="Settling (seconds)",
        description="How long checks may fail, during the soak and after the last restart, before "
        "the upgrade rolls back. Restarted pods may need a moment.",
    )
    lease_seconds: LeaseSeconds = 60
    dependencies: list[Dependency] = Field(
        default_factory=list[Dependency],
        title="Dependencies",
        description="Which other releases the same run upgrades, to their configured version or "
        "the newest.",
    )

    @field_validator("automatic", mode="before")
    @classmethod
    def _automatic(cls, value: object) -> object:
        # YAML reads `on` and `off` as booleans.
        return {True: "approved", False: "off"}[value] if isinstance(value, bool) else value

    @property
    def needs_approval(self) -> bool:
        """Whether an upgrade waits for approval after its plan."""
        return self.approval or self.automatic == "approved"

    @field_validator("constraint")
    @classmethod
    def _constraint(cls, value: str | None) -> str | None:
        if value and not is_constraint(value):
            raise ValueError(
                f"{value!r} is not a constraint: join comparators such as >=2.12 or <2.15 by "
                "spaces, and alternatives by ||"
            )
        return value


class MeshConfig(Section):
    """One Linkerd mesh: where it is, what is in it, and how it is installed."""

    name: Namespace = Field(
        default="mesh",
        title="Name",
        description="The mesh's name in events, artifacts and blocks. If left at `mesh`: the name "
        "of the Linkerd Mesh block.",
    )
    profile: Literal["production", "demo"] = Field(
        default="production",
        title="Profile",
        description="Whether demo applications are installed: viz, Traefik and emojivoto. "
        "production: none. demo: all of them. A part's own `enabled` overrides this.",
    )
    access: ClusterAccess = Field(
        default_factory=ClusterAccess,
        title="Cluster access",
        description="How to reach the cluster.",
    )
    version: str = Field(
        default="edge-26.8.3",
        title="Linkerd version",
        description="Channel and version, such as stable-2.14.10 or edge-26.8.3. A block keeps the "
        "version it was saved with.",
    )
    namespaces: Namespaces = Field(
        default_factory=Namespaces, title="Namespaces", description="Where each part is installed."
    )
    trust_domain: DnsName = Field(
        default="cluster.local",
        title="Trust domain",
        description="The root of every identity; the anchor is `root.linkerd.<trust domain>`.",
    )
    cluster_domain: DnsName = Field(
        default="cluster.local", title="Cluster domain", description="The cluster's DNS domain."
    )
    ha: bool = Field(
        default=False,
        title="High availability",
        description="Three replicas spread over nodes, resource requests, and webhooks that fail "
        "closed, as in Linkerd's values-ha.yaml.",
    )
    values: ExtraValues = Field(
        default_factory=ExtraValues,
        title="Control plane values",
        description="Extra values for linkerd-control-plane (linkerd2 in 2.11).",
    )
    charts: ChartSources = Field(
        default_factory=ChartSources, title="Charts", description="Where charts come from."
    )
    registry: PrivateRegistry | None = Field(
        default=None, title="Private registry", description="Empty: images come from upstream."
    )
    viz: Viz = Field(default_factory=Viz, title="Viz", description="The viz extension.")
    jaeger: Jaeger = Field(
        default_factory=Jaeger, title="Jaeger", description="The jaeger extension."
    )
    trust_anchor: TrustAnchorConfig = Field(
        default_factory=TrustAnchorConfig,
        title="Trust anchor",
        description="The root of trust. Empty: made here, its key in a Prefect Secret block.",
    )
    issuer: Literal["self-signed", "cert-manager"] = Field(
        default="self-signed",
        title="Issuer mode",
        description="self-signed: these flows sign and renew the issuer. "
        "cert-manager: cert-manager does.",
    )
    cert_manager: CertManager = Field(
        default_factory=CertManager,
        title="cert-manager",
        description="Settings of issuer mode cert-manager.",
    )
    lifetimes: Lifetimes = Field(
        default_factory=Lifetimes, title="Lifetimes", description="Lifetimes of certificates."
    )
    traefik: Traefik = Field(
        default_factory=Traefik, title="Traefik", description="The ingress controller."
    )
    upgrade: UpgradePolicy = Field(
        default_factory=UpgradePolicy,
        title="Upgrades",
        description="Which releases the mesh is upgraded to, when and how.",
    )
    emojivoto: Emojivoto = Field(
        default_factory=Emojivoto, title="emojivoto", description="The demo application."
    )
    timeout_seconds: int = Field(
        default=600,
        ge=10,
        le=7200,
        title="Timeout (seconds)",
        description="How long one Helm release or rollout may take.",
    )

    @field_validator("version")
    @classmethod
    def _version(cls, value: str) -> str:
        return str(LinkerdVersion.parse(value))

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, data: object) -> object:
        for old, new in (
            ("smoke_test", "emojivoto.enabled"),
            ("emojivoto_manifest", "emojivoto.manifest"),
        ):
            if isinstance(data, dict) and old in data:
                raise ValueError(f"{old} is {new} now: write that instead")
        return cast("object", data)

    @model_validator(mode="after")
    def _profile(self) -> Self:
        is_demo = self.profile == "demo"
        for part in ("viz", "traefik", "emojivoto"):
            section: Viz | Traefik | Emojivoto = getattr(self, part)
            if section.enabled is None:
                setattr(self, part, section.model_copy(update={"enabled": is_demo}))
        return self

    @model_validator(mode="after")
    def _combination(self) -> MeshConfig:
        version = self.linkerd
        if self.jaeger.enabled and "linkerd-jaeger" not in release_facts(version).extensions:
            raise ValueError(
                f"{version} has no linkerd-jaeger chart: turn jaeger off, or choose an older "
                "version; newer proxies export traces by proxy.tracing values"
            )
        if self.issuer == "cert-manager" and self.trust_anchor.custody == "offline":
            raise ValueError(
                "cert-manager signs with the trust anchor's key: set trust_anchor.custody to "
                "in-cluster, or issuer to self-signed"
            )
        if self.viz.dashboard.host and not self.viz.enabled:
            raise ValueError(
                "viz.dashboard.host needs viz: enable viz (viz.enabled) or leave the host empty"
            )
        if self.viz.dashboard.host and not self.traefik.enabled:
            raise ValueError(
                "viz.dashboard.host needs the ingress: enable traefik (traefik.enabled) or leave "
                "the host empty"
            )
        return self

    @property
    def linkerd(self) -> LinkerdVersion:
        """The version, parsed."""
        return LinkerdVersion.parse(self.version)

    @property
    def anchor_namespace(self) -> str:
        """The namespace of a key kept in the cluster; a ClusterIssuer reads cert-manager's."""
        by_cluster_issuer = (
            self.issuer == "cert-manager" and self.cert_manager.issuer_kind == "ClusterIssuer"
        )
        return self.namespaces.cert_manager if by_cluster_issuer else self.namespaces.linkerd
