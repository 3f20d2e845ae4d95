"""What users are shown when something is wrong, whole, to be read and reviewed in ``golden/``.

``HELIOS_UPDATE_GOLDEN=1`` writes the files anew; then look at the difference before it is kept.
"""

import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import pytest

HERE = pathlib.Path(__file__).parent
SITUATIONS = re.findall(r"@situation\ndef (\w+)", (HERE / "golden.py").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def texts(make_environment: Callable[..., Any]) -> dict[str, str]:
    environment = make_environment("mixup", "patchmix", "broken", "schedule")
    return environment.run((HERE / "golden.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SITUATIONS)
def test_wording(texts: dict[str, str], name: str) -> None:
    path = HERE / "golden" / f"{name}.txt"
    text = texts[name].rstrip("\n") + "\n"
    if os.environ.get("HELIOS_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_no_file_is_left_over() -> None:
    assert sorted(path.stem for path in (HERE / "golden").iterdir()) == sorted(SITUATIONS)
