"""The same simulated federation under Flower's own engine: its Grid, its ClientApps, its workers (Ray), on one machine
or on a cluster.

client.py   the ClientApp: some departments' part of a round, from installed code and files that all workers see
states.py   private states as one file a department, for workers that remember nothing
crews.py    what the round loop of ``engine.run`` takes for workers: shares of departments as Flower messages
here.py     Flower's simulation started from this process: ``commonroot simulate --engine flower``
server.py   the ServerApp: the whole simulation inside a run of Flower's: ``flwr run``
writing.py  the folder that ``flwr run`` takes

The rounds, the journal, the sums and what departments do are those of ``engine``, so the backbone is the same, bit for
bit.
"""
