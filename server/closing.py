"""From an opened sum to the next version of the backbone, and how a run's versions begin."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.common.charter import Charter
from commonroot.common.secure_sum.codec import Opened, SumCodec
from commonroot.files import read_backbone
from commonroot.server.backbones import BackboneStore
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Version
from commonroot.strategies import build
from commonroot.strategies.averaging import mean_losses
from commonroot.strategies.warm_start import first_state


def first_version(
    run: int, charter: Charter, codec: SumCodec, *, journal: Journal, backbones: BackboneStore
) -> Version:
    """Store version 0: what the charter's seed or its file gives.  Raises BackboneMissing or BackboneMismatch."""
    state = first_state(build(charter), charter, partial(read_backbone, backbones.folder.parent))
    file, digest = backbones.write(run, 0, state)
    made = Version(run, 0, file, digest, codec.initial_bounds().astype("<f4").tobytes(), time.time())
    journal.add_version(made)
    return made


def close_round(
    number: int,
    version: Version,
    charter: Charter,
    state: Mapping[str, NDArray[np.float32]],
    opened: Opened,
    *,
    opened_digest: bytes,
    aggregate_digest: bytes,
    report: dict[str, Any],
    journal: Journal,
    backbones: BackboneStore,
) -> tuple[Version, dict[str, Any]]:
    """Combine the sum into the next version, store it, then journal the round as closed with it.

    Returns the version and the round's report, which besides ``report`` holds the mean losses that were summed.
    """
    following = build(charter).combine(charter, dict(state), opened.values)
    told = report | mean_losses(charter, version.version, opened.values)
    file, digest = backbones.write(version.run, version.version + 1, following)
    bounds = np.asarray(opened.next_bounds, dtype="<f4").tobytes()
    made = Version(version.run, version.version + 1, file, digest, bounds, time.time())
    journal.close_round(number, opened=opened_digest, aggregate=aggregate_digest, report=told, version=made)
    return made, told
