"""Published and computed test vectors: `load("varint")` gives the parsed content of `tests/vectors/varint.json`."""

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("vectors")


@functools.cache
def load(name: str) -> Any:
    """The vectors called `name`. One object is shared by all callers: read it, do not change it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
