"""Leaderboards for terminals, papers and programs."""

from __future__ import annotations

import io
import json
from csv import DictWriter
from typing import Any

from spurbench.bench.leaderboard import Leaderboard
from spurbench.bench.report.cells import Grid, footnotes, grid

WIDTH = 160


def table(board: Leaderboard, colour: bool) -> str:
    """For a terminal, as wide as it is; plain text of 160 columns elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = io.StringIO()
    width = max(100, Console().width) if colour else WIDTH
    console = Console(file=out, width=width, force_terminal=colour, highlight=False)
    for section in map(grid, board.sections):
        shown = Table(title=escape(section.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(section.headings):
            shown.add_column(escape(name), justify="left" if i == 0 else "right", overflow="fold", no_wrap=i < 2)
        for line, best, row in zip(section.lines, section.best, section.rows, strict=True):
            style = "bold" if best else "dim" if row.reference or row.na else None
            shown.add_row(*(escape(cell) for cell in starred(line, best)), style=style)
        console.print(shown)
    for note in footnotes(board):
        console.print(escape(note), style="dim" if colour else None)
    return out.getvalue()


def starred(line: list[str], best: bool) -> list[str]:
    return [line[0], f"{line[1]} *" if best else line[1], *line[2:]]


def markdown(board: Leaderboard) -> str:
    """Tables and notes, to paste into a README or an issue."""
    from tabulate import tabulate

    parts = []
    for section in map(grid, board.sections):
        lines = [
            [plain(c) for c in emphasised(line, best)] for line, best in zip(section.lines, section.best, strict=True)
        ]
        align = ["left", *["right"] * (len(section.headings) - 1)]
        body = tabulate(lines, section.headings, tablefmt="github", colalign=align, disable_numparse=True)
        parts.append(f"### {plain(section.title)}\n\n{body}\n")
    return "\n".join(parts) + "\n" + "".join(f"- {plain(note)}\n" for note in footnotes(board))


def emphasised(line: list[str], best: bool) -> list[str]:
    return [line[0], f"**{line[1]}**" if best else line[1], *line[2:]]


def plain(text: str) -> str:
    """Text that Markdown does not take for a table's edge or for HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")


SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "×": r"$\times$", "−": r"$-$", "Δ": r"$\Delta$", "γ": r"$\gamma$", "λ": r"$\lambda$",
}  # fmt: skip


def tex(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def latex(board: Leaderboard) -> str:
    """One booktabs table a section, cost left out; needs \\usepackage{booktabs}."""
    return "\n".join(tex_table(section, i, board) for i, section in enumerate(map(grid, board.sections)))


def tex_table(section: Grid, i: int, board: Leaderboard) -> str:
    from tabulate import tabulate

    kept = len(section.headings) - 2
    lines = []
    for line, best in zip(section.lines, section.best, strict=True):
        cells = [tex(cell) for cell in line[:kept]]
        cells[1] = rf"\textbf{{{cells[1]}}}" if best else cells[1]
        lines.append(cells)
    align = ["left", *["right"] * (kept - 1)]
    headings = [tex(name) for name in section.headings[:kept]]
    body = tabulate(lines, headings, tablefmt="latex_raw", colalign=align, disable_numparse=True)
    rules = iter([r"\toprule", r"\midrule", r"\bottomrule"])
    body = "\n".join(next(rules) if line.strip() == r"\hline" else line for line in body.splitlines())
    notes = "".join(f"% {note}\n" for note in footnotes(board)) if i == 0 else ""
    caption = tex(f"{section.title}. Mean ± standard deviation over n of N seeds. Bold: not told from the best.")
    return f"{notes}\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}\n\\end{{table}}\n"


FLAT = (
    "dataset", "dataset_options", "method", "label", "regime", "precision", "split", "metric", "unit", "selection",
    "selection_oracle", "n", "n_planned", "failed", "na", "mean", "std", "ddof", "ci95_low", "ci95_high", "min",
    "median", "max", "published_mean", "published_std", "published_ddof", "published_source", "published_difference",
    "baseline", "baseline_n", "baseline_difference", "baseline_ci95_low", "baseline_ci95_high", "p_sign_flip", "p_holm",
    "among_best", "seconds_per_run", "peak_memory_mb", "hyper_parameters", "training",
)  # fmt: skip


def csv(board: Leaderboard) -> str:
    """One line a row; what is not a number or text is JSON."""
    out = io.StringIO()
    writer = DictWriter(out, FLAT, lineterminator="\n")
    writer.writeheader()
    for row in board.rows:
        writer.writerow({name: flat(getattr(row, name)) for name in FLAT})
    return out.getvalue()


def flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def as_json(board: Leaderboard) -> str:
    """A list of objects, one a row, with everything that is known."""
    return json.dumps([row.to_dict() for row in board.rows], indent=1) + "\n"
