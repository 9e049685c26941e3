"""The arithmetic of a convolution's map in C++: functions of an entry, and of the number per position.

    add, total, scale       squares over the channels, the zeroing of tiny sums, the scale of a patch
    output                  z from the scale, the convolution xW and b

and for centred patches, see ``patch_parts.Centring``,

    add_entry, mean         x over the channels, m from its sum over the patch: ``scale`` and ``output`` read it too

Those of the backward pass are in ``patch_gradients.py``, the sums themselves in ``runtime/patch_forward.h`` and
``runtime/patch_backward.h``.
"""

from __future__ import annotations

from codegen.ir.program import Contract
from codegen.plans.patches import PatchPlan
from codegen.printing.c_kernels import accumulated
from codegen.schedule.patch_steps import Positions, steps, with_scale
from codegen.targets.cpp.patch_gradients import Gradients
from codegen.targets.cpp.patch_parts import ENTRY, NUMBER, PRINTER, Function, assigning, bias_of, centring, convolved
from derive.errors import UsageError


def arithmetic(plan: PatchPlan) -> tuple[Function, ...]:
    """Return the functions of a map; raise ``UsageError`` for one that is not a convolution scaled by its patches."""
    return (*_forward(plan), *Gradients(plan).functions())


def _forward(plan: PatchPlan) -> tuple[Function, ...]:
    pixels, positions = _kernels(plan)
    means = centring(plan)
    (sums,), (outputs,) = (step.kernel.loops for step in (pixels, positions))
    totals = {c.target.name: c for c in sums.sums if isinstance(c, Contract)}
    centred = [_added(totals.pop(means.entries), "add_entry", plan)] if means else []
    if len(totals) != 1 or len(sums.after) != 1 or len(positions.taps) != len(centred) + 1:
        raise UsageError(f"map {plan.layer.name!r}: its scale is not made of one sum over the patch")
    ((total,), (squared,)) = totals.values(), sums.after
    mean, filters = (means.mean, means.filters) if means else ("", "")
    made = {i.target.name: i for i in positions.kernel.before}
    energy = next(t.target for t in positions.taps if t.operand == squared.target.name)
    if means:
        centred.append(assigning("mean", NUMBER, (means.patch,), [made.pop(mean)]))
    read = (plan.scale_name, convolved(plan).name, bias_of(plan), filters, mean)
    return (
        _added(total, "add", plan),
        assigning("total", NUMBER, (total.target.name,), [squared]),
        *centred,
        assigning("scale", NUMBER, (energy, mean), list(made.values()), plan.scale_name),
        assigning("output", ENTRY, read, outputs.pointwise, plan.forward.outputs[0]),
    )


def _kernels(plan: PatchPlan) -> tuple[Positions, Positions]:
    """Return the work at an entry of the image and at a position; raise ``UsageError`` if there are other kernels."""
    squares = {i.target.name for i in plan.scale.instructions}
    found = [s for s in steps(with_scale(plan.scale, plan.forward), squares) if isinstance(s, Positions)]
    if len(found) != 2 or found[0].taps or any(len(s.kernel.loops) != 1 for s in found):
        raise UsageError(f"map {plan.layer.name!r}: its scale is not made of one sum over the patch")
    return found[0], found[1]


def _added(total: Contract, name: str, plan: PatchPlan) -> Function:
    """Return the function that adds an entry to a sum over the channels."""
    given = (total.target.name, plan.input_names[0])
    return Function.of(name, NUMBER, given, [accumulated(total, PRINTER)], total.target.name)
