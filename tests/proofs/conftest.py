"""Proofs stand on the helpers of the other tests: small federations of sessions, and of bare protocol machines."""

from __future__ import annotations

import sys
from pathlib import Path

from federation.conftest import module_path, tmp_path

__all__ = ["module_path", "tmp_path"]

# Where ``sum_federation`` lies; as a package it would be called like the program's own ``common``.
sys.path.append(str(Path(__file__).parents[1] / "common" / "secure_sum"))
