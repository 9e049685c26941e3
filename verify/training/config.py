"""The settings of one trial, and the randomness that follows from them and from nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import torch

from derive.errors import UsageError

METHODS = ("none", "batch-norm", "layer-norm", "rms-norm", "norm-like", "affine-like")
ACTIVATIONS = ("tanh", "leaky-relu", "relu")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides a trial. Two trials with equal settings give equal results on the CPU.

    ``depth`` counts hidden layers of ``width`` units. ``probe_every`` is the number of steps between two measurements
    of the self factors, 0 for none. ``split_seed`` chooses the parts of the data, ``seed`` everything else.
    """

    method: str
    learning_rate: float
    seed: int = 0
    data: str = "digits"
    split_seed: int = 0
    model: str = "mlp"
    width: int = 64
    depth: int = 2
    activation: str = "tanh"
    batch_size: int = 32
    epochs: int = 10
    dtype: str = "float64"
    evaluate_every: int = 20
    probe_every: int = 0

    def __post_init__(self) -> None:
        _one_of("method", self.method, METHODS)
        _one_of("activation", self.activation, ACTIVATIONS)
        _one_of("dtype", self.dtype, tuple(DTYPES))
        _one_of("model", self.model, ("mlp",))
        for name in ("width", "depth", "batch_size", "epochs", "evaluate_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("seed", "split_seed", "probe_every"):
            _at_least(name, getattr(self, name), 0)
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(f"learning_rate = {self.learning_rate!r} is not a rate; give a positive finite number")

    @property
    def digest(self) -> str:
        """The SHA-256 of the settings, in hexadecimal: the trial's identity."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def torch_dtype(self) -> torch.dtype:
        """The number format of parameters and data."""
        return DTYPES[self.dtype]


def generator(*key: object) -> torch.Generator:
    """Return a generator of its own whose seed is a digest of ``key``, so that no trial shares another's randomness."""
    digest = hashlib.sha256("/".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} = {value!r} is not known; choose one of {', '.join(known)}")


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} = {value!r} is not usable; give a whole number of at least {least}")
