"""The pages of the documentation, and their blocks of code."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def page(name: str) -> str:
    """Return a page of the documentation."""
    return (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")


def blocks(language: str, text: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
