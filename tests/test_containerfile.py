"""The Containerfile keeps its promises as far as reading it can tell; building it needs an engine and a registry."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "deploy" / "Containerfile").read_text("utf-8")
#: Instructions with their arguments, continued lines joined and comments left out.
STEPS = [
    (found["word"], " ".join(found["rest"].split()))
    for found in re.finditer(
        r"^(?P<word>[A-Z]+) (?P<rest>.*)$", re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.M)), re.M
    )
]


def arguments(word: str) -> list[str]:
    return [rest for found, rest in STEPS if found == word]


def test_every_line_is_an_instruction() -> None:
    known = {
        "ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
        "ENTRYPOINT", "CMD",
    }  # fmt: skip
    assert {word for word, _ in STEPS} == known


def test_it_runs_as_nobody_in_particular_and_never_as_root() -> None:
    after = STEPS[max(at for at, (word, _) in enumerate(STEPS) if word == "USER") :]
    assert after[0] == ("USER", "10001:10001")
    assert "RUN" not in [word for word, _ in after]


def test_the_image_that_is_shipped_has_no_compiler_and_no_source() -> None:
    """Two stages: what is installed comes over, and nothing else."""
    last = max(at for at, (word, _) in enumerate(STEPS) if word == "FROM")
    assert [rest for word, rest in STEPS[last:] if word == "COPY"] == ["--from=build /opt/commonroot /opt/commonroot"]
    assert all(rest.split()[0].endswith("-slim") for rest in arguments("FROM"))


def test_torch_is_installed_before_anything_that_depends_on_it() -> None:
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert "${TORCH}" in installs[0]
    assert len(installs) == 2


def test_every_room_is_copied_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    rooms = {name.split(".")[1] for name in project["tool"]["setuptools"]["package-dir"]} | {"commonroot"}
    copied = {rest.split()[0] for rest in arguments("COPY") if not rest.startswith("--from") and len(rest.split()) == 2}
    assert copied == rooms
    ignored = (ROOT / "deploy" / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    assert ignored[0] == "**"
    assert {line.removeprefix("!").removesuffix("/**") for line in ignored if line.endswith("/**")} == rooms


def test_it_has_a_volume_a_port_and_a_health_check_that_asks_the_doctor() -> None:
    assert arguments("VOLUME") == ["/data"]
    assert arguments("EXPOSE") == ["9443"]
    (check,) = arguments("HEALTHCHECK")
    assert "doctor" in check
