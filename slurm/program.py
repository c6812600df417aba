"""SLURM's commands, called so that nothing in the user's shell alters their output."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SACCTMGR_", "SCANCEL_", "SCONTROL_", "SINFO_",
            "SRUN_", "SALLOC_", "SUBMITIT_")  # fmt: skip
KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}  # they say which cluster to ask, and as whom
OURS = {f"SBATCH_{name}" for name in (
    "ARRAY_INX", "JOB_NAME", "OUTPUT", "ERROR", "INPUT", "OPEN_MODE", "REQUEUE", "NO_REQUEUE", "SIGNAL", "EXPORT",
    "WAIT", "WAIT_ALL_NODES", "HET_JOB", "GET_USER_ENV", "GRES", "GPUS", "GPUS_PER_TASK", "MEM_PER_GPU")}  # fmt: skip
"""Variables that would override what an array needs, or what its script requests."""
T = TypeVar("T")
LONGEST = 60  # seconds to wait for an answer
FORMAT = "--format=%i|%T|%r|%U|%j|%k|%o|"  # fields that may contain the separator come last: name, comment, script
UNKNOWN_ID = "Invalid job id"
UNSURE = re.compile(
    "unable to contact|cannot contact|timed out|time.?out|zero bytes|connection|socket|communication"
    "|receive failure|send failure|unexpected message", re.I
)  # fmt: skip
"""In sbatch's output if the controller may have accepted the job nevertheless."""

UNSENT = re.compile("invalid entry for|no clusters can be reached|only local cluster communication", re.I)
"""In sbatch's output if it found no controller to ask."""


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended; `code` is None if it could not be started or did not end."""

    code: int | None
    text: str = ""
    error: str = ""

    @property
    def good(self) -> bool:
        return self.code == 0

    @property
    def unsure(self) -> bool:
        """Whether the request may have been carried out although the command failed."""
        return self.code is None or self.code < 0 or bool(UNSURE.search(self.error) and not self.unsent)

    @property
    def unsent(self) -> bool:
        """Whether no job can have been sent, as there is no such cluster."""
        return not self.good and bool(UNSENT.search(self.error))

    @property
    def reason(self) -> str:
        """Why it failed, on one line."""
        lines = self.error.splitlines() or self.text.splitlines() or [f"exit code {self.code}"]
        return " ".join(" ".join(lines).split())[-500:].removeprefix("sbatch: error: ")


def clean_environment() -> dict[str, str]:
    """The environment without variables that alter SLURM's commands or belong to a job."""
    return {name: value for name, value in os.environ.items() if name in KEPT or not name.startswith(PREFIXES)}


def squeue(*words: str, cluster: str | None = None) -> Answer:
    """Ask for jobs in any state and partition, a line each for every task; an answer with an error counts as none."""
    said = call("squeue", *cluster_option(cluster), "--noheader", "--array", "--all", "--states=all", FORMAT, *words)
    return replace(said, code=1) if said.good and "error" in said.error.lower() else said


def clusters() -> str | None:
    """The clusters that sbatch chooses among, as the user's shell says."""
    return next(
        (value for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS") if (value := sbatch_environment(()).get(name))), None
    )


def sbatch_environment(without: Iterable[str]) -> dict[str, str]:
    """The same plus what the user's shell sets for all jobs, such as SBATCH_WCKEY or SLURM_CLUSTERS, `without` what is
    in the script."""
    kept = {name for name in os.environ if name.startswith("SBATCH_")} - {*OURS, *without}
    if "SLURM_JOB_ID" not in os.environ:  # in a job it says where that runs
        kept |= {"SLURM_CLUSTERS"} & os.environ.keys()
    return clean_environment() | {name: os.environ[name] for name in kept}


def call(*words: str, given: str | None = None, environment: dict[str, str] | None = None) -> Answer:
    """Call a SLURM command, with `given` as its input."""
    try:
        done = subprocess.run(
            words, input=given or "", capture_output=True, encoding="utf-8", errors="surrogateescape", check=False,
            timeout=LONGEST, env=clean_environment() if environment is None else environment,
        )  # fmt: skip
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return Answer(None, error=f"there is no {words[0]} here" if missing else str(error))
    except subprocess.TimeoutExpired:
        return Answer(None, error=f"{words[0]} gave no answer in {LONGEST} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def cluster_option(cluster: str | None) -> tuple[str, ...]:
    """The option that addresses a cluster other than the one here."""
    return (f"--clusters={cluster}",) if cluster else ()


def in_batches(each: Iterable[T], size: int = 500) -> Iterable[list[T]]:
    """Jobs or tasks in lists that fit on a command line."""
    every = list(each)
    return (every[at : at + size] for at in range(0, len(every), size))


@cache
def configuration() -> dict[str, str]:
    """The configuration of the cluster here, by the names in slurm.conf; empty if it does not answer."""
    said = call("scontrol", "show", "config")
    pairs = (line.split("=", 1) for line in said.text.splitlines() if "=" in line and said.good)
    return {name.strip(): value.strip() for name, value in pairs}
