"""Parts of pages that are made from the code: tables, diagrams, lists of checks.

On a page such a part stands between two comments and is written there by ``make docs``; everything around it is
written by hand.  A test compares every part with what the code says now.

    <!-- made: NAME -->
    …
    <!-- made: end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_PART = re.compile(r"(?P<head><!-- made: (?P<name>(?!end)[\w-]+) -->\n).*?(?P<foot><!-- made: end -->)", re.S)


def names(text: str) -> list[str]:
    """The parts that a page asks for, in order."""
    return [found["name"] for found in _PART.finditer(text)]


def made(text: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """The page with every part made anew.  Raises KeyError for a part that nobody makes."""
    return _PART.sub(lambda found: f"{found['head']}\n{makers[found['name']]().strip()}\n\n{found['foot']}", text)


def write(page: Path, makers: Mapping[str, Callable[[], str]]) -> None:
    """Write a page's parts in place."""
    page.write_text(made(page.read_text("utf-8"), makers), encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(head), "|".join("---" for _ in head)]
    lines = [f"| {lines[0]} |", f"|{lines[1]}|"]
    for row in rows:
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)


def mermaid(*lines: str) -> str:
    """A Mermaid diagram."""
    return "\n".join(("```mermaid", *lines, "```"))
