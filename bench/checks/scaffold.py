"""`new-method` and `new-dataset`: a complete file that runs and passes its check, to start from."""

from __future__ import annotations

import importlib.machinery
import keyword
import re
import sys
from pathlib import Path

from spurbench.bench.core.errors import UserError, short
from spurbench.bench.plugins import registry

TEMPLATES = Path(__file__).parent / "templates"


def write_plugin(kind: str, name: str, folder: str | Path) -> Path:
    """Write `folder/<name>.py`, a method or a dataset, and return its path.

    Errors: UserError for a name that is no lower-case identifier, a module's or taken, and if writing the file fails.
    """
    if not is_usable_name(name):
        better = re.sub(r"\W+", "_", name.lower()).strip("_")
        hint = better if is_usable_name(better) and not is_taken(better) else f"my_{kind}"
        raise UserError(
            f"'{short(name, 80)}' cannot name a {kind}: expected lower-case letters, digits and '_', such as {hint}"
        )
    if is_taken(name):
        raise UserError(
            f"'{name}' is the name of a module of Python or of an installed package, which {name}.py would hide from "
            f"programs that start in its folder; choose another, such as my_{name}"
        )
    if known := registry.plugins(kind).get(name):
        raise UserError(f"there is already a {kind} '{name}' ({known.path}); choose another name")
    path = Path(folder) / f"{name}.py"
    text = (TEMPLATES / f"{kind}.py.txt").read_text(encoding="utf-8")
    text = text.replace("@CLASS@", class_name(name)).replace("@TITLE@", name.replace("_", " ").capitalize())
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} already exists; choose another name or remove it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    return path


def is_usable_name(name: str) -> bool:
    """Whether a plug-in's file may have this name."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_]{0,60}", name)) and not keyword.iskeyword(name)


def is_taken(name: str) -> bool:
    """Whether `import name` finds something outside the working directory."""
    if name in sys.stdlib_module_names:
        return True
    elsewhere = [folder for folder in sys.path if folder and Path(folder).resolve() != Path.cwd()]
    found = importlib.machinery.PathFinder.find_spec(name, elsewhere)
    return name == "spurbench" or (found is not None and found.loader is not None)  # a bare folder is no module


def class_name(name: str) -> str:
    """The class name of a file name: my_method → MyMethod."""
    return "".join(part.capitalize() for part in name.split("_"))
