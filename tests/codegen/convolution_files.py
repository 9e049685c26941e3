"""Random convolutions as layer files (numbers, orders, missing axes), and references by torch's own convolutions.

``drawn`` returns a file's text and its meaning; ``reference`` computes the maps from the meaning with autograd. It
crops the input to the file's positions, so it shares nothing with the generated code's windows.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.codegen.layer_files import toml

PLAIN, CENTRED, TRANSPOSED = "plain", "centred", "transposed"
KINDS = (PLAIN, CENTRED, TRANSPOSED)
_ROOM = 40  # zeros around an image, more than any window reaches


@dataclass(frozen=True)
class Drawn:
    """A layer file, the lengths of its sizes, and the convolution that it describes.

    ``axes`` holds the axes of ``x``, ``W`` and ``z`` in the file, by their letters in torch's layout.
    """

    text: str
    kind: str
    lengths: dict[str, int]
    numbers: list[tuple[int, int, int]]
    axes: dict[str, list[str]]
    bias: str

    @property
    def name(self) -> str:
        return "drawn"

    def shape(self, tensor: str) -> list[int]:
        letters = self.bias if tensor == "b" else self.axes[tensor]
        return [self.lengths[letter] for letter in letters]


def drawn(seed: int, kind: str = "") -> Drawn:
    """Return a random convolution; letters stand for groups, channels, outputs, and each axis's three indices."""
    rng = random.Random(seed)
    kind = kind or rng.choice(KINDS)
    count = rng.choice((1, 2, 2, 3))
    group, channel, unit = (rng.random() < share for share in (0.4, 0.8, 0.8))
    unit = unit or (kind == CENTRED and not group)  # the sum of a whole filter has no axis, so no program
    bias = rng.random() < 0.7 and (group or unit)
    numbers = [(rng.randint(1, 3), rng.randint(1, 2), rng.randint(-2, 3)) for _ in range(count)]
    space = {w: [f"{w}{a}" for a in range(count)] for w in "lkp"}
    g, c, o = ["g"] * group, ["c"] * channel, ["o"] * unit
    axes = {"x": [*g, *c, *space["l"]], "W": [*g, *o, *c, *space["k"]], "z": [*g, *o, *space["p"]]}
    for listed in axes.values():
        rng.shuffle(listed)
    lengths = {"g": 2, "c": 3, "o": 2}
    lengths |= {name: rng.randint(2, 3) for name in space["k"]} | {name: rng.randint(4, 6) for name in space["l"]}
    lengths |= {name: rng.randint(1, 7) for name in space["p"]}
    formulas = _formulas(kind, numbers, axes, g + o if bias else [], lengths)
    parameters = [f"W: {_declared(axes['W'], lengths)}", *([f"b: {_declared(g + o, lengths)}"] if bias else [])]
    rng.shuffle(parameters)
    sizes = sorted({_size(a, lengths) for listed in axes.values() for a in listed if a[0] != "k"})
    text = toml(
        "drawn",
        " ".join(sizes),
        f"x: {_declared(axes['x'], lengths)}",
        ", ".join(parameters),
        f"z: {_declared(axes['z'], lengths)}",
        *formulas,
    )
    return Drawn(text, kind, lengths, numbers, axes, "".join(g + o) if bias else "")


def _size(axis: str, lengths: dict[str, int]) -> str:
    """Return the size of an axis: a name, or the length of a filter as a number."""
    return str(lengths[axis]) if axis[0] == "k" else axis.upper()


def _declared(listed: list[str], lengths: dict[str, int]) -> str:
    return " ".join(_size(axis, lengths) for axis in listed)


def _formulas(kind, numbers, axes, bias, lengths):
    def at(tensor, **moved):
        return f"{tensor}[{', '.join(moved.get(a, a) for a in axes[tensor])}]"

    count = range(len(numbers))
    inner = [a for a in ("c", *(f"k{n}" for n in count)) if a in axes["W"]]
    ends = [
        f"{step}*{'l' if kind == TRANSPOSED else 'p'}{n} + {hole}*k{n} - {pad}"
        for n, (step, hole, pad) in enumerate(numbers)
    ]
    ends = [end.replace("- -", "+ ") for end in ends]
    offset = f" + b[{', '.join(bias)}]" if bias else ""
    if kind == TRANSPOSED:
        meets = "*".join(f"delta(p{n}, {end})" for n, end in enumerate(ends))
        bound = [*inner, *(f"l{n}" for n in count)]
        return [f"{at('z')} = sum[{', '.join(bound)}]({at('W')}*{at('x')}*{meets}){offset}"]
    patch = at("x", **{f"l{n}": end for n, end in enumerate(ends)})
    if kind == PLAIN:
        return [f"{at('z')} = sum[{', '.join(inner)}]({at('W')}*{patch}){offset}"]
    outer = [a for a in axes["z"] if a != "o"]
    ranges = ", ".join(f"{a}:{_size(a, lengths)}" for a in outer)
    entries = ", ".join(f"{a}:{_size(a, lengths)}" for a in inner)
    length = "*".join(_size(a, lengths) for a in inner)
    mean = f"m[{ranges}] = sum[{entries}]({patch})/({length})"
    return [mean, f"{at('z')} = sum[{', '.join(inner)}]({at('W')}*({patch} - m[{', '.join(outer)}])){offset}"]


def reference(found: Drawn, form: str, kappa: float, x: Tensor, W: Tensor, b: Tensor | None) -> Tensor:
    """Return the file's map by torch's convolutions; at energy zero the weight part is zero."""
    count = len(found.numbers)
    space = {w: [f"{w}{a}" for a in range(count)] for w in "lkp"}
    second = ["c", "o"] if found.kind == TRANSPOSED else ["o", "c"]
    image = _laid(x, ["s", *found.axes["x"]], ["s", "g", "c", *space["l"]]).flatten(1, 2)
    kernel = _laid(W, found.axes["W"], ["g", *second, *space["k"]])
    groups, ones = kernel.shape[0], torch.ones_like(kernel)
    ones = ones[:, :, :1] if found.kind == TRANSPOSED else ones[:, :1]
    positions = [found.lengths[a] for a in space["p"]]

    def convolved(values: Tensor, filters: Tensor) -> Tensor:
        flat = _convolved(found, values, filters.flatten(0, 1), groups, positions)
        return flat.unflatten(1, (groups, -1))

    product, energy = convolved(image, kernel), convolved(image.square(), ones)
    if found.kind == CENTRED:
        entries = math.prod(kernel.shape[2:])
        mean = convolved(image, ones) / entries
        product = product - mean * kernel.flatten(2).sum(2).unflatten(1, (-1, *[1] * count))
        energy = energy - entries * mean.square()
    offset = 0.0 if b is None else _laid(b, list(found.bias), ["g", "o"]).unflatten(1, (-1, *[1] * count))
    if form == "affine-like":
        z = (product + offset) * (kappa / (1 + energy)).sqrt()
    else:
        there = energy > 1e-12
        scale = torch.where(there, (kappa - (b is not None)) / torch.where(there, energy, 1.0), 0.0).sqrt()
        z = product * torch.where(there, scale, 0.0) + offset
    return _laid(z, ["s", "g", "o", *space["p"]], ["s", *found.axes["z"]])


def _convolved(found: Drawn, values: Tensor, kernel: Tensor, groups: int, positions: list[int]) -> Tensor:
    count = len(positions)
    steps, holes, pads = (tuple(n[k] for n in found.numbers) for k in range(3))
    if found.kind == TRANSPOSED:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[count - 1]
        whole = F.pad(function(values, kernel, stride=steps, groups=groups, dilation=holes), [_ROOM] * 2 * count)
        for axis, (pad, length) in enumerate(zip(pads, positions, strict=True), start=2):
            whole = whole.narrow(axis, _ROOM + pad, length)
        return whole
    values = F.pad(values, [_ROOM] * 2 * count)
    for axis, (step, hole, pad) in enumerate(found.numbers, start=2):
        length = step * (positions[axis - 2] - 1) + hole * (kernel.shape[axis] - 1) + 1
        values = values.narrow(axis, _ROOM - pad, length)
    function = (F.conv1d, F.conv2d, F.conv3d)[count - 1]
    return function(values, kernel, stride=steps, dilation=holes, groups=groups)


def _laid(t: Tensor, there: list[str], wanted: list[str]) -> Tensor:
    """Return the tensor with its axes permuted; missing axes have length 1, and axes of length 1 may be dropped."""
    kept = [a for a in there if a in wanted]
    gone = [k for k, a in enumerate(there) if a not in wanted]
    t = t.squeeze(gone) if gone else t
    t = t.permute([kept.index(a) for a in wanted if a in kept])
    for k, a in enumerate(wanted):
        t = t.unsqueeze(k) if a not in kept else t
    return t
