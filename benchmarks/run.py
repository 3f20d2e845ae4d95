"""Run benchmarks, and write their rows to RESULTS.md.

The rows of benchmarks that do not run stay as they are. Peers run if they are installed:

    python benchmarks/peers/install.py
    python benchmarks/run.py loop data hooks ranks save start
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any

import torch
from peers.install import PEERS, interpreter
from table import HEADER, Row

HERE = pathlib.Path(__file__).resolve().parent
DATA, RESULTS = HERE / "results.json", HERE / "RESULTS.md"
COMMANDS = {
    "loop": [["loop.py"]],
    "data": [["data.py"], ["seeding.py"]],
    "hooks": [["loop.py", "--hooks"], ["optuna_plugin.py"]],
    "ranks": [["ranks.py"], ["virtual_ranks.py"]],
    "save": [["checkpoint.py"]],
    "start": [["imports.py"], ["start.py"]],
    "cuda": [["gpu.py"]],
}
"""The scripts of each benchmark. One that does not exist is skipped."""

SUBJECTS = {
    "loop": "A step",
    "data": "Loading and seeding",
    "hooks": "Plug-ins",
    "ranks": "Several ranks",
    "save": "Checkpoints",
    "start": "Start",
    "cuda": "On a GPU",
}
INTRODUCTION = """\
# Results

`make bench` writes this page, and `BENCH=loop,data,hooks,ranks,save,start` chooses what runs;
`cuda` needs a GPU. Each figure is the median of the rounds; the smallest and the largest round
stand beside it, and the memory that was added at the peak, where it was measured.
A step is measured in chunks of ten, in turn with the loop that a user writes, in one process
([alternate.py](alternate.py)). Compare figures of one section only: the sections may have run at
different times.
"""


def run(command: list[str], python: str = sys.executable) -> tuple[list[Row], str]:
    """Run a script, and return its rows, and what else it printed."""
    name = " ".join(pathlib.Path(part).name for part in command)
    print(f"{name} ...", file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE), environment.get("PYTHONPATH") if python == sys.executable else ""])
    )
    result = subprocess.run(
        [python, *command], env=environment, capture_output=True, text=True, check=False
    )
    lines = [(Row.parse(line), line) for line in result.stdout.splitlines()]
    rows = [row for row, _ in lines if row is not None]
    text = "\n".join(line for row, line in lines if row is None)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        text += f"\n{name} failed: {result.stderr.strip().splitlines()[-1:]}"
    return rows, text.strip()


def benchmark(name: str) -> dict[str, Any]:
    """Run one benchmark, and return its section."""
    rows: list[Row] = []
    texts = []
    for command in COMMANDS[name]:
        if (HERE / command[0]).exists():
            more, text = run([str(HERE / command[0]), *command[1:]])
            rows += more
            texts += [text] if text else []
    for peer in PEERS:
        python = interpreter(peer)
        if python is not None and name in ("loop", "hooks", "start"):
            more, text = run([str(HERE / "peers" / f"with_{peer}.py"), name], str(python))
            rows += more
            texts += [text] if text else []
    return {
        "machine": machine(),
        "rows": [dataclasses.asdict(row) for row in rows],
        "text": "\n\n".join(texts),
    }


def machine() -> str:
    """Return date, versions and machine, without names or paths of it."""
    names = ("helios-trainer", "torch", "numpy", "pluggy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    model = platform.processor() or platform.machine()
    cpus = pathlib.Path("/proc/cpuinfo")
    if cpus.exists() and (found := re.search(r"^model name\s*: (.*)$", cpus.read_text(), re.M)):
        model = found[1]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{date}; {', '.join(versions)}; {system}; {model}, {cores} cores{gpu}"


def render(sections: dict[str, dict[str, Any]]) -> str:
    """Return the content of RESULTS.md."""
    parts = [INTRODUCTION]
    for name, subject in SUBJECTS.items():
        if name in sections:
            section = sections[name]
            rows = [Row(**row).render() for row in section["rows"]]
            parts.append(f"## {subject}\n\n{section['machine']}\n")
            parts.append("\n".join([HEADER, *rows]) + "\n")
            if section["text"]:
                parts.append(f"```text\n{section['text']}\n```\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help=f"from {', '.join(COMMANDS)}; by default all that can run"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COMMANDS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    sections = json.loads(DATA.read_text()) if DATA.exists() else {}
    usual = [name for name in COMMANDS if name != "cuda" or torch.cuda.is_available()]
    for name in arguments.names or usual:
        sections[name] = benchmark(name)
        DATA.write_text(json.dumps(sections, indent=1) + "\n")
        RESULTS.write_text(render(sections))


if __name__ == "__main__":
    main()
