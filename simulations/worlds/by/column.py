"""``column``: the departments that there are: one for each value of a column, such as a branch, a plant or a site.

With more ``departments`` than values, each value's rows are cut further, into a number of departments in proportion to
its rows; other partitioners work within each value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from commonroot.simulations.worlds.by.base import Config


class Column(Config):
    """Natural departments.

    column  whose values they are
    small   what is done with values of fewer rows than ``fewest``: ``merge`` makes one department of them all, called
            ``others``, which takes in the next smallest value until it is large enough; ``refuse`` stops and names them
    """

    kind: Literal["column"]
    column: Annotated[str, Field(min_length=1)]
    small: Literal["merge", "refuse"] = "refuse"
