"""Ready scenarios, one TOML file for each business setting: to run, to read, and to start from.

The first paragraph of a file's comment says what it shows, after its title; the second says more.
"""

from __future__ import annotations

from commonroot.simulations.scenarios.ready import Ready, find, ready

__all__ = ["Ready", "find", "ready"]
