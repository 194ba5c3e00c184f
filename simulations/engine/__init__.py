"""Federations of many departments in few processes: without masks, or the whole protocol with its sessions dealt out.

pages.py     private states of all departments in one file, two versions of each
crew.py      a share of the departments: wakes them, lets them train, adds up their words
worker.py    a crew in a process of its own; ``workers.py`` is the other end of the pipe
sums.py      how contributions are added: ``ring`` (what a secure sum would open) or ``off`` (64 bits a number)
fates.py     who takes part in a round and whose contribution arrives
run.py       rounds, journaled like those of a coordinator
host.py      sessions of the whole protocol in a process of their own; ``hosts.py`` is the other end, ``frames.py`` what
             they say
"""
