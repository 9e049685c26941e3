"""The house rules, read from the source: one direction of imports, sizes of files and functions, docstrings, types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("derive", "codegen", "affine_divergence", "verify")
MAY_USE = {  # the packages that each package may import
    "derive": {"derive"},
    "codegen": {"derive", "codegen"},
    "affine_divergence": {"affine_divergence"},
    "verify": set(ROOMS),
}
MODELS = {"transformers", "torchvision", "timm"}  # collections of models: nothing here may depend on one
HEAVY = MODELS | {"sympy", "torch", "triton", "cuda", "sklearn", "matplotlib", "scipy", "pandas", "ray", "jax"}
MAY_LOAD = {  # the heavy libraries that each package may import, anywhere
    "derive": {"sympy"},
    "codegen": {"sympy", "torch"},
    "affine_divergence": {"torch", "triton", "cuda"},
    "verify": HEAVY - MODELS,
}
ON_DEMAND = {  # of those, the ones that must not load when the package is imported
    "derive": set(),
    "codegen": {"torch"},
    "affine_divergence": {"triton", "cuda"},
    "verify": set(),
}
ON_DEMAND_FOLDERS = {"triton": "triton", "jax": "jax"}  # folders of kernels and what they may import
CALLBACK_FILES = {"trainer_callback": "transformers"}  # loaded only by users of that library
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def is_copied(path: Path) -> bool:
    """Whether a file is copied into generated packages unchanged, and imported only there."""
    return path.is_relative_to(ROOT / "codegen") and "runtime" in path.parts


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


WRITTEN = [path for room in ("derive", "codegen", "verify") for path in python_files(room)] + [ROOT / "affdiv.py"]
rooms = pytest.mark.parametrize("room", ROOMS)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def heads(node: ast.AST, room: str) -> Iterator[str]:
    """The top-level package that an import statement names; a relative import stays within its package."""
    if isinstance(node, ast.Import):
        yield from (alias.name.split(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield room if node.level else (node.module or "").split(".")[0]


def imports(node: ast.AST, room: str, *, at_import: bool) -> Iterator[str]:
    """Packages imported below ``node``; with ``at_import`` only those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if at_import and (isinstance(child, Function | ast.Lambda) or is_type_checking(child)):
            continue
        yield from heads(child, room)
        yield from imports(child, room, at_import=at_import)


def arrows_back(source: str, room: str) -> set[str]:
    """The imports of ``source``, a file of the package ``room``, that break the rules."""
    tree = ast.parse(source)
    anywhere, at_import = set(imports(tree, room, at_import=False)), set(imports(tree, room, at_import=True))
    wrong_rooms = (anywhere & {*ROOMS, "affdiv", "tests"}) - MAY_USE[room]
    return wrong_rooms | ((anywhere & HEAVY) - MAY_LOAD[room]) | (at_import & ON_DEMAND[room])


@rooms
def test_room_has_files(room: str) -> None:
    assert (ROOT / room / "__init__.py").is_file()


@rooms
def test_no_arrow_runs_back(room: str) -> None:
    found = {}
    for path in python_files(room):
        kind = "affine_divergence" if is_copied(path) else room
        wrong = arrows_back(path.read_text(encoding="utf-8"), kind) - {CALLBACK_FILES.get(path.stem)}
        wrong -= {library for folder, library in ON_DEMAND_FOLDERS.items() if folder in path.parts}
        found[str(path)] = wrong
    assert not any(found.values()), found


def copied_imports(source: str) -> list[str]:
    """The imports of ``source`` from the files that are copied into generated packages."""
    tree = ast.parse(source)
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.startswith("codegen.") and "runtime" in name.split(".")]


def test_nothing_but_the_packages_imports_what_is_copied() -> None:
    assert not [p for p in WRITTEN if not is_copied(p) and copied_imports(p.read_text(encoding="utf-8"))]
    planted = (
        "from codegen.targets.cpp import runtime",
        "import codegen.runtime.rows",
        "from codegen.runtime.rows import a",
    )
    assert all(copied_imports(text) for text in planted)


LAZY = """
import sys, torch
before = set(sys.modules)
import {module}
new = set(sys.modules) - before
kernels = {{m.split(".")[2] for m in new if m.startswith("affine_divergence.kernels.") and m.count(".") > 2}}
print(sorted(kernels), sorted({{"triton", "cuda", "numpy", "torch._dynamo"}} & new))
"""


@pytest.mark.parametrize(
    ("module", "kernels"),
    [
        ("affine_divergence", []),
        ("affine_divergence.functional, affine_divergence.attention, affine_divergence.patch_modules", ["torch"]),
        ("affine_divergence.kernels.cpp.functional", ["cpp", "torch"]),  # proves that this test can print other lists
    ],
)
def test_importing_the_layers_loads_no_kernels(module: str, kernels: list[str]) -> None:
    command = [sys.executable, "-c", LAZY.format(module=module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == f"{kernels} []", done.stderr


def test_generated_layers_import_torch_and_themselves_only() -> None:
    allowed = {"torch", "triton", "cuda", "affine_divergence", *sys.stdlib_module_names}
    for path in python_files("affine_divergence"):
        known = allowed | (
            {"peft"} if path.name == "peft_lora.py" else set()
        )  # a layer of peft, for users with a config of it
        assert set(imports(parse(path), "affine_divergence", at_import=False)) <= known, path


@pytest.mark.parametrize(
    ("room", "source", "wrong"),
    [
        ("derive", "import torch", {"torch"}),
        ("derive", "def f():\n    import torch.nn", {"torch"}),
        ("derive", "from codegen.lower.gathering import lower", {"codegen"}),
        ("codegen", "import torch", {"torch"}),
        ("codegen", "class A:\n    import torch", {"torch"}),
        ("codegen", "try:\n    import torch\nexcept ImportError:\n    pass", {"torch"}),
        ("codegen", "def f():\n    import torch", set()),
        ("codegen", "if TYPE_CHECKING:\n    import torch", set()),
        ("codegen", "import verify.cli", {"verify"}),
        ("affine_divergence", "import triton", {"triton"}),
        ("affine_divergence", "def f():\n    import triton", set()),
        ("affine_divergence", "import derive", {"derive"}),
        ("affine_divergence", "from . import functional", set()),
        ("verify", "import derive, codegen, affine_divergence, torch", set()),
        ("verify", "import affdiv", {"affdiv"}),
    ],
)
def test_the_rule_itself_catches_a_planted_import(room: str, source: str, wrong: set[str]) -> None:
    assert arrows_back(source, room) == wrong


@pytest.mark.parametrize("module", ["derive", "derive.cli", "codegen", "codegen.cli", "verify.cli", "affdiv"])
def test_importing_does_not_load_torch(module: str) -> None:
    code = f"import {module}, sys; assert 'torch' not in sys.modules, 'torch was loaded'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def offences(rule: Callable[[Path], object]) -> dict[str, object]:
    """Files we write that break a rule, each with what breaks it; one test a rule, since there are many files."""
    found = {str(path.relative_to(ROOT)): rule(path) for path in WRITTEN}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_files_and_functions_stay_short() -> None:
    def too_long(path: Path) -> list[tuple[str, int]]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        lengths = [(f.name, (f.end_lineno or f.lineno) - f.lineno + 1) for f in functions(parse(path))]
        return [
            *([("file", lines)] if lines > MAX_FILE_LINES else []),
            *(found for found in lengths if found[1] > MAX_FUNCTION_LINES),
        ]

    assert offences(too_long) == {}


def public_definitions(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    """Public classes, functions and methods; nobody outside can call what is defined inside a function."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body)


def undocumented(tree: ast.Module) -> list[str]:
    """The module, if it has no docstring, and its public names without one."""
    without = [node.name for node in public_definitions(tree.body) if not ast.get_docstring(node)]
    return without if ast.get_docstring(tree) else ["module", *without]


def test_public_names_are_documented() -> None:
    assert offences(lambda path: undocumented(parse(path))) == {}
    assert undocumented(ast.parse("class A:\n    def b(self): ...\n    def _c(self): ...")) == ["module", "A", "b"]


def untyped(tree: ast.Module) -> list[str]:
    """Functions that do not say what they return; not kernels of Triton, which reads types of its own language."""
    found = [f for f in functions(tree) if "triton.jit" not in {ast.unparse(d) for d in f.decorator_list}]
    return [f.name for f in found if f.returns is None]


def test_every_function_says_what_it_returns() -> None:
    assert offences(lambda path: untyped(parse(path))) == {}
    assert untyped(ast.parse("def a(): ...\n@triton.jit\ndef b(): ...\ndef c() -> int: ...")) == ["a"]


def other_targets(source: str, own: str) -> set[str]:
    """The targets beside ``own`` that the source of a file in a target's folder imports."""
    names = {node.module or "" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for a in node.names}
    found = {m[1] for name in names if (m := re.match(r"codegen\.targets\.(\w+)", name))}
    return found - {own, "base"}


def test_no_target_imports_another() -> None:
    folders = [path.parent for path in (ROOT / "codegen" / "targets").glob("*/target.py")]
    found = {
        str(path.relative_to(ROOT)): other
        for folder in folders
        for path in folder.rglob("*.py")
        if (other := other_targets(path.read_text(encoding="utf-8"), folder.name))
    }
    assert not found
    assert other_targets("from codegen.targets.torch.render import render", "cpp") == {"torch"}


def test_every_target_of_the_list_has_a_folder_and_every_folder_stands_in_the_list() -> None:
    code = "from codegen.targets.base import TARGETS; print(*(t.name for t in TARGETS))"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {path.parent.name for path in (ROOT / "codegen" / "targets").glob("*/target.py")} == set(listed.split())


def named_files(text: str) -> set[str]:
    """The names of source files and templates in a text, without their folders."""
    return set(re.findall(r"(?<![\w>*])(\w+\.(?:py|cpp|cu|cuh|h)(?:\.jinja)?)\b", text))


def test_files_that_the_readmes_of_targets_name_exist() -> None:
    there = {path.name for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.*")}
    readmes = sorted((ROOT / "codegen").rglob("README.md"))
    lost = {str(path.relative_to(ROOT)): named_files(path.read_text(encoding="utf-8")) - there for path in readmes}
    assert len(readmes) > 3 and not any(lost.values()), lost
    assert named_files("see `joint.py` and templates/map.py.jinja") == {"joint.py", "map.py.jinja"}


def skips_as_a_whole(source: str) -> bool:
    """Whether importing a test file is skipped if a library that it needs is missing."""
    return bool(re.search(r"^(?:\w+ = )?pytest\.importorskip\(|allow_module_level=True", source, re.MULTILINE))


def test_no_test_imports_one_that_may_skip_as_a_whole() -> None:
    """Where its library is missing, its names are missing too: the import then fails instead of skipping."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    skipping = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, source in sources.items()
        if path.name.startswith("test_") and skips_as_a_whole(source)
    }
    assert "tests.codegen.targets.jax.test_layers" in skipping
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path, source in sources.items()
        for module in skipping
        if f"from {module} import" in source
    ]
    assert not wrong, wrong
