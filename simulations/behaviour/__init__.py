"""What befalls the departments of a simulation, and what they and the coordinator do that they should not.

base.py      what every process is: whom it concerns, and the questions it answers
dice.py      chance that follows from seed, process, round and department alone
dropout.py · diurnal.py · stragglers.py · arrival.py · leave.py      who is there, and who is slow
scaled.py · noise.py · labels.py · stale.py                          departments that misbehave; misbehaving.py
events.py    ``[[events]]``: who is killed, and who starts, in which round
parcels.py   ``[network]``: what is lost, late or delivered twice
learners.py  who trains for a department
cast.py      all of them together: the one thing that rounds ask
lies.py      ``[coordinator]``: lies, and what departments say to them; forgeries.py makes them
includes.py  fragments of scenario files; ``ready/`` holds some
"""
