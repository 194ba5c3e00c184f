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
# -- consent and evidence: what was offered, who answered what, who has left, and the audit log ------------------------
audit = sa.Table(
    "audit",
    meta,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
offers = sa.Table(
    "offers",
    meta,
    sa.Column("charter", sa.String(64), primary_key=True),
    sa.Column("signed", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
#: The newest answer of each department to each charter: ``ready``, or the code of its refusal.
answers = sa.Table(
    "answers",
    meta,
    sa.Column("charter", sa.String(64), primary_key=True),
    sa.Column("department", sa.String(64), primary_key=True),
    sa.Column("answer", sa.String(16), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
farewells = sa.Table(
    "farewells",
    meta,
    sa.Column("identity", sa.String(64), primary_key=True),
    sa.Column("department", sa.String(64), nullable=False),
    sa.Column("head", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
# -- enrolment (enrol_book.py) --
tokens = sa.Table(
    "enrolment_tokens",
    meta,
    sa.Column("number", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("verifier", sa.LargeBinary, nullable=False),  # public half of the key in the token; the secret is nowhere
    sa.Column("made", sa.Float, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("used", sa.LargeBinary),  # digest of the application it vouched for
    sa.Column("used_at", sa.Float),
    sa.Column("revoked", sa.Boolean, nullable=False, default=False),
)
applications = sa.Table(
    "applications",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("token", sa.String(16), nullable=False),
    sa.Column("roster", sa.String(64), nullable=False),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("agreement", sa.String(64), nullable=False),
    sa.Column("node_key", sa.String(1024), nullable=False),
    sa.Column("made", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("epoch", sa.Integer),  # of the roster it went into
    sa.Column("at", sa.Float, nullable=False),
)
#: Rosters whose members are asked for fresh keys.
renewals = sa.Table("renewals", meta, sa.Column("roster", sa.String(64), primary_key=True))
#: Nodes that were revoked; the hub lets none of them in again.
shut_out = sa.Table(
    "shut_out",
    meta,
    sa.Column("node_key", sa.String(1024), primary_key=True),
    sa.Column("identity", sa.String(64), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
