"""``[network]``: what befalls parcels on their way, whoever sends them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from commonroot.common.charter import NotNegative
from commonroot.simulations.behaviour.base import Frozen, Share
from commonroot.simulations.network import Weather, delay, drop, repeat


class Network(Frozen):
    """What befalls parcels on their way.

    drop     share that is lost
    delay    seconds that a parcel is held back at most; they are simulated, so waiting takes no time
    repeat   share that arrives a second time, a second later
    parcels  kinds that this concerns: ``train``, ``round-open``, ``confirm`` and ``open`` go to departments,
             ``trained``, ``masked`` (an upload), ``confirmed`` and ``shares`` (its opening) come from them
    """

    drop: Share = 0.0
    delay: NotNegative = 0.0
    repeat: Share = 0.0
    parcels: Annotated[
        tuple[Literal["train", "trained", "round-open", "masked", "confirm", "confirmed", "open", "shares"], ...],
        Field(min_length=1),
    ] = ("masked",)

    def weather(self) -> list[Weather]:
        """Its parts, one by one; see ``simulations.network``."""
        kinds = frozenset(self.parcels)
        found = [drop(self.drop, kinds=kinds)] if self.drop else []
        found += [delay(self.delay, kinds=kinds)] if self.delay else []
        return found + ([repeat(self.repeat, kinds=kinds)] if self.repeat else [])

    def told(self) -> list[str]:
        """The same for people, one sentence each."""
        those = "/".join(self.parcels)
        sentences = [f"{100 * self.drop:g} % of {those} parcels are lost"] if self.drop else []
        sentences += [f"{those} parcels are up to {self.delay:g} s late"] if self.delay else []
        return sentences + ([f"{100 * self.repeat:g} % of {those} parcels arrive twice"] if self.repeat else [])
