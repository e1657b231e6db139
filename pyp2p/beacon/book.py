"""The address book: peers that we met, where they are and what they did, and bans; over restarts, and bounded.

Rules: the truth is in memory, the file follows: changes in one batch every five seconds, bans before `ban` returns. A
process that is killed loses what the last seconds changed, never a ban. One thread works on the file; a book without
one (`MemoryBook`, as in a simulation) uses none. Nothing about the file ever stops a start or a running node: it is
warned of, and tried again. Times are seconds of the wall clock, since they outlive the process.

Whoever we reached has a true address: strangers who come to us, however many, push out strangers only.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from math import isfinite
from pathlib import Path

import trio
from multiaddr import Multiaddr

from pyp2p.beacon.book_file import BanEntry, BookFile, Contents, Entry, open_file
from pyp2p.errors import InvalidMultiaddr, printable, unwrapped
from pyp2p.peer.address import is_dialable, parse_multiaddr, text
from pyp2p.peer.id import PeerId

logger = logging.getLogger("pyp2p.beacon")

_BATCH_EVERY = 5.0  # seconds
_SAME_BAN = 1.0  # seconds: one that is restored is told again, and 4,000 transactions would hold up a start
_PATIENCE = 10.0  # seconds for the last batch; a network drive may hang for ever


@dataclass(frozen=True, slots=True)
class BookLimits:
    """Bounds of the book, least recently seen out first. Raises `ValueError` for less than 1."""

    dialled: int = 5_000  # peers that we reached
    strangers: int = 2_000  # peers that only came to us: a million fresh keys cost their makers these places
    bans: int = 4_096  # the first to end goes first
    addresses: int = 20  # per peer, which may claim any number
    address: int = 256  # bytes of one
    agent: int = 256  # characters

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


class MemoryBook:
    """The book in memory; it is all there is in a simulation."""

    def __init__(self, limits: BookLimits = BookLimits()) -> None:
        self._limits = limits
        self._dialled: OrderedDict[PeerId, Entry] = OrderedDict()
        self._strangers: OrderedDict[PeerId, Entry] = OrderedDict()
        self._bans: dict[PeerId, BanEntry] = {}

    def met(
        self, peer: PeerId, wall: float, *, addresses: Iterable[Multiaddr] = (), agent: str = "", dialled: bool = False
    ) -> None:
        """The peer is connected, or just was. `addresses` (the most trusted first) and `agent` replace earlier ones.

        `dialled`: we reached it there. Addresses that cannot be dialled or are over the bounds are left out.
        """
        known = self.get(peer) or Entry()
        limits = self._limits
        sound = (each for each in addresses if len(each.to_bytes()) <= limits.address and is_dialable(each))
        kept = tuple(dict.fromkeys(map(text, islice(sound, limits.addresses))))
        self._place(
            peer,
            Entry(
                kept or known.addresses,
                known.score,
                known.scored,
                wall,
                _text(agent[: limits.agent]) or known.agent,
                dialled or known.dialled,
            ),
        )

    def scored(self, peer: PeerId, score: float, wall: float) -> None:
        """The behaviour part of the peer's score is this now. One that is not in the book gets in by a bad one only."""
        known = self.get(peer)
        if not isfinite(score) or (known is None and score >= 0):
            return
        known = known or Entry(seen=wall)
        self._place(peer, Entry(known.addresses, score, wall, known.seen, known.agent, known.dialled))

    async def ban(self, peer: PeerId, ip: IPv4Address | IPv6Address | None, until: float) -> None:
        """The peer is banned until then, also if the process is killed after this returns; never for shorter."""
        known = self._bans.get(peer)
        if known is None or until > known.until + _SAME_BAN:
            self._bans[peer] = BanEntry("" if ip is None else str(ip), until)
            self._note_ban(peer)
        if len(self._bans) > self._limits.bans:
            first = min(self._bans, key=lambda each: self._bans[each].until)
            del self._bans[first]
            self._note_ban(first)
        await self._write()

    async def unban(self, peer: PeerId) -> None:
        """The ban is over; nothing happens without one."""
        if self._bans.pop(peer, None) is not None:
            self._note_ban(peer)
        await trio.lowlevel.checkpoint()  # no hurry: a ban that is over is told from one that is not

    def get(self, peer: PeerId) -> Entry | None:
        """What is known of a peer."""
        return self._dialled.get(peer) or self._strangers.get(peer)

    def addresses(self, peer: PeerId) -> list[Multiaddr]:
        """Where the peer may be dialled, the most trusted first."""
        known = self.get(peer)
        return [] if known is None else list(_parsed(known.addresses))

    def peers(self) -> dict[PeerId, Entry]:
        """Everybody in the book, strangers first, then those we reached; of each, who was seen last comes last."""
        return {**self._strangers, **self._dialled}

    def bans(self, wall: float) -> Iterator[tuple[PeerId, IPv4Address | IPv6Address | None, float]]:
        """The bans that stand: peer, where it came from, seconds left."""
        for peer, ban in list(self._bans.items()):
            if ban.until > wall:
                yield peer, _ip(ban.ip), ban.until - wall

    # --- parts

    def _place(self, peer: PeerId, entry: Entry) -> None:
        self._strangers.pop(peer, None)
        table, most = self._strangers, self._limits.strangers
        if entry.dialled:
            table, most = self._dialled, self._limits.dialled
        table[peer] = entry
        table.move_to_end(peer)
        self._note(peer)
        if len(table) > most:
            self._note(table.popitem(last=False)[0])

    def _note(self, peer: PeerId) -> None:
        """What is known of the peer changed."""

    def _note_ban(self, peer: PeerId) -> None:
        """Its ban changed."""

    async def _write(self) -> None:
        """Keep what changed."""
        await trio.lowlevel.checkpoint()


class FileBook(MemoryBook):
    """The book with its file; made by `open_book`."""

    def __init__(self, file: BookFile, contents: Contents, limits: BookLimits) -> None:
        super().__init__(limits)
        self._changed: dict[PeerId, None] = {}
        self._changed_bans: dict[PeerId, None] = {}
        self._anew = False  # so much changed that all is written again
        self._file = file
        self._worker = trio.CapacityLimiter(1)  # the order of writing; not the threads of the application
        self._failing = False
        for peer, entry in contents.peers.items():
            self._place(peer, entry)
        self._bans.update(contents.bans)
        self._changed = dict.fromkeys(peer for peer in contents.peers if self.get(peer) is None)  # found no place

    def _note(self, peer: PeerId) -> None:
        if self._anew:
            return
        self._changed[peer] = None
        most = self._limits.dialled + self._limits.strangers
        if len(self._changed) > most:  # strangers come and go while the disk is full
            self._changed.clear()
            self._anew = True

    def _note_ban(self, peer: PeerId) -> None:
        if self._anew:
            return
        self._changed_bans[peer] = None
        if len(self._changed_bans) > 2 * self._limits.bans:
            self._changed_bans.clear()
            self._anew = True

    async def keep(self) -> None:
        """Write a batch every five seconds, for ever; run by `open_book`."""
        while True:
            await trio.sleep(_BATCH_EVERY)
            await self._write()

    async def finish(self) -> None:
        """Write the last batch, cancelled or not, and close; called by `open_book`."""
        with trio.move_on_after(_PATIENCE, shield=True) as scope:
            await self._write(abandon=True)
            await trio.to_thread.run_sync(self._file.close, limiter=self._worker, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.warning("the address book was not written within %s s", _PATIENCE)

    async def _write(self, *, abandon: bool = False) -> None:
        changed, bans, anew = list(self._changed), list(self._changed_bans), self._anew
        if not (changed or bans or anew):
            await trio.lowlevel.checkpoint()
            return
        rows = [(peer, self.get(peer)) for peer in (self.peers() if anew else changed)]
        ban_rows = [(peer, self._bans.get(peer)) for peer in (self._bans if anew else bans)]
        work = partial(self._file.write, rows, ban_rows, anew=anew)
        self._changed.clear()
        self._changed_bans.clear()
        self._anew = False
        written = False
        try:
            await trio.to_thread.run_sync(work, limiter=self._worker, abandon_on_cancel=abandon)
            written = True
        except sqlite3.Error as error:
            if not self._failing:  # once, not every five seconds
                logger.warning("the address book cannot be written error=%s", printable(repr(error), 300))
        finally:
            if not written:
                self._anew = self._anew or anew
                for peer in changed:
                    self._note(peer)
                for peer in bans:
                    self._note_ban(peer)
        if written and self._failing:
            logger.warning("the address book is written again")
        self._failing = not written


@asynccontextmanager
async def open_book(path: Path | str | None, *, limits: BookLimits = BookLimits()) -> AsyncIterator[MemoryBook]:
    """The book in the file at `path`, made when it is not there; None: in memory only, without any thread.

    It never fails because of the file: one that is damaged or newer is set aside, with one that cannot be used the book
    is kept in memory, and a warning tells of it. When the block is left, what changed is written, within 10 s.
    """
    if path is None:
        yield MemoryBook(limits)
        return
    file, contents = await trio.to_thread.run_sync(
        open_file, Path(path), limits.dialled + limits.strangers, limits.bans, limiter=trio.CapacityLimiter(1)
    )
    if file is None:
        yield MemoryBook(limits)
        return
    book = FileBook(file, contents, limits)
    try:
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(book.keep)
                yield book
                nursery.cancel_scope.cancel()
    finally:
        await book.finish()


def _parsed(texts: Iterable[str]) -> Iterator[Multiaddr]:
    """Those that are addresses: they may come from a file that somebody else wrote."""
    for each in texts:
        try:
            address = parse_multiaddr(each)
        except InvalidMultiaddr:
            continue
        if is_dialable(address):
            yield address


def _text(agent: str) -> str:
    """What can be written: half a character, which a text of Python may hold, is none."""
    return agent.encode("utf-8", "replace").decode("utf-8")


def _ip(said: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(said)
    except ValueError:
        return None
