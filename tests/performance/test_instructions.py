"""How many instructions the processor executes for Helios in a step, counted by valgrind.

The numbers depend on how Python and PyTorch were built. So each is taken as a multiple of what the
same loop needs without Helios: a DataLoader of PyTorch, from which the batches are taken.
``HELIOS_UPDATE_COUNTS=1`` writes them anew:

    HELIOS_UPDATE_COUNTS=1 python -m pytest tests/performance/test_instructions.py
"""

import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).parent
FIGURES = HERE / "instructions.json"
VERSIONS = (
    f"python {'.'.join(platform.python_version_tuple()[:2])}, {platform.machine()},"
    f" torch {'.'.join(torch.__version__.split('.')[:2])}"
)
UPDATE = "HELIOS_UPDATE_COUNTS=1 python -m pytest tests/performance/test_instructions.py"
STEPS = 200
NAMES = [
    "empty step",
    "empty step, in epochs",
    "logs a tensor",
    "10 plug-ins at each batch's end",
    "batch of 32 samples, seeded",
]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = [
    pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed"),
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler: cc, gcc or clang"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The instructions of each run over those of the loop without Helios."""
    folder = tmp_path_factory.mktemp("valgrind")
    library = folder / "valgrind.so"
    compilation = [str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(HERE / "valgrind.c")]
    if subprocess.run(compilation, capture_output=True, check=False).returncode:
        pytest.skip("the headers of valgrind are not installed")
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={folder}/out",
            *(sys.executable, str(HERE / "steps.py"), str(library), str(STEPS), "bare", *NAMES),
        ],
        env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    counted = {}
    for path in folder.glob("out.*"):
        text = path.read_text()
        name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if name and total:
            counted[name[1]] = int(total[1]) / STEPS
    return {name: round(counted[name] / counted["bare"], 3) for name in NAMES}


def test_a_step_needs_no_more_instructions_than_before(found: dict[str, float]) -> None:
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    if os.environ.get("HELIOS_UPDATE_COUNTS") == "1":
        known[VERSIONS] = found
        FIGURES.write_text(json.dumps(known, indent=2) + "\n")
        return
    if VERSIONS not in known:
        pytest.skip(f"{FIGURES.name} has no figures for {VERSIONS}. Add them: {UPDATE}")
    for name, figure in found.items():
        story = f"{name!r} needs {figure} x the loop without Helios"
        expected = known[VERSIONS].get(name)
        assert expected is not None, f"{story}. Write {FIGURES.name} anew: {UPDATE}"
        extra = (figure - 1) / (expected - 1)
        assert extra < 1.1, (
            f"{story}, and {FIGURES.name} says {expected}: Helios has become slower. Find the"
            f" reason, or, if it is worth that, write the file anew: {UPDATE}"
        )
        assert extra > 0.9, (
            f"{story}, and {FIGURES.name} says {expected}: Helios has become faster. Write the file"
            f" anew, so that it stays so: {UPDATE}"
        )
