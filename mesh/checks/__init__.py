"""Everything that `linkerd check` knows, and more: each check one small function over a snapshot.

A module here is a topic; a check is declared where it is written, by linkerd's own id:

    @identity.check("l5d-identity-trustAnchors-not-expiring-soon", "trust anchors …", "warning")
    def _(snapshot: Snapshot) -> Problems:
        yield Problem(...)

`CATEGORIES` is the order in which they are run and shown.
"""

from __future__ import annotations

from mesh.checks.check import Category
from mesh.checks.config import config

CATEGORIES: tuple[Category, ...] = (config,)
