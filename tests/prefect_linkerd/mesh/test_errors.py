"""Errors keep what they say in a pickle, as Prefect makes one of a failed run's."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import pytest

from prefect_linkerd.mesh import errors
from prefect_linkerd.mesh.errors import ApiError, ChartError, MeshError, ReleaseError

SAID = {"expected": "an answer", "found": "none", "remedy": "Wait."}


def every_kind(base: type[MeshError] = MeshError) -> Iterator[type[MeshError]]:
    for kind in base.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield from every_kind(kind)
            if not kind.__name__.startswith("_"):
                yield kind


@pytest.mark.parametrize("kind", [*every_kind()])
def test_an_error_is_the_same_after_a_pickle(kind: type[MeshError]) -> None:
    error = kind("cluster", **SAID)
    found = pickle.loads(pickle.dumps(error))  # noqa: S301 made here
    assert type(found) is kind
    assert (str(found), vars(found)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ApiError("pods", **SAID), True),
        (ApiError("pods", **SAID, status=403), False),
        (ApiError("pods", **SAID, status=503), True),
        (ChartError("chart", **SAID), False),
        (ChartError("chart", **SAID, transient=True), True),
        (ReleaseError("release", **SAID, transient=True), True),
    ],
)
def test_whether_it_may_pass_is_kept(
    error: ApiError | ChartError | ReleaseError, transient: bool
) -> None:
    assert error.transient is transient
    assert pickle.loads(pickle.dumps(error)).transient is transient  # noqa: S301 made here


def test_the_drawing_has_every_error() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert drawn == [
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and each in {*every_kind()}
    ]
