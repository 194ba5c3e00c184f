"""Sweeps: one scenario with some of its fields varied, every variant kept once it has run.

axes      what is varied, and which settings a grid or random draws make of it
plan      ``SWEEP.toml``, and every cell's scenario, checked before anything runs
cells     one cell: what decides it, running it, keeping it; ``worker`` is a process that does so
validated the sum that scores a cell, which is the one that an evaluation opens
ranking   settings, best first, over seeds
run       ``commonroot sweep`` and ``commonroot.sweep``
shown     the table, the page and its marginal plots
"""
