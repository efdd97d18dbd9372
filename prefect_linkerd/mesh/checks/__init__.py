"""Every check of `linkerd check`, and more: each a small function over a snapshot.

A module here is a topic; a check is declared where it is written, by linkerd's own id:

    @identity.check("l5d-identity-trustAnchors-not-expiring-soon", "trust anchors …", "warning")
    def trust_anchors_not_expiring_soon(snapshot: Snapshot) -> Problems:
        yield Problem(...)

`categories` has all of them. It is not imported here, so that a form or a command's help can import
`options` alone.
"""
