"""Experiments in TOML files; the trials are the product of the lists in a file.

    data = "digits"                    # or "declaration", a text; or a path, or --data PATH
    methods = ["none", "affine-like"]
    updates = ["sgd"]
    learning_rates = [0.1, 1.0]
    batch_sizes = [32, 128]
    seeds = [0, 1]
    model = "mlp"                      # or cnn, transformer
    widths = [16]
    depths = [2]
    activation = "tanh"                # or a list
    inits = ["variance-preserving"]    # "torch": initial values as in torch's layers
    kernels = [3, 5]                   # side of the kernels of a cnn
    groups = [1, 4]                    # channel groups of all its convolutions but the first
    halvings = ["stride", "pool"]      # how every second convolution halves the image
    epochs = 2                         # or steps = 500

``methods`` and ``learning_rates`` are required; other keys default to the values of ``TrialConfig``.
``method_learning_rates = { affine-like = [1.0, 10.0] }`` gives single methods their own grid instead of
``learning_rates``: the good rates of two methods may differ by a factor of 100, like their kappas (theory, section 2).
``update_learning_rates = { adam = [0.001, 0.01] }`` does the same for update rules, and takes precedence; a table
instead of the list, ``{ momentum = { none = [0.01], affine-like = [1.0] } }``, gives grids to methods under that rule
only, and an empty grid, ``{ nlms = { affine-like = [] } }``, leaves a method out under that rule. Batch normalisation
skips batch size 1 if there are other batch sizes.
``angles = ["pi/4", "atan(r)"]`` are the members t(r) of the affine family that the method ``angle`` covers.
Further keys: ``dtype``, ``evaluate_every``, ``probe_every``, ``split_seed``, ``train_samples``, ``evaluation_samples``,
``context``, and, for the reader, ``hypothesis``, ``criterion``, ``cost``. `affdiv experiment plan` uses ``effect`` (to
be detected), ``deviation`` (the standard deviation of a paired difference, in the same unit) and ``power`` (default
0.8). ``[[hypotheses]]`` declare the hypotheses that the runs test: see `verify.training.own_hypotheses`. ``[design]``
runs a balanced part of the product: see `verify.training.design`. With ``judging = "best"`` the judging seeds train
only at the chosen rates: see `verify.training.stages`.

A file has two scales. The keys above are for the scale ``cpu``; a table ``[paper]`` at the end holds the keys that
differ at the scale ``paper``. There ``data = "--data"`` means that the user names the data on the command line.

Stages: file -> ``tomllib`` -> the keys of one scale -> each value checked, with its line -> the product, each trial
checked as a whole.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections import Counter
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from derive.errors import UsageError
from derive.toml_places import places
from verify.files import expanded
from verify.training import design
from verify.training.config import ANGLE, DATA, MODELS, TrialConfig
from verify.training.own_hypotheses import Hypothesis, read

LARGEST_FILE = 64 * 1024
MOST_TRIALS = 100_000

_LISTS = {  # keys that hold a list, and the setting that its values are for
    "methods": "method",
    "updates": "update",
    "learning_rates": "learning_rate",
    "batch_sizes": "batch_size",
    "seeds": "seed",
    "widths": "width",
    "depths": "depth",
    "activation": "activation",
    "inits": "init",
    "kernels": "kernel",
    "groups": "groups",
    "halvings": "halving",
    "angles": "angle",
}
_SINGLE = (
    "model",
    "epochs",
    "steps",
    "dtype",
    "evaluate_every",
    "probe_every",
    "split_seed",
    "train_samples",
    "evaluation_samples",
    "context",
)
_JUDGING, ALL, BEST = "judging", "all", "best"
_PROSE = ("hypothesis", "criterion", "cost")
_AIMS = ("effect", "deviation", "power")
_OWN_RATES = "method_learning_rates"
_UPDATE_RATES = "update_learning_rates"
_HYPOTHESES, _DESIGN = "hypotheses", "design"
KEYS = ("data", *_LISTS, _OWN_RATES, _UPDATE_RATES, *_SINGLE, _JUDGING, *_PROSE, *_AIMS, _HYPOTHESES, _DESIGN)
CPU, PAPER = "cpu", "paper"
SCALES = (CPU, PAPER)
GIVEN = "--data"  # value of ``data``: the command line names the data
_LENGTHS = ("epochs", "steps")
_TOGETHER: dict[tuple[str, str | None], dict[str, str]] = {  # settings needed to check a single value
    ("angle", None): {"method": ANGLE},
    ("method", ANGLE): {"angle": "atan(r)"},
    ("kernel", None): {"model": "cnn"},
    ("groups", None): {"model": "cnn"},
    ("halving", None): {"model": "cnn"},
}
_REQUIRED = {"methods": 'methods = ["none", "affine-like"]', "learning_rates": "learning_rates = [0.1, 1.0]"}


@dataclass(frozen=True)
class Experiment:
    """A named experiment: its trials before the data is loaded, and its file's texts for the reader.

    ``data`` is a built-in name, a path or ``--data``; every trial's own ``data`` is a placeholder until the data is
    loaded. ``judging`` is "all" or "best", see `verify.training.stages`. ``aims`` are the effect, deviation and power
    in the file; ``hypotheses`` are those it declares.
    """

    name: str
    data: str
    trials: tuple[TrialConfig, ...]
    prose: tuple[tuple[str, str], ...] = ()
    scale: str = CPU
    aims: tuple[tuple[str, float], ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()
    judging: str = ALL

    @property
    def text(self) -> str:
        """The experiment in one line of JSON, equal for files that describe the same trials, data and scale."""
        scale = {} if self.scale == CPU else {"scale": self.scale}
        scale |= {} if self.judging == ALL else {"judging": self.judging}
        return json.dumps({"data": self.data, **scale, "trials": sorted(trial.digest for trial in self.trials)})


def scale_of(text: str) -> str:
    """Return the scale of an experiment's canonical text."""
    return str(json.loads(text).get("scale", CPU))


def load_experiment(path: Path, name: str | None = None, scale: str = CPU) -> Experiment:
    """Return the experiment of a TOML file at a scale; the default name is the file's name without its ending.

    Raises:
        UsageError: the file cannot be read or used, or lacks the scale; the text names file, line, key, value and fix.
    """
    if not path.is_file():
        raise UsageError(f"experiment file {str(path)!r} does not exist or is not a file; name an existing TOML file")
    content = path.read_bytes()
    if len(content) > LARGEST_FILE:
        raise UsageError(
            f"{path}: {len(content)} bytes are too long for an experiment; at most {LARGEST_FILE} are read"
        )
    try:
        source = content.decode("utf-8-sig").replace("\r\n", "\n")
        table = tomllib.loads(source)
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: not UTF-8 text (byte {problem.start}); save the file as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise UsageError(f"{path}: not TOML: {problem}; write lines such as learning_rates = [0.1, 1.0]") from None
    return _Reader(path, source, table, scale).experiment(name or path.stem)


class _Reader:
    """Turns the table of one file at one scale into trials; ``larger`` holds the changes for the paper scale."""

    def __init__(self, path: Path, source: str, table: dict[str, Any], scale: str) -> None:
        self.path, self.source, self.scale = path, source, scale
        self.places = places(source)
        self.larger: dict[str, Any] = {}
        for key in table:
            self._known(key, (*KEYS, PAPER))
        self.table = {key: value for key, value in table.items() if key != PAPER}
        if scale not in SCALES:
            raise UsageError(f"scale {scale!r} is not known; choose one of {', '.join(SCALES)}")
        if PAPER in table or scale == PAPER:
            self._enlarge(table.get(PAPER))

    def _enlarge(self, larger: Any) -> None:
        """Check the names of the paper scale's keys and, at that scale, override the file's keys with them."""
        if larger is None:
            raise UsageError(f"{self.path}: there is no scale 'paper'; add a table [{PAPER}] with the keys that differ")
        if not isinstance(larger, dict):
            raise self._error(PAPER, f"{larger!r} is not a table; write [{PAPER}] and, below it, the keys that differ")
        self.larger = larger
        for key in larger:
            self._known(key, KEYS)
        if self.scale == PAPER:
            kept = (
                {}
                if any(key in larger for key in _LENGTHS)
                else {k: self.table[k] for k in _LENGTHS if k in self.table}
            )
            replaced = (*_LENGTHS, *((_OWN_RATES, _UPDATE_RATES) if "learning_rates" in larger else ()))
            self.table = {k: v for k, v in self.table.items() if k not in replaced} | kept | larger
        else:
            self.larger = {}

    def experiment(self, name: str) -> Experiment:
        """Return the file as an experiment with the given name."""
        for key, example in _REQUIRED.items():
            if key not in self.table:
                raise UsageError(f"{self.path}: the key {key!r} is missing; add a line such as {example}")
        lists = {
            setting: self._values(key, setting, self.table[key]) for key, setting in _LISTS.items() if key in self.table
        }
        single = {key: self._checked(key, key, self.table[key]) for key in _SINGLE if key in self.table}
        if "epochs" in single and "steps" in single:
            raise self._error("steps", "the length is also given in epochs; keep one of the two lines")
        if "steps" in single:
            single["epochs"] = None
        prose = tuple((key, self._text(key)) for key in _PROSE if key in self.table)
        aims = tuple((key, self._number(key)) for key in _AIMS if key in self.table)
        trials = self._product(self._by_angle(self._by_update(lists)), single, self._cells(lists))
        own = read(self.table.get(_HYPOTHESES, []), trials, lambda text: self._error(_HYPOTHESES, text))
        return Experiment(name, self._data(), trials, prose, self.scale, aims, own, self._judging())

    def _judging(self) -> str:
        value = self.table.get(_JUDGING, ALL)
        if value not in (ALL, BEST):
            raise self._error(_JUDGING, f'{value!r} is not known; write {_JUDGING} = "{ALL}" or "{BEST}"')
        return str(value)

    def _cells(self, lists: dict[str, list[Any]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Return the settings of a design's factors and their values in each cell; by default the full product."""
        if _DESIGN not in self.table:
            return (), [()]
        by_key = {key: lists[setting] for key, setting in _LISTS.items() if setting in lists}
        factors, cells = design.read(self.table[_DESIGN], by_key, lambda text: self._error(_DESIGN, text))
        return tuple(_LISTS[factor] for factor in factors), cells

    def _by_update(self, lists: dict[str, list[Any]]) -> list[dict[str, list[Any]]]:
        """Return the lists once for every grid of rates, each with the update rules and methods that use it."""
        updates, own = lists.get("update", ["sgd"]), self._own_rates(lists["method"])
        given = self.table.get(_UPDATE_RATES, {})
        if not isinstance(given, dict):
            raise self._error(_UPDATE_RATES, f"{given!r} is not a table; write {{ {updates[0]} = [0.1, 1.0] }}")
        strange = next((update for update in given if update not in updates), None)
        if strange is not None:
            raise self._error(_UPDATE_RATES, f"{strange!r} is not one of the updates: {', '.join(updates)}")
        shared = [update for update in updates if update not in given]
        found = self._by_grid(lists | ({"update": shared} if "update" in lists else {}), own) if shared else []
        for update, rates in given.items():
            under = lists | {"update": [update]}
            if isinstance(rates, dict):
                found += self._by_grid(under, own | self._own_rates(lists["method"], _UPDATE_RATES, rates))
            else:
                found += self._by_grid(under | {"learning_rate": self._rates(_UPDATE_RATES, update, rates)}, {})
        return found

    def _by_grid(self, lists: dict[str, list[Any]], own: dict[str, list[float]]) -> list[dict[str, list[Any]]]:
        """Return the lists once for every grid of rates, each with the methods that use it; unused grids drop out."""
        shared = [method for method in lists["method"] if method not in own]
        grids = [(shared, lists["learning_rate"]), *(([method], rates) for method, rates in own.items())]
        return [lists | {"method": methods, "learning_rate": rates} for methods, rates in grids if methods and rates]

    def _by_angle(self, grids: list[dict[str, list[Any]]]) -> list[dict[str, list[Any]]]:
        """Return the lists with angles for the method ``angle``, and without them for the other methods."""
        if any(ANGLE in lists["method"] for lists in grids) != ("angles" in self.table):
            key = "angles" if "angles" in self.table else "methods"
            raise self._error(key, 'the method "angle" and a list of angles go together; write angles = ["atan(r)"]')
        split = []
        for lists in grids:
            plain = [method for method in lists["method"] if method != ANGLE]
            split += [{k: v for k, v in lists.items() if k != "angle"} | {"method": plain}] if plain else []
            split += [lists | {"method": [ANGLE]}] if ANGLE in lists["method"] else []
        return split

    def _own_rates(self, methods: list[str], key: str = _OWN_RATES, given: Any = None) -> dict[str, list[float]]:
        """Return the grid of each method that has its own, from ``given`` or from ``key`` in the file."""
        given = self.table.get(key, {}) if given is None else given
        if not isinstance(given, dict):
            raise self._error(key, f"{given!r} is not a table; write {key} = {{ {methods[0]} = [0.1, 1.0] }}")
        for method in given:
            if method not in methods:
                raise self._error(key, f"{method!r} is not one of the methods: {', '.join(methods)}")
        left_out = [m for m, rates in given.items() if rates == [] and key == _UPDATE_RATES]
        return {m: [] if m in left_out else self._rates(key, m, rates) for m, rates in given.items()}

    def _rates(self, key: str, name: str, rates: Any) -> list[float]:
        """Return the checked grid of the named method or update rule."""
        if not isinstance(rates, list):
            raise self._error(key, f"{rates!r} is not a list; write {{ {name} = [{_toml(rates)}] }}")
        return self._values(key, "learning_rate", rates)

    def _known(self, key: str, keys: tuple[str, ...]) -> None:
        if key in keys:
            return
        near = difflib.get_close_matches(key, keys, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(keys)}"
        raise self._error(key, f"this key is not known; {hint}")

    def _values(self, key: str, setting: str, given: Any) -> list[Any]:
        """Return the checked values of a list."""
        values = [given] if key == "activation" and isinstance(given, str) else given
        if not isinstance(values, list):
            raise self._error(key, f"{given!r} is not a list; write {key} = [{_toml(given)}]")
        if not values:
            raise self._error(key, "the list is empty; give at least one value")
        checked = [self._checked(key, setting, value) for value in values]
        seen = Counter(checked)
        twice = next((v for v in checked if seen[v] > 1), None)
        if twice is not None:
            raise self._error(key, f"{twice!r} is given twice; give each value once")
        return checked

    def _checked(self, key: str, setting: str, value: Any) -> Any:
        """Return one value in its setting's type, checked on its own within otherwise valid settings."""
        if setting == "learning_rate" and type(value) is int and abs(value) < 2**53:
            value = float(value)
        change = {setting: value, **_TOGETHER.get((setting, value if setting == "method" else None), {})}
        if setting == "steps":
            change["epochs"] = None
        if setting == "groups":
            change["width"] = value  # which they must divide
        if isinstance(value, dict | list):
            raise self._error(key, f"{value!r} is not a single value; give one value here")
        if setting == "method" and self.table.get("model") in MODELS:
            change["model"] = self.table["model"]
        try:
            TrialConfig(**{"method": "none", "learning_rate": 1.0, **change})
        except UsageError as problem:
            raise self._error(key, str(problem)) from None
        return value

    def _text(self, key: str) -> str:
        value = self.table[key]
        if not isinstance(value, str):
            raise self._error(key, f'{value!r} is not text; write {key} = "..."')
        return value

    def _number(self, key: str) -> float:
        """Return the given effect, deviation or power."""
        value, most = self.table[key], 1.0 if key == "power" else math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < most:
            raise self._error(
                key, f"{value!r} is not a valid {key}; give a number above 0" + (" and below 1" * (most == 1))
            )
        return float(value)

    def _data(self) -> str:
        """Return the data set's name, or its path relative to the file's folder."""
        data = self._text("data") if "data" in self.table else "digits"
        if data in (*DATA, GIVEN):
            return data
        try:
            path = self.path.absolute().parent / expanded(data)
        except UsageError as problem:
            raise self._error("data", str(problem)) from None
        if not path.exists():
            known = " or ".join(map(_toml, DATA))
            raise self._error(
                "data", f"{data!r} is not a data set: it is neither {known} nor an existing path ({str(path)!r})"
            )
        return str(path)

    def _product(
        self,
        grids: list[dict[str, list[Any]]],
        single: dict[str, Any],
        cells: tuple[tuple[str, ...], list[tuple[Any, ...]]],
    ) -> tuple[TrialConfig, ...]:
        factors, wanted = cells
        fixed = [dict(zip(factors, ([value] for value in cell), strict=True)) for cell in wanted]
        parts = [
            lists | cell
            for lists in grids
            for cell in fixed
            if all(v[0] in lists[factor] for factor, v in cell.items())
        ]
        count = sum(math.prod(map(len, lists.values())) for lists in parts)
        if count > MOST_TRIALS:
            raise UsageError(f"{self.path}: the lists give {count} trials, more than {MOST_TRIALS}; shorten them")
        try:
            return tuple(
                TrialConfig(**dict(zip(lists, values, strict=True)), **single)
                for lists in parts
                for values in product(*lists.values())
                if not _without_variance(dict(zip(lists, values, strict=True)), lists)
            )
        except UsageError as problem:
            raise UsageError(f"{self.path}: two lists contradict each other: {problem}") from None

    def _error(self, key: str, message: str) -> UsageError:
        place = self.places.get((PAPER, key)) if key in self.larger else self.places.get((key,))
        line = f":{self.source.count(chr(10), 0, place.key[0]) + 1}" if place else ""
        return UsageError(f"{self.path}{line}: {key}: {message}")


def _without_variance(trial: dict[str, Any], lists: dict[str, list[Any]]) -> bool:
    """Return whether this is batch-norm in a batch of one, beside larger batches."""
    return trial["method"] == "batch-norm" and trial.get("batch_size") == 1 and len(lists["batch_size"]) > 1


def _toml(value: Any) -> str:
    return json.dumps(value, default=str)


SETTINGS = tuple(field.name for field in fields(TrialConfig))
