"""Convolutions in files: which ones are recognised, and that their compiled code computes the file's formula."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import replace

import pytest
import torch

from codegen import compiler
from codegen.compiler import build_layer
from codegen.lower.links import Relations
from codegen.package import MANIFEST, write
from codegen.plans import patch_form as recogniser
from codegen.plans.patch_form import patch_form
from derive.spec import loads_spec
from tests.codegen.convolution_files import CENTRED, KINDS, PLAIN, TRANSPOSED, Drawn, drawn, reference
from tests.codegen.layer_files import toml
from tests.marks import one_in

KAPPA = 5.3
EVERYDAY = range(4)
SEEDS = [pytest.param(seed, marks=[] if seed in EVERYDAY else [pytest.mark.slow]) for seed in range(16)]


@pytest.fixture
def generated(tmp_path, monkeypatch):
    """Import the package of a text, generated with or without recognition."""
    made = []
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(text, recognised=True):
        name = f"convolved_{len(made)}"
        made.append(name)
        with monkeypatch.context() as patch:
            if not recognised:
                patch.setattr(compiler, "patch_form", lambda layer: None)
            texts = build_layer(loads_spec(text), name)
        assert ("runtime/windows.py" in texts) == recognised
        write(texts, tmp_path / name)
        return importlib.import_module(name)

    yield load
    for name in [m for m in sys.modules if m.split(".")[0] in made]:
        del sys.modules[name]


def operands(found: Drawn, seed: int = 0, batch: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": [batch, *found.shape("x")], "W": found.shape("W"), **({"b": found.shape("b")} if found.bias else {})}
    return {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}


def forms(found: Drawn) -> list[str]:
    return ["affine-like", "norm-like"] if found.bias else ["norm-like"]


def results(function, given):
    """Return the output, its gradients, and the gradients of a function of these gradients."""
    leaves = {name: t.clone().requires_grad_() for name, t in given.items()}
    z = function(**leaves)
    g = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
    first = torch.autograd.grad(z, list(leaves.values()), g, create_graph=True)
    second = torch.autograd.grad(sum(t.square().sum() for t in first), list(leaves.values()), allow_unused=True)
    return [z, *first, *(torch.zeros_like(t) if s is None else s for s, t in zip(second, leaves.values(), strict=True))]


def mapped(made, found: Drawn, form: str, backend: str = "torch"):
    function = getattr(made.functional, f"drawn_{form.replace('-', '_')}")
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    sizes = {name: found.lengths[name.lower()] for name in names if name != "backend"}
    return lambda **tensors: function(**tensors, kappa=KAPPA, backend=backend, **sizes)


def check(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def by_reference(found: Drawn, form: str):
    return lambda x, W, b=None: reference(found, form, KAPPA, x, W, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_convolution_in_a_file_computes_what_torchs_convolutions_do(generated, seed):
    found = drawn(seed)
    made = generated(found.text)
    for form in forms(found):
        given = operands(found, seed)
        check(results(mapped(made, found, form), given), results(by_reference(found, form), given))


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != CENTRED)) for k in KINDS])
def test_the_general_path_gives_the_same_numbers(generated, kind):
    found = next(f for f in map(lambda seed: drawn(seed, kind), range(100)) if "o" in f.axes["z"] and f.bias)
    short, general = generated(found.text), generated(found.text, recognised=False)
    for form in forms(found):
        given = operands(found)
        check(results(mapped(short, found, form), given), results(mapped(general, found, form), given))


@pytest.mark.parametrize("seed", one_in(3, range(3)))
def test_kernels_in_cpp_take_the_windows_of_the_file(generated, seed):
    plain = (f for f in map(lambda s: drawn(s, PLAIN), range(100)) if "g" not in f.axes["x"])
    found = [f for f, _ in zip(plain, range(3), strict=False)][seed]
    made = generated(found.text)
    for form in forms(found):
        given = operands(found, batch=64)
        wanted = results(by_reference(found, form), given)
        check(results(mapped(made, found, form, "cpp"), given), wanted)


ONE = ("C L O P", "x: C L", "W: O C 3, b: O", "z: O P")
RECOGNISED = {
    "strided": toml("one", *ONE, "z[o, p] = sum[c, k](W[o, c, k]*x[c, 2*p + k - 1]) + b[o]"),
    "declared numbers": toml(
        "one",
        "C L O P K s d",
        "x: C L",
        "W: O C K, b: O",
        "z: O P",
        "z[o, p] = sum[c, k](W[o, c, k]*x[c, s*p + d*k - pad]) + b[o]",
        offsets="pad",
    ),
    "a filter an image": toml("one", "L O P", "x: L", "W: O 3", "z: O P", "z[o, p] = sum[k](W[o, k]*x[p + k])"),
    "depthwise": toml(
        "one", "C L", "x: C L", "W: C 3, b: C", "z: C L", "z[c, p] = sum[k](W[c, k]*x[c, p + k - 1]) + b[c]"
    ),
    "one length twice": toml(
        "one",
        "C L O P",
        "x: C L L",
        "W: O C 3 3",
        "z: O P P",
        "z[o, p, q] = sum[c, i, j](W[o, c, i, j]*x[c, p + i, q + j])",
    ),
    "all lengths three": toml(
        "one", "C O", "x: C 5", "W: O C 3", "z: O 3", "z[o, p] = sum[c, i](W[o, c, i]*x[c, p + i])"
    ),
    "a patch that is named": toml(
        "one",
        *ONE,
        "u[c:C, k:3, p:P] = x[c, 2*p + k - 1]",
        "z[o, p] = sum[c, k](W[o, c, k]*u[c, k, p]) + b[o]",
    ),
    "backwards in time": toml(
        "one", "C L O", "x: L C", "W: 3 O C", "z: L O", "z[p, o] = sum[c, k](W[k, o, c]*x[p - k, c])"
    ),
}
MEAN = "m[p:P] = sum[c:C, k:3](x[c, p + k])/(3*C)"
OTHERS = {
    "a mean of another length": toml(
        "one",
        *ONE,
        MEAN.replace("3*C", "2*C"),
        "z[o, p] = sum[c, k](W[o, c, k]*(x[c, p + k] - m[p])) + b[o]",
    ),
    "a mean of other places": toml(
        "one", *ONE, MEAN, "z[o, p] = sum[c, k](W[o, c, k]*(x[c, p + k - 1] - m[p])) + b[o]"
    ),
    "twice the product": toml("one", *ONE, "z[o, p] = 2*sum[c, k](W[o, c, k]*x[c, p + k]) + b[o]"),
    "a square": toml("one", *ONE, "z[o, p] = sum[c, k](W[o, c, k]*x[c, p + k]**2) + b[o]"),
    "a kernel that turns": toml("one", *ONE, "z[o, p] = sum[c, k](W[o, c, k]*x[c, 2*p - k]) + b[o]"),
    "a bias for each place": toml(
        "one",
        "C L O P",
        "x: C L",
        "W: O C 3, b: O P",
        "z: O P",
        "z[o, p] = sum[c, k](W[o, c, k]*x[c, p + k]) + b[o, p]",
    ),
    "a bias that groups share": toml(
        "one",
        "G C L O P",
        "x: G C L",
        "W: G O C 3, b: O",
        "z: G O P",
        "z[g, o, p] = sum[c, k](W[g, o, c, k]*x[g, c, p + k]) + b[o]",
    ),
    "a bias for each group": toml(
        "one",
        "G C L O P",
        "x: G C L",
        "W: G O C 3, b: G",
        "z: G O P",
        "z[g, o, p] = sum[c, k](W[g, o, c, k]*x[g, c, p + k]) + b[g]",
    ),
    "two inputs": toml(
        "one",
        "C L O P",
        "x: C L, y: C L",
        "W: O C 3",
        "z: O P",
        "z[o, p] = sum[c, k](W[o, c, k]*x[c, p + k]*y[c, p + k])",
    ),
    "two kernels": toml(
        "one", "C L O P", "x: C L", "W: O C 3, V: O C", "z: O P", "z[o, p] = sum[c, k](W[o, c, k]*V[o, c]*x[c, p + k])"
    ),
    "a matrix": toml("one", "n m", "x: n", "W: m n, b: m", "z: m", "z[i] = sum[j](W[i, j]*x[j]) + b[i]"),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_a_convolution_is_recognised_however_it_is_written(name):
    assert patch_form(loads_spec(RECOGNISED[name])) is not None


@pytest.mark.parametrize("seed", range(40))
def test_a_random_convolution_is_recognised_as_what_it_is(seed):
    found = drawn(seed)
    form = patch_form(loads_spec(found.text))
    assert form is not None
    kind = TRANSPOSED if form.transposed else CENTRED if form.centred else PLAIN
    assert kind == found.kind
    numbers = {(int(w.stride), int(w.dilation), int(w.padding)) for w in form.windows}
    assert numbers == set(found.numbers) and form.with_bias == bool(found.bias)


@pytest.mark.parametrize("name", one_in(2, OTHERS))
def test_what_is_no_shipped_convolution_is_compiled_as_any_other_layer(name):
    layer = loads_spec(OTHERS[name])
    assert patch_form(layer) is None
    manifest = json.loads(build_layer(layer)[MANIFEST])
    if name != "a matrix":
        assert not manifest["without"] and not manifest["compiled_as"]


def test_the_manifest_names_the_map_that_computes_and_every_target():
    texts = RECOGNISED["strided"], RECOGNISED["depthwise"], drawn(2, CENTRED).text, drawn(2, TRANSPOSED).text
    kinds = "grouped-convolution", "grouped-convolution", "centred-convolution", "grouped-transposed-convolution"
    for text, kind in zip(texts, kinds, strict=True):
        whole = json.loads(build_layer(loads_spec(text))[MANIFEST])
        assert whole["targets"] == ["torch", "triton", "cuda", "cpp"] and not whole["without"]
        assert all(known["map"].startswith(kind) for known in whole["compiled_as"].values())
        assert whole["compiled_as"].keys() == whole["derivations"].keys() - set(whole["plain"].values())


def test_a_wrong_padding_is_refused_and_without_the_proof_the_numbers_show_it(generated, monkeypatch):
    """Mutate the reader of links."""
    found = drawn(1, PLAIN)
    related = recogniser._related

    def shifted(layer, total) -> Relations:
        right = related(layer, total)
        return replace(right, links=[replace(link, padding=link.padding + 1) for link in right.links])

    monkeypatch.setattr(recogniser, "_related", shifted)
    assert patch_form(loads_spec(found.text)) is None
    monkeypatch.setattr(recogniser, "_same", lambda layer, own, roles, centred: not centred)
    made = generated(found.text)
    (form, *_), given = forms(found), operands(found)
    with pytest.raises(AssertionError, match="not close"):
        check(results(mapped(made, found, form), given), results(by_reference(found, form), given))
