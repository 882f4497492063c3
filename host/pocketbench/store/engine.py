"""The database behind the store: its address, its connections and its errors; SQLite or PostgreSQL."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pocketbench.errors import StoreError, UsageError

# How long a write waits for another's; then its rows are spooled.
BUSY_MS = 10_000
# A server that cannot be reached, and a host that fell asleep inside a transaction, hold nobody up for longer.
CONNECT_S = 10
ASLEEP_S = 60
# What a network says of a link that is dead (libpq's parameters; those that a system lacks, libpq ignores).
LINK = {
    "connect_timeout": str(CONNECT_S),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


def default_url() -> str:
    """SQLite in the user's data folder."""
    return f"sqlite:///{Path(platformdirs.user_data_dir('pocketbench')) / 'results.db'}"


@dataclass(frozen=True)
class Database:
    """A database that can be connected to. `name` is what people and spooled rows call it by: no password in it."""

    name: str
    path: Path | None
    """Of an SQLite file; None for PostgreSQL."""
    reader: Engine
    writer: Engine
    turn: AbstractContextManager[object]
    libpq: str = field(default="", repr=False)
    """Of PostgreSQL, its whole address for other libraries, password and all: for no message and no log."""

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.path is not None else postgresql.insert(table)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read by; StoreError where it cannot be read."""
        try:
            with self.reader.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} cannot be read: {self.cause(error)}{self.remedy}") from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """The same for several statements that belong together: what others write meanwhile is in none of them."""
        with self.reading() as connection:
            if self.path is not None:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write; StoreError where the database cannot take it."""
        try:
            with self.turn, self.writer.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} cannot be written: {self.cause(error)}{self.remedy}") from error

    def close(self) -> None:
        """Let go of it."""
        self.reader.dispose()
        self.writer.dispose()

    @property
    def remedy(self) -> str:
        """What to do about a database that does not work, as the end of a sentence."""
        if self.path is not None:
            return "; free its disk, or put back a copy of the file; --store names another"
        return "; is the server up, and may this user write there? --store names another"

    @staticmethod
    def cause(error: BaseException) -> str:
        """In one line, by the driver's words."""
        original = getattr(error, "orig", None)
        text = str(original or getattr(error, "strerror", None) or error)
        return " ".join(text.split())


def name(text: str) -> str:
    """What a store of that path or URL is called: an absolute path, or user@host:port/database."""
    url = _url(text)
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    known = URL.create(url.drivername, url.username, None, url.host, url.port, url.database)
    return known.render_as_string().partition("://")[2]


def connect(text: str | None) -> Database:
    """The database of a path or URL, not opened yet. UsageError: no such thing; StoreError: a driver is missing."""
    url, known_as = _url(text or default_url()), name(text or default_url())
    if url.get_backend_name() == "sqlite":
        path = Path(known_as)
        reader, writer = create_engine(url), create_engine(url)
        _prepare_sqlite(reader, writer)
        # SQLite lets whoever asks at the right moment write next: many lanes would starve one of them.
        return Database(known_as, path, reader, writer, threading.RLock())
    more = {key: value for key, value in LINK.items() if key not in url.query}
    try:
        engine = create_engine(url, pool_pre_ping=True, connect_args=more)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"the store {known_as} needs the Python package {error.name}: pip install 'pocketbench[postgresql]'"
        ) from error
    except (SQLAlchemyError, TypeError, ValueError) as error:
        raise UsageError(f"--store {known_as}: SQLAlchemy cannot make a connection of it") from error
    _prepare_postgresql(engine)
    return Database(known_as, None, engine, engine, nullcontext(), _conninfo(url, more, known_as))


def _conninfo(url: URL, more: Mapping[str, str], known_as: str) -> str:
    """The same address for whoever connects without SQLAlchemy."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    words: dict[str, Any] = {**more, **url.query, **url.translate_connect_args(username="user", database="dbname")}
    try:
        return make_conninfo(**words)
    except psycopg.Error as error:
        raise UsageError(f"--store {known_as}: {error}") from error


def _url(text: str) -> URL:
    """Of SQLite with an absolute path, so that rows spooled for it find it from any folder."""
    if text.startswith("sqlite:") and not re.match("sqlite:///.", text):
        raise UsageError(f"--store {text}: an SQLite store needs a file: sqlite:///PATH, or just PATH")
    if text.startswith("sqlite:///") or "://" not in text:
        path = Path(text.removeprefix("sqlite:///")).expanduser().absolute()
        return URL.create("sqlite", database=str(path))
    scheme = text.partition("://")[0]
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise UsageError(f"--store {scheme}://…: give a PATH, sqlite:///PATH or postgresql://USER@HOST/DATABASE")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # Not in the driver's words: they would repeat the password.
        raise UsageError(
            f"--store {scheme}://…: not a URL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with %40 for @ and %2F for / in the password"
        ) from error
    if not url.database:
        raise UsageError(f"--store {scheme}://{url.host or ''}: names no database: postgresql://USER@HOST/DATABASE")
    return url.set(drivername="postgresql+psycopg")


def _prepare_sqlite(reader: Engine, writer: Engine) -> None:
    """Pragmas on each connection; writers begin with BEGIN IMMEDIATE.

    A deferred transaction that turns into a writer gets SQLITE_BUSY at once, whatever busy_timeout says.
    """

    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={BUSY_MS}", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(reader, "connect", prepare)
    event.listen(writer, "connect", prepare)
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def _prepare_postgresql(engine: Engine) -> None:
    """The server's side of the same patience; and a query of a tenth of a second is not compiled for as long."""

    def prepare(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {BUSY_MS}")
            cursor.execute("SET jit = off")
            cursor.execute(f"SET idle_in_transaction_session_timeout = '{ASLEEP_S}s'")
        connection.commit()

    event.listen(engine, "connect", prepare)
