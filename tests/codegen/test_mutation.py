"""The emitted code follows a change of the mathematics; templates contain nothing about the maps."""

import dataclasses

import pytest
import sympy
import torch

import derive
from codegen.catalogue import families
from codegen.compiler import render
from codegen.package import write
from derive.algebra.nodes import rename, tensor
from derive.errors import UsageError
from derive.forward_map import Definition
from tests.emitted import file_of

kappa = sympy.Symbol("kappa", positive=True)


def changed(solution, output=None, scale=None):
    """Return the solution with another output expression or scale, as functions of the old ones."""
    layer = solution.mapped
    if output:
        layer = layer.with_output(output(layer.output.expression))
    if scale:
        definitions = tuple(
            Definition(d.name, d.indices, scale(d.expression)) if d.name == "f" else d for d in layer.definitions
        )
        layer = dataclasses.replace(layer, definitions=definitions)
    return dataclasses.replace(solution, mapped=layer)


def doubled_bias(expression):
    entries = {e: 2 * e for e in expression.atoms(sympy.Indexed) if e.base == tensor("b")}
    return rename(expression, entries)


MUTATIONS = {
    "twice the bias": ({"output": doubled_bias}, lambda x, W, b, k: (x @ W.T + 2 * b) * k**0.5 / (sq(x) + 1) ** 0.5),
    "other constant": ({"scale": lambda e: five(e)}, lambda x, W, b, k: (x @ W.T + b) * k**0.5 / (sq(x) + 5) ** 0.5),
    "other scale": ({"scale": lambda e: 3 * e}, lambda x, W, b, k: (x @ W.T + b) * 3 * k**0.5 / (sq(x) + 1) ** 0.5),
    "minus": ({"output": lambda e: -e}, lambda x, W, b, k: -(x @ W.T + b) * k**0.5 / (sq(x) + 1) ** 0.5),
}


def sq(x):
    return (x * x).sum(-1, keepdim=True)


def five(expression):
    (length,) = expression.atoms(sympy.Indexed)
    return expression.subs(length, length + 4)


@pytest.fixture
def emit(tmp_path, import_package, request):
    def build(solution):
        name = f"mutated_{request.node.callspec.indices['name']}"
        write(render(families([solution], []), name), tmp_path / name)
        return import_package(tmp_path, name)

    return build


@pytest.mark.parametrize("name", MUTATIONS)
def test_emitted_code_follows_the_mathematics(name, emit):
    change, expected = MUTATIONS[name]
    original = derive.solve(derive.layer("affine"))["affine-like"]
    package = emit(changed(original, **change))
    shapes = ((5, 4), (3, 4), (3,))
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    ours, theirs = package.functional.affine_like(*inputs, 1.7), expected(*inputs, 1.7)
    torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn_like(theirs)
    for a, b in zip(*(torch.autograd.grad(z, inputs, cotangent) for z in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_map_that_needs_more_than_one_number_a_row_is_refused():
    """The derivative of a cubed scale is not a polynomial in it, and its variance has no limit."""
    original = derive.solve(derive.layer("affine"))["affine-like"]
    with pytest.raises(UsageError, match="one scale per row"):
        families([changed(original, scale=lambda e: e**3)], [])


def test_a_flipped_sign_in_an_emitted_line_is_caught(tmp_path, import_package):
    """A mutant of the emitted text must fail a gradient check."""
    texts = render(families(derive.solve(derive.layer("affine")), []), "damaged")
    damaged = texts[file_of("torch", "affine_like.py")].replace("value=-1", "value=1")
    assert damaged != texts[file_of("torch", "affine_like.py")]
    write({**texts, file_of("torch", "affine_like.py"): damaged}, tmp_path / "damaged")
    package = import_package(tmp_path, "damaged")
    inputs = tuple(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 4), (3, 4), (3,)))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(package.functional.affine_like, inputs)
