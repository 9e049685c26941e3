"""The toy target in the targets' README: it is written, listed, and generates a package that works."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import codegen.targets
from codegen.compiler import build_layer
from codegen.package import MANIFEST, write
from codegen.targets import base
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES

README = Path(codegen.targets.__file__).with_name("README.md")


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The folder of the toy target, its line in the list, and a folder to import packages from."""
    line, module = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path / "targets" / "toy"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""The toy target."""\n')
    (folder / "layer_target.py").write_text(module)
    monkeypatch.setattr(codegen.targets, "__path__", [*codegen.targets.__path__, str(folder.parent)])
    monkeypatch.setattr(base, "TARGETS", (*base.TARGETS, eval(line, vars(base))))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [m for m in sys.modules if m.startswith(("codegen.targets.toy", "toy_layer"))]:
        del sys.modules[name]


def test_the_toy_target_of_the_readme_computes_a_layer(toy):
    file = FILES["tanh_features"]
    texts = build_layer(loads_spec(file.text), "toy_layer", targets=("toy",))
    write(texts, toy / "toy_layer")
    package = importlib.import_module("toy_layer")
    random = np.random.default_rng(0)
    x, W, b = random.normal(size=(4, 3)), random.normal(size=(2, 3)), random.normal(size=2)
    plain = file.twin(*map(torch.tensor, (x, W, b)), file.sizes).numpy()
    energy = (np.tanh(x) ** 2).sum(-1, keepdims=True) + 1
    assert np.allclose(package.plain(x, W, b), plain)
    assert np.allclose(package.affine_like(x, W, b, 2.0), plain * np.sqrt(2 / energy))
    assert json.loads(texts[MANIFEST])["targets"] == ["toy"]


def test_what_the_toy_target_cannot_print_and_unknown_mixtures_are_refused(toy):
    with pytest.raises(UsageError, match="the toy target cannot print 'mask', a mask"):
        build_layer(loads_spec(FILES["bag"].text), targets=("toy",))
    with pytest.raises(
        UsageError, match="do not make up one package; give torch with any of triton, cuda, cpp; or jax alone; or toy"
    ):
        base.host_of(("toy", "cpp"))
    assert "toy" not in base.NAMES


def test_the_readme_names_every_function_that_the_compiler_asks_for():
    asked = set(re.findall(r'_ask\("\w+", "(\w+)"', Path(base.__file__).read_text(encoding="utf-8")))
    told = set(re.findall(r"`(\w+)\(", README.read_text(encoding="utf-8")))
    assert not asked - told
