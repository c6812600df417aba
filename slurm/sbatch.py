"""SLURM as a launcher: the interface of `bench/cluster/launcher.py` in SLURM's terms."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spurbench.bench.cluster.arrays import Array
from spurbench.bench.cluster.launcher import (
    Answers,
    CancelFailure,
    Launcher,
    Place,
    Receipt,
    Request,
    TaskIdentity,
    TaskReport,
)
from spurbench.bench.cluster.resources import Layer
from spurbench.bench.core.errors import UserError
from spurbench.slurm import answers, limits, program
from spurbench.slurm.sbatch_options import OF_SHELL, SbatchOptions

if TYPE_CHECKING:
    from spurbench.bench.jobs.job import Job

PERCENT = "the.percent.sign"  # replaces % in a path until submitit has inserted its own patterns
OVER_ALREADY = re.compile("Invalid job id|already complet")  # what scancel says of tasks that have ended


class Slurm(Launcher):
    name, title, resources = "slurm", "SLURM", SbatchOptions

    def check(self, store: Path, dry_run: bool) -> None:
        if not dry_run and shutil.which("sbatch") is None:
            raise UserError("no sbatch here: submit from a node of the cluster, or try slurm/local_cluster.sh")
        if "\\" in str(store) or "\n" in str(store):
            raise UserError(
                f"sbatch takes no path with a backslash or a line break, as {store} has: name another store"
            )

    def responds(self) -> bool:
        return bool(program.configuration())

    def cluster(self) -> str | None:
        return program.configuration().get("ClusterName")

    def clusters(self) -> str | None:
        return program.clusters()

    def largest_array(self) -> int:
        return limits.largest_array()

    def fitting(self, groups: Mapping[Any, Sequence[Job]], jobs_per_task: int) -> Mapping[Any, Sequence[Job]]:
        return limits.fitting(groups, jobs_per_task)

    def resources_of_shell(self) -> Layer:
        found = {name: os.environ[variable] for variable, name in OF_SHELL.items() if os.environ.get(variable)}
        return "the shell's SBATCH_ variables", found

    def script(self, request: Request) -> str:
        plain = re.sub(r"[^\w.-]+", "_", request.name, flags=re.ASCII)[:40]
        # without srun the shell is replaced by Python, so that SLURM's signals reach it
        command = request.command if request.resources.srun else f"exec {request.command}"
        made = executor(request, f"{plain}.{request.array.token}")
        text: str = made._make_submission_file_text(command, "spurbench")
        return text.replace(PERCENT, "%%")

    def test(self, script: str) -> tuple[bool, str]:
        said = program.call("sbatch", "--test-only", given=script, environment=program.sbatch_environment(OF_SHELL))
        reason = " ".join(said.error.replace("sbatch: ", "").split()) or said.reason
        if said.unsure or ("fatal:" in said.error and "config" in said.error):
            return True, f"SLURM cannot be asked: {reason}"
        return said.good, f"SLURM {'would accept it' if said.good else 'refuses it'}: {reason}"

    def send(self, array: Array, after: Sequence[str]) -> Receipt:
        numbers = [job.partition(";")[0] for job in after]
        chain = [f"--dependency=afterany:{':'.join(numbers)}"] if numbers else []
        line = ("--parsable", *chain, str(array.script))
        said = program.call("sbatch", *line, environment=program.sbatch_environment(OF_SHELL))
        printed = parse_job_ids(said.text)
        if said.good and len(printed) == 1:
            return Receipt(printed[0])
        found = {} if said.unsent else answers.find([array])
        if isinstance(found, dict) and (number := found.get(array.token)):
            return Receipt(next((job for job in printed if job.partition(";")[0] == number), number))
        if not (said.good or said.unsure or isinstance(found, str) or printed):
            return Receipt(None, f"sbatch refuses: {said.reason}")
        nothing = f"printed no job id that the queue has ({said.text.strip()[-200:]!r})"
        return Receipt(None, f"sbatch {nothing if said.good else f'fails: {said.reason}'}", unsure=True)

    def ask(self, arrays: Iterable[Array]) -> Answers:
        return answers.ask(arrays)

    def explain(self, arrays: Iterable[Array]) -> Mapping[Place, TaskReport]:
        return answers.explain(arrays)

    def find(self, arrays: Iterable[Array]) -> dict[str, str] | str:
        lost = list(arrays)
        return next((why for array in lost if (why := answers.why_hidden(array))), None) or answers.find(lost)

    def cancel(self, ids: Sequence[str], cluster: str | None) -> CancelFailure | None:
        said = program.call("scancel", *program.cluster_option(cluster), *ids)
        why = explain_refusal(said)
        return CancelFailure(f"scancel fails: {why}", unsure=said.code is None or said.code < 0) if why else None

    def here(self) -> TaskIdentity | None:
        array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
        return TaskIdentity(array, int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")), job) if array or job else None

    def requeue(self, task: str) -> str | None:
        said = program.call("scontrol", "requeue", task)
        return None if said.good else said.reason

    def log(self, array: Array, index: int) -> Path:
        return array.folder / "logs" / f"{array.id}_{index}_0_log.out"


def executor(request: Request, name: str) -> Any:
    """submitit's executor, which formats the options; its pickles are not used."""
    import submitit

    class Executor(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1  # a dry run needs no cluster

    made = Executor(Path(str(request.array.folder).replace("%", PERCENT)) / "logs")
    parameters = request.resources.parameters(name, request.parallel)
    if request.code is not None:
        path = f'export PYTHONPATH={shlex.quote(str(request.code))}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        parameters["setup"] = [*parameters.get("setup", []), path]
    made.update_parameters(**parameters)
    made.update_parameters(wckey=None, comment=request.array.token)
    made.parameters["map_count"] = request.tasks
    return made


def parse_job_ids(text: str) -> list[str]:
    """Possible job numbers, with the cluster after a semicolon, among the lines that sbatch printed."""
    words = re.sub(r"^\s*Submitted batch job (\d+)(?: on cluster (\S+))?", r"\1;\2", text, flags=re.M)
    lines = (re.sub(";+", ";", line.strip()).rstrip(";") for line in words.splitlines())
    return [line for line in lines if re.fullmatch(r"\d+(?:;[\w.-]+)?", line)]


def explain_refusal(said: program.Answer) -> str | None:
    """Why scancel did not cancel tasks, if it did not; that they have already ended does not count."""
    if said.code is None:
        return said.reason
    if said.code < 0:
        return f"it was ended by signal {-said.code}"
    lines = [line.strip() for line in f"{said.error}\n{said.text}".splitlines() if line.strip()]
    unknown = [line for line in lines if not OVER_ALREADY.search(line) and (not said.good or "error" in line)]
    if unknown:
        return unknown[0]
    return None if said.good or lines else said.reason
