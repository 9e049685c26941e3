"""Any layer with a map is generated: random files, each checked by one step and by derivatives."""

from __future__ import annotations

import importlib
import itertools
import json
import sys

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from codegen.compiler import build_layer
from codegen.package import MANIFEST, write
from derive.spec import loads_spec
from tests.codegen.layer_files import toml

SIZES = {"n": 3, "k": 2, "m": 2, "v": 4}
ETA = 0.2

x_entries = st.sampled_from(["x[j]", "x[n - 1 - j]", "x[2*j + 1]", "x[j + 1]*x[j]", "x[t[0]]"])
functions = st.sampled_from(
    [
        "{}",
        "tanh({})",
        "({})**2/2",
        "cos({} - 1)",
        "exp({}/2)",
        "sqrt(1 + ({})**2)",  # squared as a whole, to avoid the root of a negative number
        "log(2 + abs({}))",
        "max({}, -0.5)",
        "u[j]*{}",
    ]
)
y_entries = st.sampled_from(
    ["y[h]", "y[h]*mu", "sum[j](x[j]*tanh(y[h]))", "y[k - 1 - h]/(1 + y[h]**2)", "delta(h, t[1] - 1)*y[h]"]
)
offsets = st.sampled_from(["", " + b[i]", " + 3*b[i]", " - b[i]/2", " + b[i] + c[i]", " + W[t[0], i]"])


@st.composite
def layers(draw):
    """Return the text of a layer with one or two weights and optional offsets."""
    terms = [f"sum[j](A[i, j]*{draw(functions).format(draw(x_entries))})"]
    if draw(st.booleans()):
        terms.append(f"sum[h](C[i, h]*{draw(y_entries)})")
    formula = f"z[i] = {' + '.join(terms)}{draw(offsets)}"
    definitions = ["mu = sum[j](x[j])/n"] if "mu" in formula else []
    definitions += ["u[j] = x[j]**2 + 1"] if "u[" in formula else []
    everything = " ".join([*definitions, formula])

    def used(tensors):
        return ", ".join(f"{name}: {axes}" for name, axes in tensors.items() if f"{name}[" in everything)

    tokens = "2 < v" if "W[" in formula and "x[t" not in formula else "2 < n"
    inputs, parameters = {"x": "n", "y": "k", "t": tokens}, {"A": "m n", "C": "m k", "b": "m", "c": "m", "W": "v m"}
    return toml("drawn", "n k m v", used(inputs), used(parameters), "z: m", *definitions, formula)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Write a package under a unique name and import it."""
    folder, numbers = tmp_path_factory.mktemp("drawn"), itertools.count()
    sys.path.insert(0, str(folder))

    def load(texts):
        name = f"drawn_{next(numbers)}"
        write(texts, folder / name)
        return importlib.import_module(name)

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.startswith("drawn_")]:
        del sys.modules[name]


def length(axis):
    return int(axis.subs({s: SIZES[str(s)] for s in axis.free_symbols}))


def random_inputs(layer):
    made = []
    for t in layer.inputs:
        shape = [1, *(length(a) for a in t.axes[1:])]
        made.append(
            torch.randn(shape, dtype=torch.float64) if t.values is None else torch.randint(0, length(t.values), shape)
        )
    return made


def check(module, inputs):
    """Check that one step moves the output by -eta kappa g, and slopes against differences in a random direction."""
    z = module(*inputs).detach()
    g = torch.randn_like(z)
    real = [x.requires_grad_() for x in inputs if x.is_floating_point()]
    slopes = torch.autograd.grad((module(*inputs) * g).sum(), [*real, *module.parameters()])
    step = 1e-5
    ways = [torch.randn_like(x) for x in real]
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            moved = iter([x + sign * step * way for x, way in zip(real, ways, strict=True)])
            ends.append((module(*(next(moved) if x.is_floating_point() else x for x in inputs)) * g).sum())
        along = torch.as_tensor(sum((s * way).sum() for s, way in zip(slopes, ways, strict=False)), dtype=z.dtype)
        torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), along, rtol=1e-5, atol=1e-6)
        for parameter, slope in zip(module.parameters(), slopes[len(real) :], strict=True):
            parameter -= ETA * slope
        torch.testing.assert_close(module(*inputs) - z, -ETA * module.kappa * g, rtol=1e-12, atol=1e-12)


def has_energy(module, inputs):
    """Whether the weights affect the output: at energy zero a normalising map has no weight part."""
    weights = [p for name, p in module.named_parameters() if name in "AC"]
    with torch.no_grad():
        z, old = module(*inputs), [w.clone() for w in weights]
        for w in weights:
            w.zero_()
        changed = not torch.equal(module(*inputs), z)
        for w, kept in zip(weights, old, strict=True):
            w.copy_(kept)
    return changed


@settings(max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(text=layers(), number=st.integers(0, 99))
def test_random_layers_are_generated_and_aligned(packages, text, number):
    check_all(packages, text, number)


@pytest.mark.slow
@settings(max_examples=24, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(text=layers(), number=st.integers(0, 99))
def test_more_random_layers_are_generated_and_aligned(packages, text, number):
    check_all(packages, text, number)


def check_all(packages, text, number):
    """Check every map of a layer."""
    layer = loads_spec(text)
    texts = build_layer(layer)
    made = packages(texts)
    torch.manual_seed(number)
    for name in json.loads(texts[MANIFEST])["classes"]:
        module_class = getattr(made, name)
        sizes = {s: SIZES[s] for s in module_class.__init__.__annotations__ if s in SIZES}
        module = module_class(**sizes, dtype=torch.float64, kappa=20.0)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
        inputs = random_inputs(layer)
        if "NormLike" not in name or has_energy(module, inputs):
            check(module, inputs)
