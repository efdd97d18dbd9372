"""How a procedure becomes a Prefect flow. Where Prefect is left out, it stays a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prefect_linkerd.tasks.outside import without_prefect

if TYPE_CHECKING or not without_prefect():
    from prefect import flow
else:

    def flow(**_options: Any) -> Callable[[Any], Any]:
        return lambda function: function


__all__ = ["flow"]
