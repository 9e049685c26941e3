"""Every layer of the atlas gets kernels on every target, and a JAX package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import derive
from codegen.compiler import build_layer
from codegen.package import MANIFEST
from codegen.targets.base import NAMES
from derive.errors import UsageError
from derive.spec import load_spec

FILES = {path.stem: path for path in sorted((Path(derive.__file__).parent / "atlas").glob("*.toml"))}
SET = {name for name, path in FILES.items() if load_spec(path).scalars}
EVERYDAY = {
    "film",
    "grouped_query_attention",
    "swiglu",
}  # a value with two readers, an axis of two sizes, named functions


@pytest.mark.parametrize(
    "name", [n if n in EVERYDAY else pytest.param(n, marks=pytest.mark.slow) for n in FILES if n not in SET]
)
def test_a_layer_of_the_literature_gets_kernels_on_every_target(name):
    layer = load_spec(FILES[name])
    for targets in (NAMES, ("jax",)):
        texts = build_layer(layer, "package", targets=targets)
        told = json.loads(texts[MANIFEST])
        assert not told["without"], told["without"]
        for target in targets:
            maps = {path for path in texts if path.startswith(f"kernels/{target}/") and path.endswith("plain.py")}
            assert len(maps) == 1, target


@pytest.mark.parametrize("name", sorted(SET))
def test_a_layer_with_settings_is_refused_with_the_way_out(name):
    with pytest.raises(UsageError, match=r"take no settings, and it has .*; replace each by a number"):
        build_layer(load_spec(FILES[name]), "package")


def test_there_are_layers_to_be_met():
    assert len(FILES) > 30 and FILES.keys() >= EVERYDAY
