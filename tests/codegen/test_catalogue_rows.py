"""Every row of the catalogue written as a layer file under other names: the same programs, and equal kernels.

Each file is compiled without the row in the catalogue, so only the file defines the layer. Kernels are compared as text
after restoring the names; ``EXCEPTIONS`` lists the rows that no file can express, and why.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import PurePath

import pytest

from codegen import catalogue
from codegen.catalogue import CATALOGUE, PATCHES, ROWS, Row, patch_maps, row_families
from codegen.compiler import build, build_layer
from codegen.ir.program import Instruction, Magnitude, Program
from codegen.plans.digest import digest
from codegen.plans.patch_form import patch_form
from codegen.plans.patch_maps import maps_of
from codegen.plans.row_form import row_form
from codegen.plans.rows import plan
from codegen.plans.solve_at import solve_at
from codegen.targets.base import NAMES, TARGETS
from derive.errors import UsageError
from derive.spec import loads_spec
from tests.codegen.layer_files import toml
from tests.marks import one_in

NAME = "mirror"


def convolution(axes: int, grouped: bool = True, bias: bool = True, kind: str = "") -> str:
    """Return a convolution as a layer file, with declared numbers and another order of axes."""
    at = [f"step{a}*to{a} + hole{a}*tap{a} - edge{a}" for a in range(axes)]
    ends = [f"to{a}" for a in range(axes)]
    taps, ins = [f"tap{a}" for a in range(axes)], [f"at{a}" for a in range(axes)]
    block, blocks = (["block"], ["Block"]) if grouped else ([], [])
    lengths = [f"Out{a}" for a in range(axes)]
    sizes = [*blocks, "Thin", "Fat", *(f"{w}{a}" for a in range(axes) for w in ("In", "Tap", "Out", "step", "hole"))]
    filters = ["Fat", *blocks, *(f"Tap{a}" for a in range(axes)), "Thin"]
    kernel = f"filters[{', '.join(['fat', *block, *taps, 'thin'])}]"
    source = [*blocks, *(f"In{a}" for a in range(axes)), "Thin"]
    offset = f" + shift[{', '.join([*block, 'fat'])}]" if bias else ""
    head = f"made[{', '.join(['fat', *ends, *block])}]"
    if kind == "transposed":
        patch = f"seen[{', '.join([*block, *ins, 'thin'])}]"
        meets = "*".join(f"delta(to{a}, step{a}*at{a} + hole{a}*tap{a} - edge{a})" for a in range(axes))
        formulas = [f"{head} = sum[{', '.join(['thin', *ins, *taps])}]({patch}*{meets}*{kernel}){offset}"]
    else:
        patch = f"seen[{', '.join([*block, *at, 'thin'])}]"
        middle = f"mid[{', '.join([*ends, *block])}]"
        ranges = [f"{i}:{n}" for i, n in zip([*ends, *block], [*lengths, *blocks], strict=True)]
        bound = ", ".join(["thin:Thin", *(f"tap{a}:Tap{a}" for a in range(axes))])
        count = "*".join(["Thin", *(f"Tap{a}" for a in range(axes))])
        mean = [f"mid[{', '.join(ranges)}] = sum[{bound}]({patch})/({count})"] if kind == "centred" else []
        centred = f"({patch} - {middle})" if mean else patch
        formulas = [*mean, f"{head} = sum[{', '.join(['thin', *taps])}]({centred}*{kernel}){offset}"]
    parameters = [*([f"shift: {' '.join([*blocks, 'Fat'])}"] if bias else []), f"filters: {' '.join(filters)}"]
    output = f"made: {' '.join(['Fat', *lengths, *blocks])}"
    edges = " ".join(f"edge{a}" for a in range(axes))
    return toml(
        NAME, " ".join(sizes), f"seen: {' '.join(source)}", ", ".join(parameters), output, *formulas, offsets=edges
    )


TWINS = {
    "affine": toml(
        NAME, "wide deep", "y: wide", "c: deep, A: deep wide", "q: deep", "q[k] = c[k] + sum[h](y[h]*A[k, h])"
    ),
    "linear": toml(NAME, "wide deep", "y: wide", "A: deep wide", "q: deep", "q[k] = sum[h](y[h]*A[k, h])"),
    "attention-projection": toml(
        NAME,
        "wide deep word head",
        "y: word wide",
        "c: head deep, A: head deep wide",
        "q: head word deep",
        "q[a, t, k] = c[a, k] + sum[h](y[t, h]*A[a, k, h])",
    ),
    "attention-output": toml(
        NAME,
        "wide deep word head",
        "y: head word wide",
        "c: deep, A: deep head wide",
        "q: word deep",
        "q[t, k] = c[k] + sum[a, h](y[a, t, h]*A[k, a, h])",
    ),
    **{
        f"{word}convolution{suffix}": convolution(2, bias=not suffix, kind=kind)
        for word, kind in (("grouped-", ""), ("centred-", "centred"), ("grouped-transposed-", "transposed"))
        for suffix in ("", "-without-bias")
    },
    **{
        f"{word}convolution{suffix}": convolution(axes, grouped=False, kind=kind)
        for word, kind in (("", ""), ("transposed-", "transposed"))
        for suffix, axes in (("", 2), ("-1d", 1), ("-3d", 3))
    },
}
FURTHER = {  # C++ kernels are for convolutions without groups, and no row has one without a bias
    "convolution-without-bias": convolution(2, grouped=False, bias=False),
}
EXCEPTIONS = {
    "l2-norm": "it has no parameters, and a file must declare some",
    "attention-value": "its map takes the mixed input of each head from attention, which is no layer in a file",
}
OF_EXCEPTIONS = {"kernels/torch/value_path.py", *(f"kernels/{t}/unit.py" for t in NAMES[:3]), "kernels/cuda/unit.cu"}
OF_EXCEPTIONS |= {"kernels/jax/value_path.py", "kernels/jax/unit_length.py"}
PACKAGES = (NAMES, ("jax",))  # the targets of each package: five in all


def general(name: str) -> tuple[Row, bool]:
    """Return a layer's row, and whether it has a bias."""
    for row in CATALOGUE:
        if name in {row.with_bias().name, *(special for special, _ in row.covers)}:
            return row, True
        if row.without_bias is not None and row.without_bias().name == name:
            return row, False
    assert name in FURTHER
    return general("grouped-convolution-without-bias")


@cache
def shipped() -> dict[str, str]:
    return {path: text for targets in PACKAGES for path, text in kernels(build(targets=targets)).items()}


def kernels(texts: dict[str, str]) -> dict[str, str]:
    """Return the files of maps by their paths, without the files that all maps share."""
    plain = {"__init__.py", "functional.py", "patch_maps.py", "plain.py", "plain.cpp", "plain.cu"}
    parts = {path: PurePath(path) for path in texts}
    chosen = [
        path for path, p in parts.items() if len(p.parts) == 3 and p.parts[0] == "kernels" and p.name not in plain
    ]
    return {path: texts[path] for path in chosen}


def renamed(texts: dict[str, str], name: str) -> dict[str, str]:
    """Return the kernels of a file with the names of the shipped package."""
    row, bias = general(name)
    if row.form == PATCHES:
        return texts
    equations = re.compile(rf"\b{NAME}/(?=\w+-like)")
    found = {}
    for path, text in texts.items():
        named = equations.sub("" if bias else "linear/", text)
        if not bias:
            named = re.sub(r"(?<![A-Za-z])norm_like(?=\b|_\w)", "norm_like_without_bias", named)
            named = re.sub(r"\bNormLike", "NormLikeWithoutBias", named)
            path = path.replace("norm_like", "norm_like_without_bias")
        found[path] = named
    return found


def laid(text: str) -> list[str]:
    """Return the lines of a file, each equation id on its own line, independent of line breaks due to longer names."""
    lines: list[str] = []
    text = re.sub(r"(?<=\),)\s+(?=FUNCTION\()", " ", text)  # a list of names is wrapped by their lengths
    for line in text.replace(" without a bias", "").replace("_without_a_bias", "_without_bias").splitlines():
        code, _, equation = line.strip().partition("  # ")
        lines += [f"# {equation}", code] if "/" in equation else [line.strip()]
    return lines


@cache
def compiled(name: str) -> dict[str, str]:
    """Return the kernels of a row's file for every target, without the row in the catalogue."""
    row, _ = general(name)
    layer = loads_spec({**TWINS, **FURTHER}[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "CATALOGUE", tuple(r for r in CATALOGUE if r is not row))
        found = [kernels(build_layer(layer, targets=targets)) for targets in PACKAGES]
    return renamed({path: text for texts in found for path, text in texts.items()}, name)


def test_every_row_has_a_twin_or_a_reason():
    rows = {make().name for row in CATALOGUE for make in (row.with_bias, row.without_bias) if make is not None}
    special = {name for row in CATALOGUE for name, _ in row.covers}
    assert rows | special == TWINS.keys() | EXCEPTIONS.keys() and not TWINS.keys() & EXCEPTIONS.keys()


def test_the_reasons_hold():
    nothing = 'name = "unit"\nsizes = ["n"]\n[input]\nx = ["n"]\n[output]\nu = ["n"]\nformula = "u[i] = x[i]"\n'
    with pytest.raises(UsageError, match="parameters"):
        loads_spec(nothing)
    row = next(row for row in CATALOGUE if row.with_bias().name == "attention-value")
    assert row_form(row.with_bias()) is None and len(row.with_bias().inputs) == 2


@pytest.mark.parametrize("name", one_in(4, [*TWINS, *FURTHER]))
def test_a_file_emits_the_kernels_of_its_row(name):
    found = compiled(name)
    assert {PurePath(path).parts[1] for path in found} == {target.name for target in TARGETS}
    for path, text in found.items():
        assert laid(text) == laid(shipped()[path]), path


def test_every_kernel_of_the_package_comes_from_some_file():
    found = {path for name in (*TWINS, *FURTHER) for path in compiled(name)}
    assert shipped().keys() - found == OF_EXCEPTIONS


@pytest.mark.parametrize("name", TWINS)
def test_a_file_compiles_to_the_programs_of_its_row(name):
    row, bias = general(name)
    layer = loads_spec(TWINS[name])
    if row.form == PATCHES:
        form = patch_form(layer)
        assert form is not None and (form.with_bias, form.centred, form.transposed) == (
            bias,
            row.centred,
            row.transposed,
        )
        maps = [
            m for m in patch_maps() if (m.with_bias, m.centred, m.transposed) == (bias, row.centred, row.transposed)
        ]
        assert list(maps_of(bias, row.centred, row.transposed)) == maps
        return
    assert row.form == ROWS
    form = row_form(layer)
    assert form is not None
    known = {f.name: f.with_bias if bias else f.without_bias for f in row_families()}
    for solution in solve_at(form.layer, None):
        mine, theirs = plan(solution), known[solution.name]
        assert theirs is not None and mine.digest == theirs.digest == digest(solution.mapped)
        for program in ("scale", "plain_scale", "forward", "forward_scaled", "tangent"):
            assert steps(getattr(mine, program)) == steps(getattr(theirs, program))
        assert steps(mine.backward.program) == steps(theirs.backward.program)


def steps(program: Program) -> list[Instruction]:
    """Return the instructions of a program without their equation names."""
    return [i if isinstance(i, Magnitude) else replace(i, equation="") for i in program.instructions]


@pytest.mark.parametrize(
    ("old", "new"), [("- edge1", "+ edge1"), ("/(Thin*Tap0*Tap1)", "/(Thin*Tap0*Tap0)")], ids=["padding", "mean"]
)
def test_a_twin_that_differs_is_seen(old, new):
    """Mutate a file: the padding of one axis in the mean, or the mean's length."""
    right = TWINS["centred-convolution"]
    broken = loads_spec(right.replace(old, new, 1))
    assert right.count(old) and patch_form(loads_spec(right)) is not None and patch_form(broken) is None
    assert not kernels(build_layer(broken)).keys() & {p for p in shipped() if "centred" in p}
