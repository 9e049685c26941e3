"""The paths of emitted files: every import leads to a file of the package, and a target has one folder."""

import ast
from pathlib import PurePosixPath

import pytest

from codegen.compiler import build, build_layer
from codegen.printing.places import placed
from codegen.targets.base import NAMES
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.emitted import shipped


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("modules.py", "from . import functional", "from . import functional"),
        ("modules.py", "from .runtime.rows import apply", "from .runtime.rows import apply"),
        ("kernels/patch_maps.py", "    from .kernels.torch.unit import A", "    from .torch.unit import A"),
        ("kernels/cpp/a.py", "from .kernels.torch import a as plain", "from ..torch import a as plain"),
        ("kernels/cpp/a.py", "from .kernels.cpp.runtime.launch import B", "from .runtime.launch import B"),
        ("kernels/cpp/a.py", "from .runtime.rows import C", "from ...runtime.rows import C"),
        ("kernels/cpp/a.py", "from .functional import D", "from ...functional import D"),
        ("kernels/cpp/a.py", "from torch import Tensor", "from torch import Tensor"),
        ("a.py", f"from .b import {'c' * 40}, {'d' * 40}", f"from .b import (\n    {'c' * 40},\n    {'d' * 40},\n)"),
        ("kernels/cpp/a.cpp", "from .a import b", "from .a import b"),
    ],
)
def test_imports_read_from_the_folder_of_their_file(path, line, expected):
    assert placed({path: f"{line}\n"}) == {path: f"{expected}\n"}


def astray(texts):
    """Return the imports that lead to no file of a package, as (file, module)."""
    found = set()
    for path in [p for p in texts if p.endswith(".py")]:
        for node in ast.walk(ast.parse(texts[path])):
            if isinstance(node, ast.ImportFrom) and node.level:
                start = PurePosixPath(path).parents[node.level - 1]
                home = start.joinpath(*(node.module or "").split("."))
                if not {f"{home}.py", (home / "__init__.py").as_posix()} & texts.keys():
                    found.add((path, node.module))
    return found


PACKAGES = {  # texts, and the targets that have a folder
    "shipped": (shipped, set(NAMES)),
    "torch": (lambda: build("only_torch", ("torch",)), {"torch"}),
    "torch, cpp": (lambda: build("two", ("torch", "cpp")), {"torch", "cpp"}),
    "rows of a user": (lambda: build_layer(loads_spec(FILES["scaled_affine"].text)), set(NAMES)),
    "any layer": (lambda: build_layer(loads_spec(FILES["tanh_features"].text)), set(NAMES)),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_import_leads_to_a_file_and_every_target_has_one_folder(name):
    make, targets = PACKAGES[name]
    texts = make()
    assert astray(texts) == set()
    assert {path.split("/")[1] for path in texts if path.count("/") > 1} == targets
    del texts["runtime/rows.py"]
    assert astray(texts), "a missing file is not noticed"
