"""Where a number comes from: code, versions, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from spurbench.bench.core.files import ROOT

BESIDE = "spurbench-code.json"  # beside a copy of the package: where the copy comes from
UNKNOWN = "unknown"
ROOMS = ("--", "bench", "methods", "datasets")
PACKAGES = ("spurbench", "torch", "numpy", "scikit-learn")


@cache
def code() -> dict[str, str | None]:
    """The commit of the checkout the package runs from, and a hash of what differs from it (None if nothing does).

    A copy of the package carries these itself, with its name. If git does not answer, the difference is `unknown: `
    and why.
    """
    return code_of(ROOT)


def code_of(root: Path) -> dict[str, str | None]:
    """What `code` says of the package in a folder."""
    beside = root.parent / BESIDE
    if beside.exists():
        found: dict[str, str | None] = json.loads(beside.read_bytes())
        return found
    if not (root / ".git").exists():
        return {"commit": None, "diff": None}
    commit = None
    try:
        commit = git(root, "rev-parse", "HEAD").decode().strip()
        new = git(root, "ls-files", "-z", "--others", "--exclude-standard", *ROOMS).split(b"\0")
        diff = git(root, "diff", "--no-ext-diff", "HEAD", *ROOMS)
    except Unanswered as error:
        return {"commit": commit, "diff": f"{UNKNOWN}: {error}"}
    for name in map(os.fsdecode, filter(None, new)):
        diff += f"{name} {content(root / name)}\n".encode(errors="surrogateescape")
    return {"commit": commit, "diff": hashlib.sha256(diff).hexdigest() if diff else None}


def describe_code(commit: str | None, diff: str | None) -> str:
    """The code that made a record, in words: its commit and whether there were changes, as far as is known."""
    words = "" if not diff else f", changes {diff}" if diff.startswith(UNKNOWN) else " + uncommitted changes"
    return (commit or "no commit")[:10] + words


class Unanswered(Exception):
    """Git did not answer; the text says why."""


def content(path: Path | None) -> str | None:
    """SHA-256 of a plug-in's file; None if there is none."""
    with suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    return None


def git(root: Path, *arguments: str) -> bytes:
    """What git prints about the repository whose folder is `root`, not any other that the environment may name.

    Errors: Unanswered, without the folder's name, which has no place in a record.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False, env=own | {"LC_ALL": "C"},
            timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise Unanswered("git is not installed") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"git does not run ({type(error).__name__})") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().split("\n")[0].removeprefix("fatal: ")
        raise Unanswered(f"git: {said.replace(str(root), 'the checkout')[:200] or f'exit code {done.returncode}'}")
    return done.stdout


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages a number depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
