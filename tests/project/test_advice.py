"""A test follows every remedy, or the remedy is listed below with the reason why none can.

Its words are checked against what they name: fields, flags, flows, and other programs' commands.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from prefect_linkerd.cli import app
from prefect_linkerd.cli.flags import parameters_of
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.tasks.declared import declared_flows
from sandbox.binaries import Binaries
from tests.support.advice import FOLLOWED
from tests.support.remedies import about, every_remedy
from tests.support.repository import ROOT

NOT_FOLLOWED: dict[str, tuple[str, ...]] = {
    "says where the cause is written, as nothing that we read has it: what helps depends on it": (
        "Look at that Certificate's conditions and cert-manager's log.",
        "Look at its CertificateRequest with `kubectl describe` and at cert-manager's log.",
        "Check that cert-manager runs, and look at its log.",
        "Look at the pods that are not, and at their nodes.",
        "Look at its workloads' pods.",
        "Look at its events.",
        "Look at the proxy's log.",
        "Look at its pods and their events.",
        "Look at the containers' logs.",
        "Some networks never do: check manually that clusterNetworks covers every pod.",
        "Look at the pods that the Service selects.",
        "Look at the events of the Deployment and its ReplicaSet. If it is gone:",
        "Look at the identity controller's log, then restart it.",
        "Look at the identity controller's log and at the proxy's.",
        "Look at its log, and use `linkerd viz stat` to see which requests fail.",
        "Look at its pods' events.",
        "Look at the pods of Deployment tap.",
        "Look at Deployment tap.",
        "Look at the pod of Deployment prometheus and at its log.",
        "Look at its pod and its log.",
        "Wait for a scrape; else check its inbound policy.",
        "Look at the pod with `kubectl describe pod` and at its containers' logs.",
        "Look at the events of its ReplicaSet: a quota, a webhook or a node refuses them.",
        "cert-manager should have renewed it: look at its Certificate and its log.",
        "Look at cert-manager's log.",
        "Look at the proxy injector: its view of the cluster may be out of date.",
        "Fix what cert-manager names, then run again.",
        "Look at its log and events.",
        "Look at its conditions and cert-manager's log, then run again.",
        "Look at cert-manager's log, and at which Secret its issuer reads.",
        "See who else writes it: sources of a Bundle, or a GitOps controller.",
        "Look at `helm get manifest` of the release: its chart may not generate it.",
        "Look for finalizers, and check that the garbage collector runs; delete by label ",
        "Check that the proxy injector runs and its webhook answers.",
        "Look at the policy container of linkerd-destination;",
        "Look at the task run's log.",
        "See which pods keep coming up with the old trust bundle, then run again.",
        "Look at the run of each.",
        "Remove what blocks it (kubectl get namespace -o yaml shows it), then run uninstall again.",
        "Report this with the version in use.",
    ),
    "points to other remedies, each with a test of its own": (
        "Accepted.",
        "verify_mesh names every problem and its remedy, as the run's artifacts do.",
        "Look at their runs; then run the fleet again with the same round_name.",
        "See verify_mesh for the cause; rotate_anchor with recover gives the mesh a new anchor",
    ),
    "asks for the same run again: tests kill every flow at every step, and run it again": (
        "Run upgrade again without go_back to finish the upgrade.",
        "Let that one finish; this run has stopped and changed nothing since.",
        "Run again: the rotation continues to the new one.",
        "Fix it, then run again.",
        "Manually restart what is named, then run again: it resumes from here.",
        "Create it again, then run again.",
        "Run upgrade again.",
        "Run upgrade again: it makes a new plan.",
        "Nothing was changed since. Run the flow again, and approve it.",
        "Run it again to resume; --yes approves without asking.",
        "again and works. Fix the cause, then run upgrade again.",
        "Finish what was interrupted first: run bootstrap, upgrade or rotate_anchor again,",
        "Finish the rotation with rotate_anchor, or put the release's anchors back.",
    ),
    "names a flow whose own tests begin where it is advised": (
        "Run rotate_anchor, which takes over from there.",
        "Run rotate_anchor, which takes over and makes a new issuer as well.",
        "Run ….",
        "Install Linkerd with bootstrap.",
        "Run bootstrap, or reinstall the mesh by Helm.",
        "Create it again, or run bootstrap if that created it.",
        "Restart its workload once the injector responds.",
        "Uninstall the Linkerd that it belongs to.",
        "Install the earlier version from its chart.",
    ),
    "needs nodes that run containers; it names the option that turns the probe off, too": (
        "Look at its conditions; name another (probe.namespace), ….",
        "Run again: the next run uses other names.",
        "… Name another image (probe.image), ….",
        "Check that their nodes are ready and the garbage collector runs, then run again, ….",
        "If the API server was unreachable for minutes, the probe is gone with its fuse",
        "…, …. The mesh was not changed.",
    ),
    "says what the same error of a rotation does, which a test follows": (
        "Look at its log and its proxy's, or allow a further drop with the option "
        "restarts.max_success_drop.",
    ),
    "says that these flows have no way, and what else there is": (
        "Restore the former version from a backup of the cluster: Helm cannot go back to it.",
        "Stay at this version: going back would cut the mesh's identities off their anchor.",
    ),
    "is for the owner of something that these flows never write": (
        "Only cert-manager may write Secret/",
        "Make it leave this Secret's content alone: each rotation copies an anchor there.",
        "Put the anchor that signed it back into the trust bundle.",
        "Put the mesh's trust anchors there again, in PEM.",
        "Upgrade it there: these flows upgrade only Helm releases.",
        "Check that nodes can pull ",
    ),
    "needs a Prefect server with deployments, blocks or a worker": (
        "Run a deployment, which waits for the window, or accept `window`.",
        "Run prefect deploy --all.",
        "Save the key there. To resume a rotation, leave new_anchor empty.",
        "Set PREFECT_API_URL.",
        "Set PREFECT_API_URL to your server's address, and run it again.",
        "Set PREFECT_API_URL, or name another place for the key:",
        "Name the meshes in the parameter meshes.",
        "Name the meshes; use verify_mesh for a file.",
    ),
}
"""Each reason, and the words of the remedies."""

# One process runs all of these tests, so that every source is read only once.
pytestmark = pytest.mark.xdist_group("advice")


@functools.cache
def texts() -> dict[str, list[str]]:
    """Each remedy's text, and where it is written."""
    found: dict[str, list[str]] = defaultdict(list)
    for remedy in every_remedy():
        found[remedy.text].append(remedy.place)
    return found


@functools.cache
def said_by(words: str) -> list[str]:
    """The remedies that can contain some words."""
    return about(words, texts())


@pytest.fixture(scope="module")
def followed() -> dict[str, str]:
    """Imports the modules that register tests, and returns the words of the remedies followed."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path != Path(__file__) and re.search(r"@(follows|each_of)", path.read_text()):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return FOLLOWED


def reasoned() -> list[str]:
    return [words for each in NOT_FOLLOWED.values() for words in each]


def test_every_remedy_is_followed_by_a_test(followed: dict[str, str]) -> None:
    done = {text for words in (*followed, *reasoned()) for text in said_by(words)}
    left = [f"{', '.join(places)}: {text}" for text, places in texts().items() if text not in done]
    assert left == [], "follow each in a test (tests/support/advice.py)"


def test_each_registration_is_of_one_remedy(followed: dict[str, str]) -> None:
    found = {words: said_by(words) for words in followed}
    wrong = {f"{followed[w]}: {w}": texts for w, texts in found.items() if len(texts) != 1}
    assert wrong == {}, "write more of the remedy, so that it is one"


def test_no_reason_is_for_a_remedy_that_a_test_follows(followed: dict[str, str]) -> None:
    done = {text for words in followed for text in said_by(words)}
    for words in reasoned():
        found = said_by(words)
        assert len(found) == 1, f"{words}: {found}"
        assert not done & set(found), words


# What remedies name


def models(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The fields of a model and of those in it, each as `a.b`."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}"
        for inner in (field.annotation, *get_args(field.annotation)):
            if inspect.isclass(inner) and issubclass(inner, BaseModel):
                yield from models(inner, f"{path}{name}.")


PARAMETERS = [p for flow in declared_flows().values() for p in parameters_of(flow)]
FIELDS = {*models(MeshConfig)}
OPTIONS = {name for p in PARAMETERS if p.model is not None for name in models(p.model)}
NAMES = {p.name for p in PARAMETERS}
FLOWS = set(declared_flows())
FILES = (".pem", ".crt", ".key", ".der", ".yaml", ".md", ".sh", ".io")
OF_OTHERS = {"proxy.tracing", "identity.externalCA"}
"""Values of Linkerd's charts."""


def words(pattern: str) -> set[str]:
    return {word for text in texts() for word in re.findall(pattern, text)}


def test_every_field_that_a_remedy_names_is_there() -> None:
    dotted = words(r"(?<![\w/.:-])[a-z][a-z_]*(?:\.[a-z_]+)+(?![\w/])")
    wrong = {d for d in dotted if d not in FIELDS | OPTIONS | OF_OTHERS and not d.endswith(FILES)}
    assert wrong == {"values.inline"} - FIELDS
    assert len(dotted & FIELDS) > 15
    known = {part for name in (*FIELDS, *OPTIONS) for part in name.split(".")} | FLOWS | NAMES
    assert words(r"\b[a-z]+_[a-z_]+\b") - known == set()


FLAGS_OF_OTHERS = {"--previous", "--profile", "--all"}
"""Of `kubectl logs`, `step certificate create` and `prefect deploy`."""


def test_every_flag_that_a_remedy_names_is_there() -> None:
    commands = map(app.loaded, app.commands())
    flags = {flag for command in commands for p in command.params for flag in p.opts}
    assert words(r"--[a-z][a-z-]+") - FLAGS_OF_OTHERS <= flags


def test_every_command_that_a_remedy_names_is_there(binaries: Binaries) -> None:
    programs = {"kubectl": str(binaries.kubectl), "helm": str(binaries.helm)}
    named = words(r"`((?:kubectl|helm) [^`]+)`")
    assert named
    for command in sorted(named):
        program, *rest = command.split()
        done = subprocess.run(
            [programs[program], *rest, "--help"], capture_output=True, check=False
        )
        text = done.stdout.decode()
        assert done.returncode == 0, command
        assert f"{program} {rest[0]}" in text, command
