"""Turns a flow into a command that runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_linkerd.cli.arguments import (
    CONTEXT,
    KUBECONFIG,
    MESH,
    OUTPUT,
    QUIET,
    SET,
    YES,
    guarded,
    with_flags,
)
from prefect_linkerd.cli.flags import (
    Flag,
    Parameter,
    arguments_of,
    flags_of,
    parameters_of,
)
from prefect_linkerd.cli.missing_permissions import named_together
from prefect_linkerd.cli.request import Answer, RunRequest
from prefect_linkerd.cli.user_server import has_server
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, NotApproved
from prefect_linkerd.mesh_file import Key, load_mesh
from prefect_linkerd.tasks.declared import DeclaredFlow, declared_flows

if TYPE_CHECKING:
    from prefect_linkerd.tasks.outside import Ending

DRY_RUN = Parameter("dry_run", bool, False, help="No effect: this command never changes a mesh.")
"""For commands that change no mesh anyway, so that every command takes the flag."""
KEY_FLAGS = (
    Flag(
        ("key_file",),
        "key-file",
        Path,
        None,
        "Keep the trust anchor's private key in this file (trust_anchor.key_file), encrypted with "
        "a passphrase: asked for at a terminal, or in PREFECT_LINKERD_PASSPHRASE.",
    ),
    Flag(
        ("key_in_cluster",),
        "key-in-cluster",
        bool,
        False,
        "Keep that key in a Secret of the cluster (trust_anchor.custody: in-cluster).",
    ),
)


_KEYS: dict[str, Key] = {"unused": "unused", "named": "place"}
"""How a mesh's file is read for flows that need no passphrase."""


def is_dry(arguments: Mapping[str, object]) -> bool:
    """Whether a run only shows its plan or aborts a change: it stores no new key."""
    return bool(arguments.get("dry_run")) or arguments.get("action") == "abort"


def command(name: str) -> Callable[..., None]:
    """Returns the function of the command with this name."""
    [flow] = [f for f in declared_flows().values() if f.declaration.command == name]
    declaration, parameters = flow.declaration, parameters_of(flow)
    flags = flags_of(parameters)
    more = [*(KEY_FLAGS if declaration.key == "kept" else ())]
    if not any(p.name == "dry_run" for p in parameters) and not declaration.changes:
        more += flags_of((DRY_RUN,))

    def with_mesh(
        mesh: MESH = None,
        settings: SET = None,
        kubeconfig: KUBECONFIG = None,
        context: CONTEXT = None,
        output: OUTPUT = "text",
        yes: YES = False,
        quiet: QUIET = False,
        **given: object,
    ) -> None:
        def work() -> None:
            # Check the flags before asking for a passphrase.
            arguments = arguments_of(parameters, flags, given)
            key = _KEYS.get(declaration.key, "read" if is_dry(arguments) else "asked")
            chosen = [*(settings or ()), *_key_settings(given)]
            config = load_mesh(mesh, kubeconfig, context, chosen, key)
            if declaration.confirms_cluster and mesh is None and not is_dry(arguments):
                from prefect_linkerd.cli.target import confirm_target

                confirm_target(config, yes=yes)
            run_flow(flow, config, arguments, output, yes, quiet, str(mesh or ""))

        guarded(work, output)

    def without_mesh(
        output: OUTPUT = "text", yes: YES = False, quiet: QUIET = False, **given: object
    ) -> None:
        guarded(
            lambda: run_flow(
                flow, None, arguments_of(parameters, flags, given), output, yes, quiet
            ),
            output,
        )

    return with_flags(with_mesh if flow.takes_mesh else without_mesh, [*flags, *more])


def _key_settings(given: dict[str, Any]) -> list[str]:
    """Returns the mesh fields that the flags for the key's place set."""
    found: list[str] = []
    if (path := given.get("key_file")) is not None:
        found.append(f"trust_anchor.key_file={json.dumps(str(path.expanduser().absolute()))}")
    if given.get("key_in_cluster"):
        found.append("trust_anchor.custody=in-cluster")
    return found


def run_flow(
    flow: DeclaredFlow,
    config: MeshConfig | None,
    arguments: Mapping[str, object],
    output: str,
    yes: bool,
    quiet: bool,
    mesh_file: str = "",
) -> None:
    """Runs a flow on the user's Prefect server, or as a plain function if there is none."""
    is_plain = not has_server()
    command = flow.declaration.command
    if is_plain and flow.declaration.needs_server:
        raise InvalidInput(
            command,
            expected="a Prefect server, which stores what it finds and sends",
            found="none",
            remedy="Set PREFECT_API_URL.",
        )
    permitted: AbstractContextManager[None] = nullcontext()
    if config is not None:
        from prefect_linkerd.cli.target import reached

        cluster = reached(config.access)
        if flow.declaration.grants:
            permitted = named_together(command, cluster, config)
    keeps_key = flow.declaration.key == "kept" and not is_dry(arguments)
    if config is not None and keeps_key and is_plain:
        from prefect_linkerd.cli.key_place import with_place

        config = with_place(config, flow.name)
    if is_plain:
        from prefect_linkerd.cli.without_server import run
    else:
        from prefect_linkerd.cli.on_server import run
    from prefect_linkerd.tasks.outside import reports_are_about

    reports_are_about(None)
    with permitted, approved(command, yes) as answer:
        state = run(RunRequest(flow.name, config, arguments, answer, quiet))
    if config is not None and keeps_key:
        _say_key(config, is_plain=is_plain)
    show(config, state, output, dry=is_dry(arguments))
    if output == "text" and not quiet and sys.stderr.isatty():
        from prefect_linkerd.cli.results import next_step

        if text := next_step(flow.name, mesh_file, dry=bool(arguments.get("dry_run"))):
            print(text, file=sys.stderr)


@contextmanager
def approved(name: str, yes: bool) -> Generator[Answer]:
    from prefect_linkerd.cli.at_terminal import Refused

    answer = "yes" if yes else "ask" if sys.stdin.isatty() else "no"
    try:
        yield answer
    except Refused:
        raise NotApproved(
            name,
            expected="to be approved",
            found="that it was not" if answer == "ask" else "no terminal to ask at",
            remedy="Run it again to resume; --yes approves without asking.",
        ) from None


def _say_key(config: MeshConfig, *, is_plain: bool) -> None:
    from prefect_linkerd.cli.key_place import key_text

    if is_plain:
        from prefect_linkerd.cli.at_terminal import AtTerminal
        from prefect_linkerd.tasks.outside import within

        with within(AtTerminal("")):
            said = key_text(config, "")
    else:
        from prefect.settings import PREFECT_API_URL

        said = key_text(config, PREFECT_API_URL.value() or "")
    print(said, file=sys.stderr)


def show(config: MeshConfig | None, state: Ending, output: str, *, dry: bool = False) -> None:
    from prefect_linkerd.cli.paint import width_of
    from prefect_linkerd.cli.results import result_text
    from prefect_linkerd.tasks.outside import report_head

    result: object = state.data
    if head := report_head():
        # Keep JSON on stdout parsable.
        print(head, file=sys.stdout if output == "text" else sys.stderr)
    if output == "json":
        from pydantic_core import to_jsonable_python

        print(json.dumps(to_jsonable_python(result, fallback=str), indent=2))
    else:
        name = config.name if config else ""
        width = width_of(sys.stdout)
        state_name, message = state.name or "", state.message or ""
        print(result_text(name, state_name, message, result, dry=dry, width=width), end="")
