"""The compiler: from layers to the texts of all files of a package.

    stage            input -> output                              where
    solve            Layer -> cancelling maps                     ``derive.cancel``; ``plans.solve_at`` at an angle
    plan             map -> programs, settings, digest            ``plans``
      lower            Layer -> Program                             ``lower``
      differentiate    Program -> backward and tangent programs     ``passes.differentiate``, ``reassociate``
      make safe      Program -> scales in range, types, zeros     ``passes.ranges``, ``accumulation``, ``value_at_zero``
    recognise        Layer -> a form of the catalogue, or none    ``plans.row_form``, ``plans.patch_form``
    print            plans -> files, target by target             ``targets.base.Target``: ``schedule``, then a printer
    pack             files -> files and manifest                  ``package``

``build`` compiles the shipped package, whose maps ``catalogue`` lists; ``build_layer`` compiles one layer of a user. A
layer of a catalogue form, whatever its names, gets the same programs, schedules and kernels as the shipped layer; any
other layer is lowered with gathers and scheduled as loops over samples.

Not done here: no mathematics of any layer (it comes from ``derive``); no import of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sympy import Expr

from codegen.catalogue import covered, row_families
from codegen.ir.program import ProgramError
from codegen.package import DEFAULT_PACKAGE, check_name, packed
from codegen.plans.angles import AnglePlan, angle_plan
from codegen.plans.layers import LayerPlan, layer_plan
from codegen.plans.patch_form import patch_form
from codegen.plans.patch_maps import maps_of
from codegen.plans.patches import PatchPlan
from codegen.plans.plain import plain_plan, self_factor_plan
from codegen.plans.row_form import row_form
from codegen.plans.rows import Plan, plan
from codegen.plans.solve_at import solve_at
from codegen.printing.naming import AngleFamily, Family, class_name
from codegen.printing.places import folder_of
from codegen.targets.base import (
    NAMES,
    PATCHES,
    PLAIN,
    REASONS,
    ROWS,
    Target,
    host_of,
    target,
)
from derive.errors import UsageError
from derive.export.prose import plain
from derive.forward_map import Layer
from derive.layers import layer as shipped

ANGLE = "angle-like"


def build(package: str = DEFAULT_PACKAGE, targets: Sequence[str] = NAMES, angle: Expr | None = None) -> dict[str, str]:
    """Derive the maps (``derive.solve``) and return the text of every file by its name.

    With ``angle``, t(r), the package also has the family's member at that angle.
    """
    angles = [] if angle is None else [AngleFamily(angle_plan(solve_at(shipped("affine"), angle)["angle"]))]
    return render(row_families(), package, targets, angles)


def render(
    chosen: Sequence[Family],
    package: str = DEFAULT_PACKAGE,
    targets: Sequence[str] = (PLAIN.name,),
    angles: Sequence[AngleFamily] = (),
) -> dict[str, str]:
    """Return the text of every file of a package of these families, including its manifest."""
    check_name(package)
    digests = host_of(targets).derivations(chosen, angles)
    texts = {name: text for t in targets for name, text in target(t).files(chosen, angles).items()}
    return packed(texts, {"package": package, "derivations": digests, "covers": covered(digests)})


@dataclass(frozen=True)
class _Request:
    """The arguments of ``build_layer``."""

    layer: Layer
    package: str = ""
    angle: Expr | None = None
    targets: Sequence[str] = NAMES
    insist: bool = False
    spec: str = ""

    @property
    def name(self) -> str:
        """The name of the package: the layer's by default."""
        return self.package or self.layer.name

    @property
    def host(self) -> Target:
        """The target that writes the package; the others add kernels to it."""
        return host_of(self.targets)

    @property
    def kernels(self) -> list[Target]:
        """The targets that write kernels into it."""
        return [target(name) for name in self.targets if name != self.host.name]


@dataclass
class _Built:
    """The files of a package; the catalogue maps that compute its maps, by name; why targets lack kernels."""

    texts: dict[str, str]
    shipped: dict[str, Plan | PatchPlan | AnglePlan] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)


def build_layer(
    layer: Layer,
    package: str = "",
    angle: Expr | None = None,
    targets: Sequence[str] = NAMES,
    insist: bool = False,
    spec: str = "",
) -> dict[str, str]:
    """Derive the maps of a layer and return the text of every file of its package by its name.

    The package has a class for each cancelling map, a class for the unchanged layer, and its self factor. Every layer
    has such a package. If no map cancels, the manifest says why.

    Args:
        layer: the layer.
        package: the package's name; by default the layer's.
        angle: t(r), to add the family's member at that angle.
        targets: the targets to write; exactly one of them must be a host (torch or jax).
        insist: whether a target that cannot compute the layer is an error; if not, the manifest gives the reason.
        spec: the text of the layer's file, which is copied into the manifest.

    Raises:
        UsageError: if the name is not usable in code, if ``insist`` and a target cannot compute the layer, or if the
        layer has settings, which generated classes do not take.
    """
    request = _Request(layer, package, angle, targets, insist, spec)
    check_name(request.name)
    if layer.scalars:
        raise UsageError(
            f"layer {layer.name!r}: generated classes take no settings, and it has "
            f"{', '.join(map(str, layer.scalars))}; replace each by a number, or declare it as a parameter"
        )
    unknown = set() if angle is None else {s for s in angle.free_symbols if s.is_integer} - set(layer.sizes)
    if unknown:
        raise UsageError(
            f"the angle {angle} uses {min(unknown, key=str)}, which is not a size of the layer {layer.name!r}; "
            "declare it in the layer, or write a number"
        )
    solutions = solve_at(layer, angle)
    reasons = "; ".join(plain(refusal.reason) for refusal in solutions.refusals)
    plans = [layer_plan(m, ANGLE if m.name == "angle" else m.name) for m in solutions]
    plans.append(plain_plan(layer))
    built = _of_rows(request, plans) or _of_patches(request, plans) or _of_any_form(request, plans)
    if request.insist and built.lacking:
        name, reason = next(iter(built.lacking.items()))
        raise UsageError(
            f"targets: {name} cannot compute the layer {layer.name!r}: {REASONS[reason]}"
            f"{built.details.get(name, '')}; leave {name} out of --targets"
        )
    return packed(built.texts, _facts(request, plans, built, reasons))


def _of_rows(request: _Request, plans: Sequence[LayerPlan]) -> _Built | None:
    """Return the package of a layer of the form ``rows`` (one matrix); None for any other layer."""
    form = row_form(request.layer) if ROWS in request.host.forms else None
    if form is None:
        return None
    try:
        angle = form.with_sizes(request.angle)
        solutions = solve_at(form.layer, angle)
        chosen = [Family(m.name, plan(m), None) for m in solutions if m.name != "angle"]
        angles = [AngleFamily(angle_plan(m)) for m in solutions if m.name == "angle"]
    except (UsageError, ProgramError):  # not the same function of a row as a shipped map
        return None
    known: dict[str, Plan | PatchPlan | AnglePlan] = {f.name: f.with_bias for f in chosen}
    known |= {f.name: f.with_bias for f in angles}
    if not chosen or known.keys() != {p.name for p in plans[:-1]}:
        return None
    factor = self_factor_plan(request.layer)
    texts = request.host.package_of_rows(request.layer, plans, factor, chosen, angles, form)
    for kernels in request.kernels:
        files = kernels.files(chosen, angles)
        texts |= {n: t for n, t in files.items() if n != f"{folder_of(kernels.name)}/functional.py"}
        texts |= kernels.layer_files(request.layer, plans[-1:])
    return _Built(texts, known)


def _of_patches(request: _Request, plans: Sequence[LayerPlan]) -> _Built | None:
    """Return the package of a convolution; None for any other layer."""
    form = patch_form(request.layer) if PATCHES in request.host.forms and request.angle is None else None
    if form is None:
        return None
    maps = maps_of(form.with_bias, form.centred, form.transposed)
    settings = {m.plan.name: (m.plan.kappa_default, m.plan.kappa_above) for m in maps}
    if settings != {p.name: (p.kappa_default, p.kappa_above) for p in plans[:-1]}:
        return None
    factor = self_factor_plan(request.layer)
    texts = request.host.package_of_patches(request.layer, plans, factor, maps, form)
    built = _Built(texts, {m.plan.name: m.plan for m in maps})
    for kernels in request.kernels:
        built.texts |= kernels.patch_layer_files(maps)
        built.texts |= kernels.layer_files(request.layer, plans[-1:])
    return built


def _of_any_form(request: _Request, plans: Sequence[LayerPlan]) -> _Built:
    """Return the package of any layer."""
    built = _Built(request.host.package_of_layer(request.layer, plans, self_factor_plan(request.layer)))
    for kernels in request.kernels:
        try:
            built.texts |= kernels.layer_files(request.layer, plans)
        except UsageError as problem:
            built.lacking[kernels.name], built.details[kernels.name] = "arithmetic", f" ({problem})"
    return built


def _facts(request: _Request, plans: Sequence[LayerPlan], built: _Built, refused: str) -> dict[str, object]:
    """Return the entries of a layer's manifest besides the digests of its files."""
    layer = request.layer
    return {
        "package": request.name,
        "layer": layer.name,
        **({"spec": request.spec} if request.spec else {}),
        "classes": {class_name(layer, p): p.layer.name for p in plans if p.kappa is not None},
        "plain": {class_name(layer, p): p.layer.name for p in plans if p.kappa is None},
        "targets": [t for t in request.targets if t not in built.lacking],
        "without": {t: {"reason": r, "text": REASONS[r] + built.details.get(t, "")} for t, r in built.lacking.items()},
        "refused": refused,
        "derivations": {p.layer.name: p.digest for p in plans},
        "compiled_as": {
            p.layer.name: {"map": known.layer.name, "digest": known.digest}
            for p in plans
            if (known := built.shipped.get(p.name)) is not None
        },
    }
