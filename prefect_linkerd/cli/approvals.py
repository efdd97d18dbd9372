"""Answers, from the terminal, its runs on a Prefect server that wait for approval."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Generator
from contextlib import contextmanager

import typer
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import tags

from prefect_linkerd.cli.at_terminal import Refused
from prefect_linkerd.cli.request import Answer

EVERY = 1.0
"""Seconds between two polls."""


class _Watch(threading.Thread):
    def __init__(self, tag: str, answer: Answer, context_tag: str) -> None:
        super().__init__(name=context_tag, daemon=True)
        self._filter = FlowRunFilter.model_validate(
            {"tags": {"all_": [tag]}, "state": {"type": {"any_": ["PAUSED"]}}}
        )
        self._answer = answer
        self._done = threading.Event()
        self.refused = False

    def run(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._done.wait(EVERY):
                for run in client.read_flow_runs(flow_run_filter=self._filter):
                    says_yes = self._ask(run)
                    # An upgrade takes an answer as input; a rotation is only resumed, or not.
                    takes_input = run.state and run.state.state_details.run_input_keyset
                    if says_yes or takes_input:
                        answer = {"approved": says_yes} if takes_input else None
                        client.resume_flow_run(run.id, run_input=answer)
                    if not says_yes:
                        self.refused = True
                        if not takes_input:
                            _thread.interrupt_main()
                        return

    def _ask(self, run: FlowRun) -> bool:
        if self._answer != "ask":
            return self._answer == "yes"
        # The last log line says what it is for.
        try:
            return typer.confirm(f"{run.name} waits for approval. Continue?", err=True)
        except (typer.Abort, EOFError):
            return False

    def end(self) -> None:
        self._done.set()
        self.join(timeout=10)


@contextmanager
def approvals(tag: str, answer: Answer) -> Generator[None]:
    """Answers every pause of the flow runs that are started in the block.

    Args:
        tag: a tag that only these runs have.
        answer: see `Answer`; `no` is for runs without a terminal.

    Raises:
        Refused: an approval was not given.
    """
    watch = _Watch(tag, answer, "approvals")
    watch.start()
    try:
        with tags(tag):
            yield
    except BaseException:
        if watch.refused:
            raise Refused from None
        raise
    finally:
        watch.end()
