"""The one truth of a sweep: every trial with its state, in an SQLite file that any number of processes share.

    pending ──claim──▶ running ──complete──▶ done
       ▲                 │  │
       └──release/lease──┘  └──fail──▶ failed (tried again) ──third time──▶ quarantined

A claim is one ``BEGIN IMMEDIATE`` update; a result is written in the transaction that says done. A running trial has
an owner and a lease that the owner's heartbeat prolongs; one whose owner is gone, or whose lease has run out, can be
claimed anew, and the former owner's writes are then refused. Trials of a team go through all of this as one; a trial
that trains alone is a team of its own name.

Not supported: network file systems, on which SQLite's locks cannot be relied on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.owner import is_gone, myself
from verify.training.shortage import disk_full

SCHEMA = 2
LEASE_SECONDS = 60.0
MOST_FAILURES = 3
MOST_LOSSES = 20  # owners lost one after the other without any progress: the trial kills whoever takes it
STATES = ("pending", "running", "done", "failed", "quarantined")
DATABASE = "trials.sqlite"
_FILE_ENDINGS = (".sqlite", ".sqlite3", ".db")
_WAIT_SECONDS = 60.0
_LEAST_ROOM = 2**20  # bytes; with less a log and its index cannot grow

_TABLES = """
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
CREATE INDEX members_trial ON members (trial)
"""
_TEAMS = """
ALTER TABLE trials ADD COLUMN team TEXT;
UPDATE trials SET team = id;
CREATE INDEX trials_team ON trials (team)
"""
_LAYOUTS = (_TABLES, _TEAMS)  # what makes each layout of the one before it, the first of an empty file
_CLAIM = """
UPDATE trials SET
    state = 'running', owner = :owner, lease_until = :until,
    losses = CASE WHEN state = 'running' THEN losses + 1 ELSE losses END
WHERE team = (
    SELECT team FROM members JOIN trials ON trial = id
    WHERE experiment = :experiment AND (
        state IN ('pending', 'failed') OR (state = 'running' AND (lease_until < :now OR is_gone(owner)))
    ) AND losses < :most ORDER BY failures, position LIMIT 1
) RETURNING team, id, config
"""
_QUARANTINE = """
UPDATE trials SET state = 'quarantined', owner = NULL, lease_until = NULL,
    error = 'the process that worked on it was lost ' || losses || ' times without progress' || :perhaps
WHERE state = 'running' AND losses >= :most AND (lease_until < :now OR is_gone(owner))
"""
_PERHAPS = "; a system that is out of memory kills processes: try fewer --workers or a smaller batch_size"


class LeaseLost(Exception):
    """Another process has taken the trial: what this one does with it no longer counts."""


@dataclass(frozen=True)
class Claim:
    """What this process may work on: the team ``id``, its trials' ids with their settings, by seed."""

    id: str
    trials: tuple[tuple[str, TrialConfig], ...]

    @property
    def config(self) -> TrialConfig:
        """The settings of the first trial; those of the others differ in the seed alone."""
        return self.trials[0][1]


@dataclass(frozen=True)
class Row:
    """A trial as the store knows it; ``result`` is None until it is done, ``error`` the last failure's text."""

    id: str
    config: TrialConfig
    state: str
    step: int
    total: int
    failures: int
    error: str | None
    result: dict[str, Any] | None


class Store:
    """An open store. Use it as a context, in the process and thread that opened it.

    Args:
        path: a folder, which is created, or the path of the database itself, ending in .sqlite, .sqlite3 or .db.
        create: whether a store that does not exist is made; else it is refused.
        lease: seconds for which a claim or heartbeat keeps others away.
        clock: what tells the time, in seconds. It may jump: a lease that then ends early costs work that is done twice,
            one that ends late keeps others away from a trial of another machine only.

    Raises:
        UsageError: no store there, no right to write it, or a damaged file; the text says what to do.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        lease: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database, self.checkpoints = places_of(path)
        self.owner, self.lease, self.clock = myself(), lease, clock
        if not create and not self.database.is_file():
            raise UsageError(f"no store at {str(path)!r}; start with `affdiv experiment run`, or name another --store")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            reason = problem.strerror or problem
            raise UsageError(f"store {str(path)!r} cannot be made: {reason}; name another --store") from None
        with self._readable():
            self._connection = sqlite3.connect(self.database, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                self._connection.create_function("is_gone", 1, is_gone)
                self._prepare()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; it cannot be used any more."""
        self._connection.close()

    def check(self) -> None:
        """Read the whole file once; raise UsageError where it is damaged."""
        with self._readable():
            found = self._connection.execute("PRAGMA integrity_check").fetchall()
            if found != [("ok",)]:
                lines = [line for (text,) in found for line in str(text).splitlines() if not line.startswith("***")]
                raise sqlite3.DatabaseError("; ".join(lines[:3]))

    def register(
        self,
        name: str,
        text: str,
        settings: dict[str, Any],
        trials: Iterable[tuple[str, TrialConfig, int]],
        teams: Mapping[str, str] | None = None,
    ) -> None:
        """Write down an experiment and its trials (id, settings, number of steps), each where it is not known yet.

        ``teams`` names the team of each trial that is of one; an id belongs to one team for ever.
        """
        rows = list(trials)
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO experiments VALUES (?, ?, ?)", (name, text, json.dumps(settings)))
            run("DELETE FROM members WHERE experiment = ?", (name,))
            for position, (identity, config, total) in enumerate(rows):
                values = (identity, json.dumps(asdict(config)), total, (teams or {}).get(identity, identity))
                run(
                    "INSERT OR IGNORE INTO trials (id, config, state, total, step, failures, losses, team) "
                    "VALUES (?, ?, 'pending', ?, 0, 0, 0, ?)",
                    values,
                )
                run("INSERT INTO members VALUES (?, ?, ?)", (name, position, identity))

    def experiments(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return the text and settings of every experiment in the store, by name."""
        with self._readable():
            rows = self._connection.execute("SELECT name, text, settings FROM experiments ORDER BY name").fetchall()
            return {name: (text, json.loads(settings)) for name, text, settings in rows}

    def claim(self, experiment: str) -> Claim | None:
        """Take the next team that nobody works on; None if there is none at this moment."""
        now = self.clock()
        values = {"owner": self.owner, "until": now + self.lease, "now": now, "experiment": experiment}
        with self._transaction() as run:
            run(_QUARANTINE, {"most": MOST_LOSSES, "now": now, "perhaps": _PERHAPS})
            rows = run(_CLAIM, {**values, "most": MOST_LOSSES}).fetchall()
            trials = [(identity, _config(identity, config)) for _, identity, config in rows]
        return Claim(rows[0][0], tuple(sorted(trials, key=lambda trial: trial[1].seed))) if rows else None

    def heartbeat(self, identity: str, step: int) -> None:
        """Prolong the lease and note the progress; LeaseLost if the team is no longer this process's."""
        self._mine(
            "lease_until = ?, losses = CASE WHEN step < ? THEN 0 ELSE losses END, step = max(step, ?)",
            (self.clock() + self.lease, step, step),
            identity,
        )

    def release(self, identity: str) -> None:
        """Give a team back as pending; LeaseLost if it is no longer this process's."""
        self._mine("state = 'pending', owner = NULL, lease_until = NULL", (), identity)

    def complete(self, identity: str, *results: dict[str, Any]) -> None:
        """Write the results of a team, by seed, and say done, in one transaction; LeaseLost if it is another's now."""
        texts = [json.dumps(result, sort_keys=True, allow_nan=False) for result in results]
        changes = "state = 'done', owner = NULL, lease_until = NULL, step = total, error = NULL"
        with self._transaction() as run:
            self._change(run, changes, (), identity)
            rows = run("SELECT id, config FROM trials WHERE team = ?", (identity,)).fetchall()
            rows.sort(key=lambda row: _config(*row).seed)
            for (trial, _), text in zip(rows, texts, strict=True):
                run("UPDATE trials SET result = ?, result_digest = ? WHERE id = ?", (text, _digest(text), trial))

    def fail(self, identity: str, error: str) -> None:
        """Note that a team raised ``error``: failed, and quarantined the third time; LeaseLost as above."""
        changes = (
            f"state = CASE WHEN failures + 1 < {MOST_FAILURES} THEN 'failed' ELSE 'quarantined' END, "
            "failures = failures + 1, owner = NULL, lease_until = NULL, error = ?"
        )
        self._mine(changes, (error,), identity)

    def lose(self, identity: str) -> None:
        """Note that whoever worked on a team for this process is gone: pending, or quarantined; LeaseLost as above."""
        changes = (
            f"state = CASE WHEN losses + 1 < {MOST_LOSSES} THEN 'pending' ELSE 'quarantined' END, "
            "losses = losses + 1, owner = NULL, lease_until = NULL, "
            "error = 'what worked on it was lost ' || (losses + 1) || ' times without progress'"
        )
        self._mine(changes, (), identity)

    def retry(self, experiment: str) -> int:
        """Make the failed and quarantined trials of an experiment pending again; return how many."""
        with self._transaction() as run:
            return run(
                "UPDATE trials SET state = 'pending', failures = 0, losses = 0, error = NULL "
                "WHERE state IN ('failed', 'quarantined') AND id IN (SELECT trial FROM members WHERE experiment = ?)",
                (experiment,),
            ).rowcount

    def progress(self, experiment: str) -> tuple[dict[str, int], int, int]:
        """Return the number of trials in each state, the steps taken and the steps of all trials."""
        query = (
            "SELECT state, count(*), sum(step), sum(total) FROM members JOIN trials ON trial = id "
            "WHERE experiment = ? GROUP BY state"
        )
        with self._readable():
            rows = self._connection.execute(query, (experiment,)).fetchall()
        counts = {state: 0 for state in STATES} | {state: count for state, count, _, _ in rows}
        over = sum(total if state in ("done", "quarantined") else step for state, _, step, total in rows)
        return counts, over, sum(total for *_, total in rows)

    def rows(self, experiment: str) -> list[Row]:
        """Return the trials of an experiment in the order of its file; UsageError where a result was damaged."""
        query = (
            "SELECT id, config, state, step, total, failures, error, result, result_digest "
            "FROM members JOIN trials ON trial = id WHERE experiment = ? ORDER BY position"
        )
        with self._readable():
            return [_row(values) for values in self._connection.execute(query, (experiment,))]

    def finished(self) -> set[str]:
        """Return the names of the teams that are done, of every experiment."""
        with self._readable():
            return {team for (team,) in self._connection.execute("SELECT team FROM trials WHERE state = 'done'")}

    def _mine(self, changes: str, values: tuple[Any, ...], identity: str) -> None:
        with self._transaction() as run:
            self._change(run, changes, values, identity)

    def _change(self, run: Any, changes: str, values: tuple[Any, ...], identity: str) -> None:
        query = f"UPDATE trials SET {changes} WHERE team = ? AND state = 'running' AND owner = ?"
        if run(query, (*values, identity, self.owner)).rowcount == 0:
            raise LeaseLost(identity)

    def _prepare(self) -> None:
        self._to_wal()
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version not in range(SCHEMA + 1):
            raise UsageError(
                f"store {self.database} has layout {version}, this program reads {SCHEMA}; use another --store"
            )
        if version < SCHEMA:
            with self._transaction() as run:
                (version,) = run("PRAGMA user_version").fetchone()  # another process may have been first
                for statement in ";".join(_LAYOUTS[version:SCHEMA]).split(";"):
                    run(statement)
                run(f"PRAGMA user_version = {SCHEMA}")

    def _to_wal(self) -> None:
        """Set the journal mode; SQLite does not wait for its lock here, so two first openers could meet."""
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as problem:
                if "locked" not in str(problem) or time.monotonic() > end:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._readable():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Say what to do about a file that SQLite cannot read or write."""
        try:
            yield
        except (sqlite3.DatabaseError, _DamagedRow) as problem:
            if self._is_full(problem):
                raise disk_full(self.database) from problem
            raise UsageError(
                f"store {self.database} cannot be used: {problem}. If it is damaged, move it away and run again, or "
                f"save what can be read with `sqlite3 {self.database} .recover`; the checkpoints beside it stay usable"
            ) from problem

    def _is_full(self, problem: Exception) -> bool:
        """Return whether SQLite failed for want of room; it calls some of these failures input and output errors."""
        code = getattr(problem, "sqlite_errorcode", 0)
        room = shutil.disk_usage(self.database.parent).free
        return code == sqlite3.SQLITE_FULL or (code & 0xFF == sqlite3.SQLITE_IOERR and room < _LEAST_ROOM)


class _DamagedRow(Exception):
    pass


def places_of(path: Path) -> tuple[Path, Path]:
    """Return the database and the folder of checkpoints of a store named by its folder or by its database."""
    if path.suffix in _FILE_ENDINGS and not path.is_dir():
        return path, path.with_name(f"{path.name}.checkpoints")
    return path / DATABASE, path / "checkpoints"


def _row(values: tuple[Any, ...]) -> Row:
    identity, config, state, step, total, failures, error, result, digest = values
    if result is not None and _digest(result) != digest:
        raise _DamagedRow(f"the result of trial {identity[:12]} does not match its digest")
    loaded = None if result is None else json.loads(result)
    return Row(identity, _config(identity, config), state, step, total, failures, error, loaded)


def _config(identity: str, text: str) -> TrialConfig:
    try:
        return TrialConfig(**json.loads(text))
    except (ValueError, TypeError) as problem:
        raise _DamagedRow(f"the settings of trial {identity[:12]} cannot be read") from problem


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
