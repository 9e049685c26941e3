"""Layers of one matrix in files, with any number of axes of samples, units and features: recognised, and as exact."""

from __future__ import annotations

import importlib
import inspect
import json
import random
import sys
from functools import partial

import pytest
import torch

from codegen import compiler
from codegen.compiler import build, build_layer
from codegen.package import MANIFEST, write
from codegen.plans.row_form import row_form
from derive.errors import UsageError
from derive.formula import parse_angle
from derive.spec import loads_spec
from tests.codegen.layer_files import toml

KAPPA = 5.3
LENGTHS = {"t": 3, "p": 2, "u": 2, "v": 3, "f": 4, "e": 2}


def drawn(seed):
    """Return a random layer file, the axes of its tensors by letters, and whether there is a bias."""
    rng = random.Random(seed)
    samples, units, features = (
        ["t", "p"][: rng.randint(0, 2)],
        ["u", "v"][: rng.randint(1, 2)],
        ["f", "e"][: rng.randint(1, 2)],
    )
    axes = {"x": samples + features, "W": units + features, "b": list(units), "z": samples + units}
    for listed in axes.values():
        rng.shuffle(listed)
    bias = rng.random() < 0.7
    product = f"sum[{', '.join(features)}](W[{', '.join(axes['W'])}]*x[{', '.join(axes['x'])}])"
    formula = f"z[{', '.join(axes['z'])}] = {product}{' + b[' + ', '.join(axes['b']) + ']' if bias else ''}"
    named = {name: " ".join(a.upper() for a in listed) for name, listed in axes.items()}
    parameters = [f"W: {named['W']}", *([f"b: {named['b']}"] if bias else [])]
    rng.shuffle(parameters)
    sizes = " ".join(a.upper() for a in (*samples, *units, *features))
    return toml("drawn", sizes, f"x: {named['x']}", ", ".join(parameters), f"z: {named['z']}", formula), axes, bias


def reference(axes, form, x, W, b=None):
    """Return the map by einsum."""
    letters = {name: "".join(listed) for name, listed in axes.items()}
    product = torch.einsum(f"s{letters['x']},{letters['W']}->s{letters['z']}", x, W)
    positions = "".join(a for a in letters["z"] if a in letters["x"])
    energy = torch.einsum(f"s{letters['x']}->s{positions}", x.square())
    for place, axis in enumerate(letters["z"], start=1):
        energy = energy.unsqueeze(place) if axis not in positions else energy
    offset = (
        0.0
        if b is None
        else torch.einsum(f"{letters['b']}->{''.join(a for a in letters['z'] if a in letters['b'])}", b)
    )
    if b is not None:
        for place, axis in enumerate(letters["z"]):
            offset = offset.unsqueeze(place) if axis in positions else offset
    if form == "affine-like":
        return (product + offset) * (KAPPA / (1 + energy)).sqrt()
    return product * ((KAPPA - (b is not None)) / energy).sqrt() + offset


@pytest.fixture
def generated(tmp_path, monkeypatch):
    """Import the package of a text, generated with or without recognition."""
    made = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(text, recognised=True, angle=None):
        name = f"of_rows_{len(made)}"
        made.append(name)
        with monkeypatch.context() as patch:
            if not recognised:
                patch.setattr(compiler, "row_form", lambda layer: None)
            texts = build_layer(loads_spec(text), name, angle)
        assert bool(json.loads(texts[MANIFEST])["compiled_as"]) == recognised
        write(texts, tmp_path / name)
        return importlib.import_module(name)

    yield load
    for name in [m for m in sys.modules if m.split(".")[0] in made]:
        del sys.modules[name]


def operands(axes, bias, batch=3):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": [batch, *(LENGTHS[a] for a in axes["x"])], "W": [LENGTHS[a] for a in axes["W"]]}
    shapes |= {"b": [LENGTHS[a] for a in axes["b"]]} if bias else {}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def results(function, given):
    leaves = {name: t.clone().requires_grad_() for name, t in given.items()}
    z = function(**leaves)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    return [z, *torch.autograd.grad(z, list(leaves.values()), g)]


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[] if s < 5 else [pytest.mark.slow]) for s in range(20)])
def test_any_matrix_in_a_file_computes_what_einsum_does_on_every_backend(generated, seed):
    text, axes, bias = drawn(seed)
    made, given = generated(text), operands(axes, bias, batch=40)
    for form in ("affine-like", "norm-like") if bias else ("norm-like",):
        function = getattr(made.functional, f"drawn_{form.replace('-', '_')}")
        wanted = results(lambda x, W, b=None, form=form: reference(axes, form, x, W, b), given)
        for backend in ("torch", "cpp"):
            found = results(
                lambda backend=backend, f=function, **named: f(**named, kappa=KAPPA, backend=backend), given
            )
            for a, b in zip(found, wanted, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    empty = {**given, "x": given["x"][:0]}
    assert function(**empty).shape == (0, *wanted[0].shape[1:])


def test_the_general_path_gives_the_same_numbers(generated):
    text, axes, bias = next(d for d in map(drawn, range(100)) if d[2] and len(d[1]["z"]) == 4)
    short, general, given = generated(text), generated(text, recognised=False), operands(axes, bias)
    for form in ("affine_like", "norm_like"):
        both = [
            results(lambda m=m, form=form, **n: getattr(m.functional, f"drawn_{form}")(**n), given)
            for m in (short, general)
        ]
        for a, b in zip(*both, strict=True):
            torch.testing.assert_close(a, b)


MAPPED = {
    "a row": (toml("drawn", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j]) + b[i]"), (40, 4)),
    "tokens": (
        toml("drawn", "k n m", "x: k n", "W: m n, b: m", "z: k m", "z[t, i] = sum[j](W[i, j]*x[t, j]) + b[i]"),
        (20, 2, 4),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "kind"), [("2*atan(r/2)", "a row"), ("atan(r/n)", "tokens")])
def test_a_map_at_an_angle_has_the_shipped_kernels_and_the_general_numbers(generated, kind, angle):
    (text, shape), turned = MAPPED[kind], parse_angle(angle)
    texts, wanted = build_layer(loads_spec(text), angle=turned), build(angle=turned)
    for target, ending in (("torch", "py"), ("triton", "py"), ("cuda", "cu"), ("cpp", "cpp")):
        path = f"kernels/{target}/angle_like.{ending}"
        assert texts[path].replace("drawn/", "") == wanted[path]
    short, general = generated(text, angle=turned), generated(text, recognised=False, angle=turned)
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": shape, "W": (3, 4), "b": (3,)}
    given = {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}
    right = results(general.functional.drawn_angle_like, given)
    for backend in ("torch", "cpp"):
        found = results(partial(short.functional.drawn_angle_like, backend=backend), given)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b)


def test_an_angle_of_another_size_is_left_to_the_general_path():
    """Here ``n`` is the number of tokens, not the length of a row."""
    text = toml("drawn", "k n m", "x: n k", "W: m k, b: m", "z: n m", "z[t, i] = sum[j](W[i, j]*x[t, j]) + b[i]")
    form = row_form(loads_spec(text))
    assert form is not None
    with pytest.raises(UsageError, match="not the length of a row"):
        form.with_sizes(parse_angle("atan(r/n)"))
    made = json.loads(build_layer(loads_spec(text), angle=parse_angle("atan(r/n)"))[MANIFEST])
    assert "DrawnAngleLike" in made["classes"] and not made["compiled_as"]


OTHERS = {
    "tokens that mix": ("T n m", "x: T n", "W: m n, b: m", "z: m", "z[i] = sum[j, t](W[i, j]*x[t, j]) + b[i]"),
    "a vector for each token": (
        "T n m",
        "x: T n",
        "W: m n, b: T m",
        "z: T m",
        "z[t, i] = sum[j](W[i, j]*x[t, j]) + b[t, i]",
    ),
    "a matrix for each token": ("T n m", "x: T n", "W: T m n", "z: T m", "z[t, i] = sum[j](W[t, i, j]*x[t, j])"),
    "a size as a number": ("T n m", "x: T n", "W: m n", "z: T m", "z[t, i] = sum[j](W[i, j]*x[t, j])/T"),
    "a diagonal": ("n m", "x: n", "W: m n n", "z: m", "z[i] = sum[j](W[i, j, j]*x[j])"),
    "a sum of its own": ("n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j]) + sum[k](b[k])*b[i]"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_matrix_times_rows_is_not_taken_for_one(name):
    assert row_form(loads_spec(toml("other", *OTHERS[name]))) is None


def test_lengths_may_be_numbers_and_alike():
    text = toml("square", "n", "x: n", "W: n n, b: n", "z: n", "z[i] = sum[j](W[i, j]*x[j])/3 + 2*b[i]")
    fixed = toml("fixed", "m", "x: 4", "W: m 4", "z: m", "z[i] = sum[j](W[i, j]*x[j])")
    forms = [row_form(loads_spec(t)) for t in (text, fixed)]
    assert all(form is not None and form.layout is None for form in forms)
    assert str(forms[0].layer.parameters[0].axes) == "(m, n)"
    shared = toml("shared", "n", "x: n", "W: n n", "z: n", "z[i] = sum[j](W[i, j]*x[j])/n")
    assert row_form(loads_spec(shared)) is None  # n could be either of the two lengths


def test_a_layout_that_mixes_tokens_and_features_shows(generated):
    """Mutate the layout."""
    text = toml("drawn", "T n m", "x: n T", "W: m n", "z: T m", "z[t, i] = sum[j](W[i, j]*x[j, t])")
    made = generated(text)
    layout = importlib.import_module(f"{made.__name__}.runtime.row_layout").RowLayout
    assert "x=(1, 0)" in inspect.getsource(made.functional)
    x, W = torch.randn(2, 3, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    right = reference({"x": ["f", "t"], "W": ["u", "f"], "z": ["t", "u"]}, "norm-like", x, W)
    torch.testing.assert_close(made.functional.drawn_norm_like(x, W, KAPPA), right)
    made.functional.RowLayout = lambda **given: layout(**{**given, "x": (0, 1)})
    assert not torch.allclose(made.functional.drawn_norm_like(x, W, KAPPA), right)
