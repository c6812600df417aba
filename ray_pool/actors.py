"""Ray as a pool: each process is an actor, on a node with room for it; all nodes share the store's folder."""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from spurbench.bench.core import machine
from spurbench.bench.core.errors import UserError, reason
from spurbench.bench.core.processes import variables
from spurbench.bench.core.terminal import plural
from spurbench.bench.jobs.job import Job
from spurbench.bench.launch import placement, snapshot
from spurbench.bench.launch.placement import Layout
from spurbench.bench.launch.pool import Ended, News, Pool, Process, Terms, do_job
from spurbench.bench.store.claims import STALE_VARIABLE

OBJECT_STORE = 100 * 2**20  # bytes: little passes between processes
PASSED_ON = ("SPURBENCH_DATA", STALE_VARIABLE)  # environment variables


class RayPool(Pool):
    """The cluster at $RAY_ADDRESS; without that, one of this machine alone, which is started here."""

    def __init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(f"--launcher ray needs the package ray ({error}): pip install 'spurbench[ray]'") from None
        self.ray: Any = ray
        self.gpus_each = 0.0  # of a process
        self.code: tuple[Path, list[str]] | None = None
        self.connected = ray.is_initialized()  # by a notebook, which keeps its connection
        if not self.connected:
            self.connect(os.environ.get("RAY_ADDRESS", ""))

    def connect(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        here = {"num_cpus": machine.cores(), "num_gpus": machine.gpus(), "object_store_memory": OBJECT_STORE}
        own = {} if address else here
        try:
            if port.isdecimal() and "/" not in host:
                socket.create_connection((host, int(port)), timeout=10).close()  # Ray would try for minutes
            with chdir("/"):  # Ray's processes import from the working directory first
                self.ray.init(address or "local", include_dashboard=False, logging_level=logging.ERROR, **own)
        except Exception as error:
            raise UserError(f"no Ray at {address or 'this machine'}: {reason(error)}") from None

    def lay_out(self, device: str, jobs: int | None, threads: int | None, runs: int) -> Layout:
        nodes = self.nodes()
        layout = placement.choose_on_nodes(nodes, device, jobs, threads, runs)
        self.gpus_each = sum(gpus for _, gpus in nodes) / len(layout.devices) if layout.devices[0] == "cuda" else 0
        return replace(layout, place=f"Ray, {plural(len(nodes), 'node')}")

    def nodes(self) -> list[tuple[int, int]]:
        there = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in there]

    def start(self, layout: Layout, store: Path, terms: Terms) -> Process:
        """It imports the code, and adds the plug-ins, as they were when the first process was started."""
        self.code = self.code or snapshot.take(store, terms.plugins)
        code, plugins = self.code
        own = variables(layout.threads) | {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        own["PYTHONPATH"] = os.pathsep.join(filter(None, (str(code), os.environ.get("PYTHONPATH"))))
        actor = self.ray.remote(Actor).options(num_cpus=layout.threads, num_gpus=self.gpus_each, max_concurrency=3,
                                               runtime_env={"env_vars": own})  # fmt: skip
        return Remote(self.ray, actor.remote(os.getcwd(), store, replace(terms, plugins=plugins)))

    def wait(self, processes: Sequence[Process], seconds: float) -> Sequence[Process]:
        by_news = {process.news: process for process in processes if isinstance(process, Remote)}
        ready, _ = self.ray.wait(list(by_news), timeout=seconds)
        if not (ready or any(process.begun for process in by_news.values()) or self.nodes()):
            raise UserError("Ray has no node left: once it has, the same command continues from what was saved")
        return [by_news[news] for news in ready]

    def close(self) -> None:
        if not self.connected:
            self.ray.shutdown()


class Remote(Process):
    """An actor, as the command sees it that started it."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor, self.news, self.begun = ray, actor, actor.hear.remote(), False

    def give(self, job: Job | None) -> None:
        if job is None:
            return self.kill()
        self.actor.work.remote(job.to_dict())

    def hear(self) -> News:
        try:
            kind, value = self.ray.get(self.news)
        except self.ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[-1].split(". ")[0]
            if getattr(error, "actor_init_failed", not self.begun):
                raise UserError(f"Ray cannot start a process: {why}") from None
            kind, value = "ended", (why, True)
        if kind == "ended":
            self.kill()
            raise Ended(*value)
        self.begun, self.news = True, self.actor.hear.remote()
        return kind, value

    def stop(self) -> None:
        if self.begun:
            self.actor.stop.remote()
        else:  # Ray may not have found room for it
            self.kill()

    def kill(self) -> None:
        self.ray.kill(self.actor)


class Actor:
    """A process on a node. Its methods run side by side: one does a job, another tells what it says."""

    def __init__(self, folder: str, store: Path, terms: Terms) -> None:
        import_module("spurbench.bench.jobs.worker")  # a node without torch fails here, not with a job
        self.store, self.terms, self.asked = store, terms, False
        self.news: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        with suppress(OSError):  # a relative path means the same as it did for the command, where it can
            os.chdir(folder)

    def work(self, job: Mapping[str, Any]) -> None:
        from spurbench.bench.jobs.session import Stopped

        try:
            do_job(job, self.store, self.terms, lambda kind, value: self.news.put((kind, value)), lambda: self.asked)
        except Stopped:
            self.news.put(("ended", ("it was asked to", True)))
        except BaseException as error:
            traceback.print_exc()
            self.news.put(("ended", (reason(error), False)))

    def hear(self) -> tuple[str, Any]:
        return self.news.get()

    def stop(self) -> None:
        self.asked = True
