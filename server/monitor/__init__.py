"""Watching: the page for central IT and the metrics, on a port of their own, in the coordinator's process.

``facts``     the one place where everything that is shown is read; ``coordinator status`` reads there too
``board``     what is going on right now, from the events of the run
``guard``     who may look: token, session, host name
``metrics``   the facts for Prometheus
``page``      the facts for people, in NiceGUI; ``views`` and ``plots`` make its parts
``serving``   the thread that serves both; nothing in it can stop a round
"""
