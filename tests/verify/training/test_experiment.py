"""Experiment files: the product of the lists, and errors that name file, line, key, value and fix."""

from dataclasses import replace

import pytest

from derive.errors import UsageError
from verify.training.cli import BUNDLED
from verify.training.config import METHODS_OF, TrialConfig
from verify.training.experiment import LARGEST_FILE, SCALES, load_experiment, scale_of
from verify.training.stages import expected
from verify.training.trial import run_trial
from verify.training.worker import with_data

WHOLE = """
data = "digits"
methods = ["none", "affine-like", "rms-norm"]
updates = ["sgd", "adam"]
learning_rates = [0.1, 1]
batch_sizes = [32, 128]
seeds = [0, 1]
model = "mlp"
widths = [16]
depths = [2]
activation = ["tanh", "relu"]
steps = 50
hypothesis = "none"
"""


@pytest.fixture
def load(tmp_path):
    def write(text, scale="cpu"):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path, scale=scale)

    return write


def test_trials_are_the_product_of_the_lists(load):
    found = load(WHOLE)
    assert found.name == "mine" and found.data == "digits"
    assert len(set(found.trials)) == len(found.trials) == 3 * 2 * 2 * 2 * 2 * 2
    expected = TrialConfig(
        method="rms-norm", update="adam", learning_rate=1.0, batch_size=128, seed=1, width=16, depth=2,
        activation="relu", epochs=None, steps=50,
    )  # fmt: skip
    assert expected in found.trials
    assert found.prose == (("hypothesis", "none"),)


def test_inits_are_a_list_and_numbers_of_samples_are_single(load):
    text = 'methods = ["none"]\nlearning_rates = [0.5]\ninits = ["variance-preserving", "torch"]\n'
    found = load(text + "train_samples = 500\nevaluation_samples = 100").trials
    assert [trial.init for trial in found] == ["variance-preserving", "torch"]
    assert {(trial.train_samples, trial.evaluation_samples) for trial in found} == {(500, 100)}


def test_methods_are_those_of_the_model(load):
    text = 'model = "{}"\nlearning_rates = [0.5]\nmethods = ["none", "patch-norm"]\n'
    assert [trial.method for trial in load(text.format("cnn")).trials] == ["none", "patch-norm"]
    with pytest.raises(UsageError, match=r":3: methods: method = 'patch-norm' is not one of model = 'mlp'"):
        load(text.format("mlp"))


def test_the_structures_of_convolutional_networks_are_lists(load):
    lists = 'kernels = [3, 5]\ngroups = [1, 9]\nhalvings = ["stride", "pool"]\nwidths = [9]\n'
    found = load(LINES + 'model = "cnn"\n' + lists).trials
    structures = [(t.kernel, t.groups, t.halving) for t in found]
    assert len(set(structures)) == len(structures) == 8
    assert structures[0] == (3, 1, "stride") and structures[-1] == (5, 9, "pool")


def test_an_empty_grid_leaves_a_method_out_under_a_rule(load):
    text = 'methods = ["none", "affine-like"]\nlearning_rates = [0.1]\nupdates = ["sgd", "nlms"]\n'
    found = load(text + "update_learning_rates = { nlms = { affine-like = [] } }").trials
    assert [(t.update, t.method) for t in found] == [("sgd", "none"), ("sgd", "affine-like"), ("nlms", "none")]


def test_batch_norm_is_left_out_of_batches_of_one(load):
    text = 'methods = ["none", "batch-norm"]\nlearning_rates = [0.1]\nbatch_sizes = [1, 2]\n'
    assert [(t.method, t.batch_size) for t in load(text).trials] == [("none", 1), ("none", 2), ("batch-norm", 2)]


def test_what_is_left_out_has_the_settings_own_value(load):
    (only,) = load('methods = ["none"]\nlearning_rates = [0.5]').trials
    assert only == TrialConfig(method="none", learning_rate=0.5)


def test_a_whole_number_is_the_same_rate(load):
    trials = [load(f'methods = ["none"]\nlearning_rates = [{rate}]').trials for rate in ("1", "1.0")]
    assert trials[0][0].digest == trials[1][0].digest


def test_comments_and_order_do_not_change_the_text(load):
    plain = load('methods = ["none"]\nlearning_rates = [0.5, 1.0]').text
    assert load('# remark\nlearning_rates = [1.0, 0.5]\nmethods = ["none"]').text == plain
    assert load('learning_rates = [1.0, 0.6]\nmethods = ["none"]').text != plain


LINES = 'methods = ["none"]\nlearning_rates = [0.1]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('learning_rates = [0.1]\n', "mine.toml: the key 'methods' is missing; add a line such as methods"),
        (LINES + "seedz = [0]\n", "mine.toml:3: seedz: this key is not known; did you mean 'seeds'?"),
        (LINES + "qqqq = 1\n", "known keys: data, methods"),
        (LINES + "seeds = 3\n", "mine.toml:3: seeds: 3 is not a list; write seeds = [3]"),
        (LINES + "seeds = []\n", "mine.toml:3: seeds: the list is empty; give at least one value"),
        (LINES + "seeds = [1, 1]\n", "mine.toml:3: seeds: 1 is given twice; give each value once"),
        (LINES + "seeds = [-1]\n", "mine.toml:3: seeds: seed = -1 is not valid; give a whole number of at least 0"),
        (LINES + "seeds = [true]\n", "mine.toml:3: seeds: seed = True is not valid"),
        (LINES + "seeds = [[1]]\n", "mine.toml:3: seeds: [1] is not a single value"),
        (LINES + 'widths = ["8"]\n', "mine.toml:3: widths: width = '8' is not valid"),
        (LINES + "depths = [9999999]\n", "mine.toml:3: depths: depth = 9999999 is too large"),
        (LINES + 'updates = ["lion"]\n', "mine.toml:3: updates: update = 'lion' is not known; choose one of sgd"),
        (LINES + 'model = "rnn"\n', "mine.toml:3: model: model = 'rnn' is not known"),
        (LINES + 'activation = "gelu"\n', "mine.toml:3: activation: activation = 'gelu' is not known"),
        (LINES + "epochs = 1\nsteps = 2\n", "mine.toml:4: steps: the length is also given in epochs; keep one"),
        (LINES + "epochs = 0\n", "mine.toml:3: epochs: epochs = 0 is not valid"),
        (LINES + 'data = "nowhere"\n', "mine.toml:3: data: 'nowhere' is not a data set"),
        (LINES + "data = 3\n", "mine.toml:3: data: 3 is not text"),
        (LINES + f"seeds = {list(range(400))}\nwidths = {list(range(1, 400))}\n", "159600 trials, more than 100000"),
        ('methods = ["none", "l2"]\nlearning_rates = [0.1]', "mine.toml:1: methods: method = 'l2' is not known"),
        ('methods = ["none"]\nlearning_rates = [0.1, nan]', "mine.toml:2: learning_rates: learning_rate = nan is not"),
        ('methods = ["none"]\nlearning_rates = [0]', "mine.toml:2: learning_rates: learning_rate = 0.0 is not a valid"),
        ('methods = ["none"]\nlearning_rates = ["0.1"]', "mine.toml:2: learning_rates: learning_rate = '0.1' is not"),
        (
            'methods = ["batch-norm"]\nlearning_rates = [0.1]\nbatch_sizes = [1]',
            "mine.toml: two lists contradict each other: method = 'batch-norm' cannot compute a variance",
        ),
        (LINES + "method_learning_rates = 3\n", "mine.toml:3: method_learning_rates: 3 is not a table; write method_"),
        (LINES + "method_learning_rates = { none = 3 }\n", "3 is not a list; write { none = [3] }"),
        (LINES + "method_learning_rates = { none = [0] }\n", "learning_rates: learning_rate = 0.0 is not a valid rate"),
        (LINES + "method_learning_rates = { l2 = [1] }\n", "'l2' is not one of the methods: none"),
        (LINES + "update_learning_rates = { sgd = [] }\n", "update_learning_rates: the list is empty; give at least"),
        (LINES + "method_learning_rates = { none = [] }\n", "method_learning_rates: the list is empty; give at least"),
        (LINES + "kernels = [5]\n", "contradict each other: kernel = 5 needs convolutions; write model = 'cnn'"),
        (LINES + 'model = "cnn"\nkernels = [4]\n', "mine.toml:4: kernels: kernel = 4 is not odd"),
        (LINES + 'model = "cnn"\ngroups = ["2"]\n', "mine.toml:4: groups: groups = '2' is not valid"),
        (LINES + 'model = "cnn"\nwidths = [9]\ngroups = [2]\n', "groups = 2 do not divide width = 9"),
        (LINES + 'halvings = ["max"]\n', "mine.toml:3: halvings: halving = 'max' is not known; choose one of"),
        (LINES + "[paper]\nseedz = [0]\n", "mine.toml:4: seedz: this key is not known; did you mean 'seeds'?"),
        (LINES + "[paper]\npaper = 1\n", "mine.toml:4: paper: this key is not known"),
        (LINES + "paper = 3\n", "mine.toml:3: paper: 3 is not a table; write [paper]"),
        (LINES + 'angles = ["pi/4"]\n', 'mine.toml:3: angles: the method "angle" and a list of angles go together'),
        ('methods = ["angle"]\nlearning_rates = [0.1]\n', 'mine.toml:1: methods: the method "angle" and a list of'),
        (LINES + 'angles = ["q"]\n', "mine.toml:3: angles: angle = 'q': <angle>, line 1, column 1: unknown name 'q'"),
        ("methods = [", "mine.toml: not TOML:"),
        (b"\xff", "mine.toml: not UTF-8 text"),
        ("#" * (LARGEST_FILE + 1), "are too long for an experiment"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(load, text, message):
    with pytest.raises(UsageError) as caught:
        load(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


OWN = """
methods = ["none", "affine-like", "rms-norm"]
learning_rates = [0.1, 1.0]
method_learning_rates = { affine-like = [3, 10.0, 30.0] }
seeds = [0, 1]
[paper]
learning_rates = [0.2]
"""


def test_a_method_may_have_a_grid_of_its_own(load):
    grids = {(t.method, t.learning_rate) for t in load(OWN).trials}
    shared = {(method, rate) for method in ("none", "rms-norm") for rate in (0.1, 1.0)}
    assert grids == shared | {("affine-like", rate) for rate in (3.0, 10.0, 30.0)}
    assert len(load(OWN).trials) == 2 * len(grids)
    assert {t.learning_rate for t in load(OWN, "paper").trials} == {0.2}, "another scale's grid stands for all methods"
    alone = load('methods = ["none"]\nlearning_rates = [0.1]\nmethod_learning_rates = { none = [2.0] }').trials
    assert [t.learning_rate for t in alone] == [2.0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml' does not exist or is not a file; name an existing TOML"):
        load_experiment(tmp_path / "absent.toml")


def test_angles_belong_to_the_method_that_has_them(load):
    found = load('methods = ["angle", "none"]\nangles = ["pi/4", "atan(r)"]\nlearning_rates = [0.1]\n').trials
    assert {(t.method, t.angle) for t in found} == {("none", None), ("angle", "pi/4"), ("angle", "atan(r)")}


SCALED = LINES + 'epochs = 3\nwidths = [8]\n[paper]\nsteps = 7\nwidths = [16, 32]\ndata = "--data"\ncost = "much"\n'


def test_the_paper_scale_changes_the_keys_of_its_table_alone(load):
    small, large = load(SCALED), load(SCALED, "paper")
    assert [(t.width, t.epochs, t.steps) for t in small.trials] == [(8, 3, None)]
    assert [(t.width, t.epochs, t.steps) for t in large.trials] == [(16, None, 7), (32, None, 7)]
    assert (small.data, large.data, large.prose) == ("digits", "--data", (("cost", "much"),))


def test_the_scale_is_part_of_the_text_even_where_the_trials_are_the_same(load):
    small, large = load(LINES + "[paper]\n"), load(LINES + "[paper]\n", "paper")
    assert small.trials == large.trials and small.text != large.text
    assert small.text == load(LINES).text, "what a file without a second scale asks for stays the same"
    assert [scale_of(found.text) for found in (small, large)] == ["cpu", "paper"]


@pytest.mark.parametrize(
    ("text", "scale", "message"),
    [
        (LINES, "paper", "mine.toml: there is no scale 'paper'; add a table [paper]"),
        (LINES, "moon", "scale 'moon' is not known; choose one of cpu, paper"),
        (LINES + "epochs = 2\n[paper]\nwidths = [0]\n", "paper", "mine.toml:5: widths: width = 0 is not valid"),
        (LINES + "[paper]\nepochs = 1\nsteps = 2\n", "paper", "mine.toml:5: steps: the length is also given in epochs"),
    ],
)
def test_a_scale_that_cannot_be_used_is_named(load, text, scale, message):
    with pytest.raises(UsageError) as caught:
        load(text, scale)
    assert message in str(caught.value)


BOTH = [
    pytest.param(path, scale, id=f"{path.stem}-{scale}") for path in sorted(BUNDLED.glob("*.toml")) for scale in SCALES
]


@pytest.mark.parametrize(("path", "scale"), BOTH)
def test_bundled_experiments_say_what_they_ask_and_cost(path, scale):
    found = load_experiment(path, scale=scale)
    prose = dict(found.prose)
    assert set(prose) == {"hypothesis", "criterion", "cost"} and all(prose.values())
    assert prose["cost"].startswith(f"{len(expected(found)):,} trials, ")
    assert all(trial.method in METHODS_OF[trial.model] for trial in found.trials)


def slow_if_generated(case):
    """Layers at an angle are generated first, which takes seconds; ``test_angles`` trains one in every run."""
    return pytest.param(*case.values, id=case.id, marks=pytest.mark.slow) if "angle" in case.id else case


@pytest.mark.parametrize(("path", "scale"), [slow_if_generated(case) for case in BOTH])
def test_a_trial_of_each_bundled_experiment_runs(path, scale):
    trial = load_experiment(path, scale=scale).trials[-1]
    source = "declaration" if trial.model == "transformer" else "digits"
    named, data = with_data(replace(trial, epochs=None, steps=1, evaluation_samples=4), source)
    result = run_trial(named, data)
    assert result.points[-1].step == 1


@pytest.mark.parametrize(("question", "other"), [("batch-size", "batch-size-steps")])
@pytest.mark.parametrize("scale", SCALES)
def test_the_two_regimes_differ_in_the_length_alone(question, other, scale):
    by_epochs, by_steps = (load_experiment(BUNDLED / f"{name}.toml", scale=scale).trials for name in (question, other))
    assert all(trial.steps for trial in by_steps)
    assert {replace(t, steps=1, epochs=None) for t in by_epochs} == {replace(t, steps=1) for t in by_steps}


def test_there_is_a_bundled_experiment_for_a_first_try():
    assert (BUNDLED / "smoke.toml").is_file()


RATES = """
methods = ["none", "affine-like"]
updates = ["sgd", "momentum", "adam"]
learning_rates = [0.1, 0.3]
method_learning_rates = { affine-like = [1.0] }
[update_learning_rates]
adam = [0.001, 0.01]
momentum = { none = [0.02] }
"""


def test_update_rules_have_grids_of_their_own(load):
    rates = {}
    for trial in load(RATES).trials:
        rates.setdefault((trial.update, trial.method), set()).add(trial.learning_rate)
    assert rates == {
        ("sgd", "none"): {0.1, 0.3},
        ("sgd", "affine-like"): {1.0},
        ("adam", "none"): {0.001, 0.01},
        ("adam", "affine-like"): {0.001, 0.01},
        ("momentum", "none"): {0.02},
        ("momentum", "affine-like"): {1.0},
    }


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("adam = [0.001, 0.01]", "nlms = [0.1]", "'nlms' is not one of the updates: sgd, momentum, adam"),
        ("adam = [0.001, 0.01]", "adam = 0.1", r"0.1 is not a list; write \{ adam = \[0.1\] \}"),
        ("{ none = [0.02] }", "{ rms-norm = [0.02] }", "'rms-norm' is not one of the methods: none, affine-like"),
        ("adam = [0.001, 0.01]", "adam = [-1.0]", "learning_rate = -1.0 is not a valid rate"),
    ],
)
def test_grids_of_update_rules_that_cannot_be_are_refused(load, before, after, message):
    with pytest.raises(UsageError, match=f"update_learning_rates: {message}"):
        load(RATES.replace(before, after))
