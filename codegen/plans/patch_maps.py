"""The maps of convolutions that a package holds, and the names that its files and classes have."""

from __future__ import annotations

from dataclasses import dataclass

from codegen.plans.patches import PatchPlan
from codegen.printing.naming import pascal
from codegen.printing.places import module_name


@dataclass(frozen=True)
class PatchMap:
    """One map of a convolution: its plan, and which of the layers it belongs to."""

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
        return module_name(self.label)

    @property
    def function_class(self) -> str:
        """The class of the map's autograd function."""
        return pascal(self.label)
