"""The settings of one trial, and the randomness that follows from them and from nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from derive.errors import UsageError
from verify.training.angles import parsed

METHODS = ("none", "batch-norm", "layer-norm", "rms-norm", "norm-like", "affine-like")
WIDE_KAPPA = "affine-like-n+1"  # affine-like at kappa = n + 1, the self factor of a plain layer on average
ANGLE = "angle"  # is generated for the angle that a trial names
METHODS_OF = {
    "mlp": (*METHODS, WIDE_KAPPA, "rms-norm-eps", ANGLE),
    "cnn": ("none", "batch-norm", "layer-norm", "rms-norm", "patch-norm", "patch-norm-like", "patch-norm-centred"),
    "transformer": ("none", "layer-norm", "rms-norm", "norm-like", "affine-like", "qk-norm"),
}
DATA = ("digits", "declaration")  # what is built in
UPDATES = ("sgd", "momentum", "adam", "adamw", "nlms", "foof")
ACTIVATIONS = ("tanh", "leaky-relu", "relu")
MODELS = tuple(METHODS_OF)
INITS = ("variance-preserving", "orthogonal", "torch")
DEVICES = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides a trial. Two trials with equal settings give equal results on the CPU.

    ``depth`` counts hidden layers of ``width`` units, convolutions of ``width`` channels, or a transformer's blocks of
    that width. The length is given in ``epochs`` or in ``steps``; the other is None. ``evaluate_every`` and
    ``probe_every`` are the numbers of steps between two evaluations and between two looks into the layers, 0 for none.
    ``seed`` decides first weights, order and the parts of the data, each by a stream of its own; ``split_seed`` fixes
    the parts for all seeds, for who wants that. ``device`` is part of the settings because the bits of a result depend
    on it. ``init`` draws the first weights so that each method starts with pre-activations of unit variance, from a
    normal distribution or with orthogonal rows or columns, or as torch's layers do. ``train_samples`` and
    ``evaluation_samples`` are the most samples of the training part, and of each of the other two, that are used, 0 for
    all: the first of each part, which are in the order of the split's permutation, or of a text. ``angle`` is the t(r)
    of the method ``angle``, such as ``"atan(r)/2"``, and None for every other method. ``context`` is the number of
    characters that a transformer sees; it decides nothing elsewhere.

    Raises:
        UsageError: a setting that cannot be used, or two that cannot be used together.
    """

    method: str
    learning_rate: float
    update: str = "sgd"
    seed: int = 0
    data: str = "digits"
    split_seed: int | None = None
    model: str = "mlp"
    width: int = 64
    depth: int = 2
    activation: str = "tanh"
    batch_size: int = 32
    epochs: int | None = 10
    steps: int | None = None
    dtype: str = "float64"
    device: str = "cpu"
    evaluate_every: int = 20
    probe_every: int = 0
    init: str = "variance-preserving"
    train_samples: int = 0
    evaluation_samples: int = 0
    angle: str | None = None
    context: int = 64

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            _one_of(name, getattr(self, name), known)
        self._check_method()
        for name, (least, most) in _RANGES.items():
            _within(name, getattr(self, name), least, most)
        for name, (least, most) in _OPTIONAL.items():
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), least, most)
        if (self.epochs is None) == (self.steps is None):
            raise UsageError(
                f"epochs = {self.epochs} and steps = {self.steps}: give one of the two, leave the other out"
            )
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
            raise UsageError(f"learning_rate = {rate!r} is not a rate; give a positive finite number")
        if self.method == "batch-norm" and self.batch_size == 1:
            raise UsageError("method = 'batch-norm' has no variance in a batch of one; give a batch_size of at least 2")

    def _check_method(self) -> None:
        own = METHODS_OF[self.model]
        if self.method not in own and any(self.method in methods for methods in METHODS_OF.values()):
            raise UsageError(f"method = {self.method!r} is not one of model = {self.model!r}; choose {', '.join(own)}")
        _one_of("method", self.method, own)
        _check_angle(self.method, self.angle)

    @property
    def digest(self) -> str:
        """The SHA-256 of the settings, in hexadecimal: the trial's identity."""
        return hashlib.sha256(json.dumps(self.told(), sort_keys=True).encode()).hexdigest()

    def told(self) -> dict[str, Any]:
        """Return the settings that decide this trial: all, but for an angle that there is not and other models' own."""
        return {
            name: value
            for name, value in asdict(self).items()
            if (value is not None or name not in _UNTOLD) and self.model in _ONLY.get(name, MODELS)
        }

    @property
    def split(self) -> int:
        """The seed that the parts of the data follow from."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format of parameters and data."""
        return DTYPES[self.dtype]


_CHOICES: dict[str, tuple[str, ...]] = {
    "update": UPDATES,
    "activation": ACTIVATIONS,
    "dtype": tuple(DTYPES),
    "model": MODELS,
    "device": DEVICES,
    "init": INITS,
}
_UNTOLD = ("angle", "split_seed")  # where there is none
_ONLY = {"context": ("transformer",)}  # settings that decide something in these models alone
_RANGES = {  # the largest value is one that no machine at hand outgrows, so that a slip of the hand is refused at once
    "width": (1, 2**20),
    "depth": (1, 1000),
    "batch_size": (1, 2**24),
    "evaluate_every": (0, 10**9),
    "probe_every": (0, 10**9),
    "train_samples": (0, 10**12),
    "evaluation_samples": (0, 10**12),
    "context": (1, 2**20),
    "seed": (0, 2**63 - 1),
}
_OPTIONAL = {"epochs": (1, 10**9), "steps": (1, 10**9), "split_seed": (0, 2**63 - 1)}


def generator(*key: object) -> torch.Generator:
    """Return a generator whose seed is a digest of ``key``: one for each purpose, so that no purpose disturbs another.

    First weights follow from seed and layer, the order of the samples from seed and epoch, a probe's directions from
    seed and step, and from nothing else: they are the same for all methods, rates, number formats and measurements.
    """
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check_angle(method: str, angle: object) -> None:
    """Refuse an angle that cannot be read, one without its method, and the method without one."""
    if (method == ANGLE) != (angle is not None):
        raise UsageError(
            f"method = {method!r} and angle = {angle!r}: the method 'angle' has an angle, and no other has"
        )
    if angle is None:
        return
    if not isinstance(angle, str):
        raise UsageError(f'angle = {angle!r} is no text; give an angle t(r) such as "atan(r)"')
    parsed(angle)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")


def _within(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value!r} is not usable; give a whole number of at least {least}")
    if value > most:
        raise UsageError(f"{name} = {value!r} is too large; give a whole number of at most {most}")
