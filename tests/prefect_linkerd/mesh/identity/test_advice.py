"""Following the advice of refusals about keys, certificates and values resolves them."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from prefect_linkerd.mesh.config.model import ExtraValues, MeshConfig
from prefect_linkerd.mesh.errors import CertificateError, InvalidInput, OwnershipConflict
from prefect_linkerd.mesh.helm.values import ClusterFacts, check_combination, load_extra_values
from prefect_linkerd.mesh.identity.issuer import check_issuer_secret
from prefect_linkerd.mesh.identity.trust_anchor import (
    AnchorSnapshot,
    FileKeyStore,
    decide_trust_anchor,
    provided_certificate,
    provided_key,
    provided_pair,
    tls_secret,
)
from prefect_linkerd.mesh.pki.certificates import (
    KeyPair,
    check_issuer,
    check_key_matches,
    check_trust_anchor,
    load_private_key,
    read_certificates,
    sign_issuer,
)
from prefect_linkerd.mesh.snapshot.expiry import Role, expiring
from tests.prefect_linkerd.mesh.identity.test_anchor_decision import (
    ISSUERS,
    ONE,
    TWO,
    WHERE,
    snapshot,
)
from tests.support.advice import advice, follows, follows_each
from tests.support.certificates import DOMAIN, NOW, YEAR, Made, make, private_pem
from tests.support.extra_values import PLANE, judged
from tests.support.snapshots import expiry

CONFIG = MeshConfig()
PASSPHRASE = SecretStr("correct horse battery staple")
ROOT = make()
RSA = rsa.generate_private_key(65537, 2048)
ISSUER = "identity.linkerd.cluster.local"


Anchor = tuple[str, str, datetime]
ANCHORS: dict[str, tuple[Anchor, str, Anchor]] = {
    # Certificate, trust domain and time; the advice; the same three after it was followed.
    "a key beside it": (
        (ROOT.pem + private_pem(ROOT.key), DOMAIN, NOW),
        "Give the certificate alone",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "no PEM": (
        ("junk", DOMAIN, NOW),
        "Give the text between -----BEGIN CERTIFICATE-----",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "a chain": (
        (make("intermediate", signer=ROOT).pem + ROOT.pem, DOMAIN, NOW),
        "it is number 2 of the 2",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "two roots": (
        (ROOT.pem + make().pem, DOMAIN, NOW),
        "Give the trust anchor alone",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "another trust domain's: another anchor": (
        (make("root.linkerd.other.example").pem, DOMAIN, NOW),
        "Give the anchor of this trust domain",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "another trust domain's: another domain": (
        (make("root.linkerd.other.example").pem, DOMAIN, NOW),
        "or set trust_domain to the anchor's",
        (make("root.linkerd.other.example").pem, "other.example", NOW),
    ),
    "an issuer": (
        (make(ISSUER, signer=ROOT).pem, DOMAIN, NOW),
        "Give the root that signed this issuer",
        (ROOT.pem, DOMAIN, NOW),
    ),
    # What the step CLI makes with --profile root-ca.
    "no CA": (
        (make(is_ca=False, may_sign=False).pem, DOMAIN, NOW),
        "--profile root-ca",
        (make("Root", path_length=1).pem, DOMAIN, NOW),
    ),
    "a path length: none": (
        (make(path_length=0).pem, DOMAIN, NOW),
        "Make it without a path length limit",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "a path length: one": (
        (make(path_length=0).pem, DOMAIN, NOW),
        "or with 1",
        (make(path_length=1).pem, DOMAIN, NOW),
    ),
    "a key of a kind that Linkerd lacks": (
        (make(key=ec.generate_private_key(ec.SECP384R1())).pem, DOMAIN, NOW),
        "again with an ECDSA P-256 key",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "a signature that Linkerd lacks": (
        (make(hash_algorithm=hashes.SHA512()).pem, DOMAIN, NOW),
        "signed with SHA-256",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "expired": (
        (make(ends=timedelta(hours=-1)).pem, DOMAIN, NOW),
        "Give one that is valid",
        (ROOT.pem, DOMAIN, NOW),
    ),
    "not yet valid: later": (
        (make(starts=timedelta(days=2)).pem, DOMAIN, NOW),
        "Wait until then",
        (make(starts=timedelta(days=2)).pem, DOMAIN, NOW + timedelta(days=3)),
    ),
    "not yet valid: another": (
        (make(starts=timedelta(days=2)).pem, DOMAIN, NOW),
        "or give another one",
        (ROOT.pem, DOMAIN, NOW),
    ),
}


@follows_each(ANCHORS)
def test_advice_about_a_trust_anchor(case: str) -> None:
    def check(pem: str, domain: str, now: datetime) -> object:
        return check_trust_anchor(pem, domain, now, "anchor", version=CONFIG.linkerd)

    before, text, after = ANCHORS[case]
    assert text in advice(InvalidInput, lambda: check(*before))
    assert check(*after)


@follows(
    "Run rotate_anchor, which gives",
)
def test_an_anchor_in_use_is_replaced_by_one_that_fits() -> None:
    """`rotate_anchor` makes an anchor as bootstrap does."""
    weak = make(key=ec.generate_private_key(ec.SECP384R1()))

    def check(made: Made, *, in_use: bool) -> object:
        return check_trust_anchor(
            made.pem, DOMAIN, NOW, "anchor", version=CONFIG.linkerd, in_use=in_use
        )

    text = advice(InvalidInput, lambda: check(weak, in_use=True))
    assert text.startswith("Run rotate_anchor, which gives")
    assert check(ROOT, in_use=True)


def issuer(signer: Made, **options: Any) -> str:
    return make(ISSUER, signer=signer, **options).pem


EXPIRED = make(ends=timedelta(hours=-1))
AGAIN = "Delete the Secret and run bootstrap again, which issues a new one."
NEW = sign_issuer(ROOT.pair, DOMAIN, YEAR, NOW).certificate
Issuer = tuple[str, str, str]
FIT: Issuer = (NEW, ROOT.pem, DOMAIN)
CHAINS: dict[str, tuple[Issuer, str, Issuer]] = {
    # The issuer, the trust bundle and the trust domain.
    "no CA": ((issuer(ROOT, is_ca=False), ROOT.pem, DOMAIN), AGAIN, FIT),
    "RSA": ((issuer(ROOT, key=RSA), ROOT.pem, DOMAIN), AGAIN, FIT),
    "expired: rotate_issuer": (
        (issuer(ROOT, ends=timedelta(hours=-1)), ROOT.pem, DOMAIN),
        "Check the clock. If it has expired, run rotate_issuer with accept_downtime; if no",
        FIT,
    ),
    "expired: bootstrap": (
        (issuer(ROOT, ends=timedelta(hours=-1)), ROOT.pem, DOMAIN),
        "delete the Secret and run bootstrap again",
        FIT,
    ),
    "another trust domain's: that": (
        (make("identity.linkerd.other", signer=ROOT).pem, ROOT.pem, DOMAIN),
        "Set trust_domain to the mesh's own",
        (make("identity.linkerd.other", signer=ROOT).pem, ROOT.pem, "other"),
    ),
    "another trust domain's: a new one": (
        (make("identity.linkerd.other", signer=ROOT).pem, ROOT.pem, DOMAIN),
        "or issue it for this trust domain",
        FIT,
    ),
    "another anchor's: in the bundle": (
        (NEW, make().pem, DOMAIN),
        "put it back into the trust bundle",
        (NEW, make().pem + ROOT.pem, DOMAIN),
    ),
    "another anchor's: provided": (
        (NEW, make().pem, DOMAIN),
        "Provide the anchor that signed it",
        FIT,
    ),
    "an expired anchor's": (
        (issuer(EXPIRED), EXPIRED.pem, DOMAIN),
        "Check the clock. If it has expired, run rotate_anchor with recover.",
        FIT,
    ),
}


@follows_each(CHAINS)
def test_advice_about_an_issuer(case: str) -> None:
    def check(pem: str, bundle: str, domain: str) -> object:
        return check_issuer(pem, bundle, domain, NOW, "issuer", version=CONFIG.linkerd)

    before, text, after = CHAINS[case]
    assert text in advice(CertificateError, lambda: check(*before))
    assert check(*after)


@follows(
    "Check the clock. If it has expired, run rotate_anchor with recover.",
)
def test_advice_about_an_anchor_that_signs_no_more() -> None:
    def sign(anchor: Made, now: datetime = NOW) -> KeyPair:
        return sign_issuer(anchor.pair, DOMAIN, YEAR, now)

    text = advice(CertificateError, lambda: sign(EXPIRED))
    assert text == "Check the clock. If it has expired, run rotate_anchor with recover."
    assert sign(EXPIRED, NOW - timedelta(hours=2))
    assert sign(ROOT)


@follows(
    "Run rotate_issuer, which writes both.",
    "Add the issuer's certificate and key to it as tls.crt and tls.key",
)
def test_advice_about_an_issuers_secret() -> None:
    pair = sign_issuer(ROOT.pair, DOMAIN, YEAR, NOW)

    def check(certificate: str, key: SecretStr) -> object:
        secret = tls_secret("linkerd-identity-issuer", "linkerd", certificate, key, ROOT.pem)
        return check_issuer_secret(secret, CONFIG, ROOT.pem, NOW)

    text = advice(
        CertificateError, lambda: check(pair.certificate, SecretStr(private_pem(make().key)))
    )
    assert text == "Run rotate_issuer, which writes both."
    again = sign_issuer(ROOT.pair, DOMAIN, YEAR, NOW)
    check(again.certificate, again.private_key)
    # The form of the linkerd CLI: tls.crt and tls.key beside its own keys.
    whole = tls_secret(
        "linkerd-identity-issuer", "linkerd", pair.certificate, pair.private_key, ROOT.pem
    )
    opaque = {**whole, "type": "Opaque", "data": {"crt.pem": "Yw==", "key.pem": "aw=="}}
    text = advice(OwnershipConflict, lambda: check_issuer_secret(opaque, CONFIG, ROOT.pem, NOW))
    assert "as tls.crt and tls.key, and leave its other keys" in text


KEYS: dict[str, tuple[tuple[str, str | None], str, tuple[str, str | None]]] = {
    # The key and the passphrase.
    "encrypted": (
        (private_pem(ROOT.key, "some passphrase"), None),
        "Set trust_anchor.passphrase",
        (private_pem(ROOT.key, "some passphrase"), "some passphrase"),
    ),
    "a wrong passphrase": (
        (private_pem(ROOT.key, "some passphrase"), "another"),
        "the right passphrase if encrypted",
        (private_pem(ROOT.key, "some passphrase"), "some passphrase"),
    ),
    "a certificate": ((ROOT.pem, None), "Give the key in PEM", (private_pem(ROOT.key), None)),
    "Ed25519": (
        (private_pem(ed25519.Ed25519PrivateKey.generate()), None),
        "Create the certificate and its key again with ECDSA P-256",
        (private_pem(ROOT.key), None),
    ),
}


@follows_each(KEYS)
def test_advice_about_a_private_key(case: str) -> None:
    def load(key: str, passphrase: str | None) -> object:
        return load_private_key(
            SecretStr(key), "key", SecretStr(passphrase) if passphrase else None
        )

    before, text, after = KEYS[case]
    assert text in advice(InvalidInput, lambda: load(*before))
    assert load(*after)


@follows(
    "Give the key that was made with this certificate.",
    "Give private_key.",
)
def test_advice_about_a_key_of_another_certificate() -> None:
    other = SecretStr(private_pem(make().key))
    text = advice(InvalidInput, lambda: check_key_matches(ROOT.pem, other, "key"))
    assert text == "Give the key that was made with this certificate."
    check_key_matches(ROOT.pem, ROOT.pair.private_key, "key")
    alone = shared(certificate=ROOT.pem).trust_anchor
    assert advice(InvalidInput, lambda: provided_key(alone, ROOT.pem)) == "Give private_key."
    both = alone.model_copy(update={"private_key": ROOT.pair.private_key})
    assert provided_key(both, ROOT.pem)


@follows(
    "Issue the certificate again for an ECDSA P-256 key.",
)
def test_advice_about_a_certificate_whose_key_is_of_no_known_kind() -> None:
    der = ROOT.certificate.public_bytes(Encoding.DER)
    # The OID of a named curve, 1.2.840.10045.3.1.7, with its last byte changed.
    curves = bytes([0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1])
    odd = der.replace(curves + b"\x07", curves + b"\x63")
    pem = x509.load_der_x509_certificate(odd).public_bytes(Encoding.PEM).decode()
    text = advice(CertificateError, lambda: read_certificates(pem, "a"))
    assert text == "Issue the certificate again for an ECDSA P-256 key."
    assert read_certificates(ROOT.pem, "a")


def shared(**anchor: Any) -> MeshConfig:
    return MeshConfig.model_validate({"trust_anchor": anchor})


Choice = tuple[AnchorSnapshot, MeshConfig]
CHOICES: dict[str, tuple[Choice, str, Choice]] = {
    "another than the mesh's": (
        (snapshot(provided=TWO, has_key=True, trusted=ONE), CONFIG),
        "use rotate_anchor",
        # As a rotation to the provided anchor leaves it.
        (snapshot(provided=TWO, has_key=True, kept=TWO, trusted=TWO), CONFIG),
    ),
    "the mesh was rotated": (
        (snapshot(provided=TWO, has_key=True, kept=ONE, trusted=ONE), CONFIG),
        "remove trust_anchor.certificate or certificate_file, and the private key beside it",
        (snapshot(kept=ONE, trusted=ONE), CONFIG),
    ),
    "another is kept: another place": (
        (snapshot(provided=TWO, has_key=True, kept=ONE), CONFIG),
        "Choose another place for the key (trust_anchor.secret_block or key_file)",
        (snapshot(provided=TWO, has_key=True), CONFIG),
    ),
    "another is kept: that one": (
        (snapshot(provided=TWO, has_key=True, kept=ONE), CONFIG),
        "or leave trust_anchor.certificate empty",
        (snapshot(kept=ONE), CONFIG),
    ),
    "no key": (
        (snapshot(provided=ONE), CONFIG),
        "Give private_key or private_key_file too",
        (snapshot(provided=ONE, has_key=True), CONFIG),
    ),
    "another cluster's: another place": (
        (snapshot(kept=ONE, kept_by="elsewhere"), CONFIG),
        "give this cluster another place for the key",
        (snapshot(), CONFIG),
    ),
    "another cluster's: shared": (
        (snapshot(kept=ONE, kept_by="elsewhere"), CONFIG),
        "as multi-cluster needs, set trust_anchor.share_anchor",
        (snapshot(kept=ONE, kept_by="elsewhere"), shared(share_anchor=True)),
    ),
    "an issuer alone: its anchor": (
        (snapshot(issuer=ISSUERS["one"]), CONFIG),
        "Provide the anchor (trust_anchor.certificate)",
        (snapshot(issuer=ISSUERS["one"], provided=ONE), CONFIG),
    ),
    "an issuer alone: moved away": (
        (snapshot(issuer=ISSUERS["one"]), CONFIG),
        "or move this Secret away",
        (snapshot(), CONFIG),
    ),
}


@follows_each(CHOICES)
def test_advice_about_the_choice_of_an_anchor(case: str) -> None:
    before, text, after = CHOICES[case]
    assert text in advice(InvalidInput, lambda: decide_trust_anchor(*before, NOW, WHERE))
    decide_trust_anchor(*after, NOW, WHERE)


@follows(
    "Choose another place for the key, or move that one away.",
    "Name another key_file.",
    "Name another trust_anchor.key_file",
)
def test_advice_about_a_key_file(tmp_path: Path) -> None:
    store = FileKeyStore(tmp_path / "anchor.pem", PASSPHRASE)
    store.store_once(ROOT.pair)
    other = make().pair
    text = advice(OwnershipConflict, lambda: store.store_once(other))
    assert text == "Choose another place for the key, or move that one away."
    elsewhere = FileKeyStore(tmp_path / "other.pem", PASSPHRASE)
    elsewhere.store_once(other)
    assert elsewhere.load() == other
    (tmp_path / "anchor.pem").rename(tmp_path / "moved.pem")
    store.store_once(other)
    assert store.load() == other

    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    text = advice(InvalidInput, FileKeyStore(junk, PASSPHRASE).load)
    assert text == "Name another key_file."
    assert FileKeyStore(tmp_path / "new.pem", PASSPHRASE).load() is None

    folder = tmp_path / "folder"
    folder.mkdir()
    text = advice(InvalidInput, FileKeyStore(folder, PASSPHRASE).load)
    assert text.startswith("Name another trust_anchor.key_file")
    FileKeyStore(folder / "anchor.pem", PASSPHRASE).store_once(other)


@follows(
    "Name an existing file that the flow's user may read.",
    "Convert it: openssl x509 -inform der",
)
def test_advice_about_a_provided_file(tmp_path: Path) -> None:
    def pair_in(certificate: str, key: str) -> KeyPair | None:
        files = shared(certificate_file=tmp_path / certificate, private_key_file=tmp_path / key)
        return provided_pair(files.trust_anchor)

    missing = shared(certificate_file=tmp_path / "anchor.crt").trust_anchor
    text = advice(InvalidInput, lambda: provided_certificate(missing))
    assert text == "Name an existing file that the flow's user may read."
    (tmp_path / "anchor.der").write_bytes(ROOT.certificate.public_bytes(Encoding.DER))
    (tmp_path / "key.pem").write_text(private_pem(ROOT.key))
    run("openssl pkey -in key.pem -outform der -out key.der", tmp_path)
    text = advice(InvalidInput, lambda: pair_in("anchor.der", "key.der"))
    commands = re.findall(r"openssl [^():]+?\.(?:crt|key)", text)
    assert len(commands) == 2, text
    for command in commands:
        run(command, tmp_path)
    pair = pair_in("anchor.crt", "anchor.key")
    assert pair is not None
    assert pair.certificate == ROOT.pem


def run(command: str, folder: Path) -> None:
    subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)


@follows(
    "Name an existing YAML file.",
    "Write keys and values, as in a chart's values.yaml.",
)
def test_advice_about_a_values_file(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"

    def load() -> object:
        return load_extra_values(ExtraValues(files=[file]))

    assert advice(InvalidInput, load) == "Name an existing YAML file."
    file.write_text("a: [")
    assert advice(InvalidInput, load) == "Name an existing YAML file."
    file.write_text("- a")
    assert advice(InvalidInput, load) == "Write keys and values, as in a chart's values.yaml."
    file.write_text("a: 1")
    assert load() == [{"a": 1}, {}]


COMBINATIONS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "high availability": (
        {"version": "stable-2.11.5", "ha": True},
        {
            "Turn ha off": {"ha": False},
            "choose stable-2.12.1 or newer": {"version": "stable-2.12.6"},
            "or use Kubernetes 1.24": {},
        },
    ),
    "pull secrets": (
        {
            "version": "stable-2.11.5",
            "jaeger": {"enabled": True},
            "registry": {"host": "registry.example", "username": "u", "password": "p" * 3},
        },
        {
            "Turn jaeger off": {"jaeger": {"enabled": False}},
            "let the nodes log in to the registry": {"registry": {"host": "registry.example"}},
        },
    ),
}


@follows_each(COMBINATIONS)
def test_advice_about_what_a_cluster_cannot_take(case: str) -> None:
    new = ClusterFacts("v1.34.4", frozenset({"v1", "batch/v1"}))
    old = replace(new, version="v1.24.0", api_versions=new.api_versions | {"policy/v1beta1"})
    before, ways = COMBINATIONS[case]
    [unfit] = check_combination(MeshConfig.model_validate(before), new)
    for way, change in ways.items():
        assert way in unfit.remedy
        facts = new if change else old
        assert check_combination(MeshConfig.model_validate(before | change), facts) == []


EDGE = "edge-26.8.3"
VALUES: dict[str, tuple[tuple[str, dict[str, Any]], str]] = {
    # A version, and extra values for the control plane's chart or for viz's.
    "an anchor": (
        (EDGE, {"identityTrustAnchorsPEM": ONE}),
        "Remove it there: provide an anchor in trust_anchor.certificate or certificate_file, and",
    ),
    "a trust domain": (
        (EDGE, {"identityTrustDomain": "other"}),
        "Remove it there: the mesh's trust_domain sets it.",
    ),
    "a cluster domain": (
        (EDGE, {"clusterDomain": "other"}),
        "Remove it there: the mesh's cluster_domain sets it.",
    ),
    "a scheme": (
        (EDGE, {"identity": {"issuer": {"scheme": "linkerd.io/tls"}}}),
        "Remove it there: the issuer's Secret sets it, and rotate_issuer renews that.",
    ),
    "a namespace": (
        ("stable-2.11.5", {"namespace": "other"}),
        "Remove it there: the mesh's namespaces set it.",
    ),
    "a namespace that is made": (
        ("stable-2.11.5", {"installNamespace": True}),
        "Remove it there: the mesh's namespaces are created outside Helm.",
    ),
    "viz's idea of the control plane": (
        ("stable-2.14.10", {"linkerdNamespace": "other"}),
        "Remove it there: the mesh's namespaces.linkerd sets it.",
    ),
}


@pytest.mark.real_charts
@follows_each(VALUES)
def test_a_value_that_is_removed_is_the_meshs(charts_dir: Path, case: str) -> None:
    (version, value), words = VALUES[case]
    chart = PLANE.get(version, "linkerd-viz")
    [said], wrong = judged(charts_dir, version, chart, ExtraValues(inline=value))
    assert said.remedy.startswith(words)
    none, right = judged(charts_dir, version, chart, ExtraValues())
    assert none == []
    assert wrong == right


@pytest.mark.parametrize("role", ["trust anchor", "issuer", "webhook"])
def test_a_certificate_that_was_renewed_is_not_announced(role: Role) -> None:
    [due] = expiring([expiry(3, role)], CONFIG, [60, 7])
    # Following it: the rotations of tests/prefect_linkerd/mesh/rotation.
    assert due.remedy.startswith("Run rotate_")
    assert expiring([expiry(90, role)], CONFIG, [60, 7]) == ()
