"""Targets: the class, and the only list of them, which the compiler, the generated package and ``verify`` read.

A target prints programs as code of one kind. Its folder holds its printer, templates and runtime files, and imports no
other target. A target without a host (torch, jax) writes a package of its own; any other adds kernels to the package of
its host. To add one, see ``targets/README.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from derive.errors import UsageError

if TYPE_CHECKING:
    from codegen.plans.layers import LayerPlan
    from codegen.plans.patch_form import PatchForm
    from codegen.plans.patch_maps import PatchMap
    from codegen.plans.plain import SelfFactorPlan
    from codegen.plans.row_form import RowForm
    from codegen.printing.naming import AngleFamily, Family
    from derive.forward_map import Layer

Texts = dict[str, str]

ROWS, PATCHES, LAYERS = "rows", "patches", "layers"

REASONS = {
    "arithmetic": "its kernels lack a function or an index that this layer uses",
}
"""Why a target has no kernels for a layer: all reasons, quoted by the manifest, ``affdiv layers`` and messages."""


@dataclass(frozen=True)
class Target:
    """One kind of generated code.

    Attributes:
        name: its name for ``--targets`` and ``backend=``.
        title: a phrase that says what it computes a map with.
        device: the type of device whose tensors it accepts; "any" for every device.
        forms: which maps it prints: ``rows``, those of one matrix; ``patches``, those of a convolution; ``layers``,
            those of a layer of any form.
        library: the module that its code needs at run time in addition to its host's; "" for none.
        install: the command that installs that module.
        interpreted: whether its kernels also run on the CPU, slowly, without a device.
        host: the target whose package holds its kernels; "" for one that writes a package of its own.
    """

    name: str
    title: str
    device: str
    forms: frozenset[str]
    library: str = ""
    install: str = ""
    interpreted: bool = False
    host: str = ""

    def files(self, families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> Texts:
        """Return the text of every file for the catalogue's maps, by its name in the package.

        Raises ``UsageError`` for a map with a part that the target cannot print.
        """
        return self._ask("target", "files", families, angles)

    def derivations(self, families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
        """Return the digest of every map in ``files`` by the map's name; only for a target without a host."""
        return self._ask("target", "derivations", families, angles)

    def patch_layer_files(self, maps: Sequence[PatchMap]) -> Texts:
        """Return the text of every kernel file for a layer that is a convolution with these maps."""
        return self._ask("target", "patch_layer_files", maps)

    def layer_files(self, layer: Layer, plans: Sequence[LayerPlan]) -> Texts:
        """Return the text of every kernel file for the maps of one layer of any form, by its name in the package.

        Raises ``UsageError`` for arithmetic that the target cannot print.
        """
        return self._ask("layer_target", "layer_files", layer, plans)

    def package_of_layer(self, layer: Layer, plans: Sequence[LayerPlan], factor: SelfFactorPlan) -> Texts:
        """Return the package of one layer of any form; the last plan is the plain layer's. Only without a host."""
        return self._ask("layer_target", "package_of_layer", layer, plans, factor)

    def package_of_rows(
        self,
        layer: Layer,
        plans: Sequence[LayerPlan],
        factor: SelfFactorPlan,
        families: Sequence[Family],
        angles: Sequence[AngleFamily],
        form: RowForm,
    ) -> Texts:
        """Return the same for a layer of one matrix, whose maps are those of ``families`` in its ``form``."""
        return self._ask("layer_target", "package_of_rows", layer, plans, factor, families, angles, form)

    def package_of_patches(
        self,
        layer: Layer,
        plans: Sequence[LayerPlan],
        factor: SelfFactorPlan,
        maps: Sequence[PatchMap],
        form: PatchForm,
    ) -> Texts:
        """Return the same for a convolution, whose maps are the catalogue's ``maps`` in its ``form``."""
        return self._ask("layer_target", "package_of_patches", layer, plans, factor, maps, form)

    def _ask(self, module: str, function: str, *arguments: object) -> Texts:
        found: Texts = getattr(import_module(f"codegen.targets.{self.name}.{module}"), function)(*arguments)
        return found


_CATALOGUE = frozenset({ROWS, PATCHES})
TARGETS = (
    Target("torch", "torch's operations", "any", _CATALOGUE | {LAYERS}),
    Target(
        "triton",
        "kernels in Triton",
        "cuda",
        _CATALOGUE | {LAYERS},
        "triton",
        "pip install triton",
        interpreted=True,
        host="torch",
    ),
    Target(
        "cuda",
        "kernels in CUDA C++",
        "cuda",
        _CATALOGUE | {LAYERS},
        "cuda.core",
        "pip install cuda-core[cu13]",
        host="torch",
    ),
    Target("cpp", "kernels in C++", "cpu", _CATALOGUE | {LAYERS}, host="torch"),
    Target("jax", "JAX's operations", "any", _CATALOGUE | {LAYERS}, "jax", "pip install affine-divergence[jax]"),
)
PLAIN = TARGETS[0]
KERNELS = tuple(target for target in TARGETS if target.host == PLAIN.name)
NAMES = (PLAIN.name, *(target.name for target in KERNELS))
"""The targets of the shipped package: the default of ``--targets``, and the names that ``backend=`` accepts."""


def target(name: str) -> Target:
    """Return a target by its name; raise ``UsageError`` for one that is not in the list."""
    found = {t.name: t for t in TARGETS}.get(name)
    if found is None:
        raise UsageError(f"target {name!r} is not known; choose one of {', '.join(t.name for t in TARGETS)}")
    return found


def family(host: Target) -> tuple[str, ...]:
    """Return the names of a host and of the targets that add kernels to its package."""
    return (host.name, *(t.name for t in TARGETS if t.host == host.name))


def host_of(names: Sequence[str]) -> Target:
    """Return the one host among the named targets; raise ``UsageError`` unless they make up exactly one package."""
    found = [t for t in TARGETS if not t.host and t.name in names]
    if len(found) == 1 and set(names) <= set(family(found[0])):
        return found[0]
    packages = "; or ".join(
        f"{host} with any of {', '.join(others)}" if others else f"{host} alone"
        for host, *others in (family(t) for t in TARGETS if not t.host)
    )
    raise UsageError(f"targets {','.join(names)!r} do not make up one package; give {packages}")
