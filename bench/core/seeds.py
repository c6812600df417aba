"""Seeds: how users write them, and the named random streams that each of them has."""

from __future__ import annotations

import re

from spurbench.bench.core.fields import quote_value, show_value
from spurbench.bench.core.hashing import fingerprint


def stream(seed: int, name: str) -> int:
    """The seed of a named random stream."""
    return int(fingerprint([seed, name])[:15], 16)


MAX_SEEDS = 100_000


def parse_seeds(value: object) -> list[int]:
    """Seeds from `7`, `[0, 1]`, `"0-9"`, `[1234..1243]` or `"0-4, 7"`.

    Errors: ValueError with the text for the user, also for a seed given twice.
    """
    parts = value if isinstance(value, list) else [value]
    seeds = [seed for part in parts for seed in parse_part(part)]
    seen: set[int] = set()
    for seed in seeds:
        if seed in seen:
            raise ValueError(f"seed {seed} is given twice")
        seen.add(seed)
    if not seeds:
        raise ValueError("seeds: at least one is needed")
    return seeds


def parse_part(part: object) -> list[int]:
    """The seeds of one number or of comma-separated numbers and ranges."""
    if isinstance(part, bool) or not isinstance(part, int | str):
        raise ValueError(f"seeds must be whole numbers or ranges such as 0-9, not {quote_value(part)}")
    found: list[int] = []
    for text in str(part).split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:(?:-|\.\.)\s*(\d{1,10})\s*)?", text)
        if not match:
            raise ValueError(f"seeds must be whole numbers or ranges such as 0-9, not {quote_value(str(part))}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < 2**32 or last - first >= MAX_SEEDS:
            raise ValueError(f"seeds {show_value(text.strip())}: expected first ≤ last < 2^32, at most {MAX_SEEDS}")
        found += range(first, last + 1)
    return found
