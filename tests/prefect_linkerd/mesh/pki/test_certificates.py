"""Trust anchors and issuers: those made here verify, and wrong ones are refused with a reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.errors import CertificateError, InvalidInput
from prefect_linkerd.mesh.linkerd.version import LinkerdVersion
from prefect_linkerd.mesh.pki import certificates as pki
from prefect_linkerd.mesh.pki.certificates import (
    CLOCK_SKEW,
    create_trust_anchor,
    join_bundle,
    read_certificates,
    sign_issuer,
    signed_by,
)
from tests.support.certificates import DOMAIN, NOW, YEAR, Made, make, parsed, private_pem

EDGE, OLD = LinkerdVersion.parse("edge-26.8.3"), LinkerdVersion.parse("stable-2.11.5")
check_trust_anchor = partial(pki.check_trust_anchor, version=EDGE)
check_issuer = partial(pki.check_issuer, version=EDGE)

moments = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC), allow_imaginary=False
)
lifetimes = st.timedeltas(timedelta(minutes=1), timedelta(days=36500))
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(lambda d: len(d) < 45)


@settings(max_examples=60, deadline=None)
@given(now=moments, anchor_life=lifetimes, issuer_life=lifetimes, domain=domains)
def test_a_proxys_certificate_verifies_through_the_issuer_to_the_anchor(
    now: datetime, anchor_life: timedelta, issuer_life: timedelta, domain: str
) -> None:
    anchor = create_trust_anchor(domain, anchor_life, now)
    issuer = sign_issuer(anchor, domain, issuer_life, now)

    root = check_trust_anchor(anchor.certificate, domain, now, "anchor")
    info = check_issuer(issuer.certificate, anchor.certificate, domain, now, "issuer")

    proxy = make(
        "web",
        signer=parsed(issuer),
        is_ca=None,
        may_sign=False,
        starts=now - NOW,
        ends=now - NOW + timedelta(seconds=30),
        dns_names=("web.emojivoto.serviceaccount.identity.linkerd.cluster.local",),
    )
    verifier = (
        PolicyBuilder()
        .store(Store([parsed(anchor).certificate]))
        .time(now + timedelta(seconds=10))
        .build_client_verifier()
    )
    chain = verifier.verify(proxy.certificate, [parsed(issuer).certificate]).chain
    assert [c.subject for c in chain[1:]] == [
        parsed(issuer).certificate.subject,
        parsed(anchor).certificate.subject,
    ]

    assert (root.common_name, info.common_name) == (
        f"root.linkerd.{domain}",
        f"identity.linkerd.{domain}",
    )
    assert info.not_after <= root.not_after
    second = timedelta(seconds=1)
    assert abs(root.not_after - (now + anchor_life)) <= second
    assert abs(info.not_after - (now + min(anchor_life, issuer_life))) <= second
    assert abs(now - CLOCK_SKEW - root.not_before) <= second
    assert (root.path_length, info.path_length) == (None, 0)
    assert {root.key, info.key} == {"ECDSA P-256"}
    assert {root.signature, info.signature} == {"ECDSA SHA-256"}
    assert info.dns_names == (f"identity.linkerd.{domain}",)


@settings(max_examples=60, deadline=None)
@given(
    lifetime=st.timedeltas(timedelta(hours=1), timedelta(days=4000)),
    passed=st.timedeltas(timedelta(days=-10), timedelta(days=4000)),
)
def test_days_left_and_validity_agree(lifetime: timedelta, passed: timedelta) -> None:
    pem = create_trust_anchor(DOMAIN, lifetime, NOW).certificate
    info = read_certificates(pem, "anchor")[0]
    later = NOW + passed
    assert (info.days_left(later) > 0) == (later < info.not_after)
    if info.is_time_valid(later) and passed > timedelta(0):
        assert check_trust_anchor(pem, DOMAIN, later, "anchor").fingerprint == info.fingerprint
    if info.days_left(later) <= 0:
        with pytest.raises(InvalidInput, match="expired on"):
            check_trust_anchor(pem, DOMAIN, later, "anchor")


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


RSA = rsa_key()


ANCHOR = make()
P384 = ec.SECP384R1()
BAD_ANCHORS: dict[str, tuple[Callable[[], str], str, str]] = {
    "no PEM": (lambda: "hello", "none that can be read", "-----BEGIN CERTIFICATE-----"),
    "nothing": (lambda: "", "none that can be read", "-----BEGIN CERTIFICATE-----"),
    "a damaged PEM": (lambda: make().pem.replace("M", "A", 9), "none that can be read", "Give"),
    "a key alone": (lambda: private_pem(make().key), "a private key beside it", "certificate al"),
    "a key beside it": (
        lambda: make().pem + private_pem(make().key),
        "a private key beside it",
        "the key as private_key",
    ),
    "an encrypted key beside it": (
        lambda: private_pem(make().key, "a passphrase") + make().pem,
        "a private key beside it",
        "the key as private_key",
    ),
    "two certificates": (lambda: make().pem + make().pem, "found 2", "trusting two at a time"),
    "no CA": (lambda: make(is_ca=False).pem, "may not sign others", "--profile root-ca"),
    "no basic constraints": (lambda: make(is_ca=None).pem, "may not sign others", "root-ca"),
    "no right to sign": (lambda: make(may_sign=False).pem, "may not sign others", "root-ca"),
    "a path length of 0": (lambda: make(path_length=0).pem, "pathlen 0", "without a path length"),
    "RSA of 1024 bits": (lambda: make(key=rsa_key(1024)).pem, "RSA 1024", "ECDSA P-256 key"),
    "RSA with SHA-512": (
        lambda: make(key=RSA, hash_algorithm=hashes.SHA512()).pem,
        "RSA SHA-512",
        "SHA-256",
    ),
    "P-384": (
        lambda: make(key=ec.generate_private_key(P384)).pem,
        "ECDSA secp384r1",
        "ECDSA P-256 key",
    ),
    "Ed25519": (
        lambda: make(key=ed25519.Ed25519PrivateKey.generate(), hash_algorithm=None).pem,
        "Ed25519",
        "ECDSA P-256 key",
    ),
    "SHA-512": (lambda: make(hash_algorithm=hashes.SHA512()).pem, "ECDSA SHA-512", "SHA-256"),
    "a chain": (
        lambda: make("leaf", signer=ANCHOR).pem + ANCHOR.pem,
        "found 2",
        "Give the root alone, CN=root.linkerd.cluster.local: it is number 2 of the 2",
    ),
    "another trust domain": (
        lambda: make("root.linkerd.other.example").pem,
        "common name root.linkerd.other.example",
        "or set trust_domain",
    ),
    "an issuer": (
        lambda: make("identity.linkerd.cluster.local").pem,
        "an issuer (identity.linkerd.cluster.local)",
        "Give the root that signed",
    ),
    "expired": (
        lambda: make(starts=-YEAR, ends=timedelta(days=-1)).pem,
        "expired on 2026-05-03",
        "Give one that is valid",
    ),
    "not yet valid": (
        lambda: make(starts=timedelta(hours=1)).pem,
        "not valid before 2026-05-04 13:00 UTC",
        "check the clock",
    ),
}


@pytest.mark.parametrize("wrong", BAD_ANCHORS)
def test_a_wrong_anchor_is_refused_with_a_remedy(wrong: str) -> None:
    pem, found, remedy = BAD_ANCHORS[wrong]
    with pytest.raises(InvalidInput) as caught:
        check_trust_anchor(pem(), DOMAIN, NOW, "trust_anchor.certificate")
    assert caught.value.subject == "trust_anchor.certificate"
    assert found in str(caught.value)
    assert remedy in caught.value.remedy


def test_an_anchor_of_ones_own_name_and_with_text_around_it_is_taken() -> None:
    made = make("Example Corp Mesh Root", path_length=2)
    info = check_trust_anchor(f"Certificate:\n  Data: 1\n{made.pem}\n", DOMAIN, NOW, "anchor")
    assert info.common_name == "Example Corp Mesh Root"
    assert info.pem == made.pem


def test_an_anchor_without_a_name_is_taken() -> None:
    assert check_trust_anchor(make("").pem, DOMAIN, NOW, "anchor").common_name == ""


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
def test_a_proxys_identity_may_be_long_and_nothing_is_said_of_it() -> None:
    identity = "linkerd-proxy-injector.linkerd.serviceaccount.identity.linkerd.cluster.local"
    read = (
        "import sys; from prefect_linkerd.mesh.pki.certificates import read_certificates; "
        "print(read_certificates(sys.stdin.read(), 'proxy')[0].common_name)"
    )
    # In its own process, because pytest handles warnings itself.
    command = [sys.executable, "-W", "error::UserWarning", "-c", read]
    told = subprocess.run(command, input=make(identity).pem, capture_output=True, text=True)
    assert (told.stdout.strip(), told.stderr) == (identity, "")


def test_a_certificate_whose_parts_cannot_be_read_is_an_error_that_names_it() -> None:
    builder = x509.CertificateBuilder(
        extensions=[
            x509.Extension(oid, False, x509.UnrecognizedExtension(oid, b"not DER"))
            for oid in [x509.oid.ExtensionOID.BASIC_CONSTRAINTS]
        ]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    odd = (
        builder.subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + YEAR)
        .sign(key, hashes.SHA256())
    )
    for subject in ("Secret/a/b", "Secret/c/d"):
        with pytest.raises(CertificateError, match=f"^{subject}: "):
            read_certificates(Made(odd, key).pem, subject)
    with pytest.raises(InvalidInput, match="Secret/a/b"):
        check_trust_anchor(Made(odd, key).pem, DOMAIN, NOW, "Secret/a/b")


# Issuers

BAD_ISSUERS: dict[str, tuple[Callable[[], str], str]] = {
    "no PEM": (lambda: "hello", "none that can be read"),
    "no CA": (lambda: make("i", signer=ANCHOR, is_ca=False).pem, "may not sign leaves"),
    "no right to sign": (lambda: make("i", signer=ANCHOR, may_sign=False).pem, "may not sign"),
    "RSA": (lambda: make("i", signer=ANCHOR, key=RSA).pem, "RSA 2048"),
    "SHA-384": (
        lambda: make("i", signer=ANCHOR, hash_algorithm=hashes.SHA384()).pem,
        "ECDSA SHA-384",
    ),
    "expired": (
        lambda: make("i", signer=ANCHOR, ends=timedelta(minutes=-1)).pem,
        "to 2026-05-04 11:59 UTC",
    ),
    "not yet valid": (
        lambda: make("i", signer=ANCHOR, starts=timedelta(hours=1)).pem,
        "valid from 2026-05-04 13:00",
    ),
    "another trust domain": (
        lambda: make("identity.linkerd.other.example", signer=ANCHOR).pem,
        "identity.linkerd.other.example",
    ),
    "another anchor of the same name": (
        lambda: make("i", signer=make()).pem,
        "but by no anchor in the trust bundle",
    ),
    "an expired intermediate": (
        lambda: chain(make("m", signer=ANCHOR, ends=timedelta(hours=-1))),
        "but by no anchor in the trust bundle",
    ),
    "an intermediate that is no CA": (
        lambda: chain(make("m", signer=ANCHOR, is_ca=False)),
        "but by no anchor in the trust bundle",
    ),
}


def chain(intermediate: Made) -> str:
    return make("i", signer=intermediate).pem + intermediate.pem


@pytest.mark.parametrize("wrong", BAD_ISSUERS)
def test_a_wrong_issuer_is_refused(wrong: str) -> None:
    pem, found = BAD_ISSUERS[wrong]
    with pytest.raises(CertificateError) as caught:
        check_issuer(pem(), ANCHOR.pem, DOMAIN, NOW, "Secret/linkerd/linkerd-identity-issuer")
    assert caught.value.subject == "Secret/linkerd/linkerd-identity-issuer"
    assert found in str(caught.value)


def test_an_rsa_anchor_signs_an_issuer_that_linkerd_supports_since_2_12() -> None:
    anchor = make(key=RSA)
    assert check_trust_anchor(anchor.pem, DOMAIN, NOW, "anchor").key == "RSA 2048"
    issuer = sign_issuer(anchor.pair, DOMAIN, YEAR, NOW)
    info = check_issuer(issuer.certificate, anchor.pem, DOMAIN, NOW, "issuer")
    assert (info.key, info.signature) == ("ECDSA P-256", "RSA SHA-256")
    with pytest.raises(InvalidInput, match=r"a key that stable-2\.11\.5 supports: ECDSA P-256"):
        pki.check_trust_anchor(anchor.pem, DOMAIN, NOW, "anchor", version=OLD)
    with pytest.raises(CertificateError, match="a signature that is ECDSA SHA-256"):
        pki.check_issuer(issuer.certificate, anchor.pem, DOMAIN, NOW, "issuer", version=OLD)


def test_an_anchor_that_a_mesh_has_is_replaced_by_a_rotation() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_trust_anchor(
            make(key=ec.generate_private_key(P384)).pem, DOMAIN, NOW, "anchor", in_use=True
        )
    assert caught.value.remedy == "Run rotate_anchor, which gives the mesh a new one."


@pytest.mark.parametrize(
    "name", ["identity.linkerd.cluster.local", "identity.l5d.cluster.local", "Vault", ""]
)
def test_an_issuer_of_any_other_name_is_taken_as_linkerd_takes_it(name: str) -> None:
    issuer = make(name, signer=ANCHOR)
    assert check_issuer(issuer.pem, ANCHOR.pem, DOMAIN, NOW, "issuer").common_name == name


def test_an_issuer_may_chain_through_intermediates_to_any_anchor_of_the_bundle() -> None:
    upper = make("upper", signer=ANCHOR)
    lower = make("lower", signer=upper)
    issuer = make("identity.linkerd.cluster.local", signer=lower)
    bundle = join_bundle([make().pem, ANCHOR.pem])
    pem = issuer.pem + lower.pem + upper.pem
    found = signed_by(pem, bundle, "issuer")
    assert found is not None
    assert found.pem == ANCHOR.pem
    assert check_issuer(pem, bundle, DOMAIN, NOW, "issuer").pem == issuer.pem
    assert signed_by(issuer.pem + upper.pem, bundle, "issuer") is None


def test_intermediates_that_sign_each_other_end_the_search() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    one, other = make("a", key=key), ec.generate_private_key(ec.SECP256R1())
    second = make("b", key=other, signer=one)
    first = make("a", key=key, signer=second)
    issuer = make("i", signer=first)
    assert signed_by(issuer.pem + first.pem + second.pem, ANCHOR.pem, "issuer") is None


def test_an_issuer_whose_anchor_has_ended_is_refused() -> None:
    anchor = make(ends=timedelta(hours=1))
    issuer = make("i", signer=anchor)
    with pytest.raises(CertificateError, match="rotate_anchor"):
        check_issuer(issuer.pem, anchor.pem, DOMAIN, NOW + timedelta(hours=2), "issuer")


def test_an_issuer_that_a_cluster_ahead_of_us_has_just_signed_is_taken() -> None:
    issuer = make("i", signer=ANCHOR, starts=CLOCK_SKEW)
    check_issuer(issuer.pem, ANCHOR.pem, DOMAIN, NOW, "issuer")


def test_an_anchor_that_has_ended_signs_nothing() -> None:
    pair = create_trust_anchor(DOMAIN, YEAR, NOW)
    with pytest.raises(CertificateError, match="rotate_anchor"):
        sign_issuer(pair, DOMAIN, YEAR, NOW + 2 * YEAR)


def test_the_issuer_names_its_signers_key_as_the_anchor_itself_does() -> None:
    # Go 1.25 and newer derive the identifier with SHA-256; OpenSSL refuses a chain in which they
    # differ.
    anchor = make(key_identifier=bytes(range(20)))
    issuer = parsed(sign_issuer(anchor.pair, DOMAIN, YEAR, NOW)).certificate
    authority = issuer.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == bytes(range(20))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_a_bundle_has_each_anchor_once_in_the_order_given(order: list[int]) -> None:
    bundle = join_bundle([ANCHORS[index].pem.strip() for index in order])
    wanted = list(dict.fromkeys(order))
    assert [info.pem for info in read_certificates(bundle, "bundle")] == [
        ANCHORS[index].pem for index in wanted
    ]
    assert join_bundle([bundle, bundle]) == bundle


ANCHORS = [make(), make(), make()]
