"""Describes a mesh that Helm installed: its configuration, and what each flow can do with it.

`read_adoption` reads, `describe` decides, and nothing is written. The configuration contains what
differs from the defaults and no secrets: the trust anchor's key is left to its owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import yaml

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import CertificateError, InvalidInput, MeshError, NotReady
from prefect_linkerd.mesh.helm.cert_manager import CERT_MANAGER, certificate_for, is_theirs
from prefect_linkerd.mesh.helm.installed import MARKS, MeshReleases, Part, read_mesh_releases
from prefect_linkerd.mesh.helm.ownership import Owner, owner_of, owner_of_release
from prefect_linkerd.mesh.helm.records import Release, Revision, deployed, read_releases
from prefect_linkerd.mesh.helm.values import Values, text_at
from prefect_linkerd.mesh.identity.certificate_anchor import (
    TRUST_MANAGER,
    CertificateAnchor,
    anchors_in,
    read_certificate_anchor,
    signing_secret,
)
from prefect_linkerd.mesh.identity.trust_anchor import (
    ANCHOR_SECRET,
    ISSUER_SECRET,
    LINKERD_TLS,
    TRUST_ROOTS,
    TlsSecret,
    bundle_of,
    read_tls_secret,
)
from prefect_linkerd.mesh.install.dependencies import KINDS, Dependency, is_served, releases_of
from prefect_linkerd.mesh.kubernetes.client import Cluster, Object
from prefect_linkerd.mesh.linkerd.facts import EXTENSION_CHARTS, last_with
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates, signed_by
from prefect_linkerd.mesh.snapshot.webhooks import plan_renewal, webhooks_of

FlowName = Literal[
    "verify_mesh",
    "check_certificates",
    "smoke_test",
    "bootstrap",
    "upgrade",
    "rotate_issuer",
    "rotate_anchor",
    "rotate_webhooks",
]

ANCHORS = ("identityTrustAnchorsPEM",)
COMPUTED = (
    ANCHORS,
    ("identity", "issuer", "scheme"),
    ("identity", "issuer", "tls"),
    ("identity", "issuer", "crtExpiry"),
    ("clusterDomain",),
    ("identityTrustDomain",),
    ("installNamespace",),
    ("namespace",),
    ("linkerdNamespace",),
)
"""Values that these flows compute from the mesh's other fields, or from the cluster."""

_HOURS = re.compile(r"(\d+)h0m0s$")
"""How these flows write the lifetime of leaves; any other format is kept as a chart value."""


@dataclass(frozen=True)
class AdoptionSnapshot:
    """What a description is made from, read once.

    `running` is the version in the control plane's annotation, `revisions` are the deployed ones of
    the mesh's releases, `dependencies` the releases of cert-manager, trust-manager and Traefik, and
    `served` the dependencies that the cluster has. `roots_owner` owns the trust bundle, and
    `anchor_in` has the trust anchor's Secret by namespace.

    If cert-manager signs the issuer, `signing` is the Secret (namespace, name) that it signs with,
    None if its issuer is not a CA issuer; and `anchor` is the trust anchor that a Certificate owns,
    or why that cannot be read. `bundle_owner` owns trust-manager's Bundle, and `certificates` are
    cert-manager's in the mesh's namespaces.
    """

    base: MeshConfig
    linkerd: str
    running: str
    extensions: Mapping[str, str]
    mesh: MeshReleases
    revisions: Mapping[Part, Revision] = field(repr=False)
    roots: str
    roots_owner: Owner | None
    bundle_owner: Owner | None
    issuer: TlsSecret | None = field(repr=False)
    anchor_in: Mapping[str, TlsSecret] = field(repr=False)
    issuer_certificate: Object | None
    signing: tuple[str, str] | None
    anchor: CertificateAnchor | MeshError | None = field(repr=False)
    cert_manager_in: str
    certificates: tuple[Object, ...]
    dependencies: tuple[Release, ...]
    served: frozenset[Dependency]


@dataclass(frozen=True)
class Outlook:
    """Whether a flow works on the mesh, and why not."""

    flow: FlowName
    works: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adoption:
    """A described mesh: `config` has its file's fields, `missing` is what has to be added."""

    mesh: str
    config: dict[str, Any]
    owners: tuple[tuple[str, str], ...]
    outlook: tuple[Outlook, ...]
    missing: tuple[str, ...]


# Reading


def read_adoption(cluster: Cluster, base: MeshConfig) -> AdoptionSnapshot:
    """Reads a running mesh; changes nothing.

    Args:
        base: how the cluster is reached, where charts are, and the mesh's name.

    Raises:
        InvalidInput: the cluster has no Linkerd, or more than one.
    """
    linkerd, running = find_control_plane(cluster)
    extensions = {
        obj["metadata"].get("labels", {})["linkerd.io/extension"]: obj["metadata"]["name"]
        for obj in cluster.list("v1", "Namespace", labels="linkerd.io/extension")
    }
    names = _namespaces(linkerd, extensions)
    releases = read_releases(cluster, values=True)
    manager = _cert_manager_in(cluster, releases)
    config = MeshConfig.model_validate(
        {
            "namespaces": {**names, "cert_manager": manager},
            "jaeger": {"enabled": True},
            "version": str(last_with("linkerd-jaeger")),
        }
    )
    mesh = read_mesh_releases(cluster, config, releases)
    revisions: dict[Part, Revision] = {
        part: revision
        for part, release in mesh.releases.items()
        if (revision := deployed(cluster, release.name, release.namespace)) is not None
    }
    roots = cluster.get("v1", "ConfigMap", TRUST_ROOTS, linkerd)
    bundle = cluster.get(TRUST_MANAGER, "Bundle", TRUST_ROOTS)
    secret = cluster.get("v1", "Secret", ISSUER_SECRET, linkerd)
    issuer = TlsSecret.of(secret) if secret is not None else None
    certificates = [
        obj
        for place in dict.fromkeys(namespace for namespace, _ in webhooks_of(config))
        for obj in cluster.list(CERT_MANAGER, "Certificate", place)
    ]
    dependencies = tuple(
        r for name in (*KINDS, "trust-manager") for r in releases_of(name, releases)
    )
    in_linkerd = [obj for obj in certificates if obj["metadata"]["namespace"] == linkerd]
    certificate = certificate_for(in_linkerd, ISSUER_SECRET)
    signing = (
        signing_secret(Mesh(cluster, config), certificate) if certificate is not None else None
    )
    return AdoptionSnapshot(
        base=base,
        linkerd=linkerd,
        running=running,
        extensions=extensions,
        mesh=mesh,
        revisions=revisions,
        roots=bundle_of(roots),
        roots_owner=owner_of(roots) if roots is not None else None,
        bundle_owner=owner_of(bundle) if bundle is not None else None,
        issuer=issuer,
        anchor_in={
            place: found
            for place in sorted({linkerd, manager})
            if (found := read_tls_secret(cluster, ANCHOR_SECRET, place)) is not None
        },
        issuer_certificate=certificate,
        signing=signing,
        anchor=_certificate_anchor(Mesh(cluster, config)) if certificate is not None else None,
        cert_manager_in=manager,
        certificates=tuple(certificates),
        dependencies=dependencies,
        served=frozenset(name for name in KINDS if is_served(name, cluster.serves)),
    )


def _cert_manager_in(cluster: Cluster, releases: Sequence[Release]) -> str:
    """The namespace of cert-manager, however installed; its default one if it is not installed.

    Its chart and its static manifest give its Deployments the same labels.
    """
    for release in releases_of("cert-manager", releases):
        return release.place
    labels = "app.kubernetes.io/name=cert-manager,app.kubernetes.io/component=controller"
    found = cluster.list("apps/v1", "Deployment", labels=labels, metadata_only=True)
    return next((obj["metadata"]["namespace"] for obj in found), "cert-manager")


def _certificate_anchor(mesh: Mesh) -> CertificateAnchor | MeshError | None:
    try:
        return read_certificate_anchor(mesh)
    except (CertificateError, InvalidInput, NotReady) as error:
        return error


def find_control_plane(cluster: Cluster) -> tuple[str, str]:
    """The namespace of the cluster's one control plane, and the version in its annotation.

    Raises:
        InvalidInput: there is none, or more than one.
    """
    api_version, kind, name = MARKS["linkerd-control-plane"]
    there = [
        obj["metadata"] for obj in cluster.list(api_version, kind, fields=f"metadata.name={name}")
    ]
    if len(there) == 1:
        # Such as `linkerd/helm stable-2.14.10`.
        created: str = there[0].get("annotations", {}).get("linkerd.io/created-by", "")
        return there[0]["namespace"], created.rpartition(" ")[2]
    found = sorted(metadata["namespace"] for metadata in there)
    raise InvalidInput(
        f"{kind} {name}",
        expected="one control plane in the cluster",
        found=f"one in each of {', '.join(found)}" if found else "none",
        remedy="Choose another kubeconfig or context"
        + ("." if found else ", or install a mesh with bootstrap."),
    )


# Deciding


def describe(snapshot: AdoptionSnapshot) -> Adoption:
    """The mesh's configuration, and what the flows could do with it: a pure function."""
    config, left_out = _config(snapshot)
    missing = [*left_out, *_missing(snapshot)]
    return Adoption(
        mesh=snapshot.base.name,
        config=config,
        owners=tuple(_owners(snapshot)),
        outlook=tuple(_outlook(snapshot, config)),
        missing=tuple(missing),
    )


def _version(snapshot: AdoptionSnapshot) -> str:
    release = snapshot.mesh.control_plane
    return release.app_version if release is not None else snapshot.running


def _is_cert_managers(snapshot: AdoptionSnapshot) -> bool:
    return snapshot.issuer_certificate is not None


def _values(snapshot: AdoptionSnapshot, part: Part) -> tuple[Values, Values]:
    """The values that the user set for a part's chart, and the chart's defaults."""
    revision = snapshot.revisions.get(part)
    return (revision.values, revision.defaults) if revision is not None else ({}, {})


def _control_plane(snapshot: AdoptionSnapshot) -> Part:
    return "linkerd2" if "linkerd2" in snapshot.mesh.releases else "linkerd-control-plane"


def _namespaces(linkerd: str, extensions: Mapping[str, str]) -> dict[str, str]:
    """The namespaces of the control plane and of the extensions that these flows install."""
    ours = (name.removeprefix("linkerd-") for name in EXTENSION_CHARTS)
    return {"linkerd": linkerd} | {name: extensions[name] for name in ours if name in extensions}


def _config(snapshot: AdoptionSnapshot) -> tuple[dict[str, Any], list[str]]:
    base = snapshot.base
    user, defaults = _values(snapshot, _control_plane(snapshot))
    left_out: list[str] = []
    names = _namespaces(snapshot.linkerd, snapshot.extensions)
    domain = str(user.get("clusterDomain") or defaults.get("clusterDomain") or "cluster.local")
    trust = str(user.get("identityTrustDomain") or defaults.get("identityTrustDomain") or domain)
    found: dict[str, Any] = {
        "name": base.name,
        "version": _version(snapshot),
        "namespaces": names,
        "cluster_domain": domain,
        "trust_domain": trust,
        "viz": _extension(snapshot, "linkerd-viz", left_out),
        "jaeger": _extension(snapshot, "linkerd-jaeger", left_out),
        # Describing a mesh adds nothing to it.
        "traefik": {"enabled": False},
        "emojivoto": {"enabled": False},
    }
    for key in ("access", "charts"):
        if given := getattr(base, key).model_dump(mode="json", exclude_defaults=True):
            found[key] = given
    lifetime = _HOURS.match(text_at(user, "identity", "issuer", "issuanceLifetime"))
    if lifetime is not None:
        found["lifetimes"] = {"leaf_hours": int(lifetime[1])}
    if _is_cert_managers(snapshot):
        found |= _cert_manager(snapshot, names)
    elif _is_key_in_cluster(snapshot):
        found["trust_anchor"] = {"custody": "in-cluster"}
    if lifetime is not None:
        user = _without(user, ("identity", "issuer", "issuanceLifetime"))
    extra = _own_values(user, defaults, left_out, "linkerd-control-plane")
    if extra:
        found["values"] = {"inline": extra}
    default: dict[str, Any] = MeshConfig().model_dump(mode="json")
    del default["version"]
    return _differing(found, default), left_out


def _cert_manager(snapshot: AdoptionSnapshot, names: Mapping[str, str]) -> dict[str, Any]:
    is_cluster = _anchor_place(snapshot) != snapshot.linkerd
    return {
        "issuer": "cert-manager",
        "cert_manager": {
            "install": False,
            "issuer_kind": "ClusterIssuer" if is_cluster else "Issuer",
            # Somebody else's Certificates are kept as chart values.
            "webhook_certificates": any(
                str(obj["spec"].get("secretName", "")).endswith("-k8s-tls") and not is_theirs(obj)
                for obj in snapshot.certificates
            ),
        },
        "trust_anchor": {"custody": "in-cluster"},
        "namespaces": {**names, "cert_manager": snapshot.cert_manager_in},
    }


def _extension(
    snapshot: AdoptionSnapshot, part: Literal["linkerd-viz", "linkerd-jaeger"], left_out: list[str]
) -> dict[str, Any]:
    if part not in snapshot.mesh.owners:
        return {"enabled": False}
    user, defaults = _values(snapshot, part)
    extra = _own_values(user, defaults, left_out, part)
    return {"enabled": True, **({"values": {"inline": extra}} if extra else {})}


def _own_values(user: Values, defaults: Values, left_out: list[str], part: str) -> Values:
    """The user's values that differ from the chart's, without those that these flows compute and
    without private keys, which are named in `left_out`."""
    found: Values = user
    for path in COMPUTED:
        found = _without(found, path)
    found = _without_keys(found, left_out, part)
    return _differing(found, defaults)


def _without(values: Mapping[str, Any], path: Sequence[str]) -> Values:
    key, *rest = path
    below = values.get(key)
    if rest and isinstance(below, Mapping):
        return {**values, key: _without(cast("Mapping[str, Any]", below), rest)}
    return {k: v for k, v in values.items() if k != key or rest}


def _without_keys(values: Mapping[str, Any], left_out: list[str], path: str) -> Values:
    """Values without private keys and the certificates that belong to them."""
    found: Values = {}
    is_pair = any(key.lower().endswith("keypem") for key in values)
    for key, value in values.items():
        name = f"{path}: {key}" if ": " not in path else f"{path}.{key}"
        if isinstance(value, Mapping):
            found[key] = _without_keys(cast("Mapping[str, Any]", value), left_out, name)
        elif _is_secret(key, value):
            left_out.append(
                f"{name} is a private key and is left out, with its certificate: give both in a "
                "values file (values.files), or let the chart make new ones"
            )
        elif not (is_pair and key in ("crtPEM", "caBundle")):
            found[key] = value
    return found


def _is_secret(key: str, value: Any) -> bool:
    return key.lower().endswith("keypem") or "PRIVATE KEY-----" in str(value)


def _differing(found: Mapping[str, Any], default: Mapping[str, Any]) -> Values:
    """The values that are not the default; empty mappings are left out."""
    differing: Values = {}
    for key, value in found.items():
        below = default.get(key)
        if isinstance(value, Mapping) and (isinstance(below, Mapping) or not value):
            kept = _differing(
                cast("Mapping[str, Any]", value), cast("Mapping[str, Any]", below or {})
            )
            if kept:
                differing[key] = kept
        elif key not in default or value != below:
            differing[key] = value
    return differing


def _owners(snapshot: AdoptionSnapshot) -> Iterator[tuple[str, str]]:
    for part, owner in snapshot.mesh.owners.items():
        yield part, str(owner)
    for release in snapshot.dependencies:
        yield release.chart, str(owner_of_release(release))
    for name in sorted(snapshot.served - {r.chart for r in snapshot.dependencies}):
        yield name, "not a Helm release"
    if snapshot.issuer is not None:
        yield "issuer", f"{snapshot.issuer.owner}, scheme {snapshot.issuer.scheme}"
    if snapshot.roots_owner is not None:
        yield "trust bundle", str(snapshot.roots_owner)
    if isinstance(snapshot.anchor, CertificateAnchor):
        yield "trust anchor", f"cert-manager's {snapshot.anchor.anchor.subject}"


def anchor_of(snapshot: AdoptionSnapshot) -> CertificateInfo | None:
    """The trust anchor that signed the issuer, or else the last one in the trust bundle."""
    try:
        if snapshot.issuer is None or not snapshot.roots:
            return None
        return (
            signed_by(snapshot.issuer.certificate, snapshot.roots, ISSUER_SECRET)
            or (read_certificates(snapshot.roots, TRUST_ROOTS)[-1])
        )
    except MeshError:
        return None


def _has_key(snapshot: AdoptionSnapshot) -> bool:
    """Whether the key that signs issuers is available without the user providing it."""
    return _is_cert_managers(snapshot) or _is_key_in_cluster(snapshot)


def _is_key_in_cluster(snapshot: AdoptionSnapshot) -> bool:
    """Whether Linkerd's namespace has the key of the anchor that signed the issuer."""
    kept = snapshot.anchor_in.get(snapshot.linkerd)
    if kept is None or kept.private_key is None or snapshot.issuer is None:
        return False
    try:
        return signed_by(snapshot.issuer.certificate, kept.certificate, ANCHOR_SECRET) is not None
    except MeshError:
        return False


def _missing(snapshot: AdoptionSnapshot) -> Iterator[str]:
    if _has_key(snapshot):
        return
    anchor = anchor_of(snapshot)
    name = f"{anchor.subject}, sha256 {anchor.fingerprint}" if anchor else "which signs issuers"
    yield (
        f"the private key of the trust anchor ({name}): set trust_anchor.certificate_file and "
        "private_key_file, and where these flows keep the mesh's key (key_file with a passphrase, "
        "or a Prefect Secret block). If the key is lost, rotate_anchor makes a new anchor without "
        "it"
    )


def _outlook(snapshot: AdoptionSnapshot, config: Mapping[str, Any]) -> Iterator[Outlook]:
    yield Outlook("verify_mesh", works=True)
    yield Outlook("check_certificates", works=True)
    yield Outlook("smoke_test", works=True)
    refused = [*_refused(snapshot, config)]
    for flow in ("bootstrap", "upgrade"):
        yield Outlook(flow, not refused, tuple(refused))
    issuer = [*_issuer_refused(snapshot, refused)]
    # If cert-manager makes the anchors, a release that declares none is not written.
    user, _ = _values(snapshot, _control_plane(snapshot))
    is_apart = isinstance(snapshot.anchor, CertificateAnchor) and not text_at(user, *ANCHORS)
    anchor = [*(_unknown_version(config) if is_apart else refused), *_anchor_refused(snapshot)]
    if not _has_key(snapshot):
        issuer.append("the private key of the trust anchor is needed")
    yield Outlook("rotate_issuer", not issuer, tuple(issuer))
    yield Outlook("rotate_anchor", not anchor, tuple(anchor))
    renewal = plan_renewal(snapshot.mesh.releases, snapshot.mesh.owners, snapshot.certificates)
    is_made = bool(renewal.releases)
    yield Outlook("rotate_webhooks", is_made, () if is_made else renewal.left)


def _anchor_refused(snapshot: AdoptionSnapshot) -> Iterator[str]:
    """Why the trust anchor cannot be replaced, regardless of who owns the releases."""
    if not _is_cert_managers(snapshot):
        yield from _issuer_refused(snapshot, ())
        yield from _bundle_refused(snapshot)
        if _is_key_in_cluster(snapshot):
            yield from _anchor_owner(snapshot.anchor_in[snapshot.linkerd])
        return
    match snapshot.anchor:
        case MeshError() as error:
            yield str(error)
        case CertificateAnchor(obstacle=MeshError() as obstacle):
            yield str(obstacle)
        case CertificateAnchor():
            pass
        case _:
            yield from _signer_refused(snapshot)
            yield from _bundle_refused(snapshot)
            if (kept := snapshot.anchor_in.get(_anchor_place(snapshot))) is not None:
                yield from _anchor_owner(kept)


def _signer_refused(snapshot: AdoptionSnapshot) -> Iterator[str]:
    """Why these flows cannot give cert-manager another anchor to sign with."""
    reference = (snapshot.issuer_certificate or {})["spec"]["issuerRef"]
    kind, name = reference.get("kind", "Issuer"), reference["name"]
    place = _anchor_place(snapshot)
    if snapshot.signing is None:
        yield (
            f"{kind} {name} does not sign with a Secret of this cluster: rotate the anchor where "
            "it is kept"
        )
    elif snapshot.signing != (place, ANCHOR_SECRET):
        yield (
            f"{kind} {name} signs with Secret/{'/'.join(snapshot.signing)}, but these flows keep "
            f"an anchor in Secret/{place}/{ANCHOR_SECRET}: rename it, or let a cert-manager "
            "Certificate own it"
        )


def _anchor_place(snapshot: AdoptionSnapshot) -> str:
    """The namespace where cert-manager reads an anchor of ours (`MeshConfig.anchor_namespace`)."""
    reference = (snapshot.issuer_certificate or {})["spec"]["issuerRef"]
    is_cluster = reference.get("kind") == "ClusterIssuer"
    return snapshot.cert_manager_in if is_cluster else snapshot.linkerd


def _bundle_refused(snapshot: AdoptionSnapshot) -> Iterator[str]:
    """Why these flows may not write a trust bundle that the release leaves to somebody else."""
    user, _ = _values(snapshot, _control_plane(snapshot))
    owner = snapshot.roots_owner
    if owner is None or not text_at(user, "identity", "externalCA"):
        return
    if owner.by == "trust-manager":
        owner = snapshot.bundle_owner
    if owner is not None and _is_driven(owner):
        yield f"the trust bundle belongs to {owner}: replace the anchor there"


def _anchor_owner(secret: TlsSecret) -> Iterator[str]:
    if _is_driven(secret.owner):
        yield f"the trust anchor belongs to {secret.owner}: replace it there"


def _is_driven(owner: Owner) -> bool:
    return owner.reconciles and not owner.may_be_copied


def _refused(snapshot: AdoptionSnapshot, config: Mapping[str, Any]) -> Iterator[str]:
    """Why these flows may not write the mesh's releases."""
    drivers = {str(o) for o in snapshot.mesh.owners.values() if o.reconciles}
    for driver in sorted(drivers):
        yield f"it belongs to {driver}: change it there"
    if snapshot.mesh.control_plane is None:
        if not drivers:
            owner = snapshot.mesh.driver
            yield f"it belongs to {owner}, and these flows only write meshes that Helm installed"
        return
    yield from _unknown_version(config)


def _unknown_version(config: Mapping[str, Any]) -> Iterator[str]:
    try:
        LinkerdVersion.parse(str(config.get("version", "")))
    except MeshError as error:
        yield f"its version {error.found or config.get('version')} is not one that these flows know"


def _issuer_refused(snapshot: AdoptionSnapshot, refused: Sequence[str]) -> Iterator[str]:
    if snapshot.issuer is None:
        yield f"there is no Secret {ISSUER_SECRET}"
    elif _is_cert_managers(snapshot):
        if isinstance(snapshot.anchor, MeshError):
            yield str(snapshot.anchor)
        elif snapshot.anchor is None:
            yield from _signer_refused(snapshot)
        elif snapshot.anchor.current.fingerprint not in anchors_in(snapshot.roots):
            yield (
                f"cert-manager has renewed {snapshot.anchor.anchor.subject}, and the trust bundle "
                "lacks the new anchor: run rotate_anchor, which takes over"
            )
    elif snapshot.issuer.scheme == LINKERD_TLS:
        # The issuer is renewed through the release.
        yield from refused
    elif snapshot.issuer.owner.reconciles:
        yield f"the issuer belongs to {snapshot.issuer.owner}: renew it there"


# Showing


def adoption_yaml(adoption: Adoption) -> str:
    """The mesh's file, with its owners, its flows and what is missing as comments."""
    lines = [f"# Mesh {adoption.mesh}, as it runs. Nothing was changed."]
    lines += ["#", "# Owners:", *(f"#   {part}: {owner}" for part, owner in adoption.owners)]
    lines += ["#", "# Flows:"]
    for item in adoption.outlook:
        state = "works" if item.works else "; ".join(item.reasons)
        lines.append(f"#   {item.flow}: {state}")
    if adoption.missing:
        lines += ["#", "# To be added:", *(f"#   - {text}" for text in adoption.missing)]
    return "\n".join(lines) + "\n" + yaml.safe_dump(adoption.config, sort_keys=False)


def adoption_markdown(adoption: Adoption) -> str:
    """The same as a Markdown page."""
    lines = [f"# Mesh {adoption.mesh}, as it runs", "", "Nothing was changed.", ""]
    lines += ["## Its configuration", "", "```yaml"]
    lines += [yaml.safe_dump(adoption.config, sort_keys=False).rstrip(), "```", ""]
    if adoption.missing:
        lines += ["## To be added", "", *(f"- {text}" for text in adoption.missing), ""]
    lines += ["## Flows", "", "| flow | works | why not |", "|---|---|---|"]
    lines += [
        f"| {o.flow} | {'yes' if o.works else 'no'} | {'; '.join(o.reasons)} |"
        for o in adoption.outlook
    ]
    lines += ["", "## Owners", "", "| part | owner |", "|---|---|"]
    lines += [f"| {part} | {owner} |" for part, owner in adoption.owners]
    return "\n".join(lines) + "\n"
