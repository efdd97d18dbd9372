"""The scopes of checks; apart from the checks, so that a form loads fast."""

from __future__ import annotations

from typing import Literal

Scope = Literal["pre", "crds", "control-plane", "proxy", "cni", "viz", "jaeger", "beyond"]
"""Which command of the linkerd CLI has a check: `check --pre`, `check --crds`, `check`,
`check --proxy`, `check --linkerd-cni-enabled`, `viz check` and `jaeger check`; `beyond` are our
own."""
