"""Which trust anchor a mesh gets: an existing one is never replaced."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh.identity.trust_anchor import (
    THIS_CLUSTER,
    AnchorSnapshot,
    decide_trust_anchor,
)
from prefect_linkerd.mesh.pki.certificates import fingerprints, join_bundle
from tests.support.certificates import NOW, make

WHERE = "file /keys/anchor"
CONFIG = MeshConfig()
# A trust anchor of each kind that a mesh may have, and an issuer signed by each.
ANCHORS = {
    "one": make(),
    "two": make(),
    "named": make("Example Corp Root"),
    "expired": make(ends=timedelta(hours=-1)),
    "elsewhere": make("root.linkerd.other.example"),
}
ISSUERS = {
    name: make("identity.linkerd.cluster.local", signer=made).pem for name, made in ANCHORS.items()
}
names = st.sampled_from(sorted(ANCHORS))
maybe = st.none() | names


@settings(max_examples=400)
@given(
    kept=maybe,
    trusted=st.lists(names, unique=True, max_size=3),
    provided=maybe,
    has_key=st.booleans(),
    issuer=maybe,
    kept_by=st.sampled_from(["here", "elsewhere", ""]),
)
def test_an_anchor_that_is_there_is_never_overwritten(
    kept: str | None,
    trusted: list[str],
    provided: str | None,
    has_key: bool,
    issuer: str | None,
    kept_by: str,
) -> None:
    snapshot = AnchorSnapshot(
        kept=ANCHORS[kept].pem if kept else None,
        trusted=join_bundle([ANCHORS[name].pem for name in trusted]) if trusted else "",
        provided=ANCHORS[provided].pem if provided else None,
        has_key=has_key,
        issuer=ISSUERS[issuer] if issuer else None,
        cluster="here",
        kept_by=kept_by,
    )
    try:
        origin, certificate = decide_trust_anchor(snapshot, CONFIG, NOW, WHERE)
    except InvalidInput:
        return
    if origin == "made":
        assert certificate is None
        assert (kept, trusted, provided, issuer) == (None, [], None, None)
        return
    assert certificate is not None
    (chosen,) = fingerprints(certificate, "chosen")
    if kept:
        assert certificate == ANCHORS[kept].pem
    if provided:
        assert certificate == ANCHORS[provided].pem
    if kept and not trusted and not provided:
        assert kept_by == "here"
    if trusted:
        assert chosen in fingerprints(snapshot.trusted, "trusted")
    assert certificate not in (ANCHORS["expired"].pem, ANCHORS["elsewhere"].pem)
    assert origin == ("provided" if provided and not kept else "adopted")


def snapshot(**parts: Any) -> AnchorSnapshot:
    whole: dict[str, Any] = {
        "kept": None,
        "trusted": "",
        "provided": None,
        "has_key": False,
        "issuer": None,
        "cluster": "here",
        "kept_by": "here",
    }
    return AnchorSnapshot(**(whole | parts))


ONE, TWO = ANCHORS["one"].pem, ANCHORS["two"].pem

CHOICES: dict[str, tuple[AnchorSnapshot, tuple[str, str | None]]] = {
    "nothing": (snapshot(), ("made", None)),
    "a dead run kept one": (snapshot(kept=ONE), ("adopted", ONE)),
    "provided with its key": (snapshot(provided=ONE, has_key=True), ("provided", ONE)),
    "one that is kept in the cluster itself": (
        snapshot(kept=ONE, kept_by=THIS_CLUSTER),
        ("adopted", ONE),
    ),
    "one kept before clusters were noted, which the mesh has": (
        snapshot(kept=ONE, kept_by="", trusted=ONE + TWO),
        ("adopted", ONE),
    ),
    "another cluster's, which this mesh has too": (
        snapshot(kept=ONE, kept_by="elsewhere", trusted=ONE),
        ("adopted", ONE),
    ),
    "another cluster's, and its certificate is provided": (
        snapshot(kept=ONE, kept_by="elsewhere", provided=ONE, has_key=True),
        ("adopted", ONE),
    ),
    "provided and kept before": (snapshot(provided=ONE, kept=ONE), ("adopted", ONE)),
    "provided without a key for a mesh with an issuer": (
        snapshot(provided=ONE, issuer=ISSUERS["one"]),
        ("provided", ONE),
    ),
    "a mesh whose key is elsewhere": (
        snapshot(trusted=ONE, issuer=ISSUERS["one"]),
        ("adopted", ONE),
    ),
    "a mesh amid a rotation, signed by the old": (
        snapshot(trusted=ONE + TWO, issuer=ISSUERS["one"]),
        ("adopted", ONE),
    ),
    "a mesh amid a rotation, signed by the new": (
        snapshot(trusted=ONE + TWO, issuer=ISSUERS["two"]),
        ("adopted", TWO),
    ),
    "a bundle whose issuer cannot be read": (
        snapshot(trusted=ONE + TWO, issuer="junk"),
        ("adopted", TWO),
    ),
    "text around the provided one": (
        snapshot(provided="Certificate:\n" + ONE, has_key=True),
        ("provided", ONE),
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_what_is_chosen(case: str) -> None:
    given_, chosen = CHOICES[case]
    assert decide_trust_anchor(given_, CONFIG, NOW, WHERE) == chosen


def test_another_clusters_anchor_is_taken_where_it_is_meant_to_be_shared() -> None:
    shared = MeshConfig.model_validate({"trust_anchor": {"share_anchor": True}})
    for kept_by in ("elsewhere", ""):
        given_ = snapshot(kept=ONE, kept_by=kept_by)
        assert decide_trust_anchor(given_, shared, NOW, WHERE) == ("adopted", ONE)


REFUSALS: dict[str, tuple[AnchorSnapshot, str, str]] = {
    "provided, but the mesh has another": (
        snapshot(provided=TWO, has_key=True, trusted=ONE),
        "trust_anchor.certificate",
        "use rotate_anchor",
    ),
    "provided, but the mesh was rotated to the one that is kept": (
        snapshot(provided=TWO, has_key=True, kept=ONE, trusted=ONE),
        "trust_anchor.certificate",
        f"rotated to the anchor in {WHERE}: remove trust_anchor.certificate",
    ),
    "kept, but the mesh has another": (snapshot(kept=TWO, trusted=ONE), WHERE, "use rotate_anchor"),
    "provided, but another is kept": (
        snapshot(provided=TWO, has_key=True, kept=ONE),
        WHERE,
        "Choose another place",
    ),
    "provided without its key and nothing to adopt": (
        snapshot(provided=ONE),
        "trust_anchor.private_key",
        "Give private_key",
    ),
    "another cluster's": (
        snapshot(kept=ONE, kept_by="elsewhere"),
        WHERE,
        "set trust_anchor.share_anchor",
    ),
    "kept for nobody knows which cluster": (
        snapshot(kept=ONE, kept_by=""),
        WHERE,
        "another place for the key (trust_anchor.secret_block or key_file)",
    ),
    "kept for a cluster, by one that does not know its own": (
        snapshot(kept=ONE, kept_by="", cluster=""),
        WHERE,
        "set trust_anchor.share_anchor",
    ),
    "an issuer of an unknown anchor": (
        snapshot(issuer=ISSUERS["one"]),
        "Secret linkerd-identity-issuer",
        "Provide the anchor",
    ),
    "a Secret of another form and no anchor": (
        snapshot(issuer=""),
        "Secret linkerd-identity-issuer",
        "move this Secret away",
    ),
    "kept, but expired": (
        snapshot(kept=ANCHORS["expired"].pem),
        WHERE,
        "Give one that is valid",
    ),
    "a mesh of another trust domain": (
        snapshot(trusted=ANCHORS["elsewhere"].pem, issuer=ISSUERS["elsewhere"]),
        "ConfigMap linkerd-identity-trust-roots",
        "set trust_domain to the anchor's",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused(case: str) -> None:
    given_, subject, remedy = REFUSALS[case]
    with pytest.raises(InvalidInput) as caught:
        decide_trust_anchor(given_, CONFIG, NOW, WHERE)
    assert caught.value.subject == subject
    assert remedy in caught.value.remedy
