"""What a user may configure of a mesh, and every wrong combination with its remedy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from prefect_linkerd.mesh.config.model import MeshConfig
from tests.support.schema import undescribed_fields

PEM = "-----BEGIN CERTIFICATE-----\n"

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown channel", {"version": "preview-26.1.1"}, "stable-2.14.10 or edge-26.8.3"),
    ("no channel", {"version": "2.14.10"}, "Write the channel"),
    ("a version too old", {"version": "stable-2.10.2"}, "stable-2.11.0 or newer"),
    ("an edge too old", {"version": "edge-21.1.1"}, "edge-23.1.1 or newer"),
    (
        "jaeger without its chart",
        {"version": "edge-26.8.3", "jaeger": {"enabled": True}},
        "turn jaeger off",
    ),
    (
        "cert-manager without the anchor's key",
        {"issuer": "cert-manager"},
        "set trust_anchor.custody to in-cluster",
    ),
    ("a host with a scheme", {"viz": {"dashboard": {"host": "https://a.b"}}}, "leave out the sch"),
    ("a host with a port", {"viz": {"dashboard": {"host": "a.example:80"}}}, "give the host alone"),
    ("a host that is an address", {"viz": {"dashboard": {"host": "10.0.0.1"}}}, "DNS name"),
    ("a host of one label", {"viz": {"dashboard": {"host": "viz"}}}, "give a full name"),
    ("a wildcard host", {"viz": {"dashboard": {"host": "*.a.example"}}}, "give one DNS name"),
    (
        "a host without viz",
        {"viz": {"enabled": False, "dashboard": {"host": "viz.a.example"}}},
        "enable viz",
    ),
    (
        "a host without the ingress",
        {
            "profile": "demo",
            "traefik": {"enabled": False},
            "viz": {"dashboard": {"host": "viz.a.example"}},
        },
        "enable traefik",
    ),
    (
        "a host without demo applications",
        {"viz": {"dashboard": {"host": "viz.a.example"}}},
        "viz.enabled",
    ),
    ("a test that installs", {"smoke_test": True}, "smoke_test is emojivoto.enabled now"),
    ("an old manifest", {"emojivoto_manifest": "x.yml"}, "emojivoto.manifest now"),
    ("an unknown profile", {"profile": "test"}, "'production' or 'demo'"),
    ("a user name with a colon", {"viz": {"dashboard": {"username": "a:b"}}}, "no colon"),
    ("a namespace in capitals", {"namespaces": {"linkerd": "Linkerd"}}, "lower-case"),
    ("a namespace used twice", {"namespaces": {"viz": "linkerd"}}, "give each part its own"),
    ("a trust domain that is none", {"trust_domain": "cluster_local"}, "not a DNS name"),
    ("a cluster domain that is none", {"cluster_domain": ".local"}, "not a DNS name"),
    ("a registry with a scheme", {"registry": {"host": "https://r.example"}}, "leave it out"),
    ("a registry in capitals", {"registry": {"host": "R.example/X"}}, "lower case"),
    (
        "a registry user without a password",
        {"registry": {"host": "r.example", "username": "u"}},
        "give both or none",
    ),
    ("an unknown field", {"trustdomain": "a"}, "Extra inputs are not permitted"),
    ("an unknown chart source", {"charts": {"linkerd": "ftp://a.b"}}, "https://"),
    (
        "two ways to the cluster",
        {"access": {"in_cluster": True, "context": "prod"}},
        "turn in_cluster off",
    ),
    ("renewal after the end", {"lifetimes": {"issuer_hours": 24}}, "renew it continuously"),
    (
        "an issuer that outlives the anchor",
        {"lifetimes": {"anchor_days": 30, "issuer_days": 60}},
        "shorten the issuer",
    ),
    (
        "a leaf that outlives the issuer",
        {"lifetimes": {"issuer_days": 1, "leaf_hours": 48}},
        "leaf_hours",
    ),
    (
        "an anchor given twice",
        {"trust_anchor": {"certificate": PEM, "certificate_file": "a.crt"}},
        "given twice",
    ),
    (
        "a key given twice",
        {
            "trust_anchor": {
                "certificate": PEM,
                "private_key": "x",
                "private_key_file": "a.key",
            }
        },
        "given twice",
    ),
    ("a key without its certificate", {"trust_anchor": {"private_key": "x"}}, "certificate too"),
    ("a key file in clear", {"trust_anchor": {"key_file": "a.key"}}, "give a passphrase"),
    ("a short passphrase", {"trust_anchor": {"passphrase": "hunter2"}}, "give a longer one"),
    (
        "two places for the key",
        {
            "trust_anchor": {
                "key_file": "a.key",
                "passphrase": "correct horse battery",
                "secret_block": "b",
            }
        },
        "not both",
    ),
    (
        "an in-cluster key kept elsewhere",
        {"trust_anchor": {"custody": "in-cluster", "secret_block": "b"}},
        "choose offline",
    ),
]


@pytest.mark.parametrize(("given", "remedy"), [pytest.param(g, r, id=i) for i, g, r in BAD])
def test_wrong_input_is_refused_with_a_remedy(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MeshConfig(**given)
    assert remedy in str(refused.value)


def test_everything_has_a_default() -> None:
    assert MeshConfig().linkerd.channel == "edge"


def test_every_field_explains_itself_in_a_form() -> None:
    assert undescribed_fields(MeshConfig.model_json_schema()) == []


def test_a_refused_secret_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ValidationError) as refused:
        MeshConfig.model_validate({"trust_anchor": {"passphrase": "hunter2"}})
    assert "hunter2" not in str(refused.value)


def test_secrets_are_masked_in_text_and_json() -> None:
    config = MeshConfig.model_validate(
        {"registry": {"host": "r.example", "username": "u", "password": "hunter2"}}
    )
    assert config.registry is not None
    assert config.registry.password == SecretStr("hunter2")
    assert "hunter2" not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize(
    ("policy", "automatic", "asks"),
    [
        ({}, "off", False),
        # YAML reads `on` and `off` as booleans.
        ({"automatic": True}, "approved", True),
        ({"automatic": False}, "off", False),
        ({"automatic": "approved", "approval": False}, "approved", True),
        ({"automatic": "unattended"}, "unattended", False),
        ({"automatic": "unattended", "approval": True}, "unattended", True),
    ],
)
def test_automatic_upgrades_are_off_and_ask_once_switched_on(
    policy: dict[str, Any], automatic: str, asks: bool
) -> None:
    found = MeshConfig.model_validate({"upgrade": policy}).upgrade
    assert (found.automatic, found.needs_approval) == (automatic, asks)


@pytest.mark.parametrize(
    ("given", "installed"),
    [
        ({}, set()),
        ({"profile": "production"}, set()),
        ({"profile": "demo"}, {"viz", "traefik", "emojivoto"}),
        ({"viz": {"enabled": True}}, {"viz"}),
        ({"profile": "demo", "traefik": {"enabled": False}}, {"viz", "emojivoto"}),
        # A form sends null for an empty field; a section's other fields do not enable it.
        ({"profile": "demo", "viz": {"enabled": None}}, {"viz", "traefik", "emojivoto"}),
        ({"traefik": {"version": "40.0.0"}, "emojivoto": {"manifest": "x.yml"}}, set()),
    ],
)
def test_demo_applications_are_installed_by_the_profile_or_when_asked_for(
    given: dict[str, Any], installed: set[str]
) -> None:
    config = MeshConfig.model_validate(given)
    parts = ("viz", "traefik", "emojivoto")
    assert {part for part in parts if getattr(config, part).enabled} == installed
    # The decision is what gets saved.
    kept = config.model_dump(mode="json")
    assert all(isinstance(kept[part]["enabled"], bool) for part in parts)
    assert MeshConfig.model_validate(kept) == config


def test_emojivoto_is_of_one_commit() -> None:
    assert re.search(r"/[0-9a-f]{40}/", MeshConfig().emojivoto.manifest)
