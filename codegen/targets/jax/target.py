"""The files of the JAX target for the maps of the catalogue: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.catalogue import VALUES, has_companions, public_names, row_layers
from codegen.plans.layers import LayerPlan, layer_plan
from codegen.plans.solve_at import solve_at
from codegen.printing.functional import family_contexts
from codegen.printing.naming import AngleFamily, Family, quoted
from codegen.printing.places import folder, folders, placed
from codegen.targets.jax.catalogue_files import FUNCTIONS, MODULES, OTHERS, companion_digests, companion_files
from codegen.targets.jax.layer_target import map_files
from codegen.targets.jax.naming import MODE_WORDS
from codegen.targets.jax.render import render
from derive.cancel import solve


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package."""
    contexts, more = family_contexts([*families, *angles]), has_companions(families)
    homes = {
        "attention": list(public_names(VALUES, "modules")) if more else [],
        "modules": sorted(c["module_class"] for c in contexts),
        "patch_modules": list(MODULES) if more else [],
    }
    functions = {
        "attention_functional": list(OTHERS) if more else [],
        "patch_functional": list(FUNCTIONS) if more else [],
    }
    own = [c["function"] for c in contexts]
    shared = {
        "families": contexts,
        "modules": homes["modules"],
        "homes": sorted(b["module"] for c in contexts for b in c["branches"]),
        "public": {home: names for home, names in homes.items() if names},
        "borrowed": {home: names for home, names in functions.items() if names},
        "functions": quoted(sorted([*own, *(name for names in functions.values() for name in names)])),
        "exported": quoted(sorted(["functional", *(name for names in homes.values() for name in names)])),
        "uses_math": any("math." in b["deviation"] for c in contexts for b in c["branches"]),
        "mode_words": MODE_WORDS,
    }
    result = {f"{name}.py": render(f"rows_{name}.py.jinja", shared) for name in ("__init__", "functional", "modules")}
    result["py.typed"] = ""
    found = placed(result) | folders() | folder("jax", "The maps in JAX's operations")
    found |= map_files([*_plans(families), *map(angle_layer_plan, angles)])
    return found | (companion_files() if more else {})


def derivations(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the digest of every map that ``files`` holds by the map's name."""
    found = {p.layer.name: p.digest for p in (*_plans(families), *map(angle_layer_plan, angles))}
    return found | (companion_digests() if has_companions(families) else {})


def angle_layer_plan(angle: AngleFamily) -> LayerPlan:
    """Return the plan of a member at an angle as a plan of any layer."""
    with_bias, _ = row_layers()
    return layer_plan(solve_at(with_bias, angle.with_bias.angle)["angle"], angle.name)


def _plans(families: Sequence[Family]) -> list[LayerPlan]:
    """Return the plans of the families' maps as plans of any layer; maps without a bias get their own names."""
    names = {family.name for family in families}
    found = []
    for suffix, layer in zip(("", "-without-bias"), row_layers(), strict=True):
        found += [layer_plan(m, m.name + suffix) for m in solve(layer) if m.name in names]
    return found
