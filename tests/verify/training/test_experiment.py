"""Experiment files: the product of the lists, and errors that name file, line, key, value and mend."""

import pytest

from derive.errors import UsageError
from verify.training.cli import BUNDLED
from verify.training.config import METHODS, TrialConfig
from verify.training.experiment import LARGEST_FILE, load_experiment

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
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_experiment(path)

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
        (LINES + "seeds = [-1]\n", "mine.toml:3: seeds: seed = -1 is not usable; give a whole number of at least 0"),
        (LINES + "seeds = [true]\n", "mine.toml:3: seeds: seed = True is not usable"),
        (LINES + "seeds = [[1]]\n", "mine.toml:3: seeds: [1] is not a single value"),
        (LINES + 'widths = ["8"]\n', "mine.toml:3: widths: width = '8' is not usable"),
        (LINES + "depths = [9999999]\n", "mine.toml:3: depths: depth = 9999999 is too large"),
        (LINES + 'updates = ["lion"]\n', "mine.toml:3: updates: update = 'lion' is not known; choose one of sgd"),
        (LINES + 'model = "rnn"\n', "mine.toml:3: model: model = 'rnn' is not known"),
        (LINES + 'activation = "gelu"\n', "mine.toml:3: activation: activation = 'gelu' is not known"),
        (LINES + "epochs = 1\nsteps = 2\n", "mine.toml:4: steps: the length is given in epochs too; keep one"),
        (LINES + "epochs = 0\n", "mine.toml:3: epochs: epochs = 0 is not usable"),
        (LINES + 'data = "nowhere"\n', "mine.toml:3: data: 'nowhere' is no data set"),
        (LINES + "data = 3\n", "mine.toml:3: data: 3 is not a text"),
        (LINES + f"seeds = {list(range(400))}\nwidths = {list(range(1, 400))}\n", "159600 trials; at most 100000"),
        ('methods = ["none", "l2"]\nlearning_rates = [0.1]', "mine.toml:1: methods: method = 'l2' is not known"),
        ('methods = ["none"]\nlearning_rates = [0.1, nan]', "mine.toml:2: learning_rates: learning_rate = nan is not"),
        ('methods = ["none"]\nlearning_rates = [0]', "mine.toml:2: learning_rates: learning_rate = 0.0 is not a rate"),
        ('methods = ["none"]\nlearning_rates = ["0.1"]', "mine.toml:2: learning_rates: learning_rate = '0.1' is not"),
        (
            'methods = ["batch-norm"]\nlearning_rates = [0.1]\nbatch_sizes = [1, 2]',
            "mine.toml: two lists do not go together: method = 'batch-norm' has no variance in a batch of one",
        ),
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


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml' does not exist"):
        load_experiment(tmp_path / "absent.toml")


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.toml")), ids=lambda path: path.stem)
def test_bundled_experiments_say_what_they_ask_and_cost(path):
    found = load_experiment(path)
    prose = dict(found.prose)
    assert set(prose) == {"hypothesis", "criterion", "cost"} and all(prose.values())
    assert prose["cost"].startswith(f"{len(found.trials):,} trials, ")
    assert {trial.method for trial in found.trials} <= set(METHODS)


def test_there_is_a_bundled_experiment_for_a_first_try():
    assert (BUNDLED / "smoke.toml").is_file()
