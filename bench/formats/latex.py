"""LaTeX tables; they need the packages booktabs and graphicx."""

from __future__ import annotations

from spurbench.bench.leaderboard import wording as say
from spurbench.bench.leaderboard.build import Leaderboard
from spurbench.bench.leaderboard.sheets import Sheet, bold, make_sheets

ENDINGS = (".tex",)
LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
         "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
         "−": "$-$", "–": "--", "Δ": r"$\Delta$", "†": r"$^\dagger$", "×": r"$\times$", "·": r"$\cdot$",
         "γ": r"$\gamma$", "λ": r"$\lambda$", "*": r"$^\ast$", "…": r"\ldots{}", '"': "''",
         "‡": r"$^\ddagger$", "§": r"\S{}", "[": "{[}", "]": "{]}",
         "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$"}  # fmt: skip


def escape(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in " ".join(text.split()).replace("--", "\0"))
    return escaped.replace("\0", "-{}-")


def render(board: Leaderboard, colour: bool = False) -> str:
    """A `table` environment for each section (packages: booktabs, graphicx), the notes below it."""
    blocks = [latex_table(one) for section in board.sections for one in make_sheets(section)]
    notes = [f"\\par {escape(note)}" for note in say.general_notes(board)]
    return "\n\n".join([r"% \usepackage{booktabs,graphicx}", *blocks, "\n".join([r"{\footnotesize", *notes, "}"])])


def latex_table(one: Sheet) -> str:
    lines = []
    for at, (cells, mark) in enumerate(zip(one.cells, one.marks, strict=True)):
        if at and mark == "reference" and "reference" not in one.marks[:at]:
            lines.append(r"\midrule")
        parts = [bold(escape(text), mark, i, r"\textbf{{{}}}") for i, text in enumerate(cells)]
        lines.append(" & ".join(parts) + r" \\")
    heads = " & ".join(escape(column.heading) for column in one.columns)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{escape(one.title)}}}", r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in one.columns)}}}",
        r"\toprule", heads + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}}",
        *(rf"\par\footnotesize {escape(note)}" for note in one.notes), r"\end{table}",
    ])  # fmt: skip
