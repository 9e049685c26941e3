"""The generator's targets: the values of ``backend``, and what each needs besides torch."""

from __future__ import annotations

BACKENDS = ("torch", "triton", "cuda", "cpp")
DEVICES = {
    "triton": "cuda",
    "cuda": "cuda",
    "cpp": "cpu",
}
NEEDS = {
    "triton": "triton",
    "cuda": "cuda.core",
}
INTERPRETED = frozenset({"triton"})
INSTALL = {
    "triton": "pip install triton",
    "cuda": "pip install cuda-core[cu13]",
}
