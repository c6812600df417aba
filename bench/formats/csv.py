"""Comma-separated values, for spreadsheets."""

from __future__ import annotations

import csv as csvfile
import io
import json as jsons

from spurbench.bench.leaderboard.build import Leaderboard

ENDINGS = (".csv",)


def render(board: Leaderboard, colour: bool = False) -> str:
    """The objects of `json`, one a line; lists and objects in a field are JSON."""
    out = io.StringIO()
    rows = [row.to_dict() for row in board.rows]
    writer = csvfile.writer(out, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            jsons.dumps(v, ensure_ascii=False, sort_keys=True) if isinstance(v, (dict, list)) else v
            for v in row.values()
        )
    return out.getvalue().rstrip("\n")
