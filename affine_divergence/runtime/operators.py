"""Operators that compilers do not look into, for launchers of kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_PACKAGE = __name__.removesuffix(".runtime.operators")
_NAME = _PACKAGE.replace(".", "_")
LIBRARY = torch.library.Library(_NAME, "FRAGMENT")  # type: ignore[no-untyped-call]


def register(name: str, schema: str, kernels: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``kernels`` as an operator that compilers do not look into; ``shapes`` gives tensors like its results."""
    LIBRARY.define(name + schema)  # type: ignore[no-untyped-call]
    for device in ("CUDA", "CPU"):
        LIBRARY.impl(name, kernels, device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{LIBRARY.ns}::{name}", shapes, lib=LIBRARY)
    operator: Callable[..., Any] = getattr(getattr(torch.ops, LIBRARY.ns), name).default
    return operator
