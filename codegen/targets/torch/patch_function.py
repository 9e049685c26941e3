"""The file of one map of a convolution: its scale, its gradients and its ``torch.autograd.Function``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from codegen.ir.program import Program
from codegen.plans.patch_maps import PatchMap
from codegen.plans.patches import PatchPlan
from codegen.printing.patch_headings import HELPER_NAMES, patch_headings
from codegen.printing.torch_patch_lines import PatchPrinter


def patch_context(chosen: PatchMap) -> dict[str, Any]:
    """Return the context of ``patch_function.py.jinja``."""
    plan = chosen.plan
    source = plan.input_names[0]
    context: dict[str, Any] = {
        **patch_headings(chosen),
        **_forward_lines(plan, source),
        "scale_lines": _lines(PatchPrinter(plan.scale, source, guards=True)),
        "tangent_lines": _lines(PatchPrinter(plan.tangent, source)),
        "portable": _blocks(plan.backward_scaled, PatchPrinter(plan.backward_scaled, source)),
        "in_place": _in_place(plan, source),
    }
    printed = str(context)
    context["quick"] = "difference(" not in printed
    used = [name for name in HELPER_NAMES if re.search(rf"\b{name}\(", printed)]
    more = {"Geometry", "rounded", *(["squares_without_graph"] if context["quick"] else [])}
    context["helpers"] = sorted({*used, *more}, key=lambda n: (not n[0].isupper(), n))
    arguments = [f"{source}: Tensor", f"{plan.kappa}: float", "geometry: Geometry"]
    context["scale_arguments"] = [*arguments, *(["squares: Squares = squares"] if context["quick"] else [])]
    return context


def _forward_lines(plan: PatchPlan, source: str) -> dict[str, list[str]]:
    """Return the lines of the product, then those of the output, which overwrites the product unless it is kept.

    Graphs that record the operations use the same first lines, then lines of their own that overwrite nothing.
    """
    forward, product = plan.forward, plan.product
    before = {i.target.name for i in forward.needed_for([product])}
    after = {i.target.name for i in forward.instructions} - before
    keeping = replace(forward, outputs=(*forward.outputs, product))
    product_lines = _lines(PatchPrinter(forward, source, in_place=True), before)
    recorded_lines = _lines(PatchPrinter(forward, source, casts=False))
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(product_lines, recorded_lines, strict=False))))
    return {
        "first_lines": product_lines[:shared],
        "product_lines": product_lines[shared:],
        "output_lines": _lines(PatchPrinter(forward, source, in_place=True), after),
        "kept_lines": _lines(PatchPrinter(keeping, source, in_place=True), after),
        "recorded_lines": recorded_lines[shared:],
        "forward_scaled_lines": _lines(PatchPrinter(plan.forward_scaled, source)),
    }


def _in_place(plan: PatchPlan, source: str) -> dict[str, Any]:
    """Return the blocks of the backward pass; the first recomputes the product, and is skipped if it was kept."""
    kept = {i.target.name for i in plan.backward_kept.instructions}
    again = {i.target.name for i in plan.backward.instructions} - kept
    printer = PatchPrinter(plan.backward, source, in_place=True)
    merged, call = printer.merged()
    blocks = _blocks(plan.backward, printer, leave_out=again | merged)
    blocks["shared"] += call
    before = {i.target.name for i in plan.backward.needed_for([plan.product])} - again
    for block, result in zip(blocks["blocks"], plan.backward.outputs, strict=True):
        needed = {i.target.name for i in plan.backward.needed_for([result])} & again
        early = block["names"] & before if needed else set()
        block["before"], block["lines"] = _lines(printer, early), _lines(printer, block["names"] - early)
        block["again"] = _lines(printer, needed)
    return blocks


def _blocks(program: Program, printer: PatchPrinter, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Return the lines that several results share, and for each result, by its position, its own lines."""
    needs = {o: {i.target.name for i in program.needed_for([o])} - set(leave_out) for o in program.outputs}
    shared = {n for o, names in needs.items() for n in names if any(n in needs[p] for p in needs if p != o)}
    blocks = [
        {"position": k, "names": needs[o] - shared, "lines": _lines(printer, needs[o] - shared)}
        for k, o in enumerate(program.outputs)
    ]
    return {"shared": _lines(printer, shared), "blocks": blocks}


def _lines(printer: PatchPrinter, names: Iterable[str] | None = None) -> list[str]:
    found: Sequence[Any] = printer.lines(names)
    return [printed for line in found for printed in line.printed()]
