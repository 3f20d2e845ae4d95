"""Odd values for all arguments of trainers and loaders: each is right, or refused by name.

``python tests/fuzz_arguments.py --examples 100000`` tries that many; the tests try fewer.
"""

import argparse
import datetime
import decimal
import enum
import fractions
import inspect
import math
import pathlib
import random
import sys
import tempfile
from typing import Any

import numpy as np
import torch

from helios import DataLoaderParams, Trainer
from helios.errors import ConfigurationError, HeliosError


class Raising:
    """An object whose text, truth and comparison raise."""

    def __repr__(self) -> str:
        raise OSError("no text")

    def __bool__(self) -> bool:
        raise OSError("no truth")

    def __eq__(self, other: object) -> bool:
        raise OSError("no comparison")

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __len__(self) -> int:
        raise OSError("no length")


class Number(enum.IntEnum):
    ONE = 1


def cyclic() -> list[Any]:
    """Return a list that contains itself."""
    values: list[Any] = []
    values.append(values)
    return values


FOLDER = tempfile.mkdtemp()
FILE = pathlib.Path(FOLDER) / "file"
FILE.touch()

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 10**9, 2**63, 2**64 - 1, 2**64, -(2**64), 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1e308, 5e-324, math.nan, math.inf, -math.inf, 1j),
    *("", " ", "no", "false", "True", "1", "cpu", "epoch", "EPOCH", "raise", "warn", "fp16", "min"),
    *(
        "a/b",
        "../up",
        "..",
        ".",
        "/",
        "\0",
        "a\0b",
        "x" * 300,
        "x/" * 3000,
        "\ud800",
        "\udc80",
        "\n",
    ),
    *(
        "00:01:00",
        "9" * 5000 + "-00:00:00",
        "99:99:99",
        "\u0661:00:00",
        FOLDER,
        str(FILE),
        f"{FILE}/in",
    ),
    *(b"", b"bytes", bytearray(b"x"), pathlib.Path("x"), FILE, pathlib.Path("\0")),
    *(
        [],
        [0],
        [-1],
        [True],
        ["0"],
        [None],
        [[0]],
        (),
        (0,),
        (0, 1),
        {},
        {"a": 1},
        {0},
        frozenset(),
    ),
    *(("loss", "min"), ("loss", "max", math.nan), ("loss", "min", -1), ("loss", "min", 10**400)),
    *(["loss"], ("", "min"), (3, "min"), ("loss", 3), ("loss", np.zeros(2)), ("loss", "mim")),
    *(
        np.int64(3),
        np.float64(2),
        np.float32(math.nan),
        np.bool_(True),
        np.str_("epoch"),
        np.zeros(2),
    ),
    *(
        torch.tensor(1),
        torch.tensor([1, 2]),
        torch.tensor(True),
        torch.device("cpu"),
        torch.float16,
    ),
    *(decimal.Decimal(1), decimal.Decimal("NaN"), fractions.Fraction(1, 2), Number.ONE),
    *(datetime.timedelta(seconds=1), datetime.timedelta.max, datetime.timedelta(0)),
    *(datetime.timedelta(-1), object(), object, int, print, len, lambda: 1, Raising()),
    *(range(2), iter([1]), slice(1), Ellipsis, NotImplemented, cyclic(), ValueError("x"), sys),
    *(("ema", {}), [("ema", {})], ["", "x"], [("ema", 3)], [("ema",)], ["no such plug-in"]),
]

TRAINER = [
    name for name in inspect.signature(Trainer).parameters if name not in ("unknown", "self")
]
LOADER = list(inspect.signature(DataLoaderParams).parameters)
BASE = {"autoload": False, "use_cpu": True, "print_banner": False}


def attempt(factory: Any, arguments: dict[str, Any]) -> str | None:
    """Return what is wrong with the way in which arguments are taken, or ``None``."""
    try:
        factory(**arguments)
    except HeliosError as error:
        text = str(error)
        is_named = not isinstance(error, ConfigurationError) or any(
            name in text for name in arguments
        )
        return None if is_named and len(text) < 5000 else f"names no argument: {text[:200]}"
    except TypeError as error:
        has_sampler = not {"sampler", "batch_sampler"}.isdisjoint(arguments)
        return None if has_sampler and "sampler" in str(error) else f"raw: {error!r}"
    except RuntimeError as error:
        is_documented = arguments.get("use_cpu") is False and "finds none" in str(error)
        return None if is_documented else f"raw: {error!r}"
    except BaseException as error:
        return f"raw: {type(error).__name__}: {error}"[:300]
    return None


def pairs() -> list[tuple[Any, dict[str, Any]]]:
    """Return each argument with each odd value."""
    trainers = [(Trainer, {**BASE, name: value}) for name in TRAINER for value in ODD]
    return trainers + [(DataLoaderParams, {name: value}) for name in LOADER for value in ODD]


def drawn(seed: int) -> tuple[Any, dict[str, Any]]:
    """Return several arguments with odd values."""
    draw = random.Random(seed)
    names, base = ((TRAINER, BASE), (LOADER, {}))[seed % 2]
    chosen = draw.sample(names, draw.randint(1, 4))
    return (Trainer, DataLoaderParams)[seed % 2], {**base, **{n: draw.choice(ODD) for n in chosen}}


def faults(examples: int, seed: int = 0) -> list[str]:
    """Try pairs, and then several arguments at once; return what is wrong."""
    tried = pairs()
    random.Random(seed).shuffle(tried)
    tried = tried[: examples // 2]
    tried += [drawn(seed + number) for number in range(examples - len(tried))]
    found = []
    for factory, arguments in tried:
        fault = attempt(factory, arguments)
        if fault is not None:
            odd = {name: _text(value) for name, value in arguments.items() if name not in BASE}
            odd |= {n: _text(v) for n, v in arguments.items() if n in BASE and v is not BASE[n]}
            found.append(f"{factory.__name__}({odd}): {fault}")
    return found


def _text(value: Any) -> str:
    try:
        return ascii(value)[:60]
    except Exception:
        return type(value).__name__


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wrong = faults(options.examples, options.seed)
    print(*wrong[:50], sep="\n")
    sys.exit(f"{len(wrong)} of {options.examples} examples failed" if wrong else 0)
