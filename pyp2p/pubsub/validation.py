"""The application's word on messages: validators per topic, run at once or as bounded tasks.

Rules: a validator that crashes or hangs counts as `IGNORE` and harms nobody. Synchronous ones run inline, which costs
no task and must take no time; an asynchronous one gets a task per message, at most `concurrency` at a time and `queue`
waiting.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from pyp2p.errors import printable
from pyp2p.io.guard import call_guarded, run_guarded
from pyp2p.io.loglimit import LogLimiter
from pyp2p.pubsub.types import Message, Verdict

logger = logging.getLogger("pyp2p.pubsub")

Validator = Callable[[Message], Verdict | Awaitable[Verdict]]


class TopicValidator:
    """One validator of a topic with its bounds. Raises `ValueError` for bounds that make no sense."""

    def __init__(self, function: Validator, concurrency: int, queue: int, timeout: float) -> None:
        if not callable(function):
            raise TypeError(f"a validator must be a function of a message, not {function!r}")
        for name, value, least in (("concurrency", concurrency, 1), ("queue", queue, 0)):
            if value < least:
                raise ValueError(f"{name} of a validator must be at least {least}, not {value}")
        if not timeout > 0:
            raise ValueError(f"timeout of a validator must be above 0, not {timeout}")
        self.function = function
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  an object with an async __call__
        )
        self.concurrency = concurrency
        self.running = trio.CapacityLimiter(concurrency)
        self.most = concurrency + queue
        self.asked = 0  # messages that run or wait
        self.timeout = timeout


class Validators:
    """All validators by topic."""

    def __init__(self, counters: Counter[tuple[str, str]], max_bytes: int) -> None:
        self._by_topic: dict[str, TopicValidator] = {}
        # By the message's identity: who answers, even if removed meanwhile, what it gave to be awaited, and the size.
        self._asked: dict[int, tuple[TopicValidator, Awaitable[object] | None, int]] = {}
        self.bytes = 0  # of the messages that are being asked about
        self._max_bytes = max_bytes  # one that hangs keeps its messages
        self._counters = counters
        self._failures = LogLimiter(logger)

    def add(self, topic: str, validator: TopicValidator) -> None:
        """Ask it about every message of `topic`. Raises `ValueError` when there is one already."""
        if topic in self._by_topic:
            raise ValueError(f"topic {printable(topic)} has a validator already")
        self._by_topic[topic] = validator

    def remove(self, topic: str) -> None:
        """Ask no longer; what is being asked is finished. Raises `KeyError` when there is none."""
        del self._by_topic[topic]

    @property
    def crowded(self) -> bool:
        """True while messages wait because as many as may are being asked about."""
        return any(each.asked > each.concurrency for each in self._by_topic.values())

    def judge(self, message: Message) -> Verdict | None:
        """The verdict at once; None when the validator is asynchronous and `run` has to be awaited."""
        validator = self._by_topic.get(message.topic)
        if validator is None:
            return Verdict.ACCEPT
        begun: Awaitable[object] | None = None
        if not validator.is_async:
            said: list[object] = []
            error = call_guarded(lambda: said.append(validator.function(message)))
            if error is not None or not inspect.isawaitable(said[0]):
                return self._verdict(message.topic, said, error)
            validator.is_async = True  # as a lambda around a coroutine function is
            begun = said[0]
        size = message.size
        full = self.bytes and self.bytes + size > self._max_bytes  # a single one may be of any size
        if validator.asked >= validator.most or full:
            self._counters["validation queue full", message.topic] += 1
            if inspect.iscoroutine(begun):
                begun.close()
            return Verdict.IGNORE
        validator.asked += 1
        self.bytes += size
        self._asked[id(message)] = validator, begun, size
        return None

    async def run(self, message: Message) -> Verdict:
        """Ask the asynchronous validator that `judge` chose, when its turn comes. Cancelling gives it up."""
        validator, begun, size = self._asked.pop(id(message))
        said: list[object] = []

        async def ask() -> None:
            answer = validator.function(message) if begun is None else begun
            said.append(await answer if inspect.isawaitable(answer) else answer)

        try:
            async with validator.running:
                with trio.move_on_after(validator.timeout) as scope:
                    error = await run_guarded(ask)
        finally:
            validator.asked -= 1
            self.bytes -= size
            if inspect.iscoroutine(begun):
                begun.close()  # which may not have begun
        if scope.cancelled_caught:
            self._counters["validation timed out", message.topic] += 1
            return Verdict.IGNORE
        return self._verdict(message.topic, said, error)

    def _verdict(self, topic: str, said: list[object], error: Exception | None) -> Verdict:
        if error is None and said and isinstance(said[0], Verdict):
            return said[0]
        # What it answers is a bug of ours, to be seen; what it raises a peer's message may have provoked.
        answered = error is None and bool(said)
        reason = f"it answered {said[0]!r}, which is no Verdict" if answered else repr(error)
        self._counters["validator failed", topic] += 1
        self._failures.log(
            trio.current_time(),
            "validator failed topic=%s error=%s",
            printable(topic),
            printable(reason, 300),
            level=logging.ERROR if answered else logging.INFO,
        )
        return Verdict.IGNORE
