"""Files as records name them, without the folders of the machine they were on, and where they are on this one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import ROOT, data_folder, home, write_atomically
from spurbench.bench.core.hashing import fingerprint

REMEMBERED = ".places"  # folder beside the prepared data: for a name and a content, where that file was last read
NAMED = re.compile(r"(.*)#([0-9a-f]{16})")  # a name and a digest, as `name_content` writes them
FOLDERS = re.compile(r"""(?<![\w.~)/\]])/(?:[^/\s"':,;()<>]+/)*(?=[\w.])""")  # of an absolute path in a text
PACKAGES = re.compile(r"""[^\s"']*/(?:site|dist)-packages/""")


def name_files(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for each file: its place in the package or among the prepared data, else its own name.

    Files of one name are told apart by as many of the folders that they are in as that takes.
    """
    found = {path: place for path in paths if (place := known_place(path))}
    others, depth = [path for path in paths if path not in found], 1
    while len({path.parts[-depth:] for path in others}) < len(others):
        depth += 1
    return found | {path: "/".join(path.parts[-depth:]) for path in others}


def known_place(path: Path) -> str | None:
    """Where a file is in the package or among the prepared data; None if it is in neither."""
    for folder in known_folders():
        with suppress(ValueError):
            return path.absolute().relative_to(folder.absolute()).as_posix()
    return None


def known_folders() -> list[Path]:
    """The folders that are on every machine, wherever they are."""
    with suppress(UserError):  # no home folder, so nothing is prepared
        return [ROOT, data_folder()]
    return [ROOT]


def remember(name: str, content: str, path: Path) -> None:
    """Note for this user where a file is that records name so; not in their stores, which may be handed on."""
    if known_place(path) != name:
        with suppress(OSError, UserError):
            write_place(place_file(name, content), str(path.absolute()))


@lru_cache(maxsize=4096)
def write_place(file: Path, path: str) -> None:
    write_atomically(file, path.encode(errors="surrogateescape"))


def place_file(name: str, content: str) -> Path:
    return data_folder() / REMEMBERED / fingerprint([name, content])[:16]


def find(name: str, content: str) -> Path | None:
    """Where the file is here that a record names so, which then had this content; None if that is not known."""
    with suppress(OSError, UserError):
        found = Path(place_file(name, content).read_bytes().decode(errors="surrogateescape"))
        return found if found.exists() else None
    return next((file for folder in known_folders() if (file := folder / name).is_file()), None)


def name_content(path: Path, patterns: Sequence[str] = ()) -> str:
    """`NAME#DIGEST` of a file, or of a folder's files that match: what a run holds of them, wherever they are."""
    path = path.expanduser().resolve()
    files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()}) or [path]
    digest = fingerprint([[file.name if patterns else "", digest_of(file)] for file in files])[:16]
    remember(path.name, digest, path)
    return f"{path.name}#{digest}"


def digest_of(file: Path) -> str:
    """SHA-256 of a file's content, computed once for each state of the file on this disk."""
    stat = file.stat()
    kept = [str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino]
    with suppress(OSError, UserError):
        return place_file("digest", fingerprint(kept)).read_text()
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with suppress(OSError, UserError):
        write_atomically(place_file("digest", fingerprint(kept)), digest.encode())
    return digest


def locate(named: str, patterns: Sequence[str] = ()) -> Path:
    """Where the content is that `name_content` names so.

    Errors: UserError if that is not known here, or the content is another one by now.
    """
    match = NAMED.fullmatch(named)
    path = find(match[1], match[2]) if match else None
    if path is None:
        raise UserError(f"where {named} is on this machine is not known: give its path once more, as to `plan`")
    if (now := name_content(path, patterns)) != named:
        raise UserError(f"{path} is {now} by now, not {named}: give its path again for runs with that")
    return path


def without_folders(text: str) -> str:
    """A text in which files are named without the folders of this machine: below the home folder by `~`."""
    text = PACKAGES.sub("", text.replace(f"{ROOT}/", ""))
    own = home()
    if own and len(own.parts) > 1:
        text = re.sub(rf"{re.escape(str(own))}(?=[/\s\"']|$)", "~", text)
    return FOLDERS.sub("", text)
