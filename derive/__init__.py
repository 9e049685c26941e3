"""Derive the effective activation update of a layer from its forward map, and the maps that cancel its divergence.

    layer = derive.layer("affine")                 a forward map, nothing else
    d = derive.effective_update(layer)             its update kernel, self factor and cross terms, step by step
    derive.solve(layer)                            the maps that cancel the divergence, with their properties

SymPy is loaded when one of these is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from derive.versions import __version__ as __version__
from derive.versions import warn_of_untested

if TYPE_CHECKING:
    from derive.backward_pass import backward as backward
    from derive.cancel import solve as solve
    from derive.export.latex import latex as latex
    from derive.layers import layer as layer
    from derive.layers import layer_names as layer_names
    from derive.spec import load_spec as load_spec
    from derive.update import effective_update as effective_update
    from derive.update import update_kernel as update_kernel

_HOMES = {
    "backward": "derive.backward_pass",
    "effective_update": "derive.update",
    "latex": "derive.export.latex",
    "layer": "derive.layers",
    "layer_names": "derive.layers",
    "load_spec": "derive.spec",
    "solve": "derive.cancel",
    "update_kernel": "derive.update",
}

__all__ = sorted(_HOMES)

warn_of_untested()


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'derive' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
