"""No bit of a row's output or gradient depends on the values in other rows, at equal shape and threads.

A row is a sample; for a patch map it is an image. For any contents of the other rows, the kept ones come out as they do
next to ordinary ones: which of several code paths a row takes depends only on the row itself.
"""

import itertools

import pytest
import torch

from affine_divergence import functional
from affine_divergence.kernels.torch import unit
from codegen.compiler import build_layer
from codegen.package import write
from derive.formula import parse_angle
from derive.spec import loads_spec
from tests.codegen.layer_files import AFFINE, toml

OTHERS = (1.0, 0.0, 1e-45, 1e-30, 1e-10, 1e30, 3e38, float("nan"))  # values out of a type's range are skipped
KEPT = {"usual": (1.0,), "mixed": (0.0, 1e-30, 1.0, 1e30, 1e-3)}
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ROW_MAPS = ("affine-like", "norm-like", "norm-like without a bias")
PATCH_MAPS = ("affine-like", "norm-like", "centred", "transposed")
POSITIONS = toml(
    "at_positions", "c l o k p", "x: c l", "W: o c k", "z: o p", "z[q, r] = sum[a, h](W[q, a, h]*x[a, 2*r + h])"
)
LAYERS = {  # a file, the shapes of a sample and of parameters, and sizes that no tensor determines
    "rows": (AFFINE, (70,), ((24, 70), (24,)), {}),
    "look-alike": (AFFINE.replace("+ b[i]", "+ 2*b[i]"), (70,), ((24, 70), (24,)), {}),
    "positions": (POSITIONS, (4, 15), ((5, 4, 3),), {"p": 7}),
}
kept_sizes = pytest.mark.parametrize("kept", KEPT)


@pytest.fixture(autouse=True)
def threads_of_kernels(request):
    """One thread for torch's operations, else two: the C++ kernels share rows among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if request.node.callspec.params.get("backend") == "torch" else 2)
    yield
    torch.set_num_threads(before)


def bits(t):
    """Return the bits of a tensor, so that NaNs can be compared."""
    return t.detach().contiguous().view(torch.uint8)


def filled(x, kept, value):
    """Return rows (B, ..): every other one is kept, with the listed sizes; the entries of the rest have one value."""
    x = x.to(torch.float64, copy=True)
    sizes = torch.tensor(KEPT[kept], dtype=torch.float64).repeat(len(x))[: len(x[1::2])]
    x[1::2] *= sizes.view(-1, *[1] * (x.dim() - 1))
    x[::2] = value * torch.where(x[::2] < 0, -1.0, 1.0)
    return x


def assert_no_bit_changes(run, x, parameters, kept):
    """``run`` maps ``x`` (B, ..) and parameters to an output (B, ..)."""
    first = None
    for value in OTHERS:
        given = filled(x, kept, value).to(x.dtype).requires_grad_()
        if given[::2].isinf().any():
            continue
        z = run(given, *parameters)
        g = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z.dtype)
        dx = torch.autograd.grad(z, [given, *(p for p in parameters if p is not None)], g)[0]
        rows = {"z": bits(z[1::2]), "dx": bits(dx[1::2])}
        first = first or rows
        for name, right in first.items():
            assert torch.equal(rows[name], right), f"{name} next to rows of {value}"


def drawn(dtype, *shapes):
    generator = torch.Generator().manual_seed(0)
    x, *parameters = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
    return x, [p.requires_grad_() for p in parameters]


@kept_sizes
@pytest.mark.parametrize(
    ("backend", "dtype"), [*(("torch", t) for t in TYPES), *(("cpp", t) for t in TYPES[:2])], ids=str
)
@pytest.mark.parametrize("name", ROW_MAPS)
@pytest.mark.parametrize("columns", [40, 2100])  # few, and enough to be summed in blocks
def test_rows(backend, dtype, kept, name, columns):
    x, (weight, bias) = drawn(dtype, (20, columns), (24, columns), (24,))
    function = functional.affine_like if name == "affine-like" else functional.norm_like
    bias = None if "without" in name else bias
    assert_no_bit_changes(lambda *t: function(*t, 1.3, backend=backend), x, [weight, bias], kept)


@kept_sizes
@pytest.mark.parametrize(
    ("name", "backend", "dtype", "recompute"),
    [
        *itertools.product(PATCH_MAPS, ["torch"], TYPES[:1], [True, False]),
        *itertools.product(PATCH_MAPS[:2], ["torch"], TYPES[1:], [True]),
        *itertools.product(PATCH_MAPS[:3], ["cpp"], TYPES[:1], [True]),
    ],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2])
def test_images(name, backend, dtype, recompute, kept, groups):
    x, parameters = drawn(dtype, (12, 8, 7, 7), (8, 8 // groups, 3, 3), (8,))
    settings = {"kappa": 1.3, "recompute": recompute, "backend": backend, "groups": groups, "padding": 1}
    if name == "transposed":
        parameters[1] = parameters[1][: 8 // groups * groups]
    elif name == "centred":
        settings |= {"form": "norm-like", "center": True}
    else:
        settings["form"] = name
    convolve = functional.patch_norm_conv_transpose2d if name == "transposed" else functional.patch_norm_conv2d
    assert_no_bit_changes(lambda *t: convolve(*t, **settings), x, parameters, kept)


@kept_sizes
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rows_of_unit_length(dtype, kept):
    x, _ = drawn(dtype, (12, 2, 5, 16))
    assert_no_bit_changes(lambda q: unit.UnitPair.apply(q, q.detach())[0], x, [], kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_maps_of_a_file(name, tmp_path, import_package):
    """Maps of the shipped maps' form, which have their kernels, maps at an angle, and general ones."""
    text, shape, parameters, sizes = LAYERS[name]
    package = f"others_{name.replace('-', '_')}"
    write(
        build_layer(loads_spec(text), package, parse_angle("atan(r/n)") if name == "rows" else None), tmp_path / package
    )
    made = vars(import_package(tmp_path, package).functional)
    functions = [made[word] for word in made if word.endswith("_like")]
    assert functions
    x, parameters = drawn(torch.float32, (20, *shape), *parameters)
    for function, backend, kept in itertools.product(functions, ["torch", "cpp"], KEPT):
        assert_no_bit_changes(lambda *t, f=function, b=backend: f(*t, backend=b, **sizes), x, parameters, kept)
