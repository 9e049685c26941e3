"""The files of the Triton target: from plans to text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codegen.catalogue import has_companions
from codegen.plans.patch_maps import PatchMap
from codegen.printing.functional import functions_text
from codegen.printing.naming import AngleFamily, Family
from codegen.printing.patch_backend import maps_with_kernels, shared_files
from codegen.printing.places import folder, in_folder, shared_runtime, target_runtime
from codegen.printing.rendering import SHARED, renderer
from codegen.printing.row_contexts import row_contexts
from codegen.printing.wrap import fill
from codegen.targets.triton.kernels_file import map_context
from codegen.targets.triton.patch_file import patch_map_context
from codegen.targets.triton.unit_file import unit_file_context

_TEMPLATES = Path(__file__).parent / "templates"
_NOTHING = "\0"
_NAME, _WORDS = "triton", "The maps by Triton's kernels"
_PATCHES = ("patches.py", "far_patches.py")


def files(families: Sequence[Family], angles: Sequence[AngleFamily] = ()) -> dict[str, str]:
    """Return the text of every file by its path in the package, which also needs the files of the torch target."""
    contexts = row_contexts(map_context, families, angles)
    result = {f"{c['module']}.py": render("map.py.jinja", c) for c in contexts}
    patches = maps_with_kernels(families)
    result |= _patch_maps(patches)
    if has_companions(families):
        result["unit.py"] = render("unit.py.jinja", unit_file_context())
    result["functional.py"] = functions_text([*families, *angles], _NAME, ", computed by Triton")
    functions = ["functions.py"] if any(c["helpers"] for c in contexts) else []
    own = target_runtime(_NAME, "tiles.py", *functions, *(_PATCHES if patches else ()))
    result = in_folder(_NAME, result) | folder(_NAME, _WORDS)
    return result | own | shared_runtime("operators.py") | shared_files(patches)


def patch_layer_files(maps: Sequence[PatchMap]) -> dict[str, str]:
    """Return the files of a layer that is a convolution with these maps, which also needs those of the torch target."""
    result = in_folder(_NAME, _patch_maps(maps)) | folder(_NAME, _WORDS) | target_runtime(_NAME, "tiles.py", *_PATCHES)
    return result | shared_runtime("operators.py") | shared_files(maps)


def _patch_maps(maps: Sequence[PatchMap]) -> dict[str, str]:
    return {f"{m.module}.py": render("patch_map.py.jinja", patch_map_context(m)) for m in maps}


def _block(lines: Sequence[str], indent: int) -> str:
    """Return lines, all but the first indented; without lines, a mark that removes its own line from the template."""
    return f"\n{' ' * indent}".join(lines) or _NOTHING


def _launched(kernel: str, grid: str, arguments: Sequence[str], indent: int) -> str:
    """Return the launch of a kernel over a grid."""
    inner = fill(", ".join([*arguments, "**tiles.settings"]), indent + 4, indent + 4)
    return f"{kernel}[({grid})](\n{' ' * (indent + 4)}{inner}\n{' ' * indent})"


def _kernel(name: str, arguments: Sequence[str]) -> str:
    """Return the head of a kernel, with its arguments on as few lines as possible."""
    return f"def {name}(\n    {fill(', '.join(arguments), 4, 4)}\n):"


_filled = renderer(
    _TEMPLATES, SHARED, filters={"block": _block}, launched=_launched, kernel=_kernel, kernel_head=_kernel
)


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a template's text; a template inserts a kernel's lines by ``{{ lines|block(indent) }}``."""
    return re.sub(rf"^[ ]*{_NOTHING}\n", "", _filled(template, context), flags=re.MULTILINE)
