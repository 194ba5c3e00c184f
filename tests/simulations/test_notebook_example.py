"""The worked example runs from its first cell to its last, and every cell's last line shows something."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "notebook" / "departments.py"


def cells() -> list[tuple[str, str]]:
    """The kind and text of each cell, by the marks that notebooks know."""
    parts = re.split(r"^# %%(.*)\n", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert parts[0] == ""
    return [
        ("text" if "markdown" in mark else "code", body) for mark, body in zip(parts[1::2], parts[2::2], strict=True)
    ]


def test_text_is_comments_and_code_is_python():
    for kind, body in cells():
        if kind == "text":
            assert all(line.startswith("#") for line in body.strip().splitlines())
        else:
            ast.parse(body)


@pytest.mark.slow
def test_the_example_runs_and_says_nothing(tmp_path):
    """What a notebook would show is asked for here, too: every cell that ends in an expression gets its display."""
    script = []
    for _, body in ((kind, body) for kind, body in cells() if kind == "code"):
        tree = ast.parse(body)
        if isinstance(tree.body[-1], ast.Expr):
            shown = ast.unparse(tree.body.pop())
            script.append(ast.unparse(tree))
            script.append(f"_shown = {shown}\nassert repr(_shown)")
            script += [f"assert getattr(_shown, {name!r}, str)() is not None" for name in ("_repr_html_", "_repr_svg_")]
        else:
            script.append(body)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
