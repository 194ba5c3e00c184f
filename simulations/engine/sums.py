"""How contributions are added where nothing is masked.

ring  the words that a department would mask, added up in the same ring: what a secure sum would open, bit for bit.
off   no quantisation to speak of: every number as 64-bit fixed point with as many fraction bits as the sum has room
      for.  Whole numbers are added, so the order of departments does not matter, here as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.client import contribution
from commonroot.common.charter import Charter
from commonroot.common.manifest import Manifest
from commonroot.common.roster import FEWEST_DEPARTMENTS, MOST_DEPARTMENTS
from commonroot.common.secure_sum.codec import Bounds, Opened, SumCodec
from commonroot.common.secure_sum.lanes import Words, Words64, choose

Sum = Literal["exact", "ring", "off"]


class Adder:
    """The encoding of one charter's sums over ``departments`` at most.

    Raises what ``SumCodec`` raises for numbers that could wrap.
    """

    def __init__(self, charter: Charter, kind: Sum, *, enrolled: int, departments: int) -> None:
        """``enrolled``: all departments, whose number decides the lanes; ``departments``: those of the round."""
        self._charter = charter
        self._off = kind == "off"
        manifest = charter.manifest
        if self._off:
            terms = tuple(replace(term, lane="fixed64") for term in manifest.terms)
            manifest = Manifest(terms)
        lanes = choose(charter.lanes, min(enrolled, MOST_DEPARTMENTS))
        self.codec = SumCodec(manifest, max(departments, FEWEST_DEPARTMENTS), lanes)
        self._bounds = {term.name: term.bound for term in charter.manifest.lane("fixed16")}

    def encode(
        self,
        version: int,
        terms: Mapping[str, NDArray[np.floating]],
        bounds: Bounds,
        *,
        secret: bytes,
        on_failure: contribution.OnFailure,
    ) -> tuple[Words, Words64]:
        """One department's words."""
        if self._off:
            terms = {name: self._clipped(name, array) for name, array in terms.items()}
            bounds = np.empty(0, dtype=np.float32)
        bulk, exact, _ = contribution.encode(
            self.codec, self._charter, version, terms, bounds, secret=secret, on_failure=on_failure
        )
        return bulk, exact

    def decode(self, bulk: Words, exact: Words64, survivors: int, bounds: Bounds) -> Opened:
        """What the sum says, and the next round's bounds; ``off`` never tightens them."""
        if not self._off:
            return self.codec.decode(bulk, exact, survivors, bounds)
        found = self.codec.decode(bulk, exact, survivors, np.empty(0, dtype=np.float32))
        return replace(found, next_bounds=np.asarray(bounds, dtype=np.float32))

    def _clipped(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        bound = self._bounds.get(name)
        return array if bound is None else np.clip(array, -bound, bound)
