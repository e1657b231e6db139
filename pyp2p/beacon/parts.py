"""Attributes that are there while a network runs, and say so when it does not."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from pyp2p.errors import LocalProtocolError

T = TypeVar("T")


class Part(Generic[T]):
    """An attribute that is set when its object starts. Reading it before raises `LocalProtocolError`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner.__name__, name

    def __get__(self, holder: object, owner: type) -> T:
        try:
            return cast("T", vars(holder)[self._name])
        except KeyError:
            raise LocalProtocolError(
                f"{self._owner}.{self._name} is there once the network runs: `async with` it first"
            ) from None

    def __set__(self, holder: object, value: T) -> None:
        vars(holder)[self._name] = value
