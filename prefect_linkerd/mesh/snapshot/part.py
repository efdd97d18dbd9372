"""A part of a snapshot: its value or, if it could not be read, the error."""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar, overload

from prefect_linkerd.mesh.errors import MeshError

T_co = TypeVar("T_co", covariant=True)


class Snapshotted(Protocol):
    """An object with parts."""

    def why_unread(self, part: str) -> MeshError:
        """Why a part was not read."""
        ...


class Read(Generic[T_co]):
    """Declares a part: accessing it returns its value or, if it was not read, raises its error.

    The value is an instance attribute of the same name, which Python finds first.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, snapshot: None, owner: type) -> Self: ...

    @overload
    def __get__(self, snapshot: Snapshotted, owner: type) -> T_co: ...

    def __get__(self, snapshot: Snapshotted | None, owner: type) -> Self | T_co:
        if snapshot is None:
            return self
        raise snapshot.why_unread(self._name)
