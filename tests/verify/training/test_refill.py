"""A lost store refilled from an exported table gives the same table, and lines that do not fit are rejected."""

import csv
import io
from pathlib import Path

import pytest

import affdiv
from verify.training.driver import register
from verify.training.experiment import load_experiment
from verify.training.export import to_csv
from verify.training.refill import refill
from verify.training.store import Store
from verify.training.worker import Job, work

TEXT = """
methods = ["affine-like", "batch-norm"]
learning_rates = [0.05, 1e300]
batch_sizes = [64]
seeds = [0, 1]
widths = [8]
depths = [2]
steps = 20
evaluate_every = 10
probe_every = 10
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The table of an experiment that was run here."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "mine.toml").write_text(TEXT)
    with Store(folder / "store", create=True) as store:
        register(store, load_experiment(folder / "mine.toml"), "digits", "cpu", "apart")
        work(Job(str(folder / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0))
        return to_csv(store.rows("mine"))


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Call ``affdiv experiment VERB mine.toml`` with a table beside it; return exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def command(verb, *options, text=TEXT, table=None):
        (tmp_path / "mine.toml").write_text(text)
        if table is not None:
            (tmp_path / "table.csv").write_text(table)
        capsys.readouterr()
        code = affdiv.run(["experiment", verb, "mine.toml", "--store", "store", *options])
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def filled(tmp_path):
    """Fill a new store from a table and train the rest in this process; return the messages and the new table."""

    def fill(table, text=TEXT, seeds="apart"):
        (tmp_path / "mine.toml").write_text(text)
        (tmp_path / "table.csv").write_text(table)
        with Store(tmp_path / "store", create=True) as store:
            register(store, load_experiment(tmp_path / "mine.toml"), "digits", "cpu", seeds)
            said = refill(store, "mine", tmp_path / "table.csv").text(Path("table.csv"))
            work(Job(str(tmp_path / "store"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0))
            return said, to_csv(store.rows("mine"))

    return fill


def lines_of(table):
    return list(csv.DictReader(io.StringIO(table)))


def as_table(lines):
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def test_a_lost_store_gives_the_same_table_without_a_step(call, exported):
    """No worker starts if nothing is left, so that the command trains nothing."""
    for expected in ("8 trials imported, 0 were present already", "0 trials imported, 8 were present already"):
        code, _, error = call("run", "--from", "table.csv", "--seeds", "apart", table=exported)
        assert code == 0 and f"table.csv: {expected}" in error
        assert call("export")[1] == exported


def test_what_a_part_of_a_table_lacks_is_trained(filled, exported):
    said, table = filled(as_table(lines_of(exported)[:5]))
    assert said == "table.csv: 5 trials imported, 0 were present already" and table == exported


def test_a_measure_that_is_infinite_comes_back(filled, exported):
    lines = [{**line, "largest_self_factor_ratio": "inf"} for line in lines_of(exported)]
    assert filled(as_table(lines))[1] == as_table(lines)


def test_trials_of_another_experiment_are_refused_by_name_and_the_others_taken(filled, exported):
    said, _ = filled(exported, TEXT.replace('"affine-like", ', ""))
    strangers = [line["trial"][:12] for line in lines_of(exported) if line["method"] == "affine-like"]
    assert "4 trials imported, 0 were present already, 4 refused" in said
    assert all(f"trial {stranger}: it is not a trial of this experiment" in said for stranger in strangers)


def test_a_table_of_which_nothing_fits_is_refused_with_the_reason(call, exported):
    lines = [{**line, "trial": line["trial"][::-1]} for line in lines_of(exported)]
    code, _, error = call("run", "--from", "table.csv", "--seeds", "apart", table=as_table(lines))
    assert code == 2 and "8 refused" in error and "and 3 more" in error
    assert "its settings match, but its layers, data, torch version, procedure or stack of seeds differ" in error


def test_a_line_whose_settings_are_not_those_of_its_id_is_refused(filled, exported):
    first, second, *rest = lines_of(exported)
    swapped = [{**first, "trial": second["trial"]}, {**second, "trial": first["trial"]}, *rest]
    said, table = filled(as_table(swapped))
    assert "6 trials imported, 0 were present already, 2 refused" in said and table == exported
    assert "its line has settings other than the trial with that id" in said


def test_a_stack_of_seeds_comes_back_whole_or_not_at_all(filled, tmp_path):
    (tmp_path / "mine.toml").write_text(TEXT)
    with Store(tmp_path / "first", create=True) as store:
        register(store, load_experiment(tmp_path / "mine.toml"), "digits", "cpu", "together")
        work(Job(str(tmp_path / "first"), "mine", "digits", checkpoint_seconds=1e9, lease=60.0))
        whole = to_csv(store.rows("mine"))
    said, table = filled(as_table(lines_of(whole)[1:]), seeds="together")
    assert "6 trials imported, 0 were present already, 1 refused" in said and table == whole
    assert "it is running, or seeds that train with it are missing from the table" in said
