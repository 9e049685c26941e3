"""The store: one owner per trial, results written with the state, lost trials reclaimed, damage reported clearly."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from derive.errors import UsageError
from verify.training import layout
from verify.training.config import TrialConfig
from verify.training.process_id import is_gone, myself
from verify.training.retry import wanted
from verify.training.store import MOST_FAILURES, MOST_LOSSES, LeaseLost, Store, places_of

BASE = TrialConfig(method="none", learning_rate=0.1)
RESULT = {"points": [], "spreads": [], "diverged_at": None, "test_accuracy": 0.5, "test_loss": 1 / 3}
ROOT = Path(__file__).resolve().parents[3]


def trials(count):
    return [(f"id{seed}", replace(BASE, seed=seed), 100) for seed in range(count)]


@pytest.fixture
def path(tmp_path):
    with Store(tmp_path / "store", create=True) as opened:
        opened.register("mine", "text", {"data": "digits"}, trials(3))
    return tmp_path / "store"


@pytest.fixture
def store(path):
    with Store(path) as opened:
        yield opened


@pytest.fixture
def other(path):
    """The same store, opened as another process would."""
    with Store(path) as opened:
        opened.owner = opened.owner.replace(f"|{os.getpid()}|", "|1|").rpartition("|")[0] + "|"
        opened.owner = f"elsewhere{opened.owner}"
        yield opened


def state(store, identity):
    return next(row for row in store.rows("mine") if row.id == identity)


def test_a_trial_from_pending_to_done(store):
    claim = store.claim("mine")
    assert (claim.id, claim.config, claim.trials) == ("id0", BASE, (("id0", BASE),))
    store.heartbeat("id0", 40)
    assert (state(store, "id0").state, state(store, "id0").step) == ("running", 40)
    store.complete("id0", RESULT)
    row = state(store, "id0")
    assert (row.state, row.step, row.result) == ("done", 100, RESULT)
    counts, done, total = store.progress("mine")
    assert counts == {"pending": 2, "running": 0, "done": 1, "failed": 0, "quarantined": 0}
    assert (done, total) == (100, 300)


def test_registering_again_keeps_what_is_known_and_forgets_who_is_no_member(store):
    store.claim("mine")
    store.complete("id0", RESULT)
    store.register("mine", "new", {"data": "digits"}, [trials(5)[4], trials(1)[0]])
    assert [(row.id, row.state) for row in store.rows("mine")] == [("id4", "pending"), ("id0", "done")]
    assert store.experiments() == {"mine": ("new", {"data": "digits"})}


def test_two_experiments_share_a_trial(store):
    store.register("second", "text", {}, trials(1))
    store.claim("second")
    store.complete("id0", RESULT)
    assert state(store, "id0").state == "done"


def test_nobody_gets_a_trial_twice(store, other):
    taken = [holder.claim("mine").id for holder in (store, other, store)]
    assert sorted(taken) == ["id0", "id1", "id2"]
    assert store.claim("mine") is None and other.claim("mine") is None


def test_threads_that_claim_at_once_get_different_trials(path):
    with Store(path) as opened:
        opened.register("many", "text", {}, trials(40))
    taken = []

    def take():
        with Store(path) as own:
            while claim := own.claim("many"):
                taken.append(claim.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 40


def test_a_lease_that_ran_out_is_claimed_anew_and_the_former_owner_is_refused(store, other):
    other.lease = -1.0
    assert other.claim("mine").id == "id0"
    assert store.claim("mine").id == "id0"
    for late in (
        lambda: other.complete("id0", RESULT),
        lambda: other.heartbeat("id0", 7),
        lambda: other.release("id0"),
        lambda: other.fail("id0", "no"),
    ):
        with pytest.raises(LeaseLost):
            late()
    assert (state(store, "id0").state, state(store, "id0").step) == ("running", 0)
    store.complete("id0", RESULT)


def test_a_heartbeat_prolongs_the_lease(store, other):
    other.lease = -1.0
    other.claim("mine")
    other.lease = 60.0
    other.heartbeat("id0", 1)
    assert store.claim("mine").id == "id1"


def test_a_trial_of_a_killed_process_is_free_at_once(store, path):
    code = (
        "import sys, time; from pathlib import Path; from verify.training.store import Store\n"
        "store = Store(Path(sys.argv[1])); print(store.claim('mine').id, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "id0\n"
        assert store.claim("mine").id == "id1"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.claim("mine").id == "id0"


def test_owners():
    assert not is_gone(myself())
    machine, _, started = myself().split("|")
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert is_gone(f"{machine}|{process.pid}|{started}")
    assert is_gone(f"{machine}|{os.getpid()}|1"), "the number was given to another process"
    assert not is_gone(f"elsewhere|{process.pid}|{started}"), "nothing is known of other machines"


def test_failures_are_tried_again_after_the_others_and_then_quarantined(store):
    for failures in range(1, MOST_FAILURES + 1):
        while (claim := store.claim("mine")).id != "id0":
            store.complete(claim.id, RESULT)
        store.fail("id0", f"Error: {failures}")
        row = state(store, "id0")
        assert (row.failures, row.error) == (failures, f"Error: {failures}")
    assert row.state == "quarantined"
    assert store.claim("mine") is None
    assert store.retry("mine") == 1
    assert store.claim("mine").id == "id0"


def test_a_trial_that_kills_its_workers_is_quarantined_unless_it_gets_on(store, other):
    other.lease = -1.0
    only = trials(1)
    store.register("mine", "text", {}, only)
    for _ in range(MOST_LOSSES):
        other.claim("mine")
    other.heartbeat("id0", 5)
    for _ in range(MOST_LOSSES):
        assert other.claim("mine").id == "id0"
    assert other.claim("mine") is None
    assert "lost 20 times without progress" in state(store, "id0").error
    assert store.retry("mine") == 1 and store.claim("mine").id == "id0"


def test_a_released_trial_is_pending(store):
    store.claim("mine")
    store.release("id0")
    assert state(store, "id0").state == "pending"


def test_a_transaction_that_fails_leaves_nothing(store):
    store.claim("mine")
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.complete("id0", {"test_loss": float("nan")})
    with pytest.raises(TypeError):
        store.register("mine", "text", {}, [("new", replace(BASE, seed=9), 1), ("bad", None, 1)])
    assert [row.id for row in store.rows("mine")] == ["id0", "id1", "id2"]
    assert state(store, "id0").state == "running"


def test_no_store_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no store at .*start with `affdiv experiment run`"):
        Store(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_store_named_by_its_database(tmp_path):
    database, checkpoints = places_of(tmp_path / "a.sqlite")
    assert (database.name, checkpoints.name) == ("a.sqlite", "a.sqlite.checkpoints")
    with Store(tmp_path / "a.sqlite", create=True):
        assert database.is_file() and checkpoints.is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be created: .*name another --store"):
        Store(tmp_path / "file" / "store", create=True)


def large(path):
    """A store with many results, all in the database file itself."""
    with Store(path) as opened:
        opened.register("mine", "text", {}, trials(60))
        while claim := opened.claim("mine"):
            opened.complete(claim.id, RESULT)
    database, _ = places_of(path)
    assert not database.with_name(f"{database.name}-wal").exists()
    return database


@pytest.mark.parametrize("damage", ["short", "torn", "tail", "head", "result"])
def test_damage_is_an_error_that_says_what_to_do(path, damage):
    database = large(path)
    content = bytearray(database.read_bytes())
    size = len(content)
    if damage == "short":
        content = content[: size // 2]
    elif damage == "torn":
        content = content[: size - 700]
    elif damage == "tail":
        content[size // 2 :] = os.urandom(size - size // 2)
    elif damage == "head":
        content[:64] = os.urandom(64)
    else:
        place = content.rindex(b"0.3333")
        content[place : place + 6] = b"0.4444"
    database.write_bytes(content)
    with (
        pytest.raises(UsageError, match=r"trials\.sqlite cannot be used: .*move it away and run again"),
        Store(path) as s,
    ):
        s.check()
        s.rows("mine")


def test_a_torn_log_loses_the_last_transactions_only(path):
    with Store(path) as opened:
        opened.claim("mine")
        opened.complete("id0", RESULT)
        opened.claim("mine")
        opened.complete("id1", RESULT)
        log = opened.database.with_name("trials.sqlite-wal")
        copy = path.parent / "copy"
        copy.mkdir()
        (copy / "trials.sqlite").write_bytes(opened.database.read_bytes())
        (copy / "trials.sqlite-wal").write_bytes(log.read_bytes()[:-100])
    with Store(copy) as torn:
        torn.check()
        assert [row.state for row in torn.rows("mine")] == ["done", "running", "pending"]


def test_another_layout_is_refused(path, monkeypatch):
    monkeypatch.setattr(layout, "SCHEMA", 2)
    for how in ({}, {"read_only": True}):
        with pytest.raises(UsageError, match="has layout 3, this program reads 2"):
            Store(path, **how)


def old_store(folder, damaged=False):
    """A store in the second layout: without digests of settings and without counts."""
    database, checkpoints = places_of(folder)
    checkpoints.mkdir(parents=True)
    with sqlite3.connect(database) as connection:
        connection.executescript(layout._FIRST + layout._TEAMS + "PRAGMA user_version = 2;")
        text = json.dumps(RESULT)
        digest = hashlib.sha256(text.encode()).hexdigest()
        text = text.replace("0.5", "0.6") if damaged else text
        for number, result in enumerate((None, text)):
            state = "pending" if result is None else "done"
            values = (f"id{number}", json.dumps(asdict(replace(BASE, seed=number))), state, result)
            connection.execute(
                "INSERT INTO trials VALUES (?, ?, ?, 100, 7, NULL, NULL, 0, 0, NULL, ?, ?, ?)",
                (*values, digest if result else None, f"id{number}"),
            )
            connection.execute("INSERT INTO members VALUES ('mine', ?, ?)", (number, f"id{number}"))
    connection.close()
    return database


def test_a_store_of_an_earlier_layout_goes_on(tmp_path):
    old_store(tmp_path / "old")
    with pytest.raises(UsageError, match="has layout 2, this program reads 3; run `affdiv experiment run`"):
        Store(tmp_path / "old", read_only=True)
    with Store(tmp_path / "old") as opened:
        assert opened.progress("mine")[0]["done"] == opened.progress("mine")[0]["pending"] == 1
        assert state(opened, "id1").result == RESULT
        assert (state(opened, "id0").step, opened.claim("mine").trials) == (7, (("id0", BASE),))
        opened.complete("id0", RESULT)
        assert opened.done_among(["id0", "id1", "id2"]) == {"id0", "id1"}


def test_damage_from_before_a_new_layout_is_noticed_after_it(tmp_path):
    old_store(tmp_path / "old", damaged=True)
    with Store(tmp_path / "old") as opened, pytest.raises(UsageError, match="trial id1 do not match their digest"):
        opened.rows("mine")


@pytest.mark.parametrize(
    "change",
    [
        """config = replace(config, '"learning_rate": 0.1', '"learning_rate": 0.7')""",
        "total = 5",
        "team = 'another'",
        "result = '{}'",
    ],
)
def test_a_row_that_was_changed_is_noticed(path, change):
    with Store(path) as opened:
        opened.claim("mine")
        opened.complete("id0", RESULT)
        opened.claim("mine")
    with sqlite3.connect(path / "trials.sqlite") as connection:
        connection.execute(f"UPDATE trials SET {change}")
    connection.close()
    with Store(path) as opened:
        for use in (lambda: opened.rows("mine"), lambda: opened.claim("mine")):
            with pytest.raises(UsageError, match=r"settings or the result of trial id\d do not match their digest"):
                use()


def test_the_database_of_another_program_is_left_as_it_is(tmp_path):
    for number, script in enumerate(
        (
            "CREATE TABLE messages (a)",
            "CREATE TABLE messages (a); PRAGMA user_version = 3",
            "PRAGMA application_id = 77",
            "CREATE TABLE trials (a); PRAGMA user_version = 1",
        )
    ):
        database = tmp_path / f"{number}.sqlite"
        with sqlite3.connect(database) as connection:
            connection.executescript(script)
        connection.close()
        before = database.read_bytes()
        for how in ({"create": True}, {}, {"read_only": True}):
            with pytest.raises(UsageError, match=r"is the database of another program.*name another --store"):
                Store(database, **how)
        assert database.read_bytes() == before and len(list(tmp_path.iterdir())) == number + 1


def test_an_empty_file_becomes_a_store(tmp_path):
    (tmp_path / "a.sqlite").touch()
    with Store(tmp_path / "a.sqlite", create=True) as opened:
        assert opened.experiments() == {}


_READ = """
import os, sys
from pathlib import Path
from verify.training.store import Store
if os.getuid() == 0:  # root can write everywhere
    os.setegid(65534)
    os.seteuid(65534)
assert not os.access(sys.argv[1], os.W_OK, effective_ids=True)
with Store(Path(sys.argv[1]), read_only=True) as store:
    store.check()
    print([row.state for row in store.rows("mine")])
"""


def test_a_finished_store_is_read_where_nothing_can_be_written(path):
    with Store(path) as opened:
        while claim := opened.claim("mine"):
            opened.complete(claim.id, RESULT)
    folder = Path(tempfile.mkdtemp())  # pytest's folders are closed to other users
    try:
        shutil.copy(path / "trials.sqlite", folder)
        (folder / "trials.sqlite").chmod(0o444)
        folder.chmod(0o555)
        words = [sys.executable, "-c", _READ, str(folder)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "['done', 'done', 'done']\n", done.stderr
        assert [file.name for file in folder.iterdir()] == ["trials.sqlite"]
        folder.chmod(0o755)
        (folder / "trials.sqlite-wal").write_bytes(b"something")
        folder.chmod(0o555)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert "copy both to a writable place" in done.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_reading_changes_nothing_and_sees_what_is_being_written(path, store):
    store.claim("mine")
    with Store(path, read_only=True) as reader:
        assert reader.progress("mine")[0]["running"] == 1
        store.complete("id0", RESULT)
        assert reader.progress("mine")[0]["done"] == 1
        with pytest.raises(UsageError, match="attempt to write a readonly database"):
            reader.release("id0")


def work_of(store, what):
    """The number of SQLite's virtual-machine instructions of a call, which does not depend on the machine's load."""
    count = 0

    def one():
        nonlocal count
        count += 1

    store._connection.set_progress_handler(one, 1)
    what()
    store._connection.set_progress_handler(None, 0)
    return count


def test_what_a_trial_costs_does_not_depend_on_how_many_there_are(tmp_path):
    costs = []
    for count in (100, 6400):
        with Store(tmp_path / str(count), create=True) as opened:
            opened.register("mine", "text", {}, trials(count))
            done = opened.claim("mine")
            opened.complete(done.id, RESULT)
            opened.claim("mine")

            def one(opened=opened):
                claim = opened.claim("mine")
                opened.heartbeat(claim.id, 7)
                opened.progress("mine")
                opened.done_among([claim.id])
                opened.fail(claim.id, "no")
                claim = opened.claim("mine")
                opened.complete(claim.id, RESULT)

            costs.append(work_of(opened, one))
    assert costs[1] <= 1.2 * costs[0], costs


def test_counts_follow_whatever_happens(store, other):
    store.register("second", "text", {}, trials(2))
    store.claim("mine")
    store.heartbeat("id0", 40)
    other.claim("second")
    other.fail("id1", "no")
    store.complete("id0", RESULT)
    for experiment, size in (("mine", 3), ("second", 2)):
        rows, (counts, done, total) = store.rows(experiment), store.progress(experiment)
        assert len(rows) == size == sum(counts.values()) and total == 100 * size
        assert all(counts[name] == sum(row.state == name for row in rows) for name in counts)
        assert done == sum(row.step for row in rows) == 100


def test_a_claim_says_how_long_a_trial_was_worked_on(store, other):
    store.claim("mine")
    store.heartbeat("id0", 1, 2.5)
    store.heartbeat("id0", 2, 0.5)
    store.release("id0")
    assert other.claim("mine").seconds == 3.0


def test_a_trial_that_is_given_up_is_not_tried_again(store):
    store.claim("mine")
    store.give_up("id0", "too long")
    assert (state(store, "id0").state, state(store, "id0").error) == ("quarantined", "too long")


def test_some_of_the_failed_are_tried_again(store):
    for _ in range(3):
        claim = store.claim("mine")
        store.give_up(claim.id, "out of memory" if claim.id == "id1" else "too long")
    for filters, count in (
        (["error=memory"], 1),
        (["seed=0", "learning_rate=0.10", "state=quarantined"], 1),
        (["seed=1"], 0),
        (["id=id"], 1),
    ):
        assert store.retry("mine", wanted(filters)) == count, filters
    for wrong in ("seed", "colour=red", "=1"):
        with pytest.raises(UsageError, match=r"--retry-where '.*write KEY=VALUE, such as method=none; keys are state"):
            wanted([wrong])


def test_a_team_is_claimed_given_back_and_done_as_one(store, other):
    first, second, alone = ((f"new {identity}", config, total) for identity, config, total in trials(3))
    store.register("team", "text", {}, [second, alone, first], {first[0]: "team", second[0]: "team"})
    claim = store.claim("team")
    assert (claim.id, claim.trials) == ("team", (first[:2], second[:2])), "by seed"
    assert other.claim("team").id == alone[0] and other.claim("team") is None
    store.heartbeat("team", 60)
    assert [row.step for row in store.rows("team")] == [60, 0, 60]
    store.release("team")
    assert other.claim("team").id == "team"
    with pytest.raises(LeaseLost):
        store.complete("team", RESULT, RESULT)
    with pytest.raises(ValueError, match="zip"):
        other.complete("team", RESULT)
    assert store.done_among(["team"]) == set()
    other.complete("team", {**RESULT, "test_accuracy": 0.1}, {**RESULT, "test_accuracy": 0.2})
    found = [row.result and row.result["test_accuracy"] for row in store.rows("team")]
    assert found == [0.2, None, 0.1]
    assert store.done_among(["team"]) == {"team"}


def test_a_team_fails_as_one(store):
    own = [(f"new {identity}", config, total) for identity, config, total in trials(2)]
    store.register("team", "text", {}, own, {identity: "team" for identity, *_ in own})
    for _ in range(MOST_FAILURES):
        assert store.claim("team").id == "team"
        store.fail("team", "no")
    assert [row.state for row in store.rows("team")] == ["quarantined"] * 2
    assert store.retry("team") == 2 and len(store.claim("team").trials) == 2


def test_a_locked_store_is_no_damage(path, monkeypatch):
    monkeypatch.setattr(layout, "WAIT_SECONDS", 0.05)
    holder = sqlite3.connect(path / "trials.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Store(path) as opened, pytest.raises(UsageError, match="database is locked"):
        opened.claim("mine")
    holder.close()
