"""A layer from a TOML file."""

from __future__ import annotations

from derive.declare import forward
from derive.excerpt import SpecError

__all__ = ["SpecError", "forward"]
