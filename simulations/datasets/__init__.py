"""Real, published data as federations: one file per dataset, from the files as published to departments' tables.

No data is part of this project.  ``commonroot download NAME`` fetches what a licence lets a user fetch; ``find`` says
where files are looked for.  Every writer draws its splits from a seed and keeps test rows in files of their own, so
that nothing that trains can read them by accident.
"""

from __future__ import annotations

from commonroot.simulations.datasets.world import DATASETS, Dataset, World, downloads, find, get

__all__ = ["DATASETS", "Dataset", "World", "downloads", "find", "get"]
