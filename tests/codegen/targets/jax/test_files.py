"""The text of packages for JAX: imports, digests, equations, refusals. JAX is not needed."""

from __future__ import annotations

import ast
import json
import sys

import pytest

from codegen.compiler import build, build_layer
from codegen.package import MANIFEST
from codegen.plans.plain import plain_plan
from codegen.targets.base import NAMES, host_of
from codegen.targets.jax.printer import JaxPrinter
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES, toml
from tests.emitted import shipped


@pytest.fixture(scope="module")
def catalogue():
    return build("layers", targets=("jax",))


def imported(text):
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("name", [None, "padded", "tokens"])
def test_a_package_imports_jax_and_equinox_and_never_torch(catalogue, name):
    texts = catalogue if name is None else build_layer(loads_spec(FILES[name].text), targets=("jax",))
    found = set().union(*(imported(text) for path, text in texts.items() if path.endswith(".py")))
    assert found - set(sys.stdlib_module_names) == {"jax", "equinox"}
    assert not any("torch." in text for path, text in texts.items() if "/kernels/jax/" in path)


def test_the_manifest_holds_the_digests_that_torchs_package_has(catalogue):
    told, theirs = (json.loads(texts[MANIFEST]) for texts in (catalogue, shipped()))
    assert told["derivations"] == theirs["derivations"] and told["covers"] == theirs["covers"]
    spec = loads_spec(FILES["scaled_affine"].text)
    manifests = [json.loads(build_layer(spec, targets=(t,))[MANIFEST]) for t in ("jax", "torch")]
    assert manifests[0]["derivations"] == manifests[1]["derivations"]
    assert manifests[0]["classes"] == manifests[1]["classes"] and manifests[0]["targets"] == ["jax"]


def test_equations_stand_on_the_lines_that_implement_them(catalogue):
    text = catalogue["kernels/jax/affine_like.py"]
    for equation in ("define-E", "define-f", "forward", "backward-dx", "backward-dW", "backward-db", "tangent"):
        assert sum(line.endswith(f"# affine-like/{equation}") for line in text.splitlines()) == 1, equation


@pytest.mark.parametrize(
    ("targets", "words"), [("torch,jax", "do not make up one package"), ("jax,cpp", "or jax alone")]
)
def test_a_package_is_for_one_library(targets, words):
    with pytest.raises(UsageError, match=words):
        host_of(targets.split(","))
    assert "jax" not in NAMES and host_of(["jax"]).name == "jax"


def test_a_name_that_the_code_has_for_something_else_is_refused_or_changed():
    """The compiler renames such a tensor or size before printing; a printer refuses it."""
    hidden = toml("hidden", "n jnp", "x: n", "wide: jnp n, b: jnp", "z: jnp", "z[i] = sum[j](wide[i, j]*x[j]) + b[i]")
    layer = loads_spec(hidden)
    plan = plain_plan(layer)
    with pytest.raises(UsageError, match="already uses the name 'jnp'; give the tensor or size another name"):
        JaxPrinter(plan.forward, {s: str(s) for s in layer.sizes}, plan.types[plan.forward.name], ())
    texts = build_layer(layer, targets=("jax",))
    assert "def forward(x: Array, wide_: Array, b: Array)" in texts["kernels/jax/plain.py"]
