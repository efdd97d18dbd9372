"""What `status` says about a mesh: releases, certificates and unfinished work."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.helm.installed import MeshReleases
from prefect_linkerd.mesh.helm.records import Release
from prefect_linkerd.mesh.pki.certificates import create_trust_anchor, read_certificates
from prefect_linkerd.mesh.records.rotation import RotationRecord
from prefect_linkerd.mesh.records.upgrade import UpgradeRecord
from prefect_linkerd.mesh.snapshot.expiry import Expiry
from prefect_linkerd.mesh.status import Status, decide_status, status_json, status_rows

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ROTATION = RotationRecord("new", "old", "", "spread", NOW.isoformat())
UPGRADE = UpgradeRecord(source="edge-25.4.4", target="edge-26.8.3", started=NOW, releases=())


def status(*, installed: bool = True, **unfinished: Any) -> Status:
    release = Release(
        "linkerd-control-plane",
        "linkerd",
        "linkerd-control-plane",
        "2025.4.4",
        "edge-25.4.4",
        3,
        "deployed",
        NOW,
    )
    pem = create_trust_anchor("cluster.local", timedelta(days=30), NOW).certificate
    (info,) = read_certificates(pem, "test")
    found = MeshReleases({"linkerd-control-plane": release} if installed else {}, {})
    expiry = Expiry("trust anchor", "trust anchor", "ConfigMap/a/b", info, info.days_left(NOW))
    return decide_status(
        MeshConfig(name="north", version="edge-26.8.3"),
        "v1.34.4",
        found,
        [expiry] if installed else [],
        unfinished.get("rotation"),
        unfinished.get("upgrade"),
    )


def text(of: Status) -> str:
    return "\n".join(f"{name}: {line}" for name, line in status_rows(of))


def test_a_mesh_at_rest() -> None:
    said = text(status())
    assert "linkerd: edge-25.4.4\n: the mesh's file wants edge-26.8.3\n" in said
    assert "linkerd-control-plane 2025.4.4, deployed" in said
    assert "certificates: trust anchor: 30 days left, until 2026-12-26" in said
    assert said.endswith("unfinished: nothing")


def test_no_mesh() -> None:
    said = text(status(installed=False))
    assert "linkerd: not installed by Helm\nreleases: none\ncertificates: none" in said


@pytest.mark.parametrize(
    ("unfinished", "words"),
    [
        (
            {"rotation": ROTATION},
            ["begun 2026-11-26 12:00 UTC, in phase spread", "resume: rotate-anchor; give up"],
        ),
        ({"upgrade": UPGRADE}, ["from edge-25.4.4 to edge-26.8.3", "give up: upgrade --go-back"]),
        (
            {
                "upgrade": UPGRADE.model_copy(
                    update={"direction": "back", "reason": "a gate failed"}
                )
            },
            ["going back", ": a gate failed", "resume: upgrade"],
        ),
    ],
)
def test_what_is_not_finished_says_how_to_resume(
    unfinished: dict[str, Any], words: list[str]
) -> None:
    found = status(**unfinished)
    said = text(found)
    assert all(word in said for word in words), said
    assert ("give up" in said) == ("going back" not in said)
    shown = json.loads(json.dumps(status_json(found)))
    assert (shown["rotation"] is None) == (found.rotation is None)
    assert (shown["upgrade"] is None) == (found.upgrade is None)


def test_a_rotation_that_is_done_is_not_shown() -> None:
    done = RotationRecord("new", "old", "", "done", NOW.isoformat())
    assert status(rotation=done).rotation is None
