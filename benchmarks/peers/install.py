"""Make an environment for each peer, in ``.venv-bench``, from the package registry.

The peers share the PyTorch of the first environment, so that all run the same and it is installed
once. A peer that does not install is told and skipped.

    python benchmarks/peers/install.py
"""

import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent / ".venv-bench"
CONSTRAINTS = HERE.parent.parent / "constraints.txt"
PEERS = {
    "helios_ml": "helios-ml==2.0.1",
    "ignite": "pytorch-ignite==0.5.5",
    "lightning": "lightning==2.6.6",
    "torchtnt": "torchtnt==0.2.4 setuptools<81",
    "transformers": "transformers[torch]==5.24.0",
}
"""The requirements of each peer, by the name of its script. torchtnt needs an old setuptools."""


def install(name: str, requirements: str, shared: pathlib.Path | None) -> pathlib.Path:
    """Install requirements into an environment, and return the folder of its packages."""
    folder = ROOT / name
    packages = next(folder.glob("lib/python*/site-packages"), None)
    if (folder / "installed").exists() and packages is not None:
        return packages
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    if shared is not None:
        (packages / "shared.pth").write_text(f"{shared}\n")
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(CONSTRAINTS), *requirements.split()], check=True)
    (folder / "installed").touch()
    return packages


def interpreter(name: str) -> pathlib.Path | None:
    """Return the interpreter of a peer; ``None`` if it is not installed."""
    is_installed = (ROOT / name / "installed").exists()
    return ROOT / name / "bin/python" if is_installed else None


def main() -> None:
    shared = install("torch", "torch numpy", None)
    for name, requirements in PEERS.items():
        try:
            install(name, requirements, shared)
        except subprocess.CalledProcessError as error:
            print(f"{requirements} is skipped: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
