"""Kills random runs at random moments, until the time is over or one ends differently.

python tests/exactness/soak.py [--seconds 600] [--seed N]
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

from killing import Scenario, Server, differences


def scenario(choose: random.Random) -> Scenario:
    return Scenario(
        unit=choose.choice(["epoch", "iteration"]),
        shuffle=choose.random() < 0.7,
        workers=choose.choice([0, 0, 0, 1, 2]),
        accumulation=choose.randint(1, 7),
        phases=choose.random() < 0.5,
        precision=choose.choice(["fp32", "bf16", "fp16"]),
        scheduler=choose.choice(["none", "step", "epoch", "plateau"]),
        valid_frequency=choose.randint(1, 4),
        chkpt_frequency=choose.randint(1, 4),
        print_frequency=choose.randint(1, 5),
        epochs=choose.randint(2, 6),
    )


def soak(server: Server, seed: int, folder: pathlib.Path) -> list[str]:
    """Cut one random run up to four times; return what differs from the whole run."""
    choose = random.Random(seed)
    trained = scenario(choose)
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
                sys.exit(
                    f"other {', '.join(found)}: --seed {seed}, {scenario(random.Random(seed))!r}"
                )
            runs, seed = runs + 1, seed + 1
    print(f"{runs} runs were cut, and none ended differently")


if __name__ == "__main__":
    main()
