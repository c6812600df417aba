"""A SLURM that only keeps a queue, in the place of its commands: for what a real one does not do when it is asked to.

`FakeSlurm(folder)` writes commands into `folder/bin`, to be put first on PATH; they are started hundreds of times, so
this file is compiled once and imports little. What they know lies in `folder/state`; a test changes that to let tasks
run or end, or to make trouble: `banner` is printed before a job's number, `lie` instead of it, `down` fails every
command, `swallow` fails sbatch after it has taken the job, `mumble` is an error beside a success of squeue, `rename`
is the name that the site gives to every job, `bare` lists an array that was cancelled as one job, `stubborn` is how
scancel ends and what it says, `private` hides the jobs of others, `user` is who asks, `clusters` are those that there
are.
"""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

PROGRAM = """\
#!/bin/sh
exec {python} -S -E {folder}/program.pyc {folder} "${{0##*/}}" "$@"
"""


class FakeSlurm:
    def __init__(self, folder: Path) -> None:
        import py_compile

        self.folder, self.file, self.bin = folder, folder / "state", folder / "bin"
        self.bin.mkdir(parents=True)
        py_compile.compile(__file__, folder / "program.pyc", doraise=True)
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sacctmgr"):
            (self.bin / name).write_text(PROGRAM.format(python=sys.executable, folder=folder))
            (self.bin / name).chmod(0o755)
        self.save({"jobs": {}, "next": 100, "calls": []})

    def load(self) -> dict[str, Any]:
        found: dict[str, Any] = marshal.loads(self.file.read_bytes())
        return found

    def save(self, state: dict[str, Any]) -> None:
        self.file.write_bytes(marshal.dumps(state))

    def set(self, **trouble: Any) -> None:
        self.save(self.load() | trouble)

    def tasks(self) -> dict[str, str]:
        """State of every task that was ever sent."""
        jobs = self.load()["jobs"]
        return {f"{id}_{i}": state for id, job in jobs.items() for i, (state, _) in enumerate(job["tasks"])}

    def become(self, state: str, *tasks: str, code: str = "0:0") -> None:
        """Let tasks, or all that are not over, be in a state."""
        content = self.load()
        for id, job in content["jobs"].items():
            for i, (now, _) in enumerate(job["tasks"]):
                if f"{id}_{i}" in tasks or (not tasks and now in ("PENDING", "RUNNING")):
                    job["tasks"][i] = [state, code]
        self.save(content)

    def forget(self) -> None:
        """Let SLURM remember no job that is not in the queue."""
        content = self.load()
        for id in [id for id, job in content["jobs"].items() if all(s[0] not in LIVE for s in job["tasks"])]:
            del content["jobs"][id]
        self.save(content)

    def calls(self, name: str) -> list[list[str]]:
        return [words for words in self.load()["calls"] if words[0] == name]


LIVE = ("PENDING", "RUNNING")


def option(words: list[str], name: str, default: str = "") -> str:
    return next((word.split("=", 1)[1] for word in words if word.startswith(f"--{name}=")), default)


def asked_for(words: list[str]) -> str:
    import os

    return option(words, "clusters", os.environ.get("SBATCH_CLUSTERS", os.environ.get("SLURM_CLUSTERS", "")))


def sbatch(state: dict[str, Any], words: list[str]) -> int:
    import os

    state["environment"] = {k: v for k, v in os.environ.items() if k.startswith(("SBATCH_", "SLURM_"))}
    if "--test-only" in words:
        print("sbatch: Job 1 to start at once", file=sys.stderr)
        return 0
    with open(words[-1]) as script:
        text = script.read()
    lines = dict(line[len("#SBATCH --") :].partition("=")[::2] for line in text.splitlines() if line[:7] == "#SBATCH")
    if lines.get("partition") in state.get("refuse", []):
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    count = int(lines["array"].partition("%")[0].partition("-")[2]) + 1
    state["next"] += 1
    state["jobs"][str(state["next"])] = {
        "name": state.get("rename", lines["job-name"]), "user": state.get("user", os.getuid()),
        "tasks": [["PENDING", "0:0"]] * count, "comment": lines.get("comment", "(null)"), "script": words[-1],
    }  # fmt: skip
    if state.get("swallow"):
        print(f"sbatch: error: {state['swallow']}", file=sys.stderr)
        return 1
    if state.get("lie"):
        print(state["lie"])
        return 0
    print(state.get("banner", "") + str(state["next"]) + state.get("cluster", ""))
    return 0


def squeue(state: dict[str, Any], words: list[str]) -> int:
    import os

    asked = option(words, "jobs").split(",") if option(words, "jobs") else None
    user, states = option(words, "user"), option(words, "states")
    if os.environ.get("SQUEUE_STATES"):
        states = os.environ["SQUEUE_STATES"]
    me = state.get("user", os.getuid())
    if state.get("mumble"):
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 0
    if asked and len(asked) == 1 and asked[0] not in state["jobs"]:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    for id, job in state["jobs"].items():
        hidden = state.get("private") and job["user"] != me
        if hidden or (asked is not None and id not in asked) or (user and user != str(job["user"])):
            continue
        if state.get("bare") and all(now == "CANCELLED" for now, _ in job["tasks"]):
            print(f"{id}|CANCELLED|None|{job['user']}|{job['name']}|{job['comment']}|{job['script']}|")
            continue
        for i, (now, _) in enumerate(job["tasks"]):
            if states == "all" or (now in LIVE and states in ("", now)):
                told = ("Priority" if now == "PENDING" else "None", job["user"], job["name"], job["comment"])
                print(f"{id}_{i}|{now}|{'|'.join(map(str, told))}|{job['script']}|")
    return 0


def scancel(state: dict[str, Any], words: list[str]) -> int:
    import os

    if "stubborn" in state:  # a code, or the number of a signal, and what it says
        code, text = state["stubborn"]
        print(text, file=sys.stderr, end="", flush=True)
        return int(code) if code > 0 else os.kill(os.getpid(), -code) or 0
    for word in words:
        id, _, index = word.partition("_")
        for i, (now, _) in enumerate(state["jobs"].get(id, {"tasks": []})["tasks"]):
            if now in LIVE and index in ("", str(i)):
                state["jobs"][id]["tasks"][i] = ["CANCELLED", "0:15"]
    return 0


def scontrol(state: dict[str, Any], words: list[str]) -> int:
    if words[:2] == ["show", "config"]:
        print(f"ClusterName = {state.get('called', 'fake')}\nMaxArraySize = {state.get('largest', 1001)}")
        print(f"PrivateData = {'jobs' if state.get('private') else 'none'}")
        return 0
    job = state["jobs"].get(words[-1])
    if job is None:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    for i, (now, code) in enumerate(job["tasks"]):
        marks = f"JobName={job['name']} Command={job['script']} Comment={job['comment']}"
        print(f"JobId={words[-1]}{i} ArrayJobId={words[-1]} ArrayTaskId={i} {marks} UserId=a(1) "
              f"JobState={now} Reason=None ExitCode={code}")  # fmt: skip
    return 0


def main(folder: str, name: str, words: list[str]) -> int:
    import fcntl

    with open(f"{folder}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(f"{folder}/state", "rb") as file:
            state = marshal.load(file)
        state["calls"].append([name, *words])
        code = 1
        if state.get("down") in (True, name):
            print(f"{name}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        elif (wrong := asked_for(words)) and wrong not in state.get("clusters", [wrong]):
            print(f"{name}: error: '{wrong}' can't be reached now, or it is an invalid entry for --cluster.  Use "
                  "'sacctmgr list clusters' to see available clusters.", file=sys.stderr)  # fmt: skip
        elif name in ("sacct", "sacctmgr"):
            code = 0 if state.get(name) else 1
            print(state.get(name, ""))
        else:
            code = {"sbatch": sbatch, "squeue": squeue, "scancel": scancel, "scontrol": scontrol}[name](state, words)
        with open(f"{folder}/state", "wb") as file:
            marshal.dump(state, file)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
