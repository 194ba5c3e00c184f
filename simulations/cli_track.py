"""``--track``, alike in every command that simulates."""

from __future__ import annotations

from typing import Annotated

import typer

#: Where else a simulation is shown.
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Show rounds and results there too: tensorboard:DIR or mlflow:URI (extra `tracking`); repeat it for both."
    ),
]
