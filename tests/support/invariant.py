"""The invariant of a rotation: any two running proxies can verify each other.

Computed from what the proxies carry: every leaf's chain has to lead to an anchor in the trust
bundle of every running proxy. A thread samples it throughout.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cryptography import x509

from prefect_linkerd.mesh.pki.certificates import signed_by
from sandbox.cluster import RunningProxy, Sandbox

PATIENCE = 10.0
"""Seconds that a started proxy may lack a certificate."""

END = "-----END CERTIFICATE-----\n"


@functools.lru_cache(100_000)
def is_of(leaf: str, issuer: str) -> bool:
    one, other = (x509.load_pem_x509_certificate(pem.encode()) for pem in (leaf, issuer))
    try:
        one.verify_directly_issued_by(other)
    except Exception:
        return False
    return True


@functools.lru_cache(10_000)
def is_trusted(issuers: str, bundle: str) -> bool:
    return signed_by(issuers, bundle, "chain") is not None


def split(chain: str) -> tuple[str, str]:
    """The leaf and the rest of the chain."""
    leaf, _, rest = chain.partition(END)
    return leaf + END, rest


def violations(proxies: list[RunningProxy]) -> list[str]:
    """Each issuer that a bundle does not verify, with a proxy of each; and leaves not of theirs."""
    carried = [proxy for proxy in proxies if proxy.chain]
    issuers: dict[str, str] = {}
    found: list[str] = []
    for proxy in carried:
        leaf, rest = split(proxy.chain)
        first, _ = split(rest)
        if not is_of(leaf, first):
            found.append(f"{proxy.name}: its leaf is not of its issuer")
        issuers.setdefault(rest, proxy.name)
    bundles: dict[str, str] = {}
    for proxy in carried:
        bundles.setdefault(proxy.bundle, proxy.name)
    return found + [
        f"{verifier} cannot verify {name}"
        for rest, name in issuers.items()
        for bundle, verifier in bundles.items()
        if not is_trusted(rest, bundle)
    ]


class Invariant:
    """Samples a sandbox while open, and fails on exit if the invariant was violated.

    Args:
        tolerated: violations that a test explains.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        every: float = 0.3,
        tolerated: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._tolerated = tolerated
        self._sandbox = sandbox
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._bare: dict[str, float] = {}
        self.samples = 0
        self.largest = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(timeout=30)
        if kind is None:
            assert not self.failures, self.failures[:10]
            assert self.samples

    def _sample(self) -> None:
        begin = time.monotonic()
        while not self._over.wait(self._every):
            try:
                self._look(time.monotonic() - begin)
            except Exception as error:
                self.failures.append(f"no sample: {error!r}")

    def _look(self, second: float) -> None:
        proxies = self._sandbox.proxies()
        self.samples += 1
        self.largest = max(self.largest, len(proxies))
        self.failures += [
            f"{second:.1f} s: {text}" for text in violations(proxies) if not self._tolerated(text)
        ]
        bare = {proxy.uid: proxy.name for proxy in proxies if not proxy.chain}
        self._bare = {uid: self._bare.get(uid, second) for uid in bare}
        self.failures += [
            f"{second:.1f} s: {bare[uid]} has no certificate since {since:.1f} s"
            for uid, since in self._bare.items()
            if second - since > PATIENCE
        ]
