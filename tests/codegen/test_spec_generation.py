"""Code for a layer file: equal to the reference scaled by autograd's self factor, and one step moves it as derived."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import affdiv
from codegen.compiler import build_layer
from codegen.ir.interpret import interpret
from codegen.lower.safe_names import MODULE_ATTRIBUTES
from codegen.package import MANIFEST, write
from codegen.plans.layers import layer_plan
from codegen.targets.base import Target
from derive.cancel import solve
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import AFFINE, FILES, toml
from tests.emitted import file_of
from tests.marks import one_in

ROOT = Path(__file__).parents[2]
KAPPA = 5.3
BATCH = 3
KINDS = ("affine_like", "norm_like")
MAPS = [(name, kind) for name in FILES for kind in KINDS if (name, kind) != ("no_bias", "affine_like")]
ONE_KIND = [(name, KINDS[1 if name == "no_bias" else k % 2]) for k, name in enumerate(FILES)]  # for slow tests
pytestmark = [  # torch's own warnings about forward mode and read-only arrays
    pytest.mark.filterwarnings("ignore:.torch.jit.script(_method)?. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]
ALONE = [(name, kind) for name, kind in MAPS if FILES[name].alone]
maps = pytest.mark.parametrize(("name", "kind"), MAPS, ids=[f"{n}-{k}" for n, k in MAPS])


@functools.cache
def texts(name):
    return build_layer(loads_spec(FILES[name].text))


@functools.cache
def layer(name):
    return loads_spec(FILES[name].text)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Import the package of a layer, written once."""
    folder = tmp_path_factory.mktemp("layers")
    sys.path.insert(0, str(folder))

    def load(name):
        if not (folder / f"made_{name}").exists():
            write(texts(name), folder / f"made_{name}")
        return importlib.import_module(f"made_{name}")

    yield load
    sys.path.remove(str(folder))
    for name in [m for m in sys.modules if m.split(".")[0].startswith("made_")]:
        del sys.modules[name]


def length(axis, sizes):
    return int(axis.subs({s: sizes[str(s)] for s in axis.free_symbols}))


def tensors(name, batch=BATCH, seed=0):
    """Return random inputs, then parameters, of a layer."""
    generator = torch.Generator().manual_seed(seed)
    sizes, made = FILES[name].sizes, []
    for t in layer(name).inputs:
        shape = [batch, *(length(a, sizes) for a in t.axes[1:])]
        if t.values is None:
            made.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            made.append(torch.randint(0, length(t.values, sizes), shape, generator=generator))
    for p in layer(name).parameters:
        made.append(torch.randn([length(a, sizes) for a in p.axes], generator=generator, dtype=torch.float64))
    return made


def call(made, name, kind):
    """Return the function of a map, at KAPPA and at the sizes that no tensor determines."""
    function = getattr(made.functional, f"{name}_{kind}")
    named = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "backend"
    ]
    return lambda *operands: function(*operands, KAPPA, **{size: FILES[name].sizes[size] for size in named})


def expected(name, kind, operands):
    """Return the map computed from the twin and autograd's derivatives of it with respect to the parameters."""
    file, inputs = FILES[name], len(layer(name).inputs)
    plan = layer_plan(solve(layer(name))[kind.replace("_", "-")])
    parameters = [p.name for p in layer(name).parameters]
    offsets = [k for k, p in enumerate(parameters) if p in plan.offsets]

    def twin(*values):
        return file.twin(*operands[:inputs], *values, sizes=file.sizes)

    values = operands[inputs:]
    slopes = torch.func.jacrev(twin, argnums=tuple(range(len(values))))(*values)
    z = twin(*values)
    shares = [s.square().flatten(z.dim()).sum(-1) for s in slopes]
    if kind == "affine_like":
        return math.sqrt(KAPPA) * z / sum(shares).sqrt()
    bare = twin(*(torch.zeros_like(v) if k in offsets else v for k, v in enumerate(values)))
    constant = sum(shares[k] for k in offsets) if offsets else 0
    energy = sum(s for k, s in enumerate(shares) if k not in offsets)
    return torch.sqrt(KAPPA - torch.as_tensor(constant)) * bare / energy.sqrt() + z - bare


@pytest.mark.parametrize(("name", "kind"), one_in(3, [pair for pair in MAPS if pair != ("tokens", "norm_like")]))
def test_a_map_is_the_twin_divided_by_the_root_of_its_self_factor(package, name, kind):
    operands = tensors(name)
    torch.testing.assert_close(call(package(name), name, kind)(*operands), expected(name, kind, operands))


def test_a_look_up_beside_a_product_keeps_its_share_in_the_norm_like_map(package):
    t, x, E, W = tensors("tokens")
    z = call(package("tokens"), "tokens", "norm_like")(t, x, E, W)
    unit = x / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(z, E[t] + math.sqrt(KAPPA - 1) * (unit @ W.T)[:, None, :])


@maps
def test_derivatives_are_those_of_autograd(package, name, kind):
    operands = [t.requires_grad_() if t.is_floating_point() else t for t in tensors(name, batch=2)]
    function = call(package(name), name, kind)
    assert gradcheck(function, operands, check_forward_ad=True)
    if name in ("tanh_features", "strided", "tokens"):
        assert gradgradcheck(function, operands)


@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_one_step_moves_a_lone_sample_by_its_own_gradient(package, name, kind):
    module = constructed(package(name), name, kind)
    assert_aligned(module, tensors(name, batch=1)[: len(layer(name).inputs)], lambda z: torch.randn_like(z))


@pytest.mark.parametrize("name", ["strided", "padded", "tokens"])
def test_one_step_moves_a_lone_position_by_its_own_gradient(package, name):
    module = constructed(package(name), name, "affine_like")

    def at_one_position(z):
        g = torch.zeros_like(z)
        place = (0, 1) if name == "tokens" else (0, slice(None), *(1 for _ in z.shape[2:]))
        g[place] = torch.randn_like(g[place])
        return g

    inputs = tensors(name, batch=1)[: len(layer(name).inputs)]
    assert_aligned(module, inputs, at_one_position, where=lambda g: g != 0)


def constructed(made, name, kind, **changes):
    """Return a module of a layer with random parameters; sizes are passed by name."""
    words = "".join(w.capitalize() for w in f"{name}_{kind}".split("_"))
    made_class = getattr(made, words)
    sizes = {p: FILES[name].sizes[p] for p in inspect.signature(made_class).parameters if p in FILES[name].sizes}
    module = made_class(**sizes, dtype=torch.float64, **{"kappa": KAPPA, **changes})
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def assert_aligned(module, inputs, cotangent, where=lambda g: torch.ones_like(g, dtype=torch.bool), eta=0.3):
    z = module(*inputs).detach()
    g = cotangent(z)
    (module(*inputs) * g).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= eta * parameter.grad
    moved = (module(*inputs) - z).detach()
    torch.testing.assert_close(moved[where(g)], (-eta * module.kappa * g)[where(g)], rtol=1e-12, atol=1e-12)


def test_the_example_of_the_contract(package):
    made = package("scaled_affine")
    module = made.ScaledAffineAffineLike(4, 3)
    classes = ["ScaledAffine", "ScaledAffineAffineLike", "ScaledAffineNormLike"]
    assert made.__all__ == [*classes, "functional", "self_factor"]
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {"W": (3, 4), "b": (3,)}
    assert module.W.dtype == torch.float32 and not module.b.any()
    assert repr(module) == "ScaledAffineAffineLike(n=4, m=3, kappa=1)"
    signature = inspect.signature(made.ScaledAffineNormLike)
    assert list(signature.parameters) == ["n", "m", "device", "dtype", "kappa", "backend"]
    assert signature.parameters["kappa"].default == 2.0
    x = torch.randn(5, 4)
    z = torch.nn.functional.linear(x, module.W, module.b) / torch.sqrt(x.square().sum(-1, keepdim=True) + 1)
    torch.testing.assert_close(module(x), z)


def test_sizes_that_nothing_shows_are_given_by_name(package):
    signature = inspect.signature(package("padded").PaddedAffineLike)
    kinds = {name: p.kind.name for name, p in signature.parameters.items()}
    assert [n for n, k in kinds.items() if k == "POSITIONAL_OR_KEYWORD"] == ["c", "o", "device", "dtype"]
    assert [n for n, k in kinds.items() if k == "KEYWORD_ONLY"] == ["p", "q", "pad", "kappa", "backend"]


@pytest.mark.parametrize("lead", [(), (1,), (0,), (2, 3), (2, 0)])
@pytest.mark.parametrize("name", ["scaled_affine", "strided", "tokens", "two_inputs"])
def test_any_leading_axes_are_the_batch(package, name, lead):
    module = constructed(package(name), name, "affine_like")
    count = math.prod(lead)
    inputs = tensors(name, batch=count)[: len(layer(name).inputs)]
    z = module(*(x.reshape(*lead, *x.shape[1:]) for x in inputs))
    flat = module(*inputs)
    assert z.shape == (*lead, *flat.shape[1:])
    torch.testing.assert_close(z.flatten(), flat.flatten())


def test_samples_without_energy_keep_the_offset_and_get_no_gradient_through_the_scale(package):
    module = constructed(package("tanh_features"), "tanh_features", "norm_like")
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    z = module(x)
    torch.testing.assert_close(z, module.b.expand(2, 2))
    z.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x)) and torch.isfinite(module.W.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_are_computed_wide(package, dtype):
    module = constructed(package("thirds"), "thirds", "affine_like")
    x = 2e4 * torch.randn(4, 3)
    narrow = module.to(dtype)(x.to(dtype))
    assert narrow.dtype == dtype
    torch.testing.assert_close(narrow.double(), module.double()(x.to(dtype).double()), rtol=1e-2, atol=1e-2)


def test_transforms(package):
    module = constructed(package("strided"), "strided", "affine_like")
    x = tensors("strided", batch=4)[0]
    torch.testing.assert_close(torch.vmap(module)(x[:, None])[:, 0], module(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert module.float()(x.float()).dtype == torch.bfloat16
    compiled = torch.export.export(module.double(), (x,)).module()
    torch.testing.assert_close(compiled(x), module(x))
    twin = constructed(package("strided"), "strided", "affine_like")
    twin.load_state_dict(module.state_dict())
    torch.testing.assert_close(twin(x), module(x))


@pytest.mark.parametrize("name", ["two_inputs", "padded", "tokens", "bag"])
def test_programs_mean_the_same_to_the_interpreter(package, name):
    plan = layer_plan(solve(layer(name))["affine-like"])
    operands = tensors(name)
    arrays = dict(zip(plan.tensors, (t.numpy() for t in operands), strict=True))
    sizes = {**FILES[name].sizes, "B": BATCH}
    z = call(package(name), name, "affine_like")(*operands)
    found = interpret(plan.forward, arrays, {"kappa": KAPPA}, sizes)
    torch.testing.assert_close(torch.as_tensor(found[plan.forward.outputs[0]]), z)
    real = [t.requires_grad_() for t in operands if t.is_floating_point()]
    g = torch.randn_like(z)
    saved = {n: found[n] for n in plan.saved}
    gradients = interpret(plan.backward, {**arrays, **saved, "g": g.numpy()}, {"kappa": KAPPA}, sizes)
    z = call(package(name), name, "affine_like")(*operands)
    for name_, gradient in zip(plan.backward.outputs, torch.autograd.grad(z, real, g), strict=True):
        torch.testing.assert_close(torch.as_tensor(gradients[name_]), gradient)


def test_what_is_kept_is_one_number_a_position(package):
    module = constructed(package("padded"), "padded", "affine_like")
    x = tensors("padded")[0].requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        module(x)
    own = {t.data_ptr() for t in (x, module.W, module.b)}
    sizes = FILES["padded"].sizes
    (scale,) = (t for t in kept if t.data_ptr() not in own)
    assert scale.numel() == BATCH * sizes["p"] * sizes["q"]


CHANGES = [("tanh(x[j])", "sin(x[j])"), ("+ b[i]", "- b[i]"), ("+ b[i]", "+ 2*b[i]"), ("W[i, j]*", "W[i, j]*x[j]*")]


@pytest.mark.parametrize(("old", "new"), CHANGES, ids=[f"{old} -> {new}" for old, new in CHANGES])
def test_other_mathematics_is_other_code(old, new):
    text = FILES["tanh_features"].text
    assert old in text
    changed = build_layer(loads_spec(text.replace(old, new)))
    before, after = (json.loads(t[MANIFEST]) for t in (texts("tanh_features"), changed))
    for name, digest in before["derivations"].items():
        assert after["derivations"][name] != digest
    assert changed[file_of("torch", "affine_like.py")] != texts("tanh_features")[file_of("torch", "affine_like.py")]


def test_other_names_of_indices_are_the_same_mathematics():
    text = FILES["tanh_features"].text
    renamed = build_layer(loads_spec(text.replace("[j]", "[a]").replace("[i, j]", "[i, a]")))
    assert renamed[file_of("torch", "norm_like.py")] == texts("tanh_features")[file_of("torch", "norm_like.py")]


def test_every_file_is_listed_and_every_equation_named():
    manifest = json.loads(texts("scaled_affine")[MANIFEST])
    maps = {"ScaledAffineAffineLike": "scaled_affine/affine-like", "ScaledAffineNormLike": "scaled_affine/norm-like"}
    assert manifest["classes"] == maps
    assert set(manifest["files"]) | {MANIFEST} == set(texts("scaled_affine"))
    compiled = manifest["compiled_as"]["scaled_affine/affine-like"]
    code = texts("scaled_affine")[file_of("torch", "affine_like.py")]
    assert compiled["digest"] in code
    for equation in ("define-E", "define-f", "forward", "backward-dx", "backward-dW", "backward-db", "tangent"):
        assert f"# {compiled['map']}/{equation}" in code


def test_a_map_of_any_other_layer_holds_its_own_digest_and_equations():
    manifest, code = json.loads(texts("two_inputs")[MANIFEST]), texts("two_inputs")[file_of("torch", "affine_like.py")]
    assert not manifest["compiled_as"]
    assert manifest["derivations"]["two_inputs/affine-like"] in code
    for equation in ("define-E", "define-f", "forward", "backward-dx", "backward-dA", "backward-db", "tangent"):
        assert f"# two_inputs/affine-like/{equation}" in code


def test_the_package_stands_alone_and_its_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    (tmp_path / "layer.toml").write_text(FILES["tokens"].text)
    for seed in ("1", "77"):
        command = [sys.executable, str(ROOT / "affdiv.py"), "generate", "--spec", "layer.toml", "--out", seed]
        environment = {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    made = tmp_path / "1" / "tokens"
    files = [p.relative_to(made) for p in made.rglob("*") if p.is_file()]
    assert files and all((tmp_path / "77" / "tokens" / p).read_bytes() == (made / p).read_bytes() for p in files)
    code = (
        "import sys, torch, tokens; z = tokens.TokensAffineLike(5, 2)(torch.zeros(2, 3).long(), torch.ones(2, 2));"
        "z.sum().backward(); assert not {'derive', 'codegen', 'sympy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "1", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("tool", [["ruff", "check", "--isolated"], ["mypy", "--strict"]], ids=["ruff", "mypy"])
def test_the_code_is_clean(tmp_path, tool):
    for name in FILES:
        write(texts(name), tmp_path / f"clean_{name}")
    command = [sys.executable, "-m", *tool, *(f"clean_{name}" for name in FILES)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run(capsys, *words):
    code = affdiv.run(["generate", *map(str, words)])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_the_command_line(tmp_path, capsys):
    file = tmp_path / "layer.toml"
    file.write_text(FILES["no_bias"].text)
    code, out, _ = run(capsys, "--spec", file, "--out", tmp_path)
    assert code == 0 and "NoBiasNormLike: no_bias/norm-like" in out
    assert "not generated: " in out and "needs the bias" in out
    assert run(capsys, "--spec", file, "--out", tmp_path, "--check")[0] == 0
    (tmp_path / "no_bias" / "modules.py").write_text("")
    assert run(capsys, "--spec", file, "--out", tmp_path, "--check")[0] == 1
    code, out, _ = run(capsys, "--spec", file, "--out", tmp_path, "--package", "mine", "--json")
    report = json.loads(out)
    assert code == 0 and report["classes"] == {"NoBiasNormLike": "no_bias/norm-like"} and report["status"] == "written"
    assert (tmp_path / "mine" / "modules.py").is_file()


LOOK_UP = toml("look_up", "v n p", "t: p < v", "W: v n", "z: p n", "z[q, i] = W[t[q], i]")
GAINED = toml("gained", "n m", "x: n", "W: m n, g: m", "z: m", "z[i] = g[i]*sum[j](W[i, j]*x[j])")
SUMMED = toml("summed", "L P K", "x: L", "W: K", "z: P", "z[p] = sum[k](W[k]*(x[p + k] - sum[l:K](x[p + l])/K))")
REFUSED = [
    (SUMMED, [], "the sum of all entries of W is a single number"),
    (AFFINE.replace("scaled_affine", "json"), [], "would hide the module"),
    (AFFINE.replace('"scaled_affine"', '"a; import os"'), [], "cannot name a layer"),
    (AFFINE.replace("W", "training"), [], "'training' would hide a name of torch.nn.Module"),
    (AFFINE.replace('"n"', '"device"'), [], "'device' would hide"),
    (AFFINE.replace('b = ["m"]', "b = []").replace("b[i]", "b"), [], "has no axis"),
    (AFFINE, ["--package", "../up"], "is not an identifier"),
    (AFFINE, ["--targets", "fortran"], "give torch with any of"),
    (AFFINE, ["--angle", "__import__('os')"], "has no meaning in a formula"),
]


@pytest.mark.parametrize(("text", "words", "message"), REFUSED, ids=[m for _, _, m in REFUSED])
def test_what_cannot_be_generated_is_refused_with_the_reason(tmp_path, capsys, text, words, message):
    file = tmp_path / "layer.toml"
    file.write_text(text)
    code, out, err = run(capsys, "--spec", file, "--out", tmp_path / "made", *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert not (tmp_path / "made").exists()


def test_a_target_that_lacks_what_a_layer_uses_is_named_or_left_out(tmp_path, capsys, monkeypatch):
    """All functions of layer files have C++ code; this tests the message for one without."""

    def lacking(target, layer, plans):
        raise UsageError("no kernel knows gamma")

    monkeypatch.setattr(Target, "layer_files", lacking)
    file = tmp_path / "layer.toml"
    file.write_text(GAINED)
    code, _, err = run(capsys, "--spec", file, "--out", tmp_path / "made", "--targets", "torch,cpp")
    assert code == 2 and "targets: cpp cannot compute the layer 'gained': its kernels lack a function" in err
    assert "(no kernel knows gamma)" in err and not (tmp_path / "made").exists()
    code, out, _ = run(capsys, "--spec", file, "--out", tmp_path / "made", "--json")
    assert code == 0 and json.loads(out)["without"]["cpp"]["reason"] == "arithmetic"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LOOK_UP, "every sample already moves alike, nothing to correct"),
        (GAINED, "self factor depends on the parameters"),
    ],
)
def test_where_no_map_cancels_the_plain_layer_is_written_with_the_reason(tmp_path, capsys, text, reason):
    file = tmp_path / "layer.toml"
    file.write_text(text)
    code, out, err = run(capsys, "--spec", file, "--out", tmp_path / "made")
    assert code == 0 and err == "" and "not generated: " in out and reason in out
    code, out, _ = run(capsys, "--spec", file, "--out", tmp_path / "made", "--json")
    report = json.loads(out)
    assert (
        not report["classes"] and len(report["plain"]) == 1 and report["targets"] == ["torch", "triton", "cuda", "cpp"]
    )


def test_public_names_of_modules_are_known():
    assert {name for name in dir(torch.nn.Module) if not name.startswith("_")} <= MODULE_ATTRIBUTES


def test_an_angle_may_use_only_sizes_of_the_layer():
    from derive.formula import parse_angle

    with pytest.raises(UsageError, match="uses n, which is not a size"):
        build_layer(loads_spec(AFFINE.replace('"n"', '"k"')), angle=parse_angle("atan(r/n)"))


WRONG = [
    (lambda m: m(torch.randn(2, 5)), ValueError, "wants n to be 5|give W the axes"),
    (lambda m: m([1.0]), TypeError, "x is a list; give a tensor"),
    (lambda m: m(torch.ones(2, 4).long()), TypeError, "convert it to a real floating-point type"),
    (lambda m: m(torch.ones(2, 4).double()), TypeError, "the types differ"),
    (lambda m: type(m)(0, 3), ValueError, "n is 0"),
    (lambda m: type(m)(4, 3.5), TypeError, "m is 3.5"),
    (lambda m: type(m)(4, 3, kappa=-1.0), ValueError, "kappa is -1.0"),
]


@pytest.mark.parametrize(("use", "error", "message"), WRONG, ids=[m for _, _, m in WRONG])
def test_wrong_use_is_told(package, use, error, message):
    module = package("scaled_affine").ScaledAffineAffineLike(4, 3)
    with pytest.raises(error, match=message):
        use(module)


def test_integers_out_of_range_are_told(package):
    module = package("tokens").TokensAffineLike(5, 2)
    with pytest.raises(ValueError, match="t holds 5; give integers from 0 to 4"):
        module(torch.tensor([0, 5, 1]), torch.ones(2))
    with pytest.raises(TypeError, match=r"must hold integers: convert it with \.long"):
        module(torch.zeros(3), torch.ones(2))
    with pytest.raises(ValueError, match="give all inputs the same samples"):
        module(torch.zeros(2, 3).long(), torch.ones(3, 2))


def test_a_negative_angle_draws_weights_with_a_positive_deviation(tmp_path):
    from derive.formula import parse_angle

    made = build_layer(loads_spec(AFFINE), "turned_back", parse_angle("-atan(r)"))
    write(made, tmp_path / "turned_back")
    code = "import turned_back as t; assert t.ScaledAffineAngleLike(40, 30).W.std() > 0.5"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
