"""Every check of `linkerd check`, and our own: each is a small function over a snapshot.

Each module covers a topic. A decorator registers each check under linkerd's own id:

    @identity.check("l5d-identity-trustAnchors-not-expiring-soon", "trust anchors …", "warning")
    def trust_anchors_not_expiring_soon(snapshot: Snapshot) -> Problems:
        yield Problem(...)

`categories` lists them all. It is not imported here, so a form or a command's help can import
`options` alone.
"""
