"""The environment of a run under Prefect: its log, artifacts, events, pauses and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Flow, Task, get_client, task
from prefect.artifacts import (
    Artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import FlowPauseTimeout, ObjectAlreadyExists, ParameterTypeError
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, Scheduled
from pydantic import Field, SecretStr

from prefect_linkerd.mesh.report.events import VERDICTS, Notice
from prefect_linkerd.tasks.markdown_page import fit_to_ui
from prefect_linkerd.tasks.outside import Bar, Ending, Future, Log
from prefect_linkerd.tasks.step import DELAYS, Step, is_transient

P = ParamSpec("P")
R = TypeVar("R")


class MeshFlow(Flow[P, R]):
    """A flow whose failed run says which of its blocks was not saved."""

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Validates as Prefect does, but names the missing block in the error, not just the log.

        Raises:
            ParameterTypeError: a parameter is invalid, or its block does not exist.
        """
        try:
            return super().validate_parameters(parameters)
        except ParameterTypeError as error:
            if (cause := error.__cause__) is None:
                raise
            raise ParameterTypeError(
                f"{cause}. Save the block, or pause the schedule that names it."
            ) from cause


class Approval(RunInput):
    """The form that approves or rejects a plan."""

    approved: bool = Field(
        default=False,
        title="Approved",
        description="Whether the run may go ahead as planned. The plan is an artifact of this run.",
    )


class OnPrefect:
    """See `prefect_linkerd.tasks.outside.Outside`."""

    @property
    def log(self) -> Log:
        return get_run_logger()

    @property
    def has_server(self) -> bool:
        return True

    @property
    def owner(self) -> str:
        run = _flow_run()
        return f"flow run {run.name}" if run is not None else ""

    @property
    def automation(self) -> str | None:
        run = _flow_run()
        creator = run.created_by if run is not None else None
        if creator is None or creator.type != "AUTOMATION":
            return None
        return str(creator.display_value)

    def call(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return _task_of(step)(*args, **kwargs)

    def submit(self, step: Step[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        # Prefect's overloads lose the types of the parameters.
        return cast("Future[R]", cast("Any", _task_of(step)).submit(*args, **kwargs))

    def ended(self, name: str | None, message: str, data: Any, *, failed: bool) -> Ending:
        kind = cast("Callable[..., State[Any]]", Failed if failed else Completed)
        return kind(name=name, message=message or None, data=data)

    def markdown(self, text: str, key: str, description: str) -> None:
        create_markdown_artifact(fit_to_ui(text), key=key, description=description)

    def table(self, rows: Sequence[dict[str, Any]], key: str, description: str) -> None:
        create_table_artifact(list(rows), key=key, description=description)

    def progress(self, key: str, title: str) -> Bar:
        artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=title))

        def update(percent: float, text: str) -> None:
            update_progress_artifact(artifact, percent, description=text)

        return update

    def check(self) -> None:
        """Does nothing: Prefect interrupts steps itself."""

    def last(self, key: str) -> str | None:
        artifact = cast("Artifact | None", Artifact.get(key))
        return cast("str | None", artifact.data) if artifact is not None else None

    def send(self, notices: Iterable[Notice]) -> None:
        for notice in notices:
            emit_event(notice.event, resource=notice.resource, payload=notice.payload)

    def failures_in_a_row(self, mesh: str) -> int:
        wanted = EventFilter(
            event=EventNameFilter(name=list(VERDICTS)),
            resource=EventResourceFilter(id=[f"linkerd.mesh.{mesh}"]),
        )
        with get_client(sync_client=True) as client:
            newest = client.read_events(wanted, limit=1).events
        return int(newest[0].payload.get("failures", 0)) if newest else 0

    def approve(self, what: str, hours: float, plan: str) -> bool | None:
        seconds = int(hours * 3600)
        try:
            if not plan:
                # Resumed with one click, without a form.
                pause_flow_run(timeout=seconds)  # pyright: ignore[reportUnusedCoroutine]
                return True
            question = f"Approve {what}? See the artifact `{plan}`."
            answer = pause_flow_run(
                wait_for_input=Approval.with_initial_data(description=question), timeout=seconds
            )
        except FlowPauseTimeout:
            return None
        return answer.approved

    def run_at(self, moment: datetime, key: str) -> bool:
        run = _flow_run()
        if run is None or run.deployment_id is None:
            return False
        if run.idempotency_key == key:
            # This run was itself postponed to that moment, and was started early.
            key = f"{key}, not {run.id}"
        with get_client(sync_client=True) as client:
            client.create_flow_run_from_deployment(
                run.deployment_id,
                # The parameters as given: a block is a reference, so no secret is copied.
                parameters=client.read_flow_run(run.id).parameters,
                state=Scheduled(scheduled_time=moment),
                idempotency_key=key,
            )
        return True

    def alone(self, limit: str, lease_seconds: float) -> AbstractContextManager[object]:
        with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
            # Creates the limit or resets it to 1; another run may create it at the same time.
            client.upsert_global_concurrency_limit_by_name(limit, 1)
        # A dead run's slot is freed when its lease expires, after at least 60 s. A server that is
        # unreachable for longer does not stop the run: the claim in the cluster still holds.
        return concurrency(
            limit,
            strict=True,
            lease_duration=max(60.0, lease_seconds),
            raise_on_lease_renewal_failure=False,
        )

    def secret(self, name: str) -> object:
        try:
            stored = cast("Secret[Any]", Secret.load(name))  # pyright: ignore[reportUnknownMemberType]
        except ValueError as error:
            # Prefect raises this for a missing block; after any other error none may be created.
            if "Unable to find block document" not in str(error):
                raise
            return None
        return stored.get()

    def save_secret(self, name: str, content: str, *, overwrite: bool) -> None:
        block: Secret[Any] = Secret(value=SecretStr(content))  # pyright: ignore[reportArgumentType]
        block.save(name, overwrite=overwrite)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]

    def delete_secret(self, name: str) -> None:
        Secret.delete(name)  # pyright: ignore[reportUnknownMemberType,reportUnusedCoroutine]


ON_PREFECT = OnPrefect()


def _flow_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return context.flow_run if context is not None else None


def _task_of(step: Step[P, R]) -> Task[P, R]:
    """A step as a Prefect task with retries.

    Neither results nor cache keys are stored, because inputs hold secrets and snapshots of a
    cluster are stale at once.
    """
    if step.task is None:
        step.task = task(
            name=step.name,
            description=step.description,
            # Without a run name Prefect appends three random letters.
            task_run_name=step.run_name,
            retries=len(DELAYS),
            retry_delay_seconds=list(DELAYS),
            retry_condition_fn=_failed_for_a_moment,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(step.fn)
    return step.task


def _failed_for_a_moment(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    failure: Any = state.data
    error: Any = getattr(failure, "exception", failure)
    if error is None or not isinstance(error, BaseException):
        try:
            error = state.result(raise_on_failure=False)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
        except Exception:
            return False
    return is_transient(error)
