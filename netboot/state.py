"""The server's memory: one SQLite file, one thread that speaks to it, one transaction a call.

Write-ahead log with `synchronous=FULL`: what a call returned survives `kill -9` and a power cut.
Calls run on a thread of their own, so that an fsync never holds up the event loop.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from agent.errors import AgentError

P = ParamSpec("P")
T = TypeVar("T")

SCHEMA_VERSION: Final = 2
SCHEMA: Final = """
CREATE TABLE machines (
    id            TEXT PRIMARY KEY,
    uuid          TEXT,
    name          TEXT,
    first_seen_at TEXT NOT NULL,
    last_seen_at  TEXT NOT NULL,
    firmware      TEXT,
    inventory     BLOB,
    inventory_at  TEXT,
    trouble       TEXT,
    keys          BLOB
) STRICT;

CREATE TABLE jobs (
    ordinal         INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT NOT NULL UNIQUE,
    machine         TEXT NOT NULL REFERENCES machines (id),
    spec            BLOB NOT NULL,
    state           TEXT NOT NULL,
    fence           INTEGER NOT NULL DEFAULT 0,
    agent           TEXT,
    repository      TEXT NOT NULL,
    template_digest TEXT,
    created_at      TEXT NOT NULL,
    started_at      TEXT,
    ended_at        TEXT,
    step            TEXT,
    failure         BLOB
) STRICT;
CREATE INDEX jobs_by_machine ON jobs (machine, ordinal);
CREATE UNIQUE INDEX one_active_job ON jobs (machine) WHERE state IN ('queued', 'running');

CREATE TABLE events (
    job      TEXT NOT NULL REFERENCES jobs (id),
    sequence INTEGER NOT NULL,
    fence    INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    at       TEXT NOT NULL,
    body     BLOB NOT NULL,
    PRIMARY KEY (job, sequence),
    UNIQUE (job, fence, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,
    job        TEXT NOT NULL REFERENCES jobs (id),
    fence      INTEGER NOT NULL,
    expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE passes (
    hash       BLOB PRIMARY KEY,
    name       TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT, WITHOUT ROWID;
"""
CHANGES: Final = {1: "ALTER TABLE machines ADD COLUMN keys BLOB"}
"""What makes of a database of that version one of the next."""


class StateError(AgentError):
    """The data directory cannot be used as it is."""


def rfc3339(seconds: float) -> str:
    """Return a time of day in UTC, to the second: `2026-11-23T16:04:42Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class State:
    """The open database. `run` is the only way in; close it with `close`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock_folder(folder)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        try:
            self._connection = self._thread.submit(_open, folder / "state.sqlite").result()
        except sqlite3.Error as error:
            raise StateError(f"cannot open {folder / 'state.sqlite'}: {error}") from error

    async def run(
        self,
        call: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Return what `call(connection, …)` returns, as one transaction: all of it or nothing."""

        def transact() -> T:
            with transaction(self._connection):
                return call(self._connection, *args, **kwargs)

        # Shielded: a client that hangs up must not leave the caller unsure whether it happened.
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, transact))

    def ask(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Like `run`, for the rare caller that cannot await: it blocks for a moment."""

        def transact() -> T:
            with transaction(self._connection):
                return call(self._connection)

        return self._thread.submit(transact).result()

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()
        os.close(self._lock)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _lock_folder(folder: Path) -> int:
    """Return a descriptor that keeps a second server away from `folder` while it is open."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StateError(
            f"another server is using {folder}", hint="stop it, or give another --data DIR"
        ) from error
    return lock


def _open(path: Path) -> sqlite3.Connection:
    fresh = not path.exists()
    if fresh:
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # a disk key that is forgotten is gone
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StateError(
            f"{path} was written by a newer release (its version is {version}, ours is "
            f"{SCHEMA_VERSION})",
            hint="start the newer release",
        )
    if version == 0:
        with transaction(connection):
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    for older in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
        with transaction(connection):
            connection.execute(CHANGES[older])
            connection.execute(f"PRAGMA user_version = {older + 1}")
    return connection
