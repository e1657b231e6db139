"""A fuzzer's input as a list of choices; what is asked for beyond its end is zero or empty."""

from __future__ import annotations

from collections.abc import Iterable


class Script:
    """Reads choices from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """True until all has been read."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """A number below 256."""
        return self.take(1)[0]

    def word(self) -> int:
        """A number below 65,536."""
        return int.from_bytes(self.take(2), "big")

    def take(self, count: int) -> bytes:
        """So many bytes, with zeros behind the end of the input."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found.ljust(count, b"\0")

    def block(self) -> bytes:
        """Bytes behind their length in two bytes; shorter at the end of the input."""
        size = self.word()
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def rest(self) -> bytes:
        """All that is left."""
        found = self._data[self._at :]
        self._at = len(self._data)
        return found


def block(content: bytes) -> bytes:
    """What `Script.block` reads."""
    return len(content).to_bytes(2, "big") + content


class Edits:
    """Changes to what a peer says: (unit, position, kind, bytes) each, for the units in their order.

    `apply` gives a unit back as it is unless an edit names its number.
    """

    def __init__(self, script: Script) -> None:
        self._edits: dict[int, list[tuple[int, int, bytes]]] = {}
        self.count = 0
        while script.more:
            unit, at, kind = script.byte(), script.word(), script.byte()
            self._edits.setdefault(unit, []).append((at, kind, script.block()))

    def apply(self, data: bytes) -> bytes:
        """The next unit, changed."""
        changed = bytearray(data)
        for at, kind, said in self._edits.get(self.count, ()):
            at %= len(changed) + 1
            match kind % 5:
                case 0:
                    changed[at : at + len(said)] = said
                case 1:
                    changed[at:at] = said
                case 2:
                    del changed[at : at + max(1, len(said))]
                case 3:
                    del changed[at:]
                case _:
                    changed = bytearray(said)
        self.count += 1
        return bytes(changed)


def edits(*changes: tuple[int, int, int, bytes]) -> bytes:
    """What `Edits` reads."""
    parts: Iterable[bytes] = (
        bytes((unit,)) + at.to_bytes(2, "big") + bytes((kind,)) + block(said) for unit, at, kind, said in changes
    )
    return b"".join(parts)
