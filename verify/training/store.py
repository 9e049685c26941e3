"""The store of a sweep: every trial with its state, in an SQLite file shared by any number of processes.

    pending ──claim──▶ running ──complete──▶ done
       ▲                 │  │
       └──release/lease──┘  └──fail──▶ failed (retried) ──third time──▶ quarantined

A claim is one ``BEGIN IMMEDIATE`` update; a result is written in the transaction that sets the state to done. A running
trial has an owner and a lease that the owner's heartbeats extend. If the owner is gone or the lease has expired, the
trial can be claimed again, and writes of the former owner are rejected. The trials of a team change state together; a
trial that trains alone is a team of one, with its own id. The cost of a claim, a heartbeat, a completion or a progress
query does not depend on the number of trials, see ``layout``.

Not supported: network file systems, where SQLite's locks are unreliable.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.layout import COUNT, connect, connect_to_read
from verify.training.process_id import myself
from verify.training.resource_errors import disk_full
from verify.training.row_digest import row_digest

LEASE_SECONDS = 60.0
MOST_FAILURES = 3
MOST_LOSSES = 20  # owners lost in a row without progress, after which the trial itself counts as the cause
STATES = ("pending", "running", "done", "failed", "quarantined")
DATABASE = "trials.sqlite"
_FILE_ENDINGS = (".sqlite", ".sqlite3", ".db")
_LEAST_ROOM = 2**20  # bytes that the log and its index need to grow

_ABANDONED = "state = 'running' AND (lease_until < :now OR is_gone(owner))"
_CLAIM = f"""
UPDATE trials SET
    state = 'running', owner = :owner, lease_until = :until,
    losses = CASE WHEN state = 'running' THEN losses + 1 ELSE losses END
WHERE team = (
    SELECT team FROM (
        SELECT * FROM (
            SELECT waiting AS failed, position, team FROM members JOIN trials ON trial = id
            WHERE experiment = :experiment AND waiting IS NOT NULL ORDER BY waiting, position LIMIT 1
        )
        UNION ALL
        SELECT failures, position, team FROM trials CROSS JOIN members ON trial = id
        WHERE {_ABANDONED} AND experiment = :experiment AND losses < :most
    ) ORDER BY failed, position LIMIT 1
) RETURNING team, id, config, total, team, result, digest, seconds
"""  # CROSS JOIN: the few running trials first
_QUARANTINE = f"""
UPDATE trials SET state = 'quarantined', owner = NULL, lease_until = NULL,
    error = 'the process that worked on it was lost ' || losses || ' times without progress' || :perhaps
WHERE losses >= :most AND {_ABANDONED}
"""
_PERHAPS = "; a system that is out of memory kills processes: try fewer --workers or a smaller batch_size"


class LeaseLost(Exception):
    """Another process has taken the trial; this one's work on it no longer counts."""


@dataclass(frozen=True)
class Claim:
    """A team that this process may work on: its ``id``, and its trials' ids and settings, by seed.

    ``seconds`` is the time spent on it before.
    """

    id: str
    trials: tuple[tuple[str, TrialConfig], ...]
    seconds: float = 0.0

    @property
    def config(self) -> TrialConfig:
        """The settings of the first trial; the others differ only in the seed."""
        return self.trials[0][1]


@dataclass(frozen=True)
class Row:
    """A trial in the store; ``result`` is None until it is done, ``error`` is the text of the last failure."""

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
        create: whether to create a missing store; otherwise it is an error.
        read_only: whether nothing may be changed, even beside the database; it may be on a read-only medium.
        lease: seconds for which a claim or a heartbeat reserves a trial.
        clock: returns the time in seconds. It may jump: a lease that then ends early causes repeated work, one that
        ends
            late only delays the takeover of trials of other machines.

    Raises:
        UsageError: no store there, another program's database, no write permission, or a damaged file; the text names
            the fix.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool = False,
        read_only: bool = False,
        lease: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database, self.checkpoints = places_of(path)
        self.owner, self.lease, self.clock = myself(), lease, clock
        if not create and not self.database.is_file():
            raise UsageError(f"no store at {str(path)!r}; start with `affdiv experiment run`, or name another --store")
        if create:
            _make_folder(self.database.parent, path)
        with self._readable():
            self._connection = (connect_to_read if read_only else connect)(self.database)
        if not read_only:
            _make_folder(self.checkpoints, path)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; it cannot be used afterwards."""
        self._connection.close()

    def check(self) -> None:
        """Read the whole file once; raise UsageError if it is damaged."""
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
        """Add an experiment and its trials (id, settings, number of steps); known trials are left unchanged.

        ``teams`` maps trials to their teams; an id belongs to one team for ever.
        """
        rows = list(trials)
        with self._transaction() as run:
            run("INSERT OR REPLACE INTO experiments VALUES (?, ?, ?)", (name, text, json.dumps(settings)))
            run("DELETE FROM members WHERE experiment = ?", (name,))
            run("DELETE FROM counts WHERE experiment = ?", (name,))
            for position, (identity, config, total) in enumerate(rows):
                settings_text, team = json.dumps(asdict(config)), (teams or {}).get(identity, identity)
                digest = row_digest(identity, settings_text, total, team, None)
                run(
                    "INSERT OR IGNORE INTO trials (id, config, total, team, digest, state, step, failures, losses) "
                    "VALUES (?, ?, ?, ?, ?, 'pending', 0, 0, 0)",
                    (identity, settings_text, total, team, digest),
                )
                run(
                    "INSERT INTO members SELECT ?, ?, id, CASE WHEN state IN ('pending', 'failed') THEN failures END "
                    "FROM trials WHERE id = ?",
                    (name, position, identity),
                )
            run(f"{COUNT} WHERE experiment = ? GROUP BY state", (name,))

    def experiments(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return the text and settings of every experiment in the store, by name."""
        with self._readable():
            rows = self._connection.execute("SELECT name, text, settings FROM experiments ORDER BY name").fetchall()
            return {name: (text, json.loads(settings)) for name, text, settings in rows}

    def claim(self, experiment: str) -> Claim | None:
        """Claim the next available team; None if there is none at the moment."""
        now = self.clock()
        values = {"owner": self.owner, "until": now + self.lease, "now": now, "experiment": experiment}
        with self._transaction() as run:
            run(_QUARANTINE, {"most": MOST_LOSSES, "now": now, "perhaps": _PERHAPS})
            rows = run(_CLAIM, {**values, "most": MOST_LOSSES}).fetchall()
            trials = [(row[1], _config(*row[1:7])) for row in rows]
        if not rows:
            return None
        return Claim(rows[0][0], tuple(sorted(trials, key=lambda trial: trial[1].seed)), rows[0][-1])

    def heartbeat(self, identity: str, step: int, seconds: float = 0.0) -> None:
        """Extend the lease and record the progress and its time; LeaseLost if another process has the team now."""
        self._mine(
            "lease_until = ?, losses = CASE WHEN step < ? THEN 0 ELSE losses END, step = max(step, ?), "
            "seconds = seconds + ?",
            (self.clock() + self.lease, step, step, seconds),
            identity,
        )

    def release(self, identity: str) -> None:
        """Return a team to pending; LeaseLost if another process has it now."""
        self._mine("state = 'pending', owner = NULL, lease_until = NULL", (), identity)

    def complete(self, identity: str, *results: dict[str, Any]) -> None:
        """Write the results of a team, by seed, and mark it done, in one transaction; LeaseLost as above."""
        texts = [_result_text(result) for result in results]
        changes = "state = 'done', owner = NULL, lease_until = NULL, step = total, error = NULL"
        with self._transaction() as run:
            self._change(run, changes, (), identity)
            query = "SELECT id, config, total, team, result, digest FROM trials WHERE team = ?"
            rows = sorted(run(query, (identity,)).fetchall(), key=lambda row: _config(*row).seed)
            for row, text in zip(rows, texts, strict=True):
                _write_result(run, row, text)

    def fill(self, experiment: str, results: Mapping[str, dict[str, Any]]) -> set[str]:
        """Write results from elsewhere, by trial, for each complete team on which no process works.

        Return the ids of the trials that are done by this.
        """
        query = "SELECT id, config, total, team, state FROM members JOIN trials ON trial = id WHERE experiment = ?"
        filled: set[str] = set()
        with self._transaction() as run:
            teams: dict[str, list[tuple[Any, ...]]] = {}
            for row in run(query, (experiment,)).fetchall():
                teams.setdefault(row[3], []).append(row)
            for team, rows in teams.items():
                if not all(row[0] in results and row[-1] in ("pending", "failed") for row in rows):
                    continue
                run("UPDATE trials SET state = 'done', step = total, error = NULL WHERE team = ?", (team,))
                for row in rows:
                    _write_result(run, row, _result_text(results[row[0]]))
                    filled.add(row[0])
        return filled

    def fail(self, identity: str, error: str) -> None:
        """Record that a team raised ``error``: failed, or quarantined the third time; LeaseLost as above."""
        changes = (
            f"state = CASE WHEN failures + 1 < {MOST_FAILURES} THEN 'failed' ELSE 'quarantined' END, "
            "failures = failures + 1, owner = NULL, lease_until = NULL, error = ?"
        )
        self._mine(changes, (error,), identity)

    def give_up(self, identity: str, error: str) -> None:
        """Quarantine a team whose retry would fail in the same way; LeaseLost as above."""
        changes = "state = 'quarantined', failures = failures + 1, owner = NULL, lease_until = NULL, error = ?"
        self._mine(changes, (error,), identity)

    def lose(self, identity: str) -> None:
        """Record the loss of what worked on a team for this process: pending, or quarantined; LeaseLost as above."""
        changes = (
            f"state = CASE WHEN losses + 1 < {MOST_LOSSES} THEN 'pending' ELSE 'quarantined' END, "
            "losses = losses + 1, owner = NULL, lease_until = NULL, "
            "error = 'what worked on it was lost ' || (losses + 1) || ' times without progress'"
        )
        self._mine(changes, (), identity)

    def retry(self, experiment: str, wanted: Callable[[Row], bool] = lambda row: True) -> int:
        """Reset wanted failed and quarantined trials, with their teams, to pending; return their number."""
        teams = {row.id for row in self.rows(experiment, ("failed", "quarantined")) if wanted(row)}
        with self._transaction() as run:
            return sum(
                run(
                    "UPDATE trials SET state = 'pending', failures = 0, losses = 0, seconds = 0, error = NULL "
                    "WHERE team = (SELECT team FROM trials WHERE id = ?) AND state IN ('failed', 'quarantined')",
                    (identity,),
                ).rowcount
                for identity in sorted(teams)
            )

    def progress(self, experiment: str) -> tuple[dict[str, int], int, int]:
        """Return the number of trials in each state, the steps taken and the total steps of all trials."""
        query = "SELECT state, trials, steps, total FROM counts WHERE experiment = ?"
        with self._readable():
            rows = self._connection.execute(query, (experiment,)).fetchall()
        counts = {state: 0 for state in STATES} | {state: count for state, count, _, _ in rows}
        over = sum(total if state in ("done", "quarantined") else step for state, _, step, total in rows)
        return counts, over, sum(total for *_, total in rows)

    def rows(self, experiment: str, states: Collection[str] = STATES) -> list[Row]:
        """Return an experiment's trials in the given states, in the order of its file; UsageError for a damaged one."""
        query = (
            "SELECT id, config, total, team, result, digest, state, step, failures, error FROM members "
            f"JOIN trials ON trial = id WHERE experiment = ? AND state IN ({', '.join('?' * len(states))}) "
            "ORDER BY position"
        )
        with self._readable():
            return [_row(values) for values in self._connection.execute(query, (experiment, *states))]

    def done_among(self, names: Iterable[str]) -> set[str]:
        """Return those of the named teams that are done."""
        query = "SELECT 1 FROM trials WHERE team = ? AND state = 'done' LIMIT 1"
        with self._readable():
            return {name for name in names if self._connection.execute(query, (name,)).fetchone()}

    def _mine(self, changes: str, values: tuple[Any, ...], identity: str) -> None:
        with self._transaction() as run:
            self._change(run, changes, values, identity)

    def _change(self, run: Any, changes: str, values: tuple[Any, ...], identity: str) -> None:
        query = f"UPDATE trials SET {changes} WHERE team = ? AND state = 'running' AND owner = ?"
        if run(query, (*values, identity, self.owner)).rowcount == 0:
            raise LeaseLost(identity)

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
        """Convert SQLite's read and write errors into a UsageError that names the fix."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, json.JSONDecodeError, _DamagedRow) as problem:
            if self._is_full(problem):
                raise disk_full(self.database) from problem
            raise UsageError(
                f"store {self.database} cannot be used: {problem}. If it is damaged, move it away and run again, or "
                f"save the readable part with `sqlite3 {self.database} .recover`; the checkpoints beside it stay usable"
            ) from problem

    def _is_full(self, problem: Exception) -> bool:
        """Return whether SQLite failed because the disk is full, which it sometimes reports as an I/O error."""
        code = getattr(problem, "sqlite_errorcode", 0)
        room = shutil.disk_usage(self.database.parent).free
        return code == sqlite3.SQLITE_FULL or (code & 0xFF == sqlite3.SQLITE_IOERR and room < _LEAST_ROOM)


class _DamagedRow(Exception):
    pass


def places_of(path: Path) -> tuple[Path, Path]:
    """Return the database and the checkpoint folder of a store, which is given by its folder or its database."""
    if path.suffix in _FILE_ENDINGS and not path.is_dir():
        return path, path.with_name(f"{path.name}.checkpoints")
    return path / DATABASE, path / "checkpoints"


def _make_folder(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        reason = problem.strerror or problem
        raise UsageError(f"store {str(path)!r} cannot be created: {reason}; name another --store") from None


def _row(values: tuple[Any, ...]) -> Row:
    identity, _, total, _, result, _, state, step, failures, error = values
    config = _config(*values[:6])
    return Row(identity, config, state, step, total, failures, error, None if result is None else json.loads(result))


def _result_text(result: dict[str, Any]) -> str:
    return json.dumps(result, sort_keys=True, allow_nan=False)


def _write_result(run: Callable[..., Any], row: Sequence[Any], text: str) -> None:
    """Write a trial's result with the digest of its row; ``row`` begins with id, settings, steps and team."""
    trial, config, total, team, *_ = row
    digest = row_digest(trial, config, total, team, text)
    run("UPDATE trials SET result = ?, digest = ? WHERE id = ?", (text, digest, trial))


def _config(identity: str, text: str, total: int, team: str, result: str | None, digest: str) -> TrialConfig:
    """Return the settings of a row; raise _DamagedRow if it has changed since it was written."""
    try:
        if row_digest(identity, text, total, team, result) != digest:
            raise _DamagedRow(f"the settings or the result of trial {identity[:12]} do not match their digest")
        return TrialConfig(**json.loads(text))
    except (ValueError, TypeError) as problem:
        raise _DamagedRow(f"the settings of trial {str(identity)[:12]} cannot be read") from problem
