"""Every transcript in the documentation is executed, every link leads somewhere.

A fenced ``console`` block is one shell session in an empty folder: lines that start with ``$ `` are commands (``> ``
continues one), the lines below are what it prints, standard error included.  ``...`` matches anything: within a line,
or alone any number of lines.  A command must succeed unless its output ends with a line ``[exit N]``.  ``python``
blocks are run and ``toml`` blocks are parsed.  Just above a block may stand

    <!-- test: slow -->            marked slow: seconds rather than milliseconds
    <!-- test: skip REASON -->     not run, and why

so a command can be shown without being run only for a stated reason; ``sh`` blocks, which would hide one, are refused.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LANGUAGES = {"console", "python", "toml", "text", "mermaid"}

_BLOCK = re.compile(
    r"(?:^<!--\s*test:\s*(?P<mark>.*?)\s*-->\s*\n)?^```(?P<language>[^\n`]*)\n(?P<body>.*?)^```\s*$", re.M | re.S
)
_END = "@@ end of command, status "


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it is, and the word of the comment above it."""

    page: str
    line: int
    language: str
    body: str
    mark: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Step:
    """One command and what it should print; ``status`` is its exit status."""

    command: str
    output: list[str]
    status: int


def blocks(text: str, page: str) -> list[Block]:
    """Every fenced block of a page."""
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"].strip(),
            found["body"],
            found["mark"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def steps(body: str) -> list[Step]:
    """The commands of a console block.  Raises ValueError for output before the first command."""
    out: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            out.append((line[2:], []))
        elif not out:
            raise ValueError(f"output before any command: {line!r}")
        elif line.startswith("> ") and not out[-1][1]:
            out[-1] = (out[-1][0] + "\n" + line[2:], [])
        else:
            out[-1][1].append(line)
    return [Step(command, *_status(printed)) for command, printed in out]


def _status(printed: list[str]) -> tuple[list[str], int]:
    found = re.fullmatch(r"\[exit (\d+)\]", printed[-1]) if printed else None
    return (printed[:-1], int(found[1])) if found else (printed, 0)


def matches(expected: list[str], found: list[str]) -> bool:
    """Does the output fit?  ``...`` matches anything; blanks at the ends of lines and of the whole do not count."""
    pattern = ""
    for line in _trimmed(expected):
        pattern += r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in _trimmed(found))) is not None


def _trimmed(lines: list[str]) -> list[str]:
    return "\n".join(line.rstrip() for line in lines).strip("\n").splitlines()


def run(body: str, folder: Path, *, limit: float) -> None:
    """Execute a console block in ``folder``; AssertionError shows the first command that said something else."""
    session = steps(body)
    script = "".join(f"{{ {step.command}\n}}\nprintf '\\n{_END}%s\\n' $?\n" for step in session)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "HOME": str(folder),
        "COLUMNS": "120",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit,
    )
    printed = re.split(rf"\n{_END}(\d+)\n", done.stdout)
    for at, step in enumerate(session):
        found, status = (printed[2 * at].splitlines(), printed[2 * at + 1]) if 2 * at + 1 < len(printed) else ([], "?")
        shown = "\n".join(found)
        assert str(step.status) == status, f"$ {step.command}\nexited with {status}, not {step.status}:\n{shown}"
        assert matches(step.output, found), f"$ {step.command}\nprinted\n{shown}\n\nand not\n" + "\n".join(step.output)


def documented() -> list[Block]:
    return [block for page in PAGES for block in blocks(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]


def _runnable(language: str) -> list[object]:
    return [
        pytest.param(block, id=block.name, marks=[pytest.mark.slow] if block.mark == "slow" else [])
        for block in documented()
        if block.language == language and not block.mark.startswith("skip")
    ]


@pytest.mark.parametrize("block", _runnable("console"))
def test_a_transcript_says_what_the_program_says(block, tmp_path):
    run(block.body, tmp_path, limit=240 if block.mark == "slow" else 60)


@pytest.mark.parametrize("block", _runnable("python"))
def test_a_python_example_runs(block, tmp_path):
    limit = 240 if block.mark == "slow" else 60
    done = subprocess.run(
        [sys.executable, "-c", block.body], cwd=tmp_path, capture_output=True, text=True, timeout=limit, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", _runnable("toml"))
def test_a_toml_example_is_toml(block):
    tomllib.loads(block.body)


@pytest.mark.parametrize("block", documented(), ids=lambda block: block.name)
def test_a_block_says_what_it_is_and_a_skip_says_why(block):
    assert block.language in LANGUAGES, f"{block.name}: use one of {sorted(LANGUAGES)}"
    assert re.fullmatch(r"|slow|skip .{10,}", block.mark), f"{block.name}: {block.mark!r} is no reason"


def test_the_readme_shows_at_least_one_session_that_is_run():
    assert any(block.page == "README.md" and not block.mark.startswith("skip") for block in documented())


def anchors(text: str) -> set[str]:
    """The fragments that a page's headings make."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_within_the_project_leads_somewhere(page):
    lost = []
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (fragment and fragment not in anchors(found.read_text(encoding="utf-8"))):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize(
    ("expected", "found", "fits"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a"], ["a", "", ""], True),
        (["a"], ["a", "b"], False),
        (["a", "...", "d"], ["a", "b", "c", "d"], True),
        (["a", "...", "d"], ["a", "d"], True),
        (["a", "...", "d"], ["a", "b"], False),
        (["round ... took ... s"], ["round 3 took 0.5 s"], True),
        (["round ... took ... s"], ["round 3 took 0.5 ms"], False),
        (["1.5"], ["1x5"], False),
        (["..."], [], True),
        ([], ["anything"], False),
    ],
)
def test_output_is_compared_line_by_line_and_dots_match_anything(expected, found, fits):
    assert matches(expected, found) is fits


def test_a_session_keeps_its_folder_and_its_variables_from_command_to_command(tmp_path):
    run("$ mkdir a && cd a\n$ x=5\n$ basename $PWD; echo $x\na\n5\n", tmp_path, limit=10)


@pytest.mark.parametrize(
    "body",
    ["$ echo yes\nno\n", "$ false\n", "$ true\n[exit 1]\n", "$ exit 3\n$ echo never\nnever\n", "$ echo loud >&2\n"],
)
def test_a_session_that_says_something_else_is_seen(body, tmp_path):
    with pytest.raises(AssertionError):
        run(body, tmp_path, limit=10)


def test_a_failure_can_be_part_of_a_transcript(tmp_path):
    run("$ echo wrong >&2; (exit 2)\nwrong\n[exit 2]\n", tmp_path, limit=10)


def test_a_command_may_go_over_several_lines(tmp_path):
    run("$ echo one \\\n>   two\none two\n", tmp_path, limit=10)


def test_comments_above_blocks_are_read():
    text = "a\n\n<!-- test: slow -->\n```console\n$ true\n```\n\n```toml\nx = 1\n```\n"
    assert [(b.line, b.language, b.mark) for b in blocks(text, "x.md")] == [(4, "console", "slow"), (8, "toml", "")]
