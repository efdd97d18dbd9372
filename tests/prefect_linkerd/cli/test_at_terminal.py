"""Steps as plain calls: retries, threads, approvals and interrupts without a Prefect server."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from prefect_linkerd.cli import at_terminal
from prefect_linkerd.cli.at_terminal import LOGGER, AtTerminal, End, Interrupted, Refused
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import (
    ApiError,
    ChartError,
    InvalidInput,
    MeshError,
    NotApproved,
    NotReady,
)
from prefect_linkerd.mesh.kubernetes.objects import Workload
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.restarts import Batch, RestartTarget
from prefect_linkerd.mesh.rotation.options import RotationOptions, WebhookOptions
from prefect_linkerd.mesh.uninstall.options import UninstallOptions
from prefect_linkerd.tasks.admission import approve_upgrade, declined, postponed
from prefect_linkerd.tasks.events import failures_in_a_row, send
from prefect_linkerd.tasks.flow import flow
from prefect_linkerd.tasks.issuer_rotation import approve_issuer
from prefect_linkerd.tasks.outside import completed, failed, get_run_logger, outside, within
from prefect_linkerd.tasks.progress import RolloutProgress
from prefect_linkerd.tasks.rotation import approve
from prefect_linkerd.tasks.step import step, submit
from prefect_linkerd.tasks.trust_anchor import key_store, load_secret
from prefect_linkerd.tasks.uninstall import approve_uninstall, key_location
from prefect_linkerd.tasks.webhooks import approve_webhooks


def away(kind: type[MeshError] = ApiError) -> MeshError:
    return kind("cluster", expected="an answer", found="none", remedy="Wait.")


def refused() -> ApiError:
    return ApiError("pods", expected="permission", found="none", remedy="Ask.", status=403)


@dataclass(frozen=True)
class Chart:
    name: str


class Runs:
    """Counts a test step's calls and holds the errors that they raise, call by call."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0


@step("helm release", run_name="{chart.name}", description="A release.")
def release(chart: Chart, runs: Runs) -> str:
    runs.calls += 1
    get_run_logger().info("at work")
    if runs.errors:
        raise runs.errors.pop(0)
    return f"{chart.name} is there"


@step("test", description="A test that says its outcome.")
def judged(outcome: str) -> Any:
    if outcome == "failed":
        return failed(7, message="no traffic")
    return completed(7, name="Skipped", message="no pods") if outcome == "skipped" else 7


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[AtTerminal]:
    monkeypatch.setattr(at_terminal, "DELAYS", (0.0, 0.0, 0.0, 0.0))
    surroundings = AtTerminal("bootstrap", lambda _what, _plan, _seconds: True)
    with within(surroundings):
        yield surroundings


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    caplog.set_level(logging.INFO, LOGGER.name)

    def read() -> list[tuple[str, str]]:
        return [(vars(r)["task_run_name"], r.getMessage()) for r in caplog.records]

    return read


def test_a_step_is_tried_again_while_the_world_fails_for_a_moment(lines: Any) -> None:
    busy = ChartError("charts", expected="an answer", found="503", remedy="Wait.", transient=True)
    runs = Runs(away(), busy)
    assert release(Chart("linkerd-crds"), runs) == "linkerd-crds is there"
    said = lines()
    assert runs.calls == 3
    assert {name for name, _ in said} == {"linkerd-crds"}
    assert next(text for _, text in said if "Retry" in text).endswith("Retry 1 of 4 in 0 seconds.")
    assert said[-1][1] == "Finished in state Completed()"


@pytest.mark.parametrize(
    ("error", "calls"),
    [(away(), 5), (away(NotReady), 1), (refused(), 1), (ValueError("hush"), 1)],
)
def test_what_does_not_pass_fails_as_it_is(error: Exception, calls: int, lines: Any) -> None:
    runs = Runs(*[error] * 5)
    with pytest.raises(type(error)) as caught:
        release(Chart("viz"), runs)
    assert caught.value is error
    assert runs.calls == calls
    end = lines()[-1][1]
    assert end.startswith("Finished in state Failed(")
    # Only our own errors are known to contain no secret.
    assert "hush" not in end


def test_a_step_may_say_how_it_ended(lines: Any) -> None:
    assert [judged(outcome) for outcome in ("done", "skipped", "failed")] == [7, 7, 7]
    assert [text for _, text in lines()] == [
        "Finished in state Completed()",
        "Finished in state Skipped(no pods)",
        "Finished in state Failed(no traffic)",
    ]


def test_submitted_steps_run_beside_each_other(terminal: AtTerminal) -> None:
    meeting = threading.Barrier(2, timeout=20)

    @step("meet", description="Needs the other one.")
    def meet() -> object:
        meeting.wait()
        return outside()

    first, second = submit(meet), submit(meet)
    assert first.result() is second.result() is terminal
    failing = submit(release, Chart("viz"), Runs(away(NotReady)))
    with pytest.raises(NotReady):
        failing.result()
    assert isinstance(failing.result(raise_on_failure=False), NotReady)
    terminal.await_rest()


def batches() -> tuple[Batch, ...]:
    reasons = ("first", *(f"PodDisruptionBudget/app/{n} allows 1" for n in range(1, 20)))
    return tuple(
        Batch(
            "workloads",
            (RestartTarget(Workload("Deployment", "app", f"web-{n}"), {}, 1, 1, True),),
            reason,
        )
        for n, reason in enumerate(reasons)
    )


def restarts() -> None:
    with RolloutProgress("north", "data plane") as progress:
        for done in (0, 7, 20):
            progress.show_batches(batches(), done)
            progress(done, 20, "rolling out")


def test_batches_are_lines_where_nothing_can_be_redrawn(lines: Any) -> None:
    restarts()
    said = [text for _, text in lines() if text.startswith("batch")]
    assert said == [
        "batch 1/20: Deployment/app/web-0 (first)",
        "batch 8/20: Deployment/app/web-7 (PodDisruptionBudget/app/7 allows 1)",
    ]


@pytest.mark.parametrize("plain", [{}, {"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}])
def test_batches_are_one_table_that_is_redrawn_at_a_terminal(
    plain: dict[str, str], monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    for name, value in (
        {"NO_COLOR": "", "CI": "", "TERM": "xterm", "COLUMNS": "120"} | plain
    ).items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # Once the other end is closed, Linux answers reads with an error.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as stderr, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)
        restarts()
    reader.join(20)
    os.close(ours)
    assert bool([text for _, text in lines() if text.startswith("batch")]) == bool(plain)
    words = ("8/20", "app/web-7", "/app/7 allows 1", "restarting", "3 more", "waiting", "\x1b[1A")
    assert [word for word in words if (word in shown.decode()) == bool(plain)] == []


def test_an_interrupt_ends_what_waits_in_other_threads(
    terminal: AtTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_terminal, "DELAYS", (600.0,) * 4)
    begun = threading.Event()

    @step("rollout", description="Waits for pods that never come.")
    def rollout() -> None:
        with RolloutProgress("north", "rollout") as progress:
            begun.set()
            while True:
                progress(0, 1, "none is ready")

    waiting = submit(rollout)
    retrying = submit(release, Chart("viz"), Runs(away()))
    while not begun.wait(1):
        # If it has failed, this raises its error.
        with pytest.raises(TimeoutError):
            waiting.result(0)
    terminal.interrupt()
    for future in (waiting, retrying):
        with pytest.raises(Interrupted):
            future.result()


def test_a_plan_is_shown_before_it_is_approved(mesh: MeshConfig, plan: Any) -> None:
    asked: list[tuple[str, str, float]] = []

    def answer(*question: Any) -> bool | None:
        asked.append(question)
        return [True, False, None][len(asked) - 1]

    with within(surroundings := AtTerminal("upgrade", answer)):
        surroundings.markdown("# The plan", "key", "A plan")
        approve_upgrade(mesh, plan)
        with pytest.raises(Refused):
            approve_upgrade(mesh, plan)
        with pytest.raises(NotApproved, match="found no answer"):
            approve_upgrade(mesh, plan)
    what = "the upgrade of mesh north from edge-25.4.4 to edge-26.8.3"
    assert asked == [(what, text, 3600.0) for text in ("# The plan", "", "")]


def test_every_flow_fails_alike_without_an_approval(mesh: MeshConfig) -> None:
    live = Mesh(None, mesh)  # pyright: ignore[reportArgumentType]
    with within(AtTerminal("any", lambda *_: None)):
        for ask in (
            lambda: approve_uninstall(live, UninstallOptions(approval_hours=1)),
            lambda: approve("switch", RotationOptions(approvals=("switch",), approval_hours=1)),
            lambda: approve_issuer(RotationOptions(approvals=("switch",), approval_hours=1)),
            lambda: approve_webhooks(WebhookOptions(approval=True, approval_hours=1)),
        ):
            with pytest.raises(NotApproved, match="expected approval within 1 hours, found no"):
                ask()


@pytest.fixture
def mesh() -> MeshConfig:
    policy = {
        "automatic": "approved",
        "approval_hours": 1,
        "window": {"cron": "0 3 1 1 *", "duration_minutes": 5},
    }
    return MeshConfig.model_validate({"name": "north", "upgrade": policy})


@pytest.fixture
def plan() -> Any:
    @dataclass(frozen=True)
    class Plan:
        source: str = "edge-25.4.4"
        target: str = "edge-26.8.3"

    return Plan()


def test_there_is_no_deployment_that_could_wait_for_a_window(mesh: Any, plan: Any) -> None:
    assert declined(mesh) == ""
    with pytest.raises(InvalidInput, match="accept `window`"):
        postponed(mesh, plan)


def test_a_secret_block_needs_a_server() -> None:
    store = key_store(Mesh(None, MeshConfig()))  # pyright: ignore[reportArgumentType]
    # A mesh that already has its anchor needs no place for a key.
    assert store.load() is None
    assert "PREFECT_API_URL names no Prefect server" in store.where
    assert key_location(Mesh(None, MeshConfig())).startswith("not named in the mesh's file")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match=r"Set PREFECT_API_URL, or .*trust_anchor.key_file"):
        load_secret("new-key")


def test_nothing_is_reported_anywhere() -> None:
    assert failures_in_a_row("north") == 0
    assert outside().last("linkerd-north-verify") is None
    send([])
    with outside().alone("linkerd-rotation-north", 60):
        assert outside().owner.startswith("a command on ")


def test_where_prefect_is_there_already_a_flow_is_prefects() -> None:
    @flow(run_name="judge", changes=False, page="x.md")
    def judge() -> None: ...

    assert type(judge).__name__ == "MeshFlow"
    assert judge.name == "linkerd-judge"
    assert End("Completed").data is None
