"""Reptile: find a backbone from which a few steps lead far.

Nichol, Achiam, Schulman, 2018, arXiv:1803.02999, batched version (section 2): after SGD on each task,
θ ← θ + ε·mean(θ_k - θ).  With departments for tasks that is an average of which only a part is taken, ``server_rate``.
The paper has one head for all tasks and starts each from the same; here heads are private, because labels differ, so
each round first fits the head to what was received and then moves everything.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from commonroot.strategies.personal import Epochs, Personal


class Reptile(Personal):
    """FedPer that adapts the head first and takes a part of the mean change.

    server_rate  ε

    Guarantees
    ----------
    * with ``server_rate`` 1 and ``head_epochs`` 0 it is ``fedper``, exactly
    """

    name: ClassVar[str] = "reptile"

    head_epochs: Epochs = 1
    server: Literal["average"] = "average"
    server_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
