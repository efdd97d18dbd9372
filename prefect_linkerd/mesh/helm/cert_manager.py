"""cert-manager's Certificates: which one keeps a Secret, and whether somebody else owns it."""

from __future__ import annotations

from collections.abc import Iterable

from prefect_linkerd.mesh.helm.ownership import decide, owner_of
from prefect_linkerd.mesh.kubernetes.client import Object

CERT_MANAGER = "cert-manager.io/v1"


def is_theirs(obj: Object) -> bool:
    """Whether somebody else owns an object that these flows could also make.

    An object is ours if it carries our label or our field manager applied it; older versions set no
    label.
    """
    return decide(owner_of(obj), "shared") == "theirs"


def certificate_for(certificates: Iterable[Object], secret: str) -> Object | None:
    """The Certificate that keeps a Secret, whatever its name; None if no Certificate does.

    Of two Certificates for the same Secret, cert-manager lets only one write it. Somebody else's
    takes precedence here, because what they keep is left to them.

    Args:
        certificates: all that are in the Secret's namespace.
    """
    keepers = [obj for obj in certificates if obj["spec"].get("secretName") == secret]
    return next(filter(is_theirs, keepers), next(iter(keepers), None))
