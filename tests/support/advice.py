"""Tests that follow a remedy, each registered by the remedy's words.

`tests/project/test_advice.py` checks that every remedy has such a test. A test counts only if the
product itself creates the remedy while the test runs.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from prefect_linkerd.mesh.errors import MeshError
from tests.support.remedies import FOLDERS, HOLE, PACKAGE
from tests.support.repository import ROOT

Test = TypeVar("Test", bound=Callable[..., None])
FOLLOWED: dict[str, str] = {}
"""The words of every remedy that a test follows, to the test's name."""

_LISTENING: list[list[str]] = []
_PRODUCT = tuple(str(ROOT / folder) for folder in FOLDERS)
_FIELDS = "__dataclass_fields__"
_DATACLASS = "<string>"
"""The file name of code that dataclasses generate."""


def register(words: Iterable[str], test: Callable[..., None]) -> None:
    for each in words:
        FOLLOWED[each] = _name(test)


def follows(*words: str) -> Callable[[Test], Test]:
    """Declares that a test does what these remedies say and shows that it helps."""

    def declare(test: Test) -> Test:
        register(words, test)

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            with recorded() as remedies:
                test(*args, **kwargs)
            require(words, remedies)

        return run  # pyright: ignore[reportReturnType]

    return declare


def follows_each(table: Mapping[str, Any], at: int = 1) -> Callable[[Test], Test]:
    """Declares the same for a test that runs once per case of a table, as parameter `case`.

    Args:
        table: each case by its name.
        at: the index of the remedy's words in a case: a text, or a collection of texts.
    """

    def declare(test: Test) -> Test:
        for case in table.values():
            register(_words(case[at]), test)

        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            with recorded() as remedies:
                test(*args, **kwargs)
            require(_words(table[kwargs["case"]][at]), remedies)

        return pytest.mark.parametrize("case", table)(run)  # pyright: ignore[reportReturnType]

    return declare


def require(words: tuple[str, ...], remedies: list[str]) -> None:
    for each in words:
        said = re.compile(".+".join(map(re.escape, each.split(HOLE))))
        assert any(map(said.search, remedies)), f"nothing advised {each!r}: {remedies}"


def advice(error: type[MeshError], work: Callable[[], object]) -> str:
    """The remedy of the error that `work` raises."""
    with pytest.raises(error) as caught:
        work()
    return caught.value.remedy


def heard(said: str) -> None:
    """Records the output of a process of the product that a test has started."""
    for remedies in _LISTENING:
        remedies.append(said)


@contextmanager
def recorded() -> Generator[list[str]]:
    """The remedies that the product creates meanwhile, without those that tests create."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for carrier in _carriers():
            patch.setattr(carrier, "__init__", _recording(carrier.__init__, found))
        _LISTENING.append(found)
        try:
            yield found
        finally:
            _LISTENING.remove(found)


def _carriers() -> set[type[Any]]:
    """The classes of the product that have a remedy."""
    loaded = [m for name, m in sys.modules.items() if name.partition(".")[0] == PACKAGE]
    classes = {c for module in loaded for c in vars(module).values() if isinstance(c, type)}
    return {MeshError} | {c for c in classes if "remedy" in getattr(c, _FIELDS, ())}


def _recording(init: Callable[..., None], found: list[str]) -> Callable[..., None]:
    @functools.wraps(init)
    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if _maker().startswith(_PRODUCT):
            found.append(self.remedy)

    return made


def _maker() -> str:
    """The file of the code that creates a remedy's carrier."""
    frame = sys._getframe(2)
    while frame.f_back is not None and (
        frame.f_code.co_filename == _DATACLASS or frame.f_code.co_name in ("__init__", "replace")
    ):
        frame = frame.f_back
    return str(Path(frame.f_code.co_filename))


def _words(cell: Any) -> tuple[str, ...]:
    return (cell,) if isinstance(cell, str) else tuple(cell)


def _name(test: Callable[..., Any]) -> str:
    return f"{test.__module__}.{test.__qualname__}"
