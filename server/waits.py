"""How long the coordinator waits where no charter says so.  A round's own waits are the charter's ``[timing]``."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from commonroot.server.journal_database import PATIENCE

#: Each lost round in a row is followed by a rest this many times as long as the one before …
_FACTOR: Final = 3.0
#: … and no rest is longer than this, in seconds.
_LONGEST: Final = 300.0


class Waits(BaseModel):
    """``[waits]``; all in seconds.

    retry    the first lost round is tried again at once; the second in a row after this long, and then after three
             times as long each, up to five minutes.  The charter's ``attempts`` ends it
    storage  how long a full disk is waited for before the coordinator ends; what is on disk stays intact
    look     how often a full disk is looked at again
    database how long a database that went away in the middle of a run is waited for
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    retry: Annotated[float, Field(ge=0)] = 2.0
    storage: Annotated[float, Field(ge=0)] = 3600.0
    look: Annotated[float, Field(gt=0)] = 2.0
    database: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = PATIENCE


def pause_after(lost_in_a_row: int, retry: float) -> float:
    """Seconds to wait after this many lost rounds: 0, ``retry``, 3 ``retry``, 9 ``retry`` …"""
    if lost_in_a_row < 2:
        return 0.0
    return min(_LONGEST, retry * _FACTOR ** min(lost_in_a_row - 2, 20))
