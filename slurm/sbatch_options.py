"""What tasks may request from SLURM, and how that is passed to sbatch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spurbench.bench.cluster.resources import Resources, memory, minutes, option, parse_gpus

WARNING_SECONDS = 120  # before the time limit, a task is asked to save its state
OF_SHELL = {"SBATCH_PARTITION": "partition", "SBATCH_ACCOUNT": "account", "SBATCH_QOS": "qos",
            "SBATCH_CONSTRAINT": "constraint", "SBATCH_RESERVATION": "reservation", "SBATCH_TIMELIMIT": "time",
            "SBATCH_MEM_PER_NODE": "mem", "SBATCH_MEM_PER_CPU": "mem_per_cpu",
            "SBATCH_GPUS_PER_NODE": "gpus"}  # fmt: skip
"""Variables that sbatch reads, and the resources that they set."""


@dataclass(frozen=True)
class SbatchOptions(Resources):
    """What each task of an array requests, by the names of sbatch's options."""

    partition: str | None = option(None, "As for sbatch; by default the cluster's.")
    account: str | None = option(None, "As for sbatch.")
    qos: str | None = option(None, "As for sbatch.")
    constraint: str | None = option(None, "As for sbatch.")
    exclude: str | None = option(None, "Nodes not to use, as for sbatch.")
    reservation: str | None = option(None, "As for sbatch.")
    srun: bool = option(False, "Start tasks through srun, where a cluster demands it.")

    def parameters(self, name: str, parallel: int) -> dict[str, Any]:
        """The same in the terms of submitit's SlurmExecutor.

        Without srun the batch script's process becomes the task and gets the signals; with it, the step does.
        """
        found = {
            "job_name": name, "partition": self.partition, "account": self.account, "qos": self.qos,
            "constraint": self.constraint, "exclude": self.exclude, "cpus_per_task": self.cpus,
            "mem": None if self.mem is None else memory(self.mem),
            "mem_per_cpu": None if self.mem_per_cpu is None else memory(self.mem_per_cpu, "mem-per-cpu"),
            "time": minutes(self.time), "setup": list(self.setup) or None,
            "array_parallelism": parallel, "use_srun": self.srun, "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.srun else None, **gpu_options(self.gpus),
        }  # fmt: skip
        signal = f"{'' if self.srun else 'B:'}USR2@{WARNING_SECONDS}"
        extra = {"signal": signal, "requeue": True} | ({"reservation": self.reservation} if self.reservation else {})
        return {key: value for key, value in found.items() if value is not None} | {"additional_parameters": extra}


def gpu_options(gpus: int | str) -> dict[str, str | None]:
    """How to request GPUs: by number, by type and number, or in the form of --gres."""
    kind, number = parse_gpus(gpus)
    if kind.startswith("gpu:"):
        return {"gres": f"{kind}{number}"}
    return {"gpus_per_node": f"{kind}{number}" if number else None}
