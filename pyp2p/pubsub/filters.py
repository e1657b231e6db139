"""Which topics may be subscribed to, by peers and by ourselves: what is not allowed takes no place in our tables.

Rules: pure. A filter is any function from a topic to yes or no; these make the usual ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

TopicFilter = Callable[[str], bool]


def every_topic(topic: str) -> bool:
    """Allow all."""
    return True


def only_topics(topics: Iterable[str]) -> TopicFilter:
    """Allow these by name."""
    return frozenset(topics).__contains__


def matching_topics(pattern: str) -> TopicFilter:
    """Allow topics that `pattern`, a regular expression, matches whole. Raises `ValueError` when it is none."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a topic pattern that is no regular expression: {error}") from None
    return lambda topic: compiled.fullmatch(topic) is not None
