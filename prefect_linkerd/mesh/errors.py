"""The errors of this library: each names the object, what was expected, found, and a remedy.

MeshError
├── InvalidInput        what the user gave cannot work
├── CertificateError    a certificate or key is not what Linkerd needs
├── ApiError            the Kubernetes API refused, or did not answer    (may be transient)
├── ChartError          a chart or its repository cannot be read         (may be transient)
├── ReleaseError        Helm failed                                      (may be transient)
├── NotReady            something did not come up in time
├── OwnershipConflict   an object belongs to somebody else
├── MeshBusy            another run is changing this mesh
├── NotApproved         a change was not approved
├── PreflightFailed     the cluster does not meet the requirements
├── MeshUnhealthy       a check failed
├── CertificateExpired  a certificate has expired
├── SmokeTestFailed     the mesh fails a test
├── RequestsFailed      more of the probe's requests failed than allowed
├── TrafficDropped      fewer of a workload's requests succeed
├── UpgradeUndone       an upgrade failed, and was rolled back
├── OutputError         a result could not be written
└── FleetStopped        too many meshes of a fleet failed
"""

from __future__ import annotations

from typing import ClassVar


class MeshError(Exception):
    """The base of every error that `mesh` raises deliberately.

    Args:
        subject: the object it is about, as `Kind/namespace/name` or a file or setting.
        expected: what should have been the case.
        found: what was the case instead. Never a secret.
        remedy: what the reader can do about it.

    Example:
        >>> str(NotReady(
        ...     "Deployment/linkerd/linkerd-identity",
        ...     expected="1 ready pod",
        ...     found="0",
        ...     remedy="Look at its events.",
        ... ))
        'Deployment/linkerd/linkerd-identity: expected 1 ready pod, found 0. Look at its events.'
    """

    def __init__(self, subject: str, *, expected: str, found: str, remedy: str) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(subject, expected, found, remedy)

    def __str__(self) -> str:
        # `found` may quote a whole sentence from elsewhere.
        found = self.found.removesuffix(".")
        return f"{self.subject}: expected {self.expected}, found {found}. {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions,
        # and Prefect pickles the exception of a failed run.
        said = (type(self), self.subject, self.expected, self.found, self.remedy)
        return (_rebuild, said, vars(self))


def _rebuild(
    kind: type[MeshError], subject: str, expected: str, found: str, remedy: str
) -> MeshError:
    return kind(subject, expected=expected, found=found, remedy=remedy)


class _PerhapsTransient(MeshError):
    """`transient` says whether a later attempt may succeed."""

    def __init__(
        self, subject: str, *, expected: str, found: str, remedy: str, transient: bool = False
    ) -> None:
        super().__init__(subject, expected=expected, found=found, remedy=remedy)
        self.transient = transient


class InvalidInput(MeshError, ValueError):
    """What the user gave cannot work; nothing was touched."""


class CertificateError(MeshError):
    """A certificate or key that exists is not what a Linkerd identity chain needs."""


class ApiError(MeshError):
    """The Kubernetes API refused a request or could not be reached.

    `status` is the HTTP status, or 0 if there was no response; `transient` says whether the same
    request may succeed later.

    Example:
        >>> ApiError("Pod/apps/web", expected="GET to be accepted", found="503", remedy="Wait.",
        ...     status=503).transient
        True
    """

    _TRANSIENT: ClassVar = (0, 429, 500, 502, 503, 504)

    def __init__(
        self, subject: str, *, expected: str, found: str, remedy: str, status: int = 0
    ) -> None:
        super().__init__(subject, expected=expected, found=found, remedy=remedy)
        self.status = status

    @property
    def transient(self) -> bool:
        return self.status in self._TRANSIENT


class ChartError(_PerhapsTransient):
    """A chart repository or chart cannot be read, or lacks the wanted version."""


class ReleaseError(_PerhapsTransient):
    """Helm could not bring a release to the wanted state."""


class NotReady(MeshError):
    """An object did not become ready in time; `found` carries its conditions and last events."""


class OwnershipConflict(MeshError):
    """An object that we would have to write belongs to somebody else."""


class MeshBusy(MeshError):
    """Another run is changing this mesh, or has changed it since this one looked."""


class NotApproved(MeshError):
    """A change was rejected, or not approved in time; what was done before stays."""


class PreflightFailed(MeshError):
    """The cluster does not meet the mesh's requirements; nothing was changed."""


class MeshUnhealthy(MeshError):
    """A check of the mesh failed; `found` names the checks and objects."""


class CertificateExpired(MeshError):
    """A certificate that the mesh needs has expired."""


class SmokeTestFailed(MeshError):
    """The mesh fails a test; what the tests created is removed."""


class RequestsFailed(MeshError):
    """More of the probe's requests failed than allowed; `found` names the pairs, and why."""


class TrafficDropped(MeshError):
    """Fewer requests of a workload succeed since a batch of restarts; `found` says how many."""


class UpgradeUndone(MeshError):
    """An upgrade failed and the mesh is at its former version again; `found` says why."""


class OutputError(MeshError):
    """A result could not be written to its destination; the work itself is done."""


class FleetStopped(MeshError):
    """Too many meshes of a fleet failed; no others were started."""
