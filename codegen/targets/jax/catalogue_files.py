"""The files of a package besides its maps of rows: convolutions, rows of unit length, the value path, attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codegen.catalogue import PATCHES, VALUES, patch_maps, public_names
from codegen.plans.layers import LayerPlan, layer_plan, plan_of
from codegen.plans.unit_rows import unit_rows
from codegen.plans.value_path import NAME, value_path
from codegen.printing.layer_function import formulas
from codegen.printing.naming import pascal, quoted
from codegen.printing.patch_words import patch_tables, patch_words
from codegen.printing.places import in_folder, placed, shared_runtime
from codegen.targets.jax.map_file import map_context
from codegen.targets.jax.naming import MODE_WORDS
from codegen.targets.jax.patch_maps import patch_map_files
from codegen.targets.jax.render import render
from derive.export.text import text

MODULES, FUNCTIONS = public_names(PATCHES, "modules"), public_names(PATCHES, "functions")
OTHERS = ("unit_length", "value_path")


def value_plan() -> LayerPlan:
    """Return the plan of the value path, which is a map of the mixed input of each token and head."""
    path = value_path()
    return replace(layer_plan(path.by_head, "value-path"), digest=path.digest)


def unit_plan() -> LayerPlan:
    """Return the plan of rows of unit length; a zero row stays zero."""
    known = unit_rows().layer
    return plan_of(known, "unit-length", "normalising", (), known.definitions[-1].name)


def companion_files() -> dict[str, str]:
    """Return the text of every file by its path in the package."""
    maps = tuple(sorted(patch_maps(), key=lambda m: m.module))
    words: dict[str, Any] = {**patch_words(maps), "mode_words": MODE_WORDS}
    (attention,) = public_names(VALUES, "modules")
    path, unit = value_path(), unit_plan()
    around = {
        "kernels/jax/patch_maps.py": render("patch_maps.py.jinja", patch_tables(maps)),
        "patch_functional.py": render("patch_functional.py.jinja", {**words, "exported": quoted(FUNCTIONS)}),
        "patch_modules.py": render("patch_modules.py.jinja", {**words, "exported": quoted(MODULES)}),
        "attention_functional.py": render(
            "attention_functional.py.jinja",
            {
                "mode_words": MODE_WORDS,
                "unit_formulas": formulas(unit.layer),
                "value_formulas": [
                    text_of(d) for d in (path.solution.mapped.output, *reversed(path.solution.mapped.definitions))
                ],
                "kappa_default": repr(float(path.plan.kappa_default)),
                "kappa_above": repr(float(path.plan.kappa_above)),
            },
        ),
        "attention.py": render(
            "attention.py.jinja", {"mode_words": MODE_WORDS, "module_class": attention, "projection": pascal(NAME)}
        ),
    }
    contexts = [map_context(plan) for plan in (value_plan(), unit)]
    kernels = in_folder("jax", {f"{c['module']}.py": render("map.py.jinja", c) for c in contexts})
    return placed(around) | kernels | patch_map_files(maps) | shared_runtime("patch_settings.py")


def text_of(definition: Any) -> str:
    """Return a definition in the formula language."""
    return f"{text(definition.entry)} = {text(definition.expression)}"


def companion_digests() -> dict[str, str]:
    """Return the digests of the maps of these files, by the map's name."""
    path, unit = value_path(), unit_rows()
    found = {path.solution.mapped.name: path.digest, unit.layer.name: unit.digest}
    return found | {m.plan.layer.name: m.plan.digest for m in patch_maps()}
