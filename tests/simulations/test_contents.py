"""Images that a table's cells name decide a result as its own rows do."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from one_thread import one_thread
from PIL import Image

from commonroot.common.errors import ConfigError
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate
from commonroot.simulations.sweeps.plan import read_plan

CHARTER = """
seed = 1
sum = "ring"
[charter]
federation = "post"
name = "seen"
rounds = 1
backbone = { family = "rescnn", channels = 1, height = 8, width = 8, stages = [2] }
"""
#: What a department's section says of its features: the kind is written down, or found by a look.
WRITTEN = 'features = [{ column = "image", kind = "image", channels = 1 }]'
FOUND = ""


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_tables(folder: Path) -> None:
    """Three tables whose cells name images in folders beside them."""
    for at, name in enumerate("abc"):
        images = [f"{name}/{one}.png" for one in range(24)]
        for one, image in enumerate(images):
            draw(folder / image, 100 * at + one)
        pl.DataFrame({"image": images, "label": ["x", "y"] * 12}).write_csv(folder / f"{name}.csv")


def of_departments(folder: Path, features: str) -> Path:
    write_tables(folder)
    text = CHARTER
    for name in "abc":
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\npath = "{name}.csv"\n'
        text += f'target = "label"\ntask = "binary"\n{features}\n'
    path = folder / "federation.toml"
    path.write_text(text)
    return path


def of_parts(folder: Path, features: str) -> Path:
    write_tables(folder)
    whole = pl.concat([pl.read_csv(folder / f"{name}.csv") for name in "abc"])
    whole.write_csv(folder / "whole.csv")
    path = folder / "federation.toml"
    path.write_text(
        f'{CHARTER}[world]\nkind = "parts"\ndepartments = 3\n[world.data]\npath = "whole.csv"\n'
        f'target = "label"\ntask = "binary"\n{features}\n'
    )
    return path


def key(folder: Path) -> str:
    """Of the one cell of a sweep over the scenario in a folder."""
    (folder / "sweep.toml").write_text('scenario = "federation.toml"\nquick = true\n[axes]\nseed = [1]\n')
    [cell] = read_plan(folder / "sweep.toml").cells
    return cell.key


@pytest.mark.parametrize(
    ("scenario", "features"), [(of_departments, WRITTEN), (of_departments, FOUND), (of_parts, WRITTEN)]
)
def test_a_cell_is_another_when_an_image_is_and_the_same_wherever_images_lie(tmp_path, scenario, features):
    scenario(tmp_path / "here", features)
    before = key(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert key(tmp_path / "there") == before
    draw(tmp_path / "there" / "b" / "7.png", 999)
    changed = key(tmp_path / "there")
    assert changed != before
    (tmp_path / "there" / "b" / "7.png").unlink()  # which is told when it is read
    assert key(tmp_path / "there") not in (before, changed)


def test_images_beyond_a_folder_count_like_those_in_it(tmp_path):
    path = of_departments(tmp_path, WRITTEN)
    (tmp_path / "listed").mkdir()
    cells = pl.read_csv(tmp_path / "a.csv").with_columns(image="../" + pl.col("image"))
    cells.write_csv(tmp_path / "listed" / "index.csv")
    path.write_text(path.read_text().replace("a.csv", "listed"))
    before = key(tmp_path)
    draw(tmp_path / "a" / "3.png", 999)
    assert key(tmp_path) != before


@pytest.mark.parametrize("scenario", [of_departments, of_parts])
def test_a_folder_is_not_gone_on_with_once_an_image_is_another(tmp_path, scenario):
    path = scenario(tmp_path / "data", WRITTEN)
    with one_thread():
        simulate(path, folder=tmp_path / "kept", finish=False)
        simulate(path, folder=tmp_path / "kept", finish=False)
        draw(tmp_path / "data" / "b" / "7.png", 999)
        with pytest.raises(ConfigError, match="holds another simulation; what differs: department "):
            simulate(path, folder=tmp_path / "kept", finish=False)


def test_cells_are_not_looked_at_where_the_backbone_reads_no_images(tmp_path):
    path = of_departments(tmp_path, FOUND)
    before = key(tmp_path)
    rows = "backbone = { inputs = 1, widths = [2] }"
    text = path.read_text()
    path.write_text(text.replace(text[text.index("backbone =") : text.index("\n", text.index("backbone ="))], rows))
    assert not hasattr(read_scenario(path).charter.backbone, "stages")
    before = key(tmp_path)
    draw(tmp_path / "b" / "7.png", 999)
    assert key(tmp_path) == before
