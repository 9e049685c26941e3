"""The derivations of named layers, computed once per process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import derive
from derive.record import Derivation


@cache
def derived(layer: str) -> Derivation:
    """Return the derivation of a named layer with its maps, its steps unchecked; LayerError if it is unknown."""
    forward = derive.layer(layer)
    found = derive.solve(forward)
    return replace(derive.effective_update(forward), solutions=tuple(found.maps), refusals=tuple(found.refusals))
