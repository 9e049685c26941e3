"""The tangent program against torch's own forward mode."""

import numpy
import torch

from codegen.ir.interpret import interpret
from codegen.ir.program import Program
from codegen.passes.reassociate import gradients, tangent

SIZES = {"B": 5, "n": 4, "m": 3}
SHAPES = {"x": (5, 4), "W": (3, 4), "b": (3,)}
REFERENCES = {
    "affine-like": lambda x, W, b: 1.7**0.5 * (x @ W.T + b) / torch.sqrt((x * x).sum(-1, keepdim=True) + 1),
    "norm-like": lambda x, W, b: 0.7**0.5 * x @ W.T / x.norm(dim=-1, keepdim=True) + b,
    "linear/norm-like": lambda x, W: 1.7**0.5 * x @ W.T / x.norm(dim=-1, keepdim=True),
}


def test_tangents_equal_forward_mode(solution, forward):
    rng = numpy.random.default_rng(3)
    names = [v.name for v in forward.inputs]
    values = {n: rng.normal(size=SHAPES[n]) for n in names}
    moves = {n: rng.normal(size=SHAPES[n]) for n in names}
    backward = gradients(forward, names)
    program = tangent(forward, backward.saved, backward.direction)
    kept = Program("kept", forward.inputs, forward.scalars, forward.instructions, backward.saved)
    saved = interpret(kept, values, {"kappa": 1.7}, SIZES)
    moved = {f"{n}_t": m for n, m in moves.items()}
    (ours,) = interpret(program, {**values, **saved, **moved}, {"kappa": 1.7}, SIZES).values()
    primal, step = (tuple(torch.tensor(d[n]) for n in names) for d in (values, moves))
    _, expected = torch.autograd.functional.jvp(REFERENCES[solution.mapped.name], primal, step)
    numpy.testing.assert_allclose(ours, expected.numpy(), rtol=1e-11)
