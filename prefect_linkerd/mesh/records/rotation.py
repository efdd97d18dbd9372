"""What a rotation records in the cluster so any machine can resume it: one ConfigMap.

It has the phase, the anchors by fingerprint, the restarted workloads and the story so far, and
never a private key. Only the run that holds its lease writes it, under a unique name; a thread
renews the lease. So two runs cannot rotate or upgrade a mesh at once, and if a run's machine dies
another takes over when the lease has expired. Every write carries the resourceVersion it is based
on.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from prefect_linkerd.mesh.errors import ApiError, MeshBusy, MeshError
from prefect_linkerd.mesh.identity.trust_anchor import ISSUER_SECRET
from prefect_linkerd.mesh.kubernetes.client import MADE_HERE, Cluster, Object
from prefect_linkerd.mesh.pki.certificates import CertificateInfo, read_certificates, signed_by

RECORD = "prefect-linkerd-rotation"
WATCH = 0.3
"""Seconds between checks of a lease that another run holds."""
ATTEMPTS = 6
"""How often to try a write that conflicts with another or whose response is lost."""


@dataclass(frozen=True)
class Chapter:
    """One line of a rotation's story: when, in which phase, what."""

    at: str
    phase: str
    text: str


@dataclass(frozen=True)
class RotationRecord:
    """A rotation as recorded in the cluster.

    `goal` is the fingerprint of the anchor that the rotation leaves as the only one, `origin` that
    of the anchor that signed the issuer when it started, `anchors` the PEM of all anchors involved.
    `signing_since` is the time since which every identity pod signs under the goal; `restarted`
    has the workloads restarted in each phase.

    `pace` is how it handles restarts (`rotation.pace`). A gentle rotation shortens the
    certificates' lifetime to `shortened`, in effect on every identity pod since `short_since`.
    `lifetime` is the release's own value from before, empty if it had none, and `is_lengthened`
    says that it has been restored. `dropped` is when the bundle lost every anchor but the goal,
    `drop_by` the deadline for proxies to drop them too.
    """

    goal: str
    origin: str
    anchors: str
    phase: str
    begun: str
    signing_since: str = ""
    restarted: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    story: tuple[Chapter, ...] = ()
    pace: str = "quick"
    shortened: str = ""
    lifetime: str = ""
    is_lengthened: bool = False
    short_since: str = ""
    dropped: str = ""
    drop_by: str = ""

    @property
    def is_gentle(self) -> bool:
        """Whether proxies renew by themselves and drop the old anchor at their next restart."""
        return self.pace == "gentle"

    @property
    def is_shortened(self) -> bool:
        """Whether the certificates' lifetime has yet to be restored."""
        return bool(self.shortened) and not self.is_lengthened

    @property
    def is_going_back(self) -> bool:
        """Whether it was aborted: the old anchor is the goal again."""
        return self.goal == self.origin

    @property
    def is_open(self) -> bool:
        """Whether it is unfinished."""
        return self.phase != "done"

    def since(self) -> datetime | None:
        """`signing_since` as a time."""
        return datetime.fromisoformat(self.signing_since) if self.signing_since else None


def anchor_of(record: RotationRecord, fingerprint: str) -> CertificateInfo:
    return next(
        info
        for info in read_certificates(record.anchors, "rotation")
        if info.fingerprint == fingerprint
    )


def chains_to(chain: str, record: RotationRecord, goal: str) -> bool:
    signer = signed_by(chain, record.anchors, ISSUER_SECRET)
    return signer is not None and signer.fingerprint == goal


def read_record(cluster: Cluster, namespace: str) -> RotationRecord | None:
    """The last rotation of a mesh, or None."""
    return record_of(cluster.get("v1", "ConfigMap", RECORD, namespace))


def record_of(obj: Object | None) -> RotationRecord | None:
    """The rotation recorded in a ConfigMap, or None."""
    text: str = (obj or {}).get("data", {}).get("rotation", "")
    if not text:
        return None
    content: dict[str, Any] = json.loads(text)
    content["story"] = tuple(Chapter(**chapter) for chapter in content["story"])
    content["restarted"] = {key: tuple(value) for key, value in content["restarted"].items()}
    return RotationRecord(**content)


@dataclass(frozen=True)
class Lease:
    """The run that may change a mesh, and the time when that expires unless it is renewed."""

    holder: str
    until: datetime


def lease_of(obj: Object | None, now: datetime) -> Lease | None:
    """The lease in a rotation's ConfigMap, or None if it is free or has expired."""
    data: Mapping[str, str] = (obj or {}).get("data") or {}
    holder, until = data.get("owner", ""), data.get("until", "")
    if not holder or not until:
        return None
    lease = Lease(holder, datetime.fromisoformat(until))
    return lease if lease.until > now else None


class RotationClaim:
    """A context manager that holds the right to rotate or upgrade a mesh.

    Another run that holds it may have died, so entering waits until that run's lease expires or is
    renewed.

    Args:
        owner: a unique name for this run.
        lease: seconds after which a holder that stops renewing loses it.
        on_wait: called once if entering has to wait, with a message that names the holder.

    Raises:
        MeshBusy: on entering, another run holds it and is alive.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        owner: str,
        lease: float,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._owner = owner
        self._lease = timedelta(seconds=lease)
        self._on_wait = on_wait
        self._object: Object = {}
        self._lost: MeshError | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        found = self._await_holder()
        self._object = found or {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": RECORD, "namespace": self._namespace, "labels": MADE_HERE},
            "data": {},
        }
        self._write(lambda data: data, is_new=found is None)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(timeout=10)
        if self._lost is None:
            # If the lease cannot be released, it expires by itself.
            with contextlib.suppress(MeshError):
                self._write(lambda data: data, held=False)

    @property
    def record(self) -> RotationRecord | None:
        with self._lock:
            return record_of(self._object)

    def check(self) -> None:
        """Raises `MeshBusy` if another run has taken over, as this one must then change nothing."""
        if self._lost is not None:
            raise self._lost

    def save(self, record: RotationRecord, now: datetime | None = None) -> RotationRecord:
        """Writes the record.

        Args:
            now: the current time, if it has just been read.
        """
        self.check()
        text = json.dumps(asdict(record), sort_keys=True)
        self._write(lambda data: {**data, "rotation": text}, now=now)
        return record

    def tell(self, phase: str, text: str) -> None:
        """Adds a line to the story, and sets the current phase."""
        if (record := self.record) is not None:
            now = self._cluster.clock()
            story = (*record.story, Chapter(now.isoformat(timespec="seconds"), phase, text))
            self.save(replace(record, phase=phase, story=story), now)

    def _write(
        self,
        change: Callable[[dict[str, str]], dict[str, str]],
        *,
        is_new: bool = False,
        held: bool = True,
        now: datetime | None = None,
    ) -> None:
        with self._lock:
            until = (now or self._cluster.clock()) + self._lease
            for attempt in range(ATTEMPTS):
                data: dict[str, str] = {
                    **change(self._object.get("data") or {}),
                    "owner": self._owner if held else "",
                    "until": until.isoformat(),
                }
                wanted = {**self._object, "data": data}
                try:
                    write = self._cluster.create if is_new else self._cluster.replace
                    self._object = {**wanted, **write(wanted)}
                    return
                except ApiError as error:
                    is_unsure = error.status == 409 or (is_new and error.transient)
                    if not is_unsure or attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(0.2 * attempt)
                # Either another run's write, or ours with its response lost.
                found = self._cluster.get("v1", "ConfigMap", RECORD, self._namespace)
                if found is None:
                    is_new = True
                    self._object["metadata"].pop("resourceVersion", None)
                    continue
                is_new = False
                holder = found.get("data", {}).get("owner", "")
                if holder not in ("", self._owner):
                    raise self._lose(holder)
                self._object = found

    def _lose(self, holder: str) -> MeshBusy:
        self._lost = MeshBusy(
            f"ConfigMap/{self._namespace}/{RECORD}",
            expected="this run to hold it",
            found=f"that {holder} does",
            remedy="Let that one finish; this run has stopped and changed nothing since.",
        )
        return self._lost

    def _await_holder(self) -> Object | None:
        """Waits until no other run holds the ConfigMap, and returns it; None if there is none."""
        first: tuple[str, str] | None = None
        while True:
            found = self._cluster.get("v1", "ConfigMap", RECORD, self._namespace)
            data: dict[str, str] = (found or {}).get("data") or {}
            holder, until = data.get("owner", ""), data.get("until", "")
            is_free = holder in ("", self._owner) or not until
            if is_free or datetime.fromisoformat(until) <= self._cluster.clock():
                return found
            if first is None:
                first = holder, until
                self._on_wait(
                    f"{holder} is changing this mesh, or died while doing so: waiting until it "
                    f"renews its lease, or until the lease expires at {until}"
                )
            elif first != (holder, until):
                raise MeshBusy(
                    f"ConfigMap/{self._namespace}/{RECORD}",
                    expected="no other run that rotates or upgrades this mesh",
                    found=f"that {holder} is running (its lease expires at {until})",
                    remedy="Let it finish, or cancel it, then run this again.",
                )
            time.sleep(WATCH)

    def _renew(self) -> None:
        while not self._over.wait(self._lease.total_seconds() / 3):
            try:
                self._write(lambda data: data)
            except ApiError:
                # While the API server is unreachable no other run can take over either.
                continue
            except MeshError:
                return
