"""The files of the JAX target for the catalogue's maps of rows: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence

from codegen.catalogue import row_layers
from codegen.plans.layers import LayerPlan, layer_plan
from codegen.printing.functional import family_contexts
from codegen.printing.naming import AngleFamily, Family, quoted
from codegen.printing.places import folder, folders, placed
from codegen.targets.jax.layer_target import map_files, render
from codegen.targets.jax.naming import MODE_WORDS
from derive.cancel import solve
from derive.errors import UsageError


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package; raise ``UsageError`` for a member at an angle."""
    if angles:
        raise UsageError("targets jax: of the catalogue it has no member at an angle; give the layer by --spec")
    contexts = family_contexts(families)
    shared = {
        "families": contexts,
        "modules": sorted(c["module_class"] for c in contexts),
        "functions": quoted(sorted(c["function"] for c in contexts)),
        "homes": sorted(b["module"] for c in contexts for b in c["branches"]),
        "uses_math": any("math." in b["deviation"] for c in contexts for b in c["branches"]),
        "mode_words": MODE_WORDS,
    }
    exported = quoted(sorted([*(c["module_class"] for c in contexts), "functional"]))
    result = {
        f"{name}.py": render(f"rows_{name}.py.jinja", {**shared, "exported": exported})
        for name in ("__init__", "functional", "modules")
    }
    maps = map_files(_plans(families))
    return placed(result | {"py.typed": ""}) | maps | folders() | folder("jax", "The maps in JAX's operations")


def derivations(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the digest of every map that ``files`` holds by the map's name."""
    return {p.layer.name: p.digest for p in _plans(families)}


def _plans(families: Sequence[Family]) -> list[LayerPlan]:
    """Return the plans of the families' maps as those of any layer, those without a bias by a name of their own."""
    names = {family.name for family in families}
    found = []
    for suffix, layer in zip(("", "-without-bias"), row_layers(), strict=True):
        found += [layer_plan(m, m.name + suffix) for m in solve(layer) if m.name in names]
    return found
