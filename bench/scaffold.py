"""`new-method`: a complete method file that runs and passes `check-method`, to be changed from there."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from spurbench.bench import registry
from spurbench.bench.errors import UserError

TEMPLATE = Path(__file__).parent / "templates" / "method.py.txt"


def write_method(name: str, folder: str | Path) -> Path:
    """Write `folder/<name>.py` and return its path.

    Errors: UserError if the name is not a lower-case identifier or is taken, or the file cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name) or keyword.iskeyword(name):
        better = re.sub(r"\W+", "_", name.lower()).strip("_")
        good = re.fullmatch(r"[a-z][a-z0-9_]*", better) and not keyword.iskeyword(better)
        hint = better if good and better != name else "my_method"
        raise UserError(f"'{name}' cannot name a method: expected lower-case letters, digits and '_', such as {hint}")
    if name in registry.methods():
        raise UserError(f"there is a method '{name}' already ({registry.methods()[name].path}); choose another name")
    path = Path(folder) / f"{name}.py"
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("@CLASS@", class_name(name)).replace("@TITLE@", name.replace("_", " ").capitalize())
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; choose another name or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def class_name(name: str) -> str:
    """The class name of a file name: my_method → MyMethod."""
    return "".join(part.capitalize() for part in name.split("_"))
