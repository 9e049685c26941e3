"""Convolutions as programs: lowered from guards and deltas, differentiated by instruction, compared with torch."""

import functools

import numpy
import pytest
import torch
import torch.nn.functional as F

import derive
from codegen.ir.interpret import interpret
from codegen.ir.program import Contract, Convolve, Pointwise, ProgramError, name_of
from codegen.lower.gathering import lower
from codegen.passes.differentiate import forward_mode, reverse
from codegen.passes.reassociate import explicit_in
from codegen.plans.patches import patch_plan
from derive.algebra.differentiate import expand_definitions
from derive.algebra.nodes import PartialDerivative, rename
from derive.check import check_step
from derive.layers.convolution import convolution, transposed_convolution
from derive.record import Status, Step
from tests.marks import one_in

LAYERS = {
    "plain": lambda d: convolution(d),
    "grouped": lambda d: convolution(d, grouped=True),
    "centred": lambda d: convolution(d, grouped=True, centred=True),
    "transposed": lambda d: transposed_convolution(d, grouped=True),
}
MAPS = [(layer, form) for layer in LAYERS for form in ("affine-like", "norm-like")]
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
GEOMETRIES = [(1, 1, 3, 2, 3), (2, 2, 1, 1, 2)]
MORE = [(1, 2, 1, 1, 2), (2, 1, 1, 2, 2), (3, 1, 1, 1, 2)]
KAPPA = 1.7


@functools.cache
def solved(layer, dimensions, form):
    return derive.solve(LAYERS[layer](dimensions))[form]


@functools.cache
def planned(layer, dimensions, form):
    return patch_plan(solved(layer, dimensions, form))


def geometry(layer, dimensions, stride, padding, dilation, kernel):
    """Return every size of a layer by its name: 2 groups unless there are none, lengths 4, 5 and so on."""
    space = {1: ("",), 2: ("h", "w"), 3: ("d", "h", "w")}[dimensions]
    sizes = {"B": 2, "G": 1 if layer == "plain" else 2, "C": 2, "O": 3}
    for k, axis in enumerate(space):
        length = 4 + k
        reach = dilation * (kernel - 1)
        if layer == "transposed":
            sizes[f"Q{axis}"] = (length - 1) * stride - 2 * padding + reach + 1
        else:
            sizes[f"P{axis}"] = (length + 2 * padding - reach - 1) // stride + 1
        sizes |= {f"L{axis}": length, f"K{axis}": kernel, f"stride{axis}": stride}
        sizes |= {f"dilation{axis}": dilation, f"padding{axis}": padding}
    return sizes


def arrays(program, sizes, seed=3):
    rng = numpy.random.default_rng(seed)
    return {v.name: rng.normal(size=[sizes[i.size.name] for i in v.indices]) for v in program.inputs}


def reference(layer, form, dimensions, stride, padding, dilation):
    """Return the map by torch: a convolution with the weight, and one with ones for the energy."""
    operator = (TRANSPOSE if layer == "transposed" else CONVOLVE)[dimensions]

    def function(x, W, b):
        grouped = layer != "plain"
        groups = x.shape[1] if grouped else 1
        flat, weight = (x.flatten(1, 2), W.flatten(0, 1)) if grouped else (x, W)
        convolve = functools.partial(operator, stride=stride, padding=padding, dilation=dilation, groups=groups)
        entries = W[0, 0].numel() if grouped else W[0].numel()
        y, ones = convolve(flat, weight), torch.ones_like(weight)
        energy = convolve(flat * flat, ones)
        if layer == "centred":
            mean = convolve(flat, ones) / entries
            y = y - mean * weight.flatten(1).sum(1).view(-1, *[1] * dimensions)
            energy = energy - entries * mean**2
        bias = b.flatten().view(-1, *[1] * dimensions)
        if form == "affine-like":
            z = KAPPA**0.5 * (y + bias) / torch.sqrt(energy + 1)
        else:
            z = (KAPPA - 1) ** 0.5 * y / torch.sqrt(energy) + bias
        return z.unflatten(1, (groups, -1)) if grouped else z

    return function


CASES = [(layer, form, g) for layer, form in MAPS for g in (GEOMETRIES if layer != "plain" else GEOMETRIES[:1])]
CASES += [pytest.param(layer, form, g, marks=pytest.mark.slow) for layer, form in MAPS for g in MORE]


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # torch's own, in forward mode of conv
@pytest.mark.parametrize(("layer", "form", "shape"), one_in(2, CASES))
def test_value_gradients_and_tangent_equal_autograd(layer, form, shape):
    dimensions, stride, padding, dilation, _ = shape
    plan = planned(layer, dimensions, form)
    program = lower(solved(layer, dimensions, form).mapped, convolutions=True)
    sizes = geometry(layer, *shape)
    inputs = arrays(program, sizes)
    tensors = [torch.tensor(a, requires_grad=True) for a in inputs.values()]
    function = reference(layer, form, dimensions, stride, padding, dilation)
    z, z_t = torch.func.jvp(function, tuple(tensors), tuple(t.detach().cos() for t in tensors))
    numpy.testing.assert_allclose(interpret(program, inputs, {"kappa": KAPPA}, sizes)["z"], z.detach(), rtol=1e-10)
    g = numpy.random.default_rng(5).normal(size=z.shape)
    saved = interpret(plan.scale, {"x": inputs["x"]}, {"kappa": KAPPA}, sizes)
    given = {**inputs, **saved, "g": g} | {f"{n}_t": numpy.cos(a) for n, a in inputs.items()}
    for forward in (plan.forward, plan.forward_scaled):
        numpy.testing.assert_allclose(interpret(forward, given, {"kappa": KAPPA}, sizes)["z"], z.detach(), rtol=1e-10)
    tangent = interpret(plan.tangent, given, {"kappa": KAPPA}, sizes)["z_t"]
    numpy.testing.assert_allclose(tangent, z_t.detach(), rtol=1e-9, atol=1e-12)
    expected = torch.autograd.grad(function(*tensors), tensors, torch.tensor(g))
    for backward in (plan.backward, plan.backward_scaled):
        results = interpret(backward, given, {"kappa": KAPPA}, sizes)
        for name, gradient in zip(inputs, expected, strict=True):
            numpy.testing.assert_allclose(results[f"d{name}"], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("layer", "dimensions"), one_in(2, [*((name, 1) for name in LAYERS), ("grouped", 2), ("transposed", 2)])
)
@pytest.mark.parametrize("form", ["affine-like", "norm-like"])
def test_gradients_equal_those_of_the_derivation(layer, dimensions, form):
    solution = solved(layer, dimensions, form)
    mapped = solution.mapped
    program = lower(mapped, convolutions=True)
    backward = reverse(program, [v.name for v in program.inputs], ("f",))
    for step in derive.backward(mapped):
        target = backward.values[step.id.rsplit("/", 1)[1].removeprefix("backward-")]
        (inert,) = step.before.atoms(PartialDerivative)
        ours = expand_definitions(explicit_in(target.entry, backward, ("f",)), mapped.scope)
        ours = rename(ours, dict(zip(target.indices, inert.variable.indices, strict=True)))
        # Exact, at random sizes: with two links, or a root of unknown sign, normal forms may differ.
        verdict = check_step(Step(step.id, "compare", ours, ours, step.after, mapped.definitions))
        assert verdict.status in (Status.PROVED, Status.SAMPLED), step.id


@pytest.mark.parametrize(("layer", "form"), MAPS)
def test_squares_are_summed_over_channels_before_patches(layer, form):
    """The sum over patches reads one channel, and no tensor of squares is as large as the input."""
    program = planned(layer, 2, form).scale
    ranks = [len(i.target.indices) for i in program.instructions]
    assert max(ranks) < len(program.values["x"].indices)
    boxes = [i for i in program.instructions if isinstance(i, Convolve)]
    assert all(len(i.operands) == 1 for i in boxes)
    sums = {i.target.name: i for i in program.instructions if isinstance(i, Contract)}
    assert all(name_of(i.operands[0]) in sums for i in boxes)


@pytest.mark.parametrize(("layer", "form"), MAPS)
def test_one_number_a_position_is_saved_and_patches_are_summed_once(layer, form):
    plan = planned(layer, 2, form)
    assert {v.name for v in plan.backward.inputs} <= {"g", "x", "W", "b", "f"}
    assert {v.name for v in plan.backward_kept.inputs} - {v.name for v in plan.backward.inputs} == {plan.product}
    boxes = [i for i in plan.backward_kept.instructions if isinstance(i, Convolve) and len(i.operands) == 1]
    assert len(boxes) == (3 if layer == "centred" else 1)
    (dx,) = [i for i in plan.backward.instructions if i.target.name == "dx"]
    assert isinstance(dx, Pointwise)
    assert dx.expression.count_ops() <= (4 if layer == "centred" else 3)


def test_the_map_at_zero_has_no_direction():
    plan = planned("grouped", 1, "norm-like")
    sizes = geometry("grouped", 1, 1, 1, 1, 3)
    inputs = {n: 0 * a if n == "x" else a for n, a in arrays(plan.forward, sizes).items() if n != "f"}
    f = interpret(plan.scale, {"x": inputs["x"]}, {"kappa": 2.0}, sizes)["f"]
    assert not f.any()
    z = interpret(plan.forward, {**inputs, "f": f}, {"kappa": 2.0}, sizes)["z"]
    numpy.testing.assert_array_equal(z, numpy.broadcast_to(inputs["b"][:, :, None], z.shape))


def test_an_unknown_name_is_refused():
    program = lower(solved("plain", 1, "norm-like").mapped, convolutions=True)
    with pytest.raises(ProgramError, match="no input 'V'"):
        reverse(program, ["V"], ("f",))


def test_an_input_that_does_not_move_has_no_tangent_term():
    program = lower(solved("plain", 1, "affine-like").mapped, convolutions=True)
    assert forward_mode(program, ("f",)).outputs == ("z_t",)


def test_a_map_without_patches_is_refused():
    with pytest.raises(derive.errors.UsageError, match="not a convolution"):
        patch_plan(derive.solve(derive.layer("affine"))["affine-like"])
