"""The maps of convolutions in a package, and the names of their files and classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from codegen.plans.patches import PatchPlan, patch_plan
from codegen.printing.naming import pascal, snake
from derive.cancel import solve
from derive.forward_map import Layer
from derive.layers.convolution import convolution, transposed_convolution

_AXES = 2  # of space, over which the maps are derived; their code takes any number


@dataclass(frozen=True)
class PatchMap:
    """One map of a convolution: its plan, and the variant of the convolution."""

    plan: PatchPlan
    with_bias: bool
    centred: bool = False
    transposed: bool = False

    @property
    def label(self) -> str:
        """The map in words that make a name: ``patch-affine-like-centred-without-bias``."""
        parts = ["patch", self.plan.name]
        parts += ["centred"] if self.centred else []
        parts += ["transposed"] if self.transposed else []
        parts += [] if self.with_bias else ["without-bias"]
        return "-".join(parts)

    @property
    def title(self) -> str:
        """The map in words for a reader."""
        layer = "transposed convolution" if self.transposed else "convolution"
        centred = " of centred patches" if self.centred else ""
        return f"{self.plan.name} ({self.plan.kind}) {layer}{centred}{'' if self.with_bias else ' without a bias'}"

    @property
    def module(self) -> str:
        """The file of the map, without its ending."""
        return snake(self.label)

    @property
    def function_class(self) -> str:
        """The class of the map's autograd function."""
        return pascal(self.label)


def patch_layer(with_bias: bool = True, centred: bool = False, transposed: bool = False) -> Layer:
    """Return the layer that stands for a kind of convolution: grouped, over two axes of space."""
    word = "" if with_bias else "-without-bias"
    if transposed:
        return transposed_convolution(_AXES, grouped=True, bias=with_bias, name=f"grouped-transposed-convolution{word}")
    name = f"{'centred' if centred else 'grouped'}-convolution{word}"
    return convolution(_AXES, grouped=True, bias=with_bias, centred=centred, name=name)


@cache
def maps_of(with_bias: bool = True, centred: bool = False, transposed: bool = False) -> tuple[PatchMap, ...]:
    """Derive the maps of a kind of convolution, valid for any number of axes and groups."""
    solutions = solve(patch_layer(with_bias, centred, transposed))
    return tuple(PatchMap(patch_plan(m), with_bias, centred, transposed) for m in solutions)
