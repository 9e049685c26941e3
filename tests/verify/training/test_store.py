"""The store: one owner a trial, results with done, what is lost is claimed anew, and damage is said, not raised."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from derive.errors import UsageError
from verify.training import store as store_module
from verify.training.config import TrialConfig
from verify.training.owner import is_gone, myself
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
    """The same store as another process sees it."""
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
    with pytest.raises(UsageError, match=r"cannot be made: .*name another --store"):
        Store(tmp_path / "file" / "store", create=True)


def large(path):
    """A store with many results, all of them in the database file itself."""
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
    monkeypatch.setattr(store_module, "SCHEMA", 1)
    with pytest.raises(UsageError, match="has layout 2, this program reads 1"):
        Store(path)


def test_a_store_of_the_first_layout_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "SCHEMA", 1)
        with Store(tmp_path / "old", create=True):
            pass
    database, _ = places_of(tmp_path / "old")
    with sqlite3.connect(database) as connection:
        config = json.dumps(asdict(BASE))
        connection.execute(
            "INSERT INTO trials VALUES ('id0', ?, 'pending', 100, 7, NULL, NULL, 0, 0, NULL, NULL, NULL)", (config,)
        )
        connection.execute("INSERT INTO members VALUES ('mine', 0, 'id0')")
    connection.close()
    with Store(tmp_path / "old") as opened:
        assert (state(opened, "id0").step, opened.claim("mine").trials) == (7, (("id0", BASE),))
        opened.complete("id0", RESULT)
        assert opened.finished() == {"id0"}


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
    assert store.finished() == set()
    other.complete("team", {**RESULT, "test_accuracy": 0.1}, {**RESULT, "test_accuracy": 0.2})
    found = [row.result and row.result["test_accuracy"] for row in store.rows("team")]
    assert found == [0.2, None, 0.1]
    assert store.finished() == {"team"}


def test_a_team_fails_as_one(store):
    own = [(f"new {identity}", config, total) for identity, config, total in trials(2)]
    store.register("team", "text", {}, own, {identity: "team" for identity, *_ in own})
    for _ in range(MOST_FAILURES):
        assert store.claim("team").id == "team"
        store.fail("team", "no")
    assert [row.state for row in store.rows("team")] == ["quarantined"] * 2
    assert store.retry("team") == 2 and len(store.claim("team").trials) == 2


def test_a_locked_store_is_no_damage(path, monkeypatch):
    monkeypatch.setattr(store_module, "_WAIT_SECONDS", 0.05)
    holder = sqlite3.connect(path / "trials.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Store(path) as opened, pytest.raises(UsageError, match="database is locked"):
        opened.claim("mine")
    holder.close()
