"""The properties of a plan besides its programs: bounds, initialisation, digest."""

import dataclasses
import subprocess
import sys

import pytest
import sympy

import derive
from codegen.plans.digest import canonical, digest
from codegen.plans.rows import plan
from derive.errors import UsageError

kappa = sympy.Symbol("kappa", positive=True)


@pytest.mark.parametrize(
    ("name", "above", "deviation"),
    [
        ("affine-like", 0, 1 / sympy.sqrt(kappa)),
        ("norm-like", 1, 1 / sympy.sqrt(kappa - 1)),
        ("linear/norm-like", 0, 1 / sympy.sqrt(kappa)),
    ],
)
def test_bound_and_variance_preserving_deviation(name, above, deviation):
    layer, map_name = ("linear", name.split("/")[1]) if "/" in name else ("affine", name)
    made = plan(derive.solve(derive.layer(layer))[map_name])
    assert made.kappa_above == above
    assert sympy.simplify(made.weight_deviation - deviation) == 0


def test_the_digest_follows_the_mathematics_and_nothing_else(solution):
    layer = solution.mapped
    doubled = layer.with_output(2 * layer.output.expression)
    assert digest(doubled) != digest(layer)
    expanded = layer.with_output(sympy.expand(layer.output.expression))
    assert digest(expanded) == digest(layer), "the same map written differently"
    assert digest(dataclasses.replace(layer, title="another title")) == digest(layer)
    assert canonical(layer).startswith("input x B n:".removesuffix(" n:")) and layer.output.name in canonical(layer)


DIGESTS = """
import derive
from codegen.plans.digest import digest
print([digest(m.mapped) for n in ("affine", "linear") for m in derive.solve(derive.layer(n))])
"""


def test_the_digest_does_not_depend_on_the_hash_seed():
    found = set()
    for seed in ("0", "1", "31337"):
        done = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def test_maps_outside_the_family_are_refused():
    solution = derive.solve(derive.layer("affine"))["affine-like"]
    bare = dataclasses.replace(solution, mapped=dataclasses.replace(derive.layer("affine"), scalars=(kappa,)))
    with pytest.raises(UsageError, match="one scale per row"):
        plan(bare)
    with pytest.raises(UsageError, match="the one setting kappa"):
        plan(dataclasses.replace(solution, mapped=derive.layer("affine")))
