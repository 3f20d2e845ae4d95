"""Kills random runs at random moments, until the time is over or one ends differently.

python tests/exactness/soak.py [--seconds 600] [--seed N]
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from killing import Server, differences, random_scenario


def soak(server: Server, seed: int, folder: pathlib.Path) -> list[str]:
    """Cut one random run up to four times; return what differs from the whole run."""
    choose = random.Random(seed)
    trained = random_scenario(choose)
    whole = server.run(trained, folder / "whole")
    assert whole is not None
    stop_after = choose.choice([None, choose.randrange(1, 15)])
    for _ in range(choose.randint(1, 4)):
        # The moment may lie behind the end of what is left; then the run is complete, or stopped.
        kill_at = choose.randrange(len(whole["moments"]))
        server.run(trained, folder / "cut", kill_at=kill_at, stop_after=stop_after)
    resumed = server.run(trained, folder / "cut")
    assert resumed is not None
    return differences(whole, resumed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    runs, seed = 0, arguments.seed
    print(f"seed {seed}", flush=True)
    with Server() as server:
        while time.monotonic() < end:
            with tempfile.TemporaryDirectory() as folder:
                found = soak(server, seed, pathlib.Path(folder))
            if found:
                scenario = random_scenario(random.Random(seed))
                sys.exit(f"other {', '.join(found)}: --seed {seed}, {scenario!r}")
            runs, seed = runs + 1, seed + 1
    print(f"{runs} runs were cut, and none ended differently")


if __name__ == "__main__":
    main()
