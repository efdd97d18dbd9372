"""The commands that run one flow: each takes the flow's own options."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect_linkerd.arguments import (
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
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput
from prefect_linkerd.mesh_file import load_mesh
from prefect_linkerd.options import Flag, Parameter, arguments_of, flags_of
from prefect_linkerd.user_server import has_server

if TYPE_CHECKING:
    from prefect_linkerd.plain_run import Answer
    from prefect_linkerd.tasks.outside import Ending

KeyUse = Literal["unused", "read", "kept"]
KEYS: dict[str, KeyUse] = {"bootstrap": "kept", "rotate_anchor": "kept", "rotate_issuer": "read"}
"""What flows do with the trust anchor's private key."""


def key_use(flow: str) -> KeyUse:
    return KEYS.get(flow, "unused")


@dataclass(frozen=True)
class Command:
    """A flow as a command: the flow's name, and its parameters but for the mesh.

    `asks_for_target` says whether it asks before it changes a cluster that no mesh file names, and
    `has_dry_action` whether its dry run is an action of the flow.
    """

    name: str
    flow: str
    parameters: tuple[Parameter, ...] = ()
    takes_mesh: bool = True
    asks_for_target: bool = False
    has_dry_action: bool = False
    needs_server: bool = False

    @property
    def keeps_key(self) -> bool:
        """Whether it may make a key that has to be kept."""
        return key_use(self.flow) == "kept"


DRY_RUN = Parameter("dry_run", bool, False, help="Stop after the plan; change nothing.")


def _bootstrap() -> Command:
    accept = Parameter("accept", list[str], help="Id of a finding of the plan that is accepted.")
    return Command("bootstrap", "bootstrap", (DRY_RUN, accept), asks_for_target=True)


def _adopt() -> Command:
    return Command("adopt", "adopt")


def _upgrade() -> Command:
    from prefect_linkerd.mesh.config.restart_policy import RestartPolicy
    from prefect_linkerd.mesh.probe.options import ProbeOptions

    return Command(
        "upgrade",
        "upgrade",
        (
            Parameter(
                "to",
                str,
                help="The Linkerd version, such as edge-26.8.3. Without one: the newest that the "
                "mesh's policy wants.",
            ),
            DRY_RUN,
            Parameter(
                "accept",
                list[str],
                help="Id of a finding of the plan that is accepted; `window` goes ahead outside "
                "the maintenance window.",
            ),
            Parameter("go_back", bool, False, help="Give an interrupted upgrade up; go back."),
            Parameter("restarts", RestartPolicy, prefix="restarts-"),
            Parameter("probe", ProbeOptions, prefix="probe-"),
        ),
    )


def _rotate_anchor() -> Command:
    from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions

    return Command(
        "rotate-anchor",
        "rotate_anchor",
        (
            Parameter(
                "action",
                Action,
                "rotate",
                help="rotate, or resume a rotation. dry_run: only plan. abort: back to the old "
                "anchor. recover: a mesh whose certificates have expired, with downtime.",
            ),
            Parameter("new_anchor", NewAnchor, prefix="new-anchor-"),
            Parameter("options", RotationOptions),
        ),
        has_dry_action=True,
    )


def _rotate_issuer() -> Command:
    from prefect_linkerd.mesh.rotation.options import RotationOptions

    return Command("rotate-issuer", "rotate_issuer", (Parameter("options", RotationOptions),))


def _rotate_webhooks() -> Command:
    from prefect_linkerd.mesh.rotation.options import WebhookOptions

    return Command("rotate-webhooks", "rotate_webhooks", (Parameter("options", WebhookOptions),))


def _smoke_test() -> Command:
    from prefect_linkerd.mesh.smoke.options import SmokeOptions

    return Command("smoke-test", "smoke_test", (Parameter("options", SmokeOptions),))


def _watch() -> Command:
    repositories = Parameter(
        "repositories",
        list[str],
        help="https repository, oci:// registry path or folder; by default what saved meshes use.",
    )
    return Command("watch", "watch_charts", (repositories,), takes_mesh=False, needs_server=True)


COMMANDS: dict[str, Callable[[], Command]] = {
    "bootstrap": _bootstrap,
    "adopt": _adopt,
    "upgrade": _upgrade,
    "rotate-anchor": _rotate_anchor,
    "rotate-issuer": _rotate_issuer,
    "rotate-webhooks": _rotate_webhooks,
    "smoke-test": _smoke_test,
    "watch": _watch,
}
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
        "Keep it in a Secret of the cluster (trust_anchor.custody: in-cluster).",
    ),
)


def is_dry(arguments: dict[str, Any]) -> bool:
    """Whether a run only shows its plan, or goes back to what there was: it keeps no new key."""
    return bool(arguments.get("dry_run")) or arguments.get("action") in ("dry_run", "abort")


def command(name: str) -> Callable[..., None]:
    """The function of the command of this name."""
    command = COMMANDS[name]()
    flags = flags_of(command.parameters)
    more = [*(KEY_FLAGS if command.keeps_key else ())]
    if command.has_dry_action:
        more += flags_of((DRY_RUN,))

    def with_mesh(
        mesh: MESH = None,
        settings: SET = None,
        kubeconfig: KUBECONFIG = None,
        context: CONTEXT = None,
        output: OUTPUT = "text",
        yes: YES = False,
        quiet: QUIET = False,
        **given: Any,
    ) -> None:
        def work() -> None:
            key = "unused" if key_use(command.flow) == "unused" else "asked"
            chosen = [*(settings or ()), *_key_settings(given)]
            config = load_mesh(mesh, kubeconfig, context, chosen, key)
            arguments = arguments_of(command.parameters, flags, given)
            if command.has_dry_action and given["dry_run"]:
                arguments["action"] = _dry(arguments.get("action", "rotate"))
            if command.asks_for_target and mesh is None and not arguments.get("dry_run"):
                from prefect_linkerd.target import confirm_target

                confirm_target(config, yes=yes)
            run_flow(command, config, arguments, output, yes, quiet)

        guarded(work, output)

    def without_mesh(
        output: OUTPUT = "text", yes: YES = False, quiet: QUIET = False, **given: Any
    ) -> None:
        guarded(
            lambda: run_flow(
                command, None, arguments_of(command.parameters, flags, given), output, yes, quiet
            ),
            output,
        )

    own = with_mesh if command.takes_mesh else without_mesh
    return with_flags(own, [*flags, *more])


def _dry(action: str) -> str:
    if action in ("rotate", "dry_run"):
        return "dry_run"
    raise InvalidInput(
        "flags",
        expected="--dry-run, or another action than rotate",
        found=f"--dry-run and --action {action}",
        remedy="Give one of them. --dry-run shows the plan of a rotation.",
    )


def _key_settings(given: dict[str, Any]) -> list[str]:
    """The fields of the mesh that the flags for the key's place stand for."""
    found: list[str] = []
    if (path := given.get("key_file")) is not None:
        found.append(f"trust_anchor.key_file={json.dumps(str(path.expanduser().absolute()))}")
    if given.get("key_in_cluster"):
        found.append("trust_anchor.custody=in-cluster")
    return found


def run_flow(
    command: Command,
    config: MeshConfig | None,
    arguments: dict[str, Any],
    output: str,
    yes: bool,
    quiet: bool,
) -> None:
    """Runs a flow: on the user's Prefect server; where there is none, as a plain procedure."""
    is_plain = not has_server()
    if is_plain and command.needs_server:
        raise InvalidInput(
            command.name,
            expected="a Prefect server, which notes what was seen and gets the events",
            found="none",
            remedy="Set PREFECT_API_URL.",
        )
    if config is not None:
        from prefect_linkerd.target import reached

        reached(config.access)
    keeps_key = command.keeps_key and not is_dry(arguments)
    if config is not None and keeps_key and is_plain:
        from prefect_linkerd.key_place import with_place

        config = with_place(config, command.flow)
    if is_plain:
        from prefect_linkerd.plain_run import run
    else:
        from prefect_linkerd.runs import run
    with approved(command.name, yes) as answer:
        state = run(command.flow, config, arguments, answer=answer, quiet=quiet)
    if config is not None and keeps_key:
        _say_key(config, is_plain=is_plain)
    show(config, state, output)


@contextmanager
def approved(name: str, yes: bool) -> Generator[Answer]:
    from prefect_linkerd.tasks.at_terminal import Refused

    answer = "yes" if yes else "ask" if sys.stdin.isatty() else "no"
    try:
        yield answer
    except Refused:
        raise InvalidInput(
            name,
            expected="to be approved",
            found="that it was not" if answer == "ask" else "nobody at a terminal to ask",
            remedy="Run it again to resume; --yes approves without asking.",
        ) from None


def _say_key(config: MeshConfig, *, is_plain: bool) -> None:
    from prefect_linkerd.key_place import key_words

    if is_plain:
        from prefect_linkerd.tasks.at_terminal import AtTerminal
        from prefect_linkerd.tasks.outside import within

        with within(AtTerminal("")):
            said = key_words(config, "")
    else:
        from prefect.settings import PREFECT_API_URL

        said = key_words(config, PREFECT_API_URL.value() or "")
    print(said, file=sys.stderr)


def show(config: MeshConfig | None, state: Ending, output: str) -> None:
    from prefect_linkerd.results import as_words

    result: Any = state.data
    if output == "json":
        from pydantic_core import to_jsonable_python

        print(json.dumps(to_jsonable_python(result, fallback=str), indent=2))
    else:
        name = config.name if config else ""
        print(as_words(name, state.name or "", state.message or "", result), end="")
