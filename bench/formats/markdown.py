"""GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard
from spurbench.bench.leaderboard.sheets import bold, make_sheets

ENDINGS = (".md", ".markdown")


def render(board: Leaderboard, colour: bool = False) -> str:
    """GitHub's Markdown: a table for each section, its notes as a list."""
    from tabulate import tabulate

    blocks = []
    for one in (one for section in board.sections for one in make_sheets(section)):
        cells = [
            [bold(escape(text), mark, i, "**{}**") for i, text in enumerate(line)]
            for line, mark in zip(one.cells, one.marks, strict=True)
        ]
        align = ["left" if column.left else "right" for column in one.columns]
        heads = [escape(column.heading) for column in one.columns]
        drawn = tabulate(cells, heads, tablefmt="pipe", colalign=align, disable_numparse=True)
        blocks += [f"### {escape(one.title)}", drawn, bullets(one.notes)]
    blocks.append(bullets(say.general_notes(board)))
    return "\n\n".join(block for block in blocks if block)


def bullets(notes: Sequence[str]) -> str:
    return "\n".join(f"- {escape(note)}" for note in notes)


def escape(text: str) -> str:
    """Text with the characters that Markdown or HTML would act on made harmless."""
    text = re.sub(r"([\\`*\[\]|<>~])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text.replace("&", "&amp;"))
