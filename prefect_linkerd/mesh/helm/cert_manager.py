"""cert-manager's Certificates: which of them keeps a Secret, and whether it is somebody else's."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.helm.ownership import decide, owner_of
from prefect_linkerd.mesh.kubernetes.client import Object

CERT_MANAGER = "cert-manager.io/v1"


def is_theirs(obj: Object) -> bool:
    """Whether an object that these flows could make themselves is somebody else's.

    Ours is what carries our label or was applied by our field manager, as by versions that set no
    label.
    """
    return decide(owner_of(obj), "shared") == "theirs"


def certificate_for(certificates: Iterable[Object], secret: str) -> Object | None:
    """The Certificate that keeps a Secret, whatever its name; None where none does.

    cert-manager lets only one of two Certificates write the same Secret. Somebody else's counts
    then: what they keep is left to them.

    Args:
        certificates: those of the Secret's namespace.
    """
    keepers = [obj for obj in certificates if obj["spec"].get("secretName") == secret]
    return next(filter(is_theirs, keepers), next(iter(keepers), None))
