"""The identity of a trial: everything that its result depends on, as one digest."""

from __future__ import annotations

import hashlib
import json
from functools import cache

import torch

from verify.package_sources import digests
from verify.training import angles
from verify.training.config import TrialConfig

PROCEDURE = 3  # raised when the same settings are to give another result: older results are then not taken for new ones


def trial_id(config: TrialConfig, data_digest: str) -> str:
    """Return the SHA-256, in hexadecimal, of settings, generated layers, data, torch's version and the procedure."""
    parts = {
        "configuration": config.told(),
        "layers": layers_digest(),
        "data": data_digest,
        "torch": torch.__version__,
        "procedure": PROCEDURE,
    }
    if config.angle is not None:
        parts["angle"] = angles.layers_digest(config.angle)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def layers_digest() -> str:
    """Return the SHA-256 of the generated package as it is on the disk, file by file."""
    text = "".join(f"{name}\0{digest}\n" for name, digest in digests().items())
    return hashlib.sha256(text.encode()).hexdigest()
