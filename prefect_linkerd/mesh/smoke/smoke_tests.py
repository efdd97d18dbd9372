"""The smoke tests of a mesh, each run on a cluster.

Source: https://linkerd.io/2/features/, and the tasks on traffic shifting, fault injection and
ingress there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prefect_linkerd.mesh.errors import ApiError, InvalidInput, MeshError
from prefect_linkerd.mesh.install.ingress import APP_ROUTE, choose_api_version, override, route
from prefect_linkerd.mesh.kubernetes.client import Object
from prefect_linkerd.mesh.kubernetes.rollout import OnProgress
from prefect_linkerd.mesh.load.program import Traffic
from prefect_linkerd.mesh.load.workloads import PORT
from prefect_linkerd.mesh.mesh import Mesh
from prefect_linkerd.mesh.smoke.judgement import (
    judge_canary,
    judge_faults,
    judge_identity,
    judge_latency,
    judge_split,
    judge_spread,
    judge_success,
    next_shift,
    spread_of,
)
from prefect_linkerd.mesh.smoke.options import SmokeOptions, SmokeTest
from prefect_linkerd.mesh.smoke.report import SmokeResult, Step
from prefect_linkerd.mesh.smoke.routing import SplitApi, choose_split
from prefect_linkerd.mesh.smoke.run import (
    OnStep,
    SmokeRun,
    StepFailed,
    ignore_progress,
    ignore_step,
)
from prefect_linkerd.mesh.smoke.workloads import Backend

_FRONT = "web"


def run_smoke_test(
    test: SmokeTest,
    mesh: Mesh,
    options: SmokeOptions,
    *,
    on_step: OnStep = ignore_step,
    on_progress: OnProgress = ignore_progress,
) -> SmokeResult:
    """Runs one test, and leaves the cluster as it was.

    A failed test is a result, not an error.

    Raises:
        ApiError: the API server failed transiently; the test may be run again.
    """
    run = SmokeRun(mesh, options, test, on_step=on_step, on_progress=on_progress)
    remedy = ""
    try:
        with run:
            try:
                _TESTS[test](run)
            except StepFailed:
                remedy = run.remedy
    except MeshError as error:
        if isinstance(error, ApiError) and error.transient:
            raise
        # The test could not start, or something that it made was not deleted.
        run.record(Step("clean start and end", "failed", str(error)))
        remedy = " ".join(filter(None, (remedy, error.remedy)))
    return SmokeResult(test, tuple(run.steps), tuple(run.objects), tuple(run.measurements), remedy)


def _load_balancing(run: SmokeRun) -> None:
    options = run.options
    run.deploy(Backend("replicas", replicas=options.replicas))
    traffic = run.measure("all replicas", run.url("replicas"))
    if traffic is not None:
        problems = judge_spread(traffic, "replicas", options.replicas, options.spread)
        run.judge(
            "spread over replicas",
            [*_health(run, traffic), *problems],
            "Look at the client's proxy: without one, connections are balanced, not requests.",
            spread_of(traffic, "replicas"),
        )


def _traffic_split(run: SmokeRun) -> None:
    api = _split_api(run)
    run.deploy(Backend("stable"), Backend("canary"))
    run.front(_FRONT, "stable")
    for weight in run.options.weights:
        weights = {"stable": 100 - weight, "canary": weight}
        run.split(api, _FRONT, weights)
        _judge_weights(run, run.measure(f"canary {weight}", run.url(_FRONT)), weights)
    run.unsplit(api)
    traffic = run.measure("without the split", run.url(_FRONT))
    _judge_weights(run, traffic, {"stable": 100, "canary": 0})


def _canary(run: SmokeRun) -> None:
    api = _split_api(run)
    run.deploy(Backend("stable"), Backend("canary"), Backend("broken", fail_percent=100))
    run.front(_FRONT, "stable")
    problems = _shift(run, api, "canary")
    if problems is not None:
        run.judge(
            "a healthy canary is promoted",
            problems,
            "The canary answers like the stable backend: see what its gate found.",
            "through " + ", ".join(map(str, run.options.weights)),
        )
    run.split(api, _FRONT, {"stable": 100, "broken": 0})
    problems = _shift(run, api, "broken")
    if problems is None:
        run.split(api, _FRONT, {"stable": 100, "broken": 0})
    else:
        run.judge(
            "a failing canary is taken back",
            [] if problems else ["the health gate let a canary through that always fails"],
            "Set success_rate higher: the gate lets everything pass.",
            "; ".join(problems),
        )
    traffic = run.measure("taken back", run.url(_FRONT))
    _judge_weights(run, traffic, {"stable": 100, "broken": 0})


def _shift(run: SmokeRun, api: SplitApi, canary: str) -> list[str] | None:
    """Shifts traffic to a canary step by step, and all of it back if the health gate blocks it.

    Returns:
        Why the traffic went back; empty if it did not; None if no traffic could be measured.
    """
    options = run.options
    weight, problems, is_measured = 0, list[str](), False
    while True:
        shift = next_shift(options.weights, weight, problems)
        if shift.action == "done":
            return problems if is_measured else None
        weight = shift.weight
        run.split(api, _FRONT, {"stable": 100 - weight, canary: weight})
        if shift.action == "back":
            return problems
        traffic = run.measure(f"{canary} {weight}", run.url(_FRONT))
        if traffic is not None:
            is_measured = True
            problems = judge_canary(traffic, canary, options.success_rate, options.latency_p99_ms)


def _fault_injection(run: SmokeRun) -> None:
    options = run.options
    api = _split_api(run)
    run.deploy(Backend("healthy"), Backend("faulty", fail_percent=100))
    run.front(_FRONT, "healthy")
    share = options.fault_percent
    run.split(api, _FRONT, {"healthy": 100 - share, "faulty": share})
    traffic = run.measure(f"faults {share}", run.url(_FRONT))
    if traffic is not None:
        run.judge(
            "the injected share fails",
            [
                *judge_faults(traffic, "faulty", share, options.false_alarm, options.success_rate),
                *judge_identity(traffic),
            ],
            _LOOK_AT_ROUTES,
            f"{traffic.failed('faulty')} of {traffic.sent} requests failed at {share} percent",
        )
    run.unsplit(api)
    traffic = run.measure("without faults", run.url(_FRONT))
    _judge_weights(run, traffic, {"healthy": 100, "faulty": 0})


def _ingress(run: SmokeRun) -> None:
    """Checks that Traefik's proxy routes by the `l5d-dst-override` header.

    Traefik's route names one Service, and the header that Traefik adds names another: which of the
    two answers shows what the proxy routed by.
    """
    if not run.config.traefik.enabled:
        run.record_skip("ingress", "traefik is off in this mesh's configuration")
        return
    with run.step("entry point") as say:
        api_version = choose_api_version(run.cluster.api_versions())
        services = list(run.cluster.list("v1", "Service", labels=_TRAEFIK))
        entry = entry_point(services, run.config.namespaces.traefik, run.config.cluster_domain)
        say(entry)
    run.deploy(Backend("named-by-route"), Backend("named-by-header"))
    host = f"{run.name('web')}.example.invalid"
    with run.step("route"):
        middleware = run.name("override")
        target = f"{run.host('named-by-header')}:{PORT}"
        run.apply(override(api_version, middleware, run.namespace, target))
        run.apply(
            route(
                api_version,
                run.name("web"),
                run.namespace,
                f"Host(`{host}`)",
                [middleware],
                run.name("named-by-route"),
                PORT,
            )
        )
    # Clients of an ingress have no proxy.
    traffic = run.measure("through Traefik", entry, headers={"Host": host}, meshed=False)
    if traffic is not None:
        weights = {"named-by-header": 100, "named-by-route": 0}
        run.judge(
            "l5d-dst-override is obeyed",
            [*judge_split(traffic, weights, run.options.false_alarm), *_health(run, traffic)],
            "Traefik's pods need linkerd.io/inject: ingress; restart them once it is set.",
        )
    application = run.config.namespaces.emojivoto
    if run.cluster.get(api_version, "IngressRoute", APP_ROUTE, application) is not None:
        traffic = run.measure("emojivoto through Traefik", entry, meshed=False, is_backend=False)
        if traffic is not None:
            run.judge(
                "emojivoto answers",
                judge_success(traffic, run.options.success_rate),
                f"Look at IngressRoute/{application}/{APP_ROUTE} and the pods behind it.",
            )


_TRAEFIK = "app.kubernetes.io/name=traefik"
_LOOK_AT_ROUTES = (
    "Look at the client's proxy and the split's object: `linkerd diagnostics policy` or "
    "`linkerd diagnostics profile` shows what a proxy knows about the Service."
)


def entry_point(services: Sequence[Object], namespace: str, cluster_domain: str) -> str:
    """The URL of Traefik's plain HTTP port inside the cluster.

    Args:
        services: every Service that is labelled as Traefik's.
        namespace: the preferred one.

    Raises:
        InvalidInput: none has such a port.
    """
    ordered = sorted(services, key=lambda s: s["metadata"]["namespace"] != namespace)
    for found in ordered:
        for port in found["spec"].get("ports", []):
            if port.get("name") == "web" or port["port"] == 80:
                metadata = found["metadata"]
                host = f"{metadata['name']}.{metadata['namespace']}.svc.{cluster_domain}"
                return f"http://{host}:{port['port']}/"
    raise InvalidInput(
        "Traefik's Service",
        expected=f"a Service labelled {_TRAEFIK} with a port named web, or 80",
        found=", ".join(s["metadata"]["name"] for s in ordered) or "none",
        remedy="Let bootstrap install Traefik, or give the existing Traefik's Service the "
        f"label {_TRAEFIK} and a port named web.",
    )


def _split_api(run: SmokeRun) -> SplitApi:
    with run.step("kind of split") as say:
        api = choose_split(run.config.linkerd, run.cluster.serves)
        say(f"{api.kind} ({api.api_version})")
        return api
    raise AssertionError("unreachable")


def _judge_weights(run: SmokeRun, traffic: Traffic | None, weights: dict[str, int]) -> None:
    if traffic is None:
        return
    run.judge(
        "weights: " + ", ".join(f"{name} {weight}" for name, weight in weights.items()),
        [*judge_split(traffic, weights, run.options.false_alarm), *_health(run, traffic)],
        _LOOK_AT_ROUTES,
        ", ".join(f"{name} {traffic.answered(name)}" for name in weights),
    )


def _health(run: SmokeRun, traffic: Traffic) -> list[str]:
    return [
        *judge_success(traffic, run.options.success_rate),
        *judge_latency(traffic, run.options.latency_p99_ms),
        *judge_identity(traffic),
    ]


_TESTS: dict[SmokeTest, Callable[[SmokeRun], None]] = {
    "load-balancing": _load_balancing,
    "traffic-split": _traffic_split,
    "canary": _canary,
    "fault-injection": _fault_injection,
    "ingress": _ingress,
}
