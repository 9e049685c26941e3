"""What a target is, and the only list of targets: the compiler, the generated package and ``verify`` read it here.

A target prints programs as code of one kind. Its folder holds its printer, its templates and its runtime files; it
imports no other target. To add one, see ``targets/README.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from derive.errors import UsageError

if TYPE_CHECKING:
    from codegen.plans.layers import LayerPlan
    from codegen.plans.patch_maps import PatchMap
    from codegen.printing.naming import AngleFamily, Family
    from derive.forward_map import Layer

ROWS, PATCHES, PLAIN_PATCHES, LAYERS = "rows", "patches", "plain patches", "layers"

REASONS = {
    "form": "its kernels are for layers of one input and one matrix, z = W x or z = W x + b, and for convolutions",
    "patches": "its kernels are for convolutions without groups that are neither centred nor transposed",
    "arithmetic": "its kernels lack a function or an index that this layer uses",
}
"""Why a target has no kernels for a layer: a closed list, which the manifest, ``affdiv layers`` and messages quote."""


@dataclass(frozen=True)
class Target:
    """One kind of code.

    Attributes:
        name: what ``--targets`` and ``backend=`` call it.
        title: what it computes a map by, in words.
        device: the type of device whose tensors it takes; "any" for every device.
        forms: which maps it prints: ``rows``, those of one matrix; ``patches``, those of any convolution, or
            ``plain patches``, those of one without groups that is neither centred nor transposed; ``layers``, those
            of a layer of any form.
        library: the module that its code needs at run time beside torch; "" for none.
        install: the command that installs that module.
        interpreted: whether its kernels also run on the CPU, slowly, without a device.
    """

    name: str
    title: str
    device: str
    forms: frozenset[str]
    library: str = ""
    install: str = ""
    interpreted: bool = False

    def files(self, families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
        """Return the text of every file of the catalogue's maps by its name in the package.

        Raise ``UsageError`` for a map with a part that the target cannot print.
        """
        found: dict[str, str] = import_module(f"codegen.targets.{self.name}.target").files(families, angles)
        return found

    def patch_layer_files(self, maps: Sequence[PatchMap]) -> dict[str, str]:
        """Return the text of every file of kernels for a layer that is a convolution with these maps."""
        found: dict[str, str] = import_module(f"codegen.targets.{self.name}.target").patch_layer_files(maps)
        return found

    def layer_files(self, layer: Layer, plans: Sequence[LayerPlan]) -> dict[str, str]:
        """Return the text of every file of kernels for the maps of one layer of any form, by its name in the package.

        Raise ``UsageError`` for arithmetic that the target cannot print.
        """
        module = import_module(f"codegen.targets.{self.name}.layer_target")
        found: dict[str, str] = module.layer_files(layer, plans)
        return found


_CATALOGUE = frozenset({ROWS, PATCHES, PLAIN_PATCHES})
TARGETS = (
    Target("torch", "torch's operations", "any", _CATALOGUE | {LAYERS}),
    Target(
        "triton",
        "kernels in Triton",
        "cuda",
        _CATALOGUE,
        "triton",
        "pip install triton",
        interpreted=True,
    ),
    Target(
        "cuda",
        "kernels in CUDA C++",
        "cuda",
        _CATALOGUE,
        "cuda.core",
        "pip install cuda-core[cu13]",
    ),
    Target("cpp", "kernels in C++", "cpu", frozenset({ROWS, PLAIN_PATCHES, LAYERS})),
)
NAMES = tuple(target.name for target in TARGETS)
PLAIN, *_WITH_KERNELS = TARGETS
KERNELS = tuple(_WITH_KERNELS)


def target(name: str) -> Target:
    """Return a target by its name; raise ``UsageError`` for one that is not in the list."""
    found = {t.name: t for t in TARGETS}.get(name)
    if found is None:
        raise UsageError(f"target {name!r} is not known; choose among {', '.join(NAMES)}")
    return found


def check_targets(names: Sequence[str]) -> None:
    """Raise ``UsageError`` unless the targets are known and include plain PyTorch, which every package needs."""
    if PLAIN.name not in names or any(n not in NAMES for n in names):
        raise UsageError(f"targets {','.join(names)!r}: {PLAIN.name} is needed, and known are: {', '.join(NAMES)}")
