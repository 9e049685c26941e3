"""The files of the torch target: from plans to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codegen.printing.angle_function import angle_context, radius_context
from codegen.printing.functional import family_contexts, functions_text, targets_file
from codegen.printing.naming import BACKEND_WORDS, INIT_WORDS, AngleFamily, Family, quoted
from codegen.printing.places import folder, folders, in_folder, placed, shared_runtime
from codegen.targets.torch.catalogue_files import companions
from codegen.targets.torch.function_file import function_context
from codegen.targets.torch.render import render
from derive.versions import __version__


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package."""
    maps = angle_files(angles)
    for family in families:
        for plan in family.plans:
            context = function_context(plan, with_bias=plan is family.with_bias)
            maps[f"{context['module']}.py"] = render("function.py.jinja", context)
    known, more = family_contexts([*families, *angles]), companions(families)
    result = {"functional.py": functions_text([*families, *angles], borrowed=more.functions, dispatches=True)}
    shared: dict[str, Any] = {"families": known, "modules": sorted(c["module_class"] for c in known)}
    choices = {"init_words": INIT_WORDS, "backend_words": BACKEND_WORDS}
    result["modules.py"] = render("modules.py.jinja", {**shared, **choices, "exported": quoted(shared["modules"])})
    for path, filled in more.contexts.items():
        result[path] = render(f"{more.templates.get(path, Path(path).name)}.jinja", dict(filled))
    public = sorted([*shared["modules"], "functional", *(name for export in more.exports for name in export.names)])
    heads = {"more": more.exports, "exported": quoted(public), "version": __version__}
    result["__init__.py"] = render("__init__.py.jinja", {**shared, **heads})
    result["py.typed"] = ""
    shared_files = shared_runtime(
        "operands.py", "rows.py", "checks.py", "backends.py", "leaf.py", "steps.py", *more.runtime
    )
    return placed(result) | in_folder("torch", maps) | torch_folder() | targets_file() | shared_files


def derivations(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the digest of every map that ``files`` holds by the map's name."""
    own = {p.layer.name: p.digest for family in families for p in family.plans}
    own |= {p.layer.name: p.digest for angle in angles for p in angle.plans}
    return {**own, **companions(families).digests}


def angle_files(angles: Sequence[AngleFamily]) -> dict[str, str]:
    """Return the files of members of the family at an angle by their names in the folder of the maps."""
    contexts = [angle_context(angle.with_bias) for angle in angles]
    maps = {f"{c['module']}.py": render("angle_function.py.jinja", c) for c in contexts}
    return maps | ({"radius.py": render("radius.py.jinja", radius_context())} if angles else {})


def torch_folder() -> dict[str, str]:
    """Return the ``__init__.py`` files of the kernels' folders."""
    return folders() | folder("torch", "The maps in torch's operations")
