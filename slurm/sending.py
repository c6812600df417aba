"""Handing arrays to sbatch: their scripts, what it answers, and what is withdrawn again."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spurbench.bench.core.errors import UserError
from spurbench.bench.core.files import write_atomically
from spurbench.slurm import program, submissions
from spurbench.slurm.answers import ask, called
from spurbench.slurm.arrays import Array
from spurbench.slurm.profiles import SHELL
from spurbench.slurm.submissions import JOB, VOID

PERCENT = "the.percent.sign"  # what stands for it in a path until submitit has put its own patterns in
OVERTAKEN = "this submission was stopped for so long that another took its place: submit again for what that left"


def script(array: Array, meant: submissions.Array, name: str, code: Path | None) -> str:
    """The text that sbatch gets."""
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:40]
    made = executor(array, meant, f"{plain}.{meant.token}", code)
    text: str = made._make_submission_file_text(command(array, meant), "spurbench")
    return text.replace(PERCENT, "%%")


def executor(array: Array, meant: submissions.Array, name: str, code: Path | None) -> Any:
    """submitit's, which words the options; its pickles are not used."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a dry run needs no cluster

    made = Executor(Path(str(meant.folder).replace("%", PERCENT)) / "logs")
    parameters = array.resources.parameters(name, array.parallel)
    if code is not None:
        path = f'export PYTHONPATH={shlex.quote(str(code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        parameters["setup"] = [*parameters.get("setup", []), path]
    made.update_parameters(**parameters)
    made.update_parameters(wckey=None, comment=meant.token)
    made.parameters["map_count"] = len(array.tasks)
    return made


def command(array: Array, meant: submissions.Array) -> str:
    """Without srun the shell is replaced by Python, so that SLURM's signals reach it."""
    words = [sys.executable, "-P", "-m", "spurbench.slurm.task", str(meant.manifest)]
    return f"{'' if array.resources.srun else 'exec '}{shlex.join(words)}"


def sbatch_all(arrays: Sequence[submissions.Array], scripts: Sequence[str], holds: Callable[[], bool]) -> list[str]:
    """Submit every array and note what SLURM calls it; their ids.

    Errors: UserError when one is refused, or when it is not known whether SLURM took it: those before it stay in the
    queue, those after it are not sent. The same once it is not this submission's turn any more.
    """
    ids: list[str] = []
    for place, (array, text) in enumerate(zip(arrays, scripts, strict=True)):
        if not holds():
            drop(arrays[place:], keep=bool(ids))
            raise UserError(told(OVERTAKEN, ids, len(arrays)))
        write_atomically(array.script, text.encode("utf-8", "surrogateescape"))
        said = program.call("sbatch", "--parsable", str(array.script), environment=program.for_sbatch(SHELL))
        job, printed, found = taken(array, said)
        if job is not None:
            if array.note(job if holds() else VOID) == VOID:
                drop(arrays[place + 1 :], keep=True)
                withdraw(array)
                raise UserError(told(OVERTAKEN, ids, len(arrays)))
            ids.append(str(array.id))
            continue
        unsure = said.good or said.unsure or isinstance(found, str) or bool(printed)
        drop(arrays[place + unsure :], keep=bool(ids) or unsure)
        raise UserError(refusal(said, ids, len(arrays), unsure))
    return confirmed(arrays)


def taken(array: submissions.Array, said: program.Answer) -> tuple[str | None, list[str], dict[str, str] | str]:
    """What SLURM calls an array, what sbatch printed that may be it, and what the queue says if that was not clear."""
    printed = jobs_in(said.text)
    job = printed[0] if said.good and len(printed) == 1 else None
    found = called([array]) if job is None and not said.unsent else {}
    if job is None and isinstance(found, dict) and (number := found.get(array.token)):
        job = next((job for job in printed if job.partition(";")[0] == number), number)
    return job, printed, found


def drop(arrays: Sequence[submissions.Array], keep: bool) -> None:
    """Let arrays that were not sent be void; if nothing of their submission is to be kept, it is deleted."""
    for array in arrays:
        array.note(VOID)
    if not keep:
        shutil.rmtree(arrays[0].folder)


def withdraw(array: submissions.Array) -> None:
    """Take an array that is void out of the queue."""
    found = called([array])
    job = found.get(array.token) if isinstance(found, dict) else None
    said = program.call("scancel", *program.of(array.elsewhere), job) if job else program.Answer(None, error="unknown")
    if not said.good:
        print("what was sent last is perhaps in the queue still; its tasks will do nothing there", file=sys.stderr)


def confirmed(arrays: Sequence[submissions.Array]) -> list[str]:
    """The ids of arrays that were sent, once the queue has them; one that it has under another number is noted so."""
    answers = ask(arrays)
    known = {token for token, _ in answers.tasks}
    doubtful = {array.token: array for array in arrays if array.token not in known}
    found = called(doubtful.values()) if doubtful else {}
    for token, job in found.items() if isinstance(found, dict) else ():
        doubtful[token].renote(job)
    return [array.id for array in arrays if array.id is not None]


def refusal(said: program.Answer, ids: Sequence[str], arrays: int, unsure: bool) -> str:
    """Why not everything was sent, and what became of the rest."""
    if unsure:
        text = said.text.strip()[-200:]
        printed = f"printed no job id that the queue has ({text!r})" if said.good else f"fails: {said.reason}"
        text = f"sbatch {printed}; whether it took the array is found out by the next `status` or `submit`"
        return told(text, ids, arrays) if ids else text
    return told(f"sbatch refuses: {said.reason}", ids, arrays) + ("; submit again for the rest" if ids else "")


def told(what: str, ids: Sequence[str], arrays: int) -> str:
    """What went wrong, and what of the submission is in the queue."""
    kept = f"{len(ids)} of {arrays} arrays are in the queue: {', '.join(ids)}"
    return f"{what}; {kept if ids else 'nothing is submitted'}"


def jobs_in(text: str) -> list[str]:
    """What may be the job's number, and after a semicolon its cluster, among the lines that sbatch printed."""
    words = re.sub(r"^\s*Submitted batch job (\d+)(?: on cluster (\S+))?", r"\1;\2", text, flags=re.M)
    lines = (re.sub(";+", ";", line.strip()).rstrip(";") for line in words.splitlines())
    return [line for line in lines if JOB.fullmatch(line)]
