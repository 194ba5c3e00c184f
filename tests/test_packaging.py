"""Root folder ``x`` is ``commonroot.x``: the list of packages, the folders and what can be imported agree."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import commonroot

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = ("client", "common", "server", "simulations", "strategies")


def folders() -> list[str]:
    """Every folder of a room that holds Python, as a dotted package name."""
    found = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    return sorted(".".join(("commonroot", *path.relative_to(ROOT).parts)) for path in found)


def modules() -> list[str]:
    out = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    dotted = [".".join(("commonroot", *path.with_suffix("").parts)).removesuffix(".__init__") for path in out]
    face = [f"commonroot.{path.stem}" for path in (ROOT / "commonroot").glob("*.py") if path.stem != "__init__"]
    return sorted(name for name in dotted + face if not name.endswith("__main__"))


def test_the_list_of_packages_is_the_list_of_folders():
    assert PROJECT["tool"]["setuptools"]["packages"] == ["commonroot", *folders()]


def test_every_package_is_where_the_path_rule_says():
    expected = {name: name.removeprefix("commonroot.").replace(".", "/") for name in folders()}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == expected


def test_every_package_folder_has_an_init():
    missing = [name for name in folders() if not (ROOT / "/".join(name.split(".")[1:]) / "__init__.py").is_file()]
    assert missing == []


def test_the_version_is_written_twice_and_equal():
    assert commonroot.__version__ == PROJECT["project"]["version"]


def test_the_changelog_speaks_of_this_version():
    assert f"## {commonroot.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name):
    assert importlib.import_module(name).__name__ == name


def test_every_command_of_the_package_exists():
    for target in PROJECT["project"]["scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_a_checkout_runs_without_being_installed(tmp_path):
    """Only the dependencies are on the path: no site-packages start-up (-S), so no editable hook can help."""
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    code = (
        "import commonroot, commonroot.common.secure_sum.primitives as p, commonroot.strategies.base as b;"
        "print(commonroot.__version__, p.__name__, b.__name__);"
        "print(p.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *dependencies])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    names, file = done.stdout.splitlines()
    assert names == f"{commonroot.__version__} commonroot.common.secure_sum.primitives commonroot.strategies.base"
    assert Path(file).resolve() == ROOT / "common/secure_sum/primitives.py"


def test_a_checkout_takes_nobody_elses_common(tmp_path):
    """Another package called ``common`` on the path is left alone: this project never imports a bare name."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").write_text("raise RuntimeError('somebody else')\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "import commonroot.common.errors as e; print(e.__name__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "commonroot.common.errors", done.stderr
