"""The database layout of a store, and how to open one: for writing, which creates or migrates it, or read-only.

    trials       every trial with its state and result; ``digest`` covers the settings and the result
    experiments  the text and settings of each experiment
    members      the trials of each experiment; ``waiting``: the number of failures of a trial that can be claimed
    counts       trials and steps of an experiment by state

A trigger keeps ``members.waiting`` and ``counts`` consistent with ``trials``, so the cost of a claim, a heartbeat or a
completion does not depend on the number of trials.

Not done here: reading or changing a trial, see ``store``.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from derive.errors import UsageError
from verify.training.process_id import is_gone
from verify.training.row_digest import row_digest, text_digest

SCHEMA = 3
APPLICATION = 0x41664476  # "AfDv": identifies our databases in the file header
WAIT_SECONDS = 60.0  # longest wait for another process's transaction

_FIRST = """
CREATE TABLE trials (
    id TEXT PRIMARY KEY, config TEXT NOT NULL, state TEXT NOT NULL, total INTEGER NOT NULL, step INTEGER NOT NULL,
    owner TEXT, lease_until REAL, failures INTEGER NOT NULL, losses INTEGER NOT NULL, error TEXT,
    result TEXT, result_digest TEXT
) WITHOUT ROWID;
CREATE TABLE experiments (name TEXT PRIMARY KEY, text TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE members (
    experiment TEXT NOT NULL, position INTEGER NOT NULL, trial TEXT NOT NULL REFERENCES trials (id),
    PRIMARY KEY (experiment, position)
) WITHOUT ROWID;
CREATE INDEX members_trial ON members (trial);
"""
_TEAMS = """
ALTER TABLE trials ADD COLUMN team TEXT;
UPDATE trials SET team = id;
CREATE INDEX trials_team ON trials (team);
"""
COUNT = """
INSERT INTO counts
SELECT experiment, state, count(*), sum(step), sum(total) FROM members JOIN trials ON trial = id
"""
_BOUNDED = f"""
ALTER TABLE trials ADD COLUMN seconds REAL NOT NULL DEFAULT 0;
ALTER TABLE trials RENAME COLUMN result_digest TO digest;
UPDATE trials SET digest = CASE
    WHEN result IS NULL OR digest = text_digest(result) THEN row_digest(id, config, total, team, result) ELSE 'damaged'
END;
ALTER TABLE members ADD COLUMN waiting INTEGER;
UPDATE members SET waiting = (SELECT failures FROM trials WHERE id = trial AND state IN ('pending', 'failed'));
CREATE INDEX members_waiting ON members (experiment, waiting, position) WHERE waiting IS NOT NULL;
CREATE INDEX trials_running ON trials (owner) WHERE state = 'running';
CREATE TABLE counts (
    experiment TEXT NOT NULL, state TEXT NOT NULL,
    trials INTEGER NOT NULL, steps INTEGER NOT NULL, total INTEGER NOT NULL,
    PRIMARY KEY (experiment, state)
) WITHOUT ROWID;
{COUNT} GROUP BY experiment, state;
CREATE TRIGGER trials_moved AFTER UPDATE OF state, failures, step ON trials
WHEN OLD.state <> NEW.state OR OLD.failures <> NEW.failures OR OLD.step <> NEW.step
BEGIN
    UPDATE members SET waiting = CASE WHEN NEW.state IN ('pending', 'failed') THEN NEW.failures END
    WHERE trial = NEW.id;
    UPDATE counts SET trials = trials - 1, steps = steps - OLD.step, total = total - OLD.total
    WHERE state = OLD.state AND experiment IN (SELECT experiment FROM members WHERE trial = NEW.id);
    INSERT INTO counts SELECT experiment, NEW.state, 1, NEW.step, NEW.total FROM members WHERE trial = NEW.id
    ON CONFLICT DO UPDATE
    SET trials = trials + 1, steps = steps + excluded.steps, total = total + excluded.total;
END;
"""
_LAYOUTS = (_FIRST, _TEAMS, _BOUNDED)  # scripts that migrate each layout to the next, beginning with an empty file


def connect(database: Path) -> sqlite3.Connection:
    """Return a connection for writing, in the current layout; tables are created in an empty or missing file.

    Raises:
        UsageError: another program's database, or an unknown layout.
        sqlite3.DatabaseError: the file is not a readable database.
    """
    connection = sqlite3.connect(database, timeout=WAIT_SECONDS, isolation_level=None)
    try:
        for function in (is_gone, text_digest, row_digest):
            connection.create_function(function.__name__, -1, function)
        _demand_ours(connection, database)  # before anything is written
        _to_wal(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        _renew(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(database: Path) -> sqlite3.Connection:
    """Return a read-only connection, which also works on a read-only medium.

    Raises:
        UsageError: another program's database, another layout, or a log that only a writer can apply.
        sqlite3.DatabaseError: the file is not a readable database.
    """
    connection = _reading(database, "mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as problem:
        connection.close()
        if problem.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        _demand_settled(database)
        connection = _reading(database, "mode=ro&immutable=1")
    try:
        version = _demand_ours(connection, database)
        if version != SCHEMA:
            raise UsageError(
                f"store {database} has layout {version}, this program reads {SCHEMA}; run `affdiv experiment run` "
                "with write access to migrate it"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _reading(database: Path, how: str) -> sqlite3.Connection:
    uri = f"{database.absolute().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=WAIT_SECONDS, isolation_level=None)


def _demand_settled(database: Path) -> None:
    """Raise UsageError for a file with a write-ahead log: without a writer, the log's content would be missed."""
    log = database.with_name(f"{database.name}-wal")
    if log.exists() and log.stat().st_size:
        raise UsageError(
            f"store {database} is not writable, and {log.name} holds changes that a writer has yet to apply; copy both "
            "to a writable place"
        )


def _demand_ours(connection: sqlite3.Connection, database: Path) -> int:
    """Return the layout of a file; UsageError if another program or a later version of this one wrote it."""
    connection.execute("BEGIN")  # a consistent snapshot: another process may be creating the tables
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        if connection.in_transaction:  # a full disk ends the transaction
            connection.execute("ROLLBACK")
    ours = {"trials", "experiments", "members"} <= tables
    if application not in (0, APPLICATION) or (tables and not ours) or (application == 0 and version > 2):
        held = f" (tables {', '.join(sorted(map(repr, tables))[:3])})" if tables else ""
        raise UsageError(f"{str(database)!r} is the database of another program{held}; name another --store")
    if version not in range(SCHEMA + 1):
        raise UsageError(f"store {database} has layout {version}, this program reads {SCHEMA}; use another --store")
    return int(version)


def _renew(connection: sqlite3.Connection) -> None:
    """Migrate the tables to the current layout, in one transaction."""
    if connection.execute("PRAGMA user_version").fetchone() == (SCHEMA,):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute(
            "PRAGMA user_version"
        ).fetchone()  # another process may have migrated them already
        for statement in _statements("".join(_LAYOUTS[version:SCHEMA])):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(text: str) -> list[str]:
    """Return the statements of a script; a trigger, which contains several, counts as one."""
    found, begun = [], ""
    for line in text.splitlines(keepends=True):
        begun += line
        if sqlite3.complete_statement(begun):
            found.append(begun)
            begun = ""
    return found


def _to_wal(connection: sqlite3.Connection) -> None:
    """Set the journal mode, with retries: SQLite does not wait for the lock here, so concurrent openers could fail."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > end:
                raise
            time.sleep(0.02)
