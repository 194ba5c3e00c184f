# %% [markdown]
# # Four departments, one backbone
#
# A worked example for notebooks: run it cell by cell (JupyterLab, VS Code and PyCharm know the `# %%` marks), or as a
# whole with `python examples/notebook/departments.py`. Nothing is written but a temporary folder.

# %%
import numpy as np
import polars as pl

from commonroot import simulate, sweep

random = np.random.default_rng(4)
mixing = random.normal(size=(6, 12))


def machines(rows: int, kind: str) -> pl.DataFrame:
    """Twelve sensors that follow six hidden states of a machine, and what one department wants to know of it."""
    states = random.normal(size=(rows, 6))
    sensors = np.tanh(states @ mixing) + 0.1 * random.normal(size=(rows, 12))
    frame = pl.DataFrame(sensors, schema=[f"sensor {n}" for n in range(1, 13)])
    if kind == "wear":
        return frame.with_columns(wear=pl.Series(states[:, 0] ** 2 + states[:, 1]))
    fails = states[:, 0] + states[:, 1] * states[:, 2] > 0
    return frame.with_columns(fails=pl.Series(np.where(fails, "yes", "no")))


# %% [markdown]
# Every department has a table, a target and a task of its own. What they have in common is the twelve sensors.

# %%
departments = {
    "press": {"rows": machines(120, "wear"), "target": "wear", "task": "regression"},
    "paint": {"rows": machines(120, "fails"), "target": "fails", "task": "binary"},
    "welding": {"rows": machines(120, "fails"), "target": "fails", "task": "binary"},
    "assembly": {"rows": machines(60, "fails"), "target": "fails", "task": "binary"},
}
charter = {
    "federation": "works",
    "name": "sensors",
    "rounds": 4,
    "method": {"name": "fedper"},
    "backbone": {"inputs": 12, "widths": [24, 12]},
    "training": {"learning_rate": 0.05},
}

# %% [markdown]
# Three of ten uploads are lost on purpose. The last line of a cell shows a result with its plots.

# %%
result = simulate(charter, departments, arms=["fedper", "pooled"], seed=1, network={"drop": 0.3})
result

# %%
result.table.select("department", "arm", "metric", "alone", "federated", "gain", "choice")

# %%
result.rounds.select("version", "survivors", "held_out", "clipped_share")

# %% [markdown]
# The model that a department chose, on rows it has never seen; and the tensors that all share.

# %%
assembly = result.predictor("fedper", "assembly")
assembly.predict(machines(5, "fails"))

# %%
{name: tensor.shape for name, tensor in result.backbone("fedper").tensors.items()}

# %%
result.plot_gains("fedper")

# %% [markdown]
# Which learning rate?  Ranked by the held-out loss of the last round's sum, over two seeds; no test row has a say.

# %%
found = sweep(
    charter,
    {"seed": [1, 2], "charter.training.learning_rate": [0.01, 0.05, 0.2]},
    departments,
    quick=True,
    workers=2,
)
found.settings

# %%
found.plot("charter.training.learning_rate")
