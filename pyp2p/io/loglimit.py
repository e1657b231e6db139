"""Log lines that a remote can cause at will, kept to a bounded rate."""

from __future__ import annotations

import logging

_RATE = 5.0  # lines per second
_BURST = 20.0


class LogLimiter:
    """Lets a burst of lines through, then a few per second; what was suppressed is told with the next line."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._tokens = _BURST
        self._at = 0.0
        self._suppressed = 0

    def log(self, now: float, message: str, *args: object, level: int = logging.INFO) -> None:
        """Log, or count. `now` in monotonic seconds; `args` must be safe to show."""
        self._tokens = min(_BURST, self._tokens + (now - self._at) * _RATE)
        self._at = now
        if self._tokens < 1:
            self._suppressed += 1
            return
        self._tokens -= 1
        if self._suppressed:
            message += " (suppressed %d)"
            args = (*args, self._suppressed)
            self._suppressed = 0
        self._logger.log(level, message, *args)
