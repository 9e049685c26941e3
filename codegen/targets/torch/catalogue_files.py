"""The files of a package besides its families of maps: attention, PatchNorm, conversion of models, self factors.

Each file is the template of the same name, rendered; ``__init__.py`` lists what users may import from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codegen.catalogue import PATCHES, VALUES, direction, patch_maps, public_names
from codegen.plans.self_factors import self_factors
from codegen.plans.unit_rows import unit_rows
from codegen.plans.value_path import NAME, value_path
from codegen.printing.naming import Family, pascal
from codegen.targets.torch.attention_files import attention_context
from codegen.targets.torch.patch_files import FUNCTIONS, MODULES, patch_contexts
from codegen.targets.torch.self_factor_file import self_factor_context

_RUNTIME = (
    "attention.py",
    "attention_checks.py",
    "captured_layers.py",
    "conversion_reasons.py",
    "conversion_records.py",
    "direct_uses.py",
    "example_call.py",
    "far_images.py",
    "patches.py",
    "patch_checks.py",
    "patch_settings.py",
)


@dataclass(frozen=True)
class Export:
    """Public names of one file; the package's docstring lists ``call`` with its description ``words``."""

    module: str
    names: tuple[str, ...]
    call: str
    words: str


@dataclass(frozen=True)
class Companions:
    """Contexts by path, public names, and the digests of the maps in the files, by the map's name.

    ``templates`` gives the template of files that share one; ``functions`` are public names of ``functional`` that are
    defined in another file, by that file; ``runtime`` are files that are copied.
    """

    contexts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exports: tuple[Export, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    runtime: tuple[str, ...] = ()


def companions(families: Sequence[Family]) -> Companions:
    """Return these files for a package of the families; none if a family that they use is missing."""
    found, norm = {family.name: family for family in families}, direction(families)
    if NAME not in found or norm is None:
        return Companions()
    path, patches = value_path(), patch_contexts(patch_maps())
    (attention,) = public_names(VALUES, "modules")
    rows = sorted(pascal(family.name) for family in families)
    lora = {"modules": rows, "patches": list(MODULES), "transposed": [name for name in MODULES if "Transpose" in name]}
    return Companions(
        contexts={
            **{name: context for name, (_, context) in patches.items()},
            **attention_context(found[NAME], path, attention),
            "conversion.py": {
                "attention": attention,
                "affine": pascal(NAME),
                "norm": pascal(norm.name),
                "modules": rows,
                "form": NAME,
                "convolutions": ", ".join(f"nn.{name}" for name in public_names(PATCHES, "twins")),
            },
            **dict.fromkeys(("adapters.py", "peft_lora.py", "parallel.py"), lora),
            "self_factors.py": self_factor_context(families, attention, self_factors()),
        },
        exports=(
            Export("attention", (attention,), attention, f"multi-head attention with {NAME} projections"),
            Export("conversion", ("convert", "revert"), "convert, revert", "replace torch's layers, and undo it"),
            Export(
                "adapters",
                ("lora_config",),
                "lora_config(config)",
                "LoRA on these layers through peft, with an exact merge",
            ),
            Export("conversion", ("record", "restore"), "record, restore", "save a conversion with the weights"),
            Export(
                "parallel",
                ("ColwiseParallel", "RowwiseParallel"),
                "ColwiseParallel, ...",
                "styles of tensor parallelism for these layers",
            ),
            Export(
                "patch_modules", MODULES, "PatchNormConv2d, ...", "convolutions that divide each patch by its length"
            ),
            Export(
                "self_factors",
                ("self_factor",),
                "self_factor(module, x)",
                "K_ss of each sample, of torch's layers too",
            ),
        ),
        digests={
            path.solution.mapped.name: path.digest,
            unit_rows().layer.name: unit_rows().digest,
            **{m.plan.layer.name: m.plan.digest for m in patch_maps()},
        },
        templates={name: template for name, (template, _) in patches.items()},
        functions={"patch_functional": FUNCTIONS},
        runtime=_RUNTIME,
    )
