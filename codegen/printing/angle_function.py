"""The file of the map at an angle: its scalars, its gradients and its ``torch.autograd.Function``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr

from codegen.ir.program import Program, tangent_name
from codegen.plans.angle_rows import coefficient_names
from codegen.plans.angles import AnglePlan, Scalar, radius, scaled_length, turn, turning
from codegen.printing.expressions import ExpressionPrinter
from codegen.printing.naming import Borrowed, branch, equations, forward_equation, listed
from codegen.printing.torch_lines import Line, Style, TorchPrinter
from derive.algebra.nodes import tensor
from derive.export.text import text
from derive.forward_map import BATCH

_WIDE = frozenset({"f", "h", "p", "a", "c", "shrink"})


def angle_context(plan: AnglePlan) -> dict[str, Any]:
    """Return the context of ``angle_function.py.jinja``."""
    own = plan.input_names[0]
    portable, eager = Style(own=own, wide=_WIDE), Style(in_place=True, wide=_WIDE)
    lines = {
        "forward_lines": _lines(plan.forward, eager),
        "recorded_lines": _lines(plan.forward, Style(wide=_WIDE)),
        "forward_scaled_lines": _lines(plan.forward_scaled, portable),
        "tangent_lines": _lines(plan.tangent, portable),
        "backward": _blocks(plan.backward, portable),
        "value_lines": [_scalar(s) for s in plan.scalars[:3]],
        "slope_lines": [_scalar(s) for s in plan.scalars[3:]],
        "series": [_coefficients(s) for s in plan.scalars],
        "root": ExpressionPrinter(str).text(plan.root),
        "turn": _of_length(plan.angle),
        "turning": _of_length(plan.angle_slope),
    }
    printed = str(lines)
    return {
        **branch(plan, with_bias=True),
        **_words(plan),
        **_signatures(plan),
        **_settings(plan),
        **lines,
        "uses_functional": "F." in printed,
    }


def borrowed(plan: AnglePlan) -> Borrowed:
    """Return what the kernels' files import from this file, under the name ``plain``."""
    sizes, used = _settings(plan), "features" if _settings(plan)["uses_n"] else ""
    setup = ["near, limit = plain.limits(x, kappa)"]
    setup += ["features = float(x.shape[-1])"] if used else []
    if sizes["settings"]:
        names = [f"({', '.join(coefficient_names(s))},)" for s in plan.scalars]
        call = sizes["series_call"].replace("n)", f"{used})")
        setup.append(f"{', '.join(names)} = plain.{call}")
    return Borrowed(tuple(setup), "plain.kept_radius(r, kappa{})".format(", x.shape[-1]" if used else ""))


def radius_context() -> dict[str, Any]:
    """Return the context of ``radius.py.jinja``: lengths r = ``peak sqrt(q)``, and 1/rho."""
    peak, q = (sympy.Symbol(name, positive=True) for name in ("peak", "q"))
    column = {s: tensor(s.name)[(BATCH,)] for s in (peak, q)}
    length = sympy.sqrt(peak**2 * q)

    def _printed(expression: Expr) -> str:
        return ExpressionPrinter(lambda e: str(e.base.label)).text(expression.xreplace(column))

    def _shrink(power: int) -> Expr:
        # Factoring the peak out of the root avoids overflow.
        return 1 / (peak * sympy.sqrt(sympy.expand((scaled_length(power).xreplace({radius: length}) / peak) ** 2)))

    return {
        "length": _printed(length),
        "shrinks": {
            power: {"text": text(1 / scaled_length(power)), "line": _printed(_shrink(power))} for power in (1, 2)
        },
    }


def _words(plan: AnglePlan) -> dict[str, Any]:
    inputs = plan.input_names
    single = len(plan.scalars[0].series) == 1
    declared = {t.name: t for t in (*plan.layer.inputs, *plan.layer.parameters)}
    names = [f"_{s.name}" for s in plan.scalars]
    return {
        "title": plan.name,
        "formula": forward_equation(plan),
        "definitions": equations(plan),
        "angle": text(plan.angle),
        "digest": plan.digest,
        "power": plan.power,
        "root_words": text(plan.root),
        "rho": text(scaled_length(plan.power)),
        "names": listed([s.name for s in plan.scalars]),
        "series_words": "values at length zero" if single else f"power series in r**{plan.power} near zero",
        "near_zero": _near_zero(plan, single),
        "value_names": ", ".join([*names[:3], "*_"]),
        "slope_names": ", ".join(["*_", *names[3:]]),
        "parameters": listed([f"``{name}``" for name in inputs]),
        "inputs": ", ".join(f"``{n}`` ({', '.join(str(a) for a in declared[n].axes)})" for n in inputs),
    }


def _near_zero(plan: AnglePlan, single: bool) -> str:
    """Return a sentence on the behaviour at length zero, from the limits."""
    f, h = (text(plan.root * s.series[0]) for s in plan.scalars[:2])
    if single:
        rule = "limits if they are finite, else 0: a zero row has no direction, so its weight part is zero"
        return f"At r = 0 f is {f} and h is {h}: {rule}."
    series = f"Near r = 0 all scalars are power series in r**{plan.power} derived from the angle"
    slopes = "derivatives" if plan.power == 2 else "gradient"
    return f"{series}, so that the map, its limit at r = 0 (f = {f}, h = {h}) and its {slopes} are accurate there."


def _settings(plan: AnglePlan) -> dict[str, Any]:
    """Return which settings besides the length the angle uses: n and kappa."""
    used = [str(s) for s in sorted(plan.angle.free_symbols - {radius}, key=str)]
    kinds = {"kappa": "float", "n": "int"}
    n = ["n"] if "n" in used else []
    return {
        "settings": used,
        "typed_settings": [f"{s}: {kinds[s]}" for s in used],
        "series_call": f"coefficients({', '.join(used)})" if used else "_SERIES",
        "scalar_settings": [f"{s}: {kinds[s]}" for s in ("kappa", *n)],
        "settings_call": "".join(f", {s}" for s in ("kappa", *n)),
        "scalar_call": ", ".join(["radius", "kappa", *n]),
        "uses_n": bool(n),
    }


def _signatures(plan: AnglePlan) -> dict[str, Any]:
    kappa, inputs, saved = str(plan.kappa), plan.input_names, plan.saved_names
    gradient = ["g", *saved]
    tangents = [f"{tangent_name(name)}: Tensor" for name in inputs]
    return {
        "forward_arguments": [*(f"{name}: Tensor" for name in inputs), f"{kappa}: float"],
        "call": ", ".join([*inputs, kappa]),
        "gradient_arguments": [
            *(f"{name}: Tensor" for name in gradient),
            "radius: Radius",
            f"{kappa}: float",
            "wanted: tuple[bool, ...]",
        ],
        "gradient_call": ", ".join(gradient),
        "tensors": ", ".join(inputs),
        "forward_names": ", ".join((*(n if n in saved else "_" for n in inputs), "ctx.kappa")),
        "saved_inputs": ", ".join(saved),
        "none_yet": " = ".join(plan.backward.outputs),
        "output": plan.forward.outputs[0],
        "tangent_arguments": ["ctx: Any", *tangents, "_: None"],
        "tangent_output": plan.tangent.outputs[0],
    }


def _scalar(scalar: Scalar) -> str:
    """Return the line that computes a scalar of the row; ``r``, ``t`` and ``t_r`` are columns."""
    columns = {s: tensor(s.name)[(BATCH,)] for s in (radius, turn, turning)}
    printer = ExpressionPrinter(lambda e: str(e.base.label))
    formula = printer.text(scalar.formula.xreplace(columns))
    if not scalar.formula.free_symbols & set(columns):
        formula = f"torch.full_like(r, {formula})"
    return f"{scalar.name} = root * radius.joined({formula}, _{scalar.name})"


def _coefficients(scalar: Scalar) -> str:
    return ", ".join(ExpressionPrinter(str).text(c) for c in scalar.series)


def _of_length(expression: Expr) -> str:
    """Return a function of the length as text."""
    column = tensor("length")[(BATCH,)]
    printed = ExpressionPrinter(lambda _: "radius.bounded").text(expression.xreplace({radius: column}))
    return printed if expression.has(radius) else f"torch.full_like(radius.r, {printed})"


def _lines(program: Program, style: Style) -> list[str]:
    return _printed(TorchPrinter(program, style).lines())


def _printed(lines: Sequence[Line]) -> list[str]:
    return [printed for line in lines for printed in line.printed()]


def _blocks(program: Program, style: Style) -> dict[str, Any]:
    """Return the lines that several gradients share, and for each gradient, by its position, its own lines."""
    needs = {o: {i.target.name for i in program.needed_for([o])} for o in program.outputs}
    shared = {n for o, names in needs.items() for n in names if any(n in needs[p] for p in needs if p != o)}
    printer = TorchPrinter(program, style)
    common = _printed(printer.lines(shared))
    own = [printer.lines(needs[o] - shared) for o in program.outputs]
    return {"shared": common, "blocks": [{"position": k, "lines": _printed(lines)} for k, lines in enumerate(own)]}
