"""Turn derived maps into code: a tensor program, its backward program, and the text of each target.

``compiler`` is the driver, whose docstring lists the stages; ``catalogue`` is what the shipped package contains;
``targets.base`` lists the targets; ``package`` writes or checks the folder of a package; ``capture`` reads a layer
from a PyTorch module: ``codegen.capture(factory)``.

Not done here: no mathematics of any layer (it comes from ``derive``); no import of torch.
"""

from __future__ import annotations

from typing import Any

from derive.versions import __version__ as __version__


def __getattr__(name: str) -> Any:
    """Import ``capture`` on first use: it needs SymPy, which ``--help`` must not wait for."""
    if name == "capture":
        from importlib import import_module

        return import_module("codegen.capture")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
