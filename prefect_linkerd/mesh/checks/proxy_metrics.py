"""What the proxies' own metrics say: certificates that are not renewed, and requests that fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

from prefect_linkerd.mesh.checks.certificates import issuance_lifetime
from prefect_linkerd.mesh.checks.check import Category, Problem, Problems, Skip
from prefect_linkerd.mesh.snapshot.mesh import Snapshot
from prefect_linkerd.mesh.snapshot.proxy_metrics import ProxySample, Responses, without_identity

SUCCESS_RATE = 0.95
"""The share of a workload's responses that should be successes."""

ENOUGH = 50.0
"""The number of responses below which a success rate says nothing."""

proxy_metrics = Category[Snapshot]("pl-proxy-metrics", "beyond")


@proxy_metrics.check("pl-proxy-identity-valid", "proxies have valid certificates")
def proxy_identity_valid(snapshot: Snapshot) -> Problems:
    for pod, text in without_identity(_sample(snapshot), snapshot.now):
        yield Problem(f"Pod/{pod}", text, "Look at the identity controller's log, then restart it.")


@proxy_metrics.check("pl-proxy-identity-renewed", "proxies renew their certificates", "warning")
def proxy_identity_renewed(snapshot: Snapshot) -> Problems:
    # A proxy asks for a new certificate after 70 % of the old one's lifetime.
    # Source: linkerd2-proxy `linkerd/proxy/identity-client/src/certify.rs`.
    least = issuance_lifetime(snapshot) / 5
    for pod, said in sorted(_sample(snapshot).answers.items()):
        left = said.identity_ends - snapshot.now if said.identity_ends else None
        if left is not None and timedelta() < left < least:
            yield Problem(
                f"Pod/{pod}",
                f"its proxy's certificate has {left.total_seconds() / 3600:.1f} h left and should "
                "have been renewed by now",
                "Look at the identity controller's log and at the proxy's.",
            )


@proxy_metrics.check("pl-proxy-success-rate", "meshed workloads answer successfully", "warning")
def proxy_success_rate(snapshot: Snapshot) -> Problems:
    prometheus = snapshot.prometheus
    if prometheus is not None and prometheus.state == "answers":
        responses, when = prometheus.responses, "in the last five minutes"
    else:
        responses, when = _summed(_sample(snapshot)), "since its proxies started"
    for workload, said in sorted(responses.items()):
        rate = said.success_rate
        if rate is not None and said.total >= ENOUGH and rate < SUCCESS_RATE:
            yield Problem(
                workload,
                f"{rate:.1%} of {said.total:.0f} responses were successes {when}",
                "Look at its log, and use `linkerd viz stat` to see which requests fail.",
            )


def _sample(snapshot: Snapshot) -> ProxySample:
    sample = snapshot.proxy_sample
    if not sample.answers:
        if not snapshot.pods_run:
            raise Skip("pods do not run here")
        why = next(iter(sample.silent.values()), "there are no proxies")
        raise Skip(f"no proxy's admin port answers the API server: {why}")
    return sample


def _summed(sample: ProxySample) -> Mapping[str, Responses]:
    found: dict[str, Responses] = defaultdict(Responses)
    for pod, said in sample.answers.items():
        workload = sample.workloads[pod]
        known = found[workload]
        found[workload] = Responses(
            known.succeeded + said.responses.succeeded, known.failed + said.responses.failed
        )
    return found
