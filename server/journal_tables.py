"""The newest layout of the coordinator's journal: its tables, of whichever database.

What is added here is added to the newest step of ``migrations`` too; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

meta = sa.MetaData()
about = sa.Table(
    "about", meta, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.Text, nullable=False)
)
runs = sa.Table(
    "runs",
    meta,
    sa.Column("run", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("charter", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("at", sa.Float, nullable=False),
)
rounds = sa.Table(
    "rounds",
    meta,
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("run", sa.Integer, sa.ForeignKey("runs.run"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opening", sa.LargeBinary, nullable=False),
    sa.Column("snapshot", sa.LargeBinary),  # the hash of the file
    sa.Column("opened", sa.LargeBinary),
    sa.Column("aggregate", sa.LargeBinary),
    sa.Column("report", sa.Text, nullable=False, default="{}"),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("began", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
)
versions = sa.Table(
    "versions",
    meta,
    sa.Column("run", sa.Integer, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("bounds", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
faults = sa.Table(
    "faults",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Integer),
    sa.Column("round", sa.Integer),
    sa.Column("department", sa.String(64), nullable=False),
    sa.Column("code", sa.String(8), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
received = sa.Table(
    "received",
    meta,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("parcels", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
closings = sa.Table(
    "closings",
    meta,
    sa.Column("run", sa.Integer, sa.ForeignKey("runs.run"), primary_key=True),
    sa.Column("department", sa.String(64), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)
greetings = sa.Table(
    "greetings",
    meta,
    sa.Column("roster", sa.String(64), primary_key=True),
    sa.Column("department", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("head", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
#: Faulty messages under the department's own signature.
evidence = sa.Table(
    "evidence",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Integer),
    sa.Column("round", sa.Integer),
    sa.Column("department", sa.String(64), nullable=False),
    sa.Column("code", sa.String(8), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("signer", sa.String(64), nullable=False),
    sa.Column("head", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
#: What was done to the journal itself: moved to another layout, backed up, restored, pruned.  ``facts`` is JSON.
keeping = sa.Table(
    "keeping",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("what", sa.String(32), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
)
