"""The tables. SQL lives in this package only; one MetaData serves SQLite and PostgreSQL."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

VERSION = 3

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String(50), primary_key=True), Column("value", Text, nullable=False))

run = Table(
    "run",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created_utc", String(40), nullable=False),
    Column("finished_utc", String(40)),
    Column("host", Text, nullable=False),
    Column("tool_version", String(40), nullable=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("request", JSON, nullable=False),
)

# One row a worker process: the statistical unit, and what a run that was cut can go on from.
process = Table(
    "process",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("case_key", String(40), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("doc", JSON, nullable=False),
)

sample = Table(
    "sample",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("case_key", String(40), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("codec", String(20), nullable=False),
    Column("n", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

result = Table(
    "result",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), nullable=False),
    Column("case_key", String(40), nullable=False),
    Column("created_utc", String(40), nullable=False),
    Column("device", Text, nullable=False),
    Column("device_fingerprint", Text),
    Column("model_name", Text, nullable=False),
    Column("model_sha256", String(64), nullable=False),
    Column("runtime", Text, nullable=False),
    Column("runtime_version", Text),
    Column("delegate", Text, nullable=False),
    Column("threads", Integer, nullable=False),
    Column("status", String(20), nullable=False),
    # '' only until the next opening: rows of hosts that were still running an older version.
    Column("series", String(40), nullable=False, server_default=""),
    Column("night", String(120)),
    # Last, for it is long: what stands after it is slow to read.
    Column("doc", JSON, nullable=False),
    # The idempotency key: a result that is sent twice is stored once.
    UniqueConstraint("run_id", "case_key"),
    Index("result_series", "device", "model_name", "created_utc"),
    # All that a history shows of a result: SQLite keeps documents among the rows, and would read them to come by it.
    Index(
        "result_by_series",
        *("series", "created_utc", "id", "status", "night", "runtime_version", "device_fingerprint", "model_sha256"),
    ).ddl_if(dialect="sqlite"),
    Index("result_by_series", "series", "created_utc").ddl_if(dialect="postgresql"),
    Index("result_by_night", "night"),
)


def is_again(table: FromClause) -> ColumnElement[bool]:
    """Of rows of `result`: the device was lost, or never reached. Such a row gives way to what is measured later."""
    never = (table.c.status == "SKIPPED") & table.c.device_fingerprint.is_(None)
    return (table.c.status == "LOST") | never


metric = Table(
    "metric",
    metadata,
    Column("result_id", ForeignKey("result.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(60), primary_key=True),
    Column("unit", String(20), nullable=False),
    Column("direction", Integer, nullable=False),
    Column("value", Float, nullable=False),
    Column("lo", Float),
    Column("hi", Float),
    # The rows of a result lie together, and are found in one step.
    sqlite_with_rowid=False,
)

lease = Table(
    "lease",
    metadata,
    Column("device", String(200), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_s", Float, nullable=False),
)

# id: "<suite>/<label>".
night = Table(
    "night",
    metadata,
    Column("id", String(120), primary_key=True),
    Column("suite", Text, nullable=False),
    Column("label", String(40), nullable=False),
    Column("created_utc", String(40), nullable=False),
    Column("finished_utc", String(40)),
    Column("state", JSON, nullable=False),
    Index("night_of_suite", "suite", "label"),
)

# The newest of a suite's series is in force.
baseline = Table(
    "baseline",
    metadata,
    Column("suite", Text, primary_key=True),
    Column("series", String(40), primary_key=True),
    Column("created_utc", String(40), primary_key=True),
    Column("result_id", ForeignKey("result.id", ondelete="RESTRICT"), nullable=False),
    Column("pinned_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Index("baseline_of_result", "result_id"),
)

# series null: the device's own; state: open, acknowledged, fixed; color: red, amber; opened, closed: labels of nights.
alarm = Table(
    "alarm",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("suite", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("series", String(40)),
    Column("metric", String(60), nullable=False),
    Column("state", String(20), nullable=False),
    Column("color", String(10), nullable=False),
    Column("opened", String(40), nullable=False),
    Column("closed", String(40)),
    Column("by", Text),
    Column("effect", Float, nullable=False),
    Column("doc", JSON, nullable=False),
    Index("alarm_of_suite", "suite", "state"),
)

# A file by its content, in parts, for hosts that do not see where it lies; used: when it was last asked for.
blob = Table(
    "blob",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("used_utc", String(40), nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# Which worker serves which device of a lab; address: what there can be one of, whatever it is called.
claim = Table(
    "claim",
    metadata,
    Column("address", String(300), primary_key=True),
    Column("device", Text, nullable=False),
    Column("kind", Text),
    Column("lab_host", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("seen_s", Float, nullable=False),
)

# How far a share of a run is, which a worker measures: for whoever follows it.
share = Table(
    "share",
    metadata,
    Column("run_id", ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("device", Text, nullable=False),
    Column("lab_host", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("doc", JSON, nullable=False),
)

# Health checks that were made of a device, passed or not.
checkup = Table(
    "checkup",
    metadata,
    Column("device", String(200), primary_key=True),
    Column("created_utc", String(40), primary_key=True),
    Column("passed", Integer, nullable=False),
    Column("text", Text, nullable=False),
)
