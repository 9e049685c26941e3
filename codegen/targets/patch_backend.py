"""Which maps of convolutions have kernels.

Maps of centred patches are torch's in every target: their energy is a difference of sums, of which rounding may leave
nothing, and torch has the rule for that.
"""

from __future__ import annotations

from collections.abc import Sequence

from codegen.targets.torch.companions import has_companions
from codegen.targets.torch.patch_family import PatchMap
from codegen.targets.torch.patch_files import patch_maps
from codegen.targets.torch.words import Family


def maps_with_kernels(families: Sequence[Family]) -> tuple[PatchMap, ...]:
    """Return the maps of convolutions that have kernels, in a package of these families."""
    if not has_companions(families):
        return ()
    return tuple(sorted((m for m in patch_maps() if not m.centred), key=lambda m: m.module))
