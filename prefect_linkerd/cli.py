"""`prefect-linkerd`: every flow from a terminal, on the user's Prefect server or without one."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic_core import to_jsonable_python

from prefect_linkerd.mesh.atomic_file import write_whole
from prefect_linkerd.mesh.checks import CATEGORIES
from prefect_linkerd.mesh.checks.options import ExpiryThresholds, VerifyOptions
from prefect_linkerd.mesh.config.model import MeshConfig
from prefect_linkerd.mesh.errors import InvalidInput, MeshError
from prefect_linkerd.mesh.fleet import FleetFlow, FleetOptions
from prefect_linkerd.mesh.kubernetes.client import Cluster
from prefect_linkerd.mesh.report.metrics import as_metrics
from prefect_linkerd.mesh.report.report import as_linkerd_json, as_text, verify
from prefect_linkerd.mesh.restarts import RestartPolicy
from prefect_linkerd.mesh.rotation.options import Action, NewAnchor, RotationOptions
from prefect_linkerd.mesh.rotation.webhooks import WebhookOptions
from prefect_linkerd.mesh.smoke.options import SmokeOptions
from prefect_linkerd.mesh.snapshot.expiry import expiring, read_expiries
from prefect_linkerd.mesh.snapshot.mesh import read_snapshot
from prefect_linkerd.mesh_file import fields_of, load_fleet, load_mesh
from prefect_linkerd.options import Flag, Parameter, arguments_of, flags_of
from prefect_linkerd.results import as_words
from prefect_linkerd.tasks.outside import Ending
from prefect_linkerd.user_server import has_server

if TYPE_CHECKING:
    from prefect_linkerd.plain_run import Answer

Result = Literal["text", "json"]

app = typer.Typer(
    name="prefect-linkerd",
    help="The life of a Linkerd service mesh: the flows of prefect-linkerd from a terminal.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Tables would cut off the names of flags.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

MESH = Annotated[
    Path | None,
    typer.Argument(
        metavar="MESH",
        help="The mesh's configuration, a YAML or JSON file with the fields of docs/options.md. "
        "Without one: the defaults, and the kubeconfig's cluster; bootstrap then asks first.",
    ),
]
SET = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the mesh that wins over the file's, such as viz.enabled=false. May be "
        "given several times.",
    ),
]
KUBECONFIG = Annotated[
    Path | None,
    typer.Option(
        help="The kubeconfig, instead of the mesh's. Without either: as kubectl, KUBECONFIG, else "
        "~/.kube/config."
    ),
]
CONTEXT = Annotated[
    str | None, typer.Option(help="The kubeconfig's context, instead of the mesh's.")
]
OUTPUT = Annotated[Result, typer.Option("--output", "-o", help="What stdout is for.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors alone.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Give every approval without asking.")]


@dataclass(frozen=True)
class Command:
    """A flow as a command: the flow's name, one line of help, its parameters but for the mesh.

    `asks_for_target` says whether it asks before it changes a cluster that no mesh file names,
    `key` what it does with the trust anchor's private key.
    """

    name: str
    flow: str
    help: str
    parameters: tuple[Parameter, ...] = ()
    takes_mesh: bool = True
    asks_for_target: bool = False
    needs_server: bool = False
    key: Literal["unused", "read", "kept"] = "unused"

    @property
    def keeps_key(self) -> bool:
        """Whether it may make a key that has to be kept."""
        return self.key == "kept"


DRY_RUN = Parameter("dry_run", bool, False, help="Stop after the plan; change nothing.")
RESTARTS = Parameter("restarts", RestartPolicy, prefix="restarts-")
COMMANDS = (
    Command(
        "bootstrap",
        "bootstrap",
        "Install a mesh, or resume an interrupted install.",
        (
            DRY_RUN,
            Parameter("accept", list[str], help="Id of a finding of the plan that is accepted."),
        ),
        asks_for_target=True,
        key="kept",
    ),
    Command(
        "adopt",
        "adopt",
        "Print the configuration of a running mesh that Helm installed; change nothing.",
    ),
    Command(
        "upgrade",
        "upgrade",
        "Upgrade a mesh to a newer Linkerd, and roll back when a gate fails.",
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
            RESTARTS,
        ),
    ),
    Command(
        "rotate-anchor",
        "rotate_anchor",
        "A new trust anchor for a running mesh, with no failed request.",
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
        key="kept",
    ),
    Command(
        "rotate-issuer",
        "rotate_issuer",
        "A new issuer, signed by the trust anchor that the mesh has.",
        (Parameter("options", RotationOptions),),
        key="read",
    ),
    Command(
        "rotate-webhooks",
        "rotate_webhooks",
        "New certificates for Linkerd's webhooks, by the charts that made them.",
        (Parameter("options", WebhookOptions),),
    ),
    Command(
        "smoke-test",
        "smoke_test",
        "Whether a mesh does, with real requests, what it is installed for.",
        (Parameter("options", SmokeOptions),),
    ),
    Command(
        "watch",
        "watch_charts",
        "New Linkerd releases, each announced once.",
        (
            Parameter(
                "repositories",
                list[str],
                help="https repository, oci:// registry path or folder; Linkerd's own by default.",
            ),
        ),
        takes_mesh=False,
        needs_server=True,
    ),
)
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
VERIFY = Parameter("options", VerifyOptions, without=("thresholds",))
"""Thresholds are for events, which need a server."""
CERTIFICATES = Parameter("thresholds", ExpiryThresholds)
FLEET = (
    Parameter("deployment", FleetFlow, "verify_mesh", help="The flow that each mesh has."),
    Parameter(
        "parameters",
        list[str],
        help="That flow's other parameters, each as FIELD=VALUE, such as options.scopes=[proxy].",
    ),
    Parameter("options", FleetOptions),
    Parameter(
        "goes_on",
        str,
        "",
        help="A name for this round of the fleet. A run with the name of one that was stopped "
        "resumes it.",
    ),
    Parameter("dry_run", bool, False, help="Only show the waves."),
)


def is_dry(arguments: dict[str, Any]) -> bool:
    """Whether a run only shows its plan, or goes back to what there was: it keeps no new key."""
    return bool(arguments.get("dry_run")) or arguments.get("action") in ("dry_run", "abort")


class Failed(Exception):
    """A command did what it says, and the mesh is not well."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code is linkerd's: 1 where a check fails, 2 on wrong input."""
    # At a terminal Prefect would tell its makers that it is used: nobody has asked for that.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        app(None if arguments is None else list(arguments), standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _guarded(work: Callable[[], None], output: str) -> None:
    try:
        work()
    except Failed:
        raise typer.Exit(1) from None
    except MeshError as error:
        if output == "json":
            said = {"error": type(error).__name__, **vars(error), "message": str(error)}
            print(json.dumps(to_jsonable_python(said, fallback=str), indent=2))
        print(f"prefect-linkerd: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, InvalidInput) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _register(name: str, text: str, own: Callable[..., None], flags: Sequence[Flag]) -> None:
    """Adds a command whose parameters are those of `own` and the flags."""

    def command(**given: Any) -> None:
        own(**given)

    keywords = inspect.signature(own, eval_str=True).parameters.values()
    fixed = [p.replace(kind=p.KEYWORD_ONLY) for p in keywords if p.kind != p.VAR_KEYWORD]
    made = [flag.as_parameter() for flag in flags]
    command.__signature__ = inspect.Signature([fixed[0], *made, *fixed[1:]] if fixed else made)  # type: ignore[attr-defined]
    app.command(name, help=text)(command)


def _flow(command: Command) -> None:
    flags = flags_of(command.parameters)

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
            key = "unused" if command.key == "unused" else "asked"
            chosen = [*(settings or ()), *_key_settings(given)]
            config = load_mesh(mesh, kubeconfig, context, chosen, key)
            arguments = arguments_of(command.parameters, flags, given)
            if command.asks_for_target and mesh is None and not arguments.get("dry_run"):
                from prefect_linkerd.target import confirm_target

                confirm_target(config, yes=yes)
            _run(command, config, arguments, output, yes, quiet)

        _guarded(work, output)

    def without_mesh(
        output: OUTPUT = "text", yes: YES = False, quiet: QUIET = False, **given: Any
    ) -> None:
        _guarded(
            lambda: _run(
                command, None, arguments_of(command.parameters, flags, given), output, yes, quiet
            ),
            output,
        )

    own = with_mesh if command.takes_mesh else without_mesh
    _register(command.name, command.help, own, [*flags, *(KEY_FLAGS if command.keeps_key else ())])


def _key_settings(given: dict[str, Any]) -> list[str]:
    """The fields of the mesh that the flags for the key's place stand for."""
    found: list[str] = []
    if (path := given.get("key_file")) is not None:
        found.append(f"trust_anchor.key_file={json.dumps(str(path.expanduser().absolute()))}")
    if given.get("key_in_cluster"):
        found.append("trust_anchor.custody=in-cluster")
    return found


def _run(
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
    keeps_key = command.keeps_key and not is_dry(arguments)
    if config is not None and keeps_key and is_plain:
        from prefect_linkerd.key_place import with_place

        config = with_place(config, command.flow)
    if is_plain:
        from prefect_linkerd.plain_run import run
    else:
        from prefect_linkerd.runs import run
    with _approved(command.name, yes) as answer:
        state = run(command.flow, config, arguments, answer=answer, quiet=quiet)
    if config is not None and keeps_key:
        _say_key(config, is_plain=is_plain)
    _show(config, state, output)


@contextmanager
def _approved(name: str, yes: bool) -> Generator[Answer]:
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


def _show(config: MeshConfig | None, state: Ending, output: str) -> None:
    result: Any = state.data
    if output == "json":
        print(json.dumps(to_jsonable_python(result, fallback=str), indent=2))
    else:
        name = config.name if config else ""
        print(as_words(name, state.name or "", state.message or "", result), end="")


def _verify(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    output: Annotated[
        Literal["text", "json", "prometheus"],
        typer.Option("--output", "-o", help="What stdout is for; json is linkerd's own shape."),
    ] = "text",
    **given: Any,
) -> None:
    def work() -> None:
        options = arguments_of((VERIFY,), flags_of((VERIFY,)), given).get("options")
        options = options or VerifyOptions()
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        cluster = Cluster.from_access(config.access)
        snapshot = read_snapshot(cluster, config, permissions="pre" in options.scopes)
        report = verify(snapshot, CATEGORIES, options.scopes, options.ignore)
        as_json = json.dumps(as_linkerd_json(report), indent=2) + "\n"
        texts = {"json": as_json, "prometheus": as_metrics(report), "text": as_text(report)}
        for path, text in (
            (options.json_file, as_json),
            (options.metrics_file, texts["prometheus"]),
        ):
            if path is not None:
                write_whole(path, text)
        print(texts[output], end="")
        if report.exit_code:
            raise Failed

    _guarded(work, output)


def _certificates(
    mesh: MESH = None,
    settings: SET = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
    output: OUTPUT = "text",
    **given: Any,
) -> None:
    def work() -> None:
        flags = flags_of((CERTIFICATES,))
        thresholds = arguments_of((CERTIFICATES,), flags, given).get("thresholds")
        config = load_mesh(mesh, kubeconfig, context, settings or (), "unused")
        found = read_expiries(Cluster.from_access(config.access), config)
        due = expiring(found, config, (thresholds or ExpiryThresholds()).days)
        rows = [
            {
                "certificate": expiry.name,
                "object": expiry.subject,
                "not_after": expiry.info.not_after.isoformat(),
                "days_left": round(expiry.days_left, 2),
                "remedy": next((item.remedy for item in due if item.expiry is expiry), ""),
            }
            for expiry in found
        ]
        if output == "json":
            print(json.dumps(rows, indent=2))
        else:
            for row in rows:
                print("{days_left:>10}  {certificate}  {object}  {remedy}".format(**row).rstrip())
        if any(expiry.days_left <= 0 for expiry in found):
            raise Failed

    _guarded(work, output)


def _fleet(
    meshes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MESH",
            help="Files of meshes: their runs are on this machine. Or names of Linkerd Mesh "
            "blocks, none for all of them: the workers of your Prefect server have the runs.",
        ),
    ] = None,
    output: OUTPUT = "text",
    yes: YES = False,
    quiet: QUIET = False,
    **given: Any,
) -> None:
    def work() -> None:
        arguments = arguments_of(FLEET, flags_of(FLEET), given)
        arguments["parameters"] = fields_of(arguments.get("parameters", ()))
        named = meshes or []
        files = [Path(name) for name in named if Path(name).is_file()]
        command = Command("fleet", "fleet", "", takes_mesh=False)
        if not files:
            if not has_server():
                raise InvalidInput(
                    "fleet",
                    expected="files of meshes, or a Prefect server that has their blocks",
                    found="neither",
                    remedy="Name the files, or set PREFECT_API_URL.",
                )
            _run(command, None, {**arguments, "meshes": named}, output, yes, quiet)
            return
        if len(files) < len(named):
            raise InvalidInput(
                "fleet",
                expected="files of meshes alone, or names of blocks alone",
                found=", ".join(name for name in named if Path(name) not in files),
                remedy="Name existing files.",
            )
        flow = str(arguments.get("deployment", "verify_mesh"))
        of_key = next((c.key for c in COMMANDS if c.flow == flow), "unused")
        fleet = load_fleet(files, "unused" if of_key == "unused" else "asked")
        if of_key == "kept" and not is_dry({**arguments["parameters"], **arguments}):
            from prefect_linkerd.key_place import is_chosen, no_place

            # Its server is the command's own in any case.
            for config in fleet.values():
                if not is_chosen(config):
                    raise no_place(config)
        at_once = arguments.get("options", FleetOptions()).at_once
        from prefect_linkerd.own_server import own_server

        with own_server(partial(print, file=sys.stderr)):
            from prefect_linkerd.own_worker import prepared
            from prefect_linkerd.runs import run

            arguments["meshes"] = list(fleet)
            with prepared(fleet, flow, at_once), _approved("fleet", yes) as answer:
                state = run("fleet", None, arguments, answer=answer, quiet=quiet)
        _show(None, state, output)

    _guarded(work, output)


_flow(COMMANDS[0])
_register(
    "verify",
    "All that `linkerd check` knows, and more; read straight from the cluster.",
    _verify,
    flags_of((VERIFY,)),
)
_register(
    "certificates",
    "Which certificates expire soon, in a second.",
    _certificates,
    flags_of((CERTIFICATES,)),
)
for _command in COMMANDS[1:]:
    _flow(_command)
_register(
    "fleet", "A flow for many meshes: the canaries first, then the rest.", _fleet, flags_of(FLEET)
)
