"""The settings of one trial, and the random generators, which depend on the settings alone."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from derive.errors import UsageError
from verify.training.angles import parsed

METHODS = ("none", "batch-norm", "layer-norm", "rms-norm", "norm-like", "affine-like")
WIDE_KAPPA = "affine-like-n+1"  # affine-like at kappa = n + 1, the self factor of a plain layer on average
ANGLE = "angle"  # its layer is generated for the trial's angle
METHODS_OF = {
    "mlp": (*METHODS, WIDE_KAPPA, "rms-norm-eps", ANGLE),
    "cnn": ("none", "batch-norm", "layer-norm", "rms-norm", "patch-norm", "patch-norm-like", "patch-norm-centred"),
    "transformer": ("none", "layer-norm", "rms-norm", "norm-like", "affine-like", "qk-norm"),
}
DATA = ("digits", "declaration")  # the built-in data sets
UPDATES = ("sgd", "momentum", "adam", "adamw", "nlms", "foof")
ACTIVATIONS = ("tanh", "leaky-relu", "relu")
MODELS = tuple(METHODS_OF)
HALVINGS = ("stride", "pool")
INITS = ("variance-preserving", "orthogonal", "torch")
DEVICES = ("cpu", "cuda")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrialConfig:
    """All settings that determine a trial. Trials with equal settings give equal results on the CPU.

    ``depth`` counts hidden layers of ``width`` units, convolutions of ``width`` channels, or transformer blocks of that
    width. The length is given in ``epochs`` or in ``steps``; the other is None. ``evaluate_every`` and ``probe_every``
    are the numbers of steps between two evaluations and between two probes of the layers; 0 means none. ``seed``
    determines initial weights, order and data split, each through a separate stream; ``split_seed`` fixes the split for
    all seeds. ``device`` is a setting because the bits of a result depend on it.

    ``init`` draws the initial weights so that each method starts with pre-activations of unit variance, from a normal
    distribution or with orthogonal rows or columns; or it draws them as torch's layers do. ``train_samples`` and
    ``evaluation_samples`` limit the number of training samples, and of samples in each of the other two parts, to the
    first ones (in the order of the split's permutation, or of the text); 0 means all. ``angle`` is the t(r) of the
    method ``angle``, such as ``"atan(r)/2"``, and None for every other method. ``context`` is the number of characters
    that a transformer sees; other models ignore it. ``kernel``, ``groups`` and ``halving`` belong to convolutional
    networks: the side of all kernels, the channel groups of all convolutions but the first, and whether a stride or
    average pooling halves the image.

    Raises:
        UsageError: an invalid setting, or two settings that contradict each other.
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
    kernel: int = 3
    groups: int = 1
    halving: str = "stride"

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
            raise UsageError(f"learning_rate = {rate!r} is not a valid rate; give a positive finite number")
        self._check_convolutions()
        if self.method == "batch-norm" and self.batch_size == 1:
            raise UsageError(
                "method = 'batch-norm' cannot compute a variance in a batch of one; give a batch_size of at least 2"
            )

    def _check_method(self) -> None:
        own = METHODS_OF[self.model]
        if self.method not in own and any(self.method in methods for methods in METHODS_OF.values()):
            raise UsageError(f"method = {self.method!r} is not one of model = {self.model!r}; choose {', '.join(own)}")
        _one_of("method", self.method, own)
        _check_angle(self.method, self.angle)

    def _check_convolutions(self) -> None:
        """Reject invalid convolutions, and settings of convolutions in other networks."""
        given = [name for name in _CONVOLUTIONAL if getattr(self, name) != _DEFAULTS[name]]
        if given and self.model != "cnn":
            raise UsageError(f"{given[0]} = {getattr(self, given[0])!r} needs convolutions; write model = 'cnn'")
        if self.kernel % 2 == 0:
            raise UsageError(f"kernel = {self.kernel} is not odd; give an odd number")
        if self.width % self.groups:
            raise UsageError(f"groups = {self.groups} do not divide width = {self.width}; give a divisor")
        if self.groups > 1 and (self.probe_every or self.update in ("nlms", "foof")):
            raise UsageError(
                f"groups = {self.groups} with update = {self.update!r} and probe_every = {self.probe_every}: probes, "
                "nlms and foof do not support grouped layers; give groups = 1, or sgd without probes"
            )

    @property
    def digest(self) -> str:
        """The SHA-256 of the settings, in hexadecimal: the trial's identity."""
        return hashlib.sha256(json.dumps(self.told(), sort_keys=True).encode()).hexdigest()

    def told(self) -> dict[str, Any]:
        """Return the settings that determine this trial, without unset optional ones and those of other models."""
        return {
            name: value
            for name, value in asdict(self).items()
            if (value != _DEFAULTS.get(name) or name not in _UNTOLD) and self.model in _ONLY.get(name, MODELS)
        }

    @property
    def split(self) -> int:
        """The seed of the data split."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of parameters and data."""
        return DTYPES[self.dtype]


_DEFAULTS = {field.name: field.default for field in fields(TrialConfig)}
_CHOICES: dict[str, tuple[str, ...]] = {
    "update": UPDATES,
    "activation": ACTIVATIONS,
    "dtype": tuple(DTYPES),
    "model": MODELS,
    "device": DEVICES,
    "init": INITS,
    "halving": HALVINGS,
}
_CONVOLUTIONAL = ("kernel", "groups", "halving")
_UNTOLD = ("angle", "split_seed", *_CONVOLUTIONAL)  # left out of the identity at their defaults
_ONLY = {"context": ("transformer",)}  # settings that only these models use
_RANGES = {  # upper limits beyond any available machine, so that a typing error is rejected at once
    "kernel": (1, 1023),
    "groups": (1, 2**20),
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
    """Return a generator whose seed is a digest of ``key``; each purpose has its own, independent of the others.

    Initial weights depend only on seed and layer, the order of samples on seed and epoch, a probe's directions on seed
    and step: they are the same for all methods, rates, dtypes and measurements.
    """
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _check_angle(method: str, angle: object) -> None:
    """Raise UsageError for an unreadable angle, an angle without the method ``angle``, and that method without one."""
    if (method == ANGLE) != (angle is not None):
        raise UsageError(
            f"method = {method!r} and angle = {angle!r}: the method 'angle' needs an angle, and no other method takes "
            "one"
        )
    if angle is None:
        return
    if not isinstance(angle, str):
        raise UsageError(f'angle = {angle!r} is not text; give an angle t(r) such as "atan(r)"')
    parsed(angle)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")


def _within(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value!r} is not valid; give a whole number of at least {least}")
    if value > most:
        raise UsageError(f"{name} = {value!r} is too large; give a whole number of at most {most}")
