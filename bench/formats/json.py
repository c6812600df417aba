"""JSON, for programs."""

from __future__ import annotations

import json as jsons

from spurbench.bench.leaderboard.build import Leaderboard

ENDINGS = (".json",)


def render(board: Leaderboard, colour: bool = False) -> str:
    """A list with one object for each row (see bench/leaderboard/rows.py)."""
    return jsons.dumps([row.to_dict() for row in board.rows], indent=1, ensure_ascii=False, allow_nan=False)
