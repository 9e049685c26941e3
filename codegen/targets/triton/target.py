"""The files of the Triton target: from plans to text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from codegen.angle_rows import row_plan
from codegen.targets.patch_backend import TEMPLATES, maps_with_kernels, shared_files
from codegen.targets.torch import target as torch_target
from codegen.targets.torch.angle_file import borrowed
from codegen.targets.torch.companions import has_companions
from codegen.targets.torch.words import AngleFamily, Family, branch
from codegen.targets.torch.wrap import fill, imported, signature
from codegen.targets.triton.kernels_file import map_context
from codegen.targets.triton.patch_file import patch_map_context
from codegen.targets.triton.unit_file import unit_file_context

_TEMPLATES = Path(__file__).parent / "templates"
_NOTHING = "\0"


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its name in the package, which also needs the files of the torch target."""
    contexts = [map_context(plan, with_bias=plan is family.with_bias) for family in families for plan in family.plans]
    contexts += [map_context(row_plan(plan), True, borrowed(plan)) for family in angles for plan in family.plans]
    result = {f"{c['module']}.py": render("map.py.jinja", c) for c in contexts}
    patches = maps_with_kernels(families)
    result |= {f"_triton{m.module}.py": render("patch_map.py.jinja", patch_map_context(m)) for m in patches}
    result |= {"_triton_patches.py": render("_triton_patches.py.jinja", {})} if patches else {}
    if has_companions(families):
        result["_triton_unit.py"] = render("_triton_unit.py.jinja", unit_file_context())
    result["_operators.py"] = torch_target.render("_operators.py.jinja", {})
    result |= shared_files(render, families)
    helpers = {name for c in contexts for name in c["helpers"]}
    result["_triton_tiles.py"] = render("_triton_tiles.py.jinja", {"helpers": helpers, "quarter_turn": math.pi / 2})
    result["_triton.py"] = _functions([*families, *angles])
    return result


def _functions(families: Sequence[Family | AngleFamily]) -> str:
    """Return the torch target's ``functional.py`` with the maps taken from the files of this target."""
    text = torch_target.functions_text(families)
    for family in families:
        for plan in family.plans:
            home = branch(plan, plan is family.with_bias)["module"]
            text = text.replace(f"from .{home} import", f"from ._triton{home} import")
    text = _with_sorted_imports(text)
    return text.replace(
        '"""The generated maps as functions of tensors.', '"""The generated maps as functions, computed by Triton.', 1
    )


def _with_sorted_imports(text: str) -> str:
    lines = text.splitlines(keepends=True)
    places = [k for k, line in enumerate(lines) if line.startswith("from .")]
    for place, line in zip(places, sorted(lines[k] for k in places), strict=True):
        lines[place] = line
    return "".join(lines)


def render(template: str, context: dict[str, Any]) -> str:
    """Return a template's text; the lines of a kernel stand in it as ``{{ lines|block(indent) }}``."""
    environment = Environment(
        loader=FileSystemLoader([_TEMPLATES, TEMPLATES]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["block"] = _block
    environment.globals.update(fill=fill, signature=signature, imported=imported, launched=_launched, kernel=_kernel)
    text = environment.get_template(template).render(context)
    text = re.sub(rf"^[ ]*{_NOTHING}\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\n+\Z", "\n", text)


def _block(lines: Sequence[str], indent: int) -> str:
    """Return lines that all but the first are indented; a mark that removes the line that it stands on for none."""
    return f"\n{' ' * indent}".join(lines) or _NOTHING


def _launched(kernel: str, grid: str, arguments: Sequence[str], indent: int) -> str:
    """Return the launch of a kernel over a grid."""
    inner = fill(", ".join([*arguments, "**tiles.settings"]), indent + 4, indent + 4)
    return f"{kernel}[({grid})](\n{' ' * (indent + 4)}{inner}\n{' ' * indent})"


def _kernel(name: str, arguments: Sequence[str]) -> str:
    """Return the head of a kernel, its arguments on as few lines as they need."""
    return f"def {name}(\n    {fill(', '.join(arguments), 4, 4)}\n):"
