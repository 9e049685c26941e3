"""The maps that GPU kernels compute: random operands, the public functions, and hand-written float64 references."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import affine_divergence as ad
from affine_divergence import functional
from verify.checks import references
from verify.checks.attention_modules import SETTINGS, by_heads, named_by_heads
from verify.checks.geometry import Geometry
from verify.gpu.kernels import ATTENTION, PATCHES, UNIT, family
from verify.gpu.part import Setting

_KAPPA = 1.75
_LARGEST_HALF = 6e4


@dataclass(frozen=True)
class Case:
    """A map with operands: ``run(backend, tensors)`` uses the package, ``by_hand(tensors)`` is the reference.

    Tensors are random numbers of the measured dtype; references take them in float64.
    """

    tensors: Sequence[Tensor]
    run: Callable[[str, Sequence[Tensor]], tuple[Tensor, ...]]
    by_hand: Callable[[Sequence[Tensor]], tuple[Tensor, ...]]

    def results(self, backend: str) -> list[Tensor]:
        """Return a backend's outputs, and every gradient of a fixed function of them."""
        return _with_gradients(partial(self.run, backend), self.tensors)

    def exact(self) -> list[Tensor]:
        """Return the same for the reference, in float64."""
        return _with_gradients(self.by_hand, [t.double() for t in self.tensors])


def _with_gradients(function: Callable[[Sequence[Tensor]], tuple[Tensor, ...]], tensors: Sequence[Tensor]) -> Any:
    leaves = [t.detach().requires_grad_() for t in tensors]
    outputs = function(leaves)
    cotangents = [_cotangent(z.shape, k, z) for k, z in enumerate(outputs)]
    return [t.detach() for t in (*outputs, *torch.autograd.grad(outputs, leaves, cotangents))]


def _cotangent(shape: torch.Size, seed: int, like: Tensor) -> Tensor:
    """Return random numbers of few bits, exact in every dtype; works during graph capture too."""
    count = torch.arange(shape.numel(), device=like.device)
    return (((count * 7919 + seed * 31) % 251 - 125).to(like.dtype) / 64).reshape(shape)


def case_of(request: Mapping[str, Any], dtype: torch.dtype, setting: Setting) -> Case:
    """Return the case of a request; its operands are drawn from the setting's seed."""
    generator = torch.Generator().manual_seed(setting.seed)

    def random(*axes: int) -> Tensor:
        return torch.randn(axes, generator=generator, dtype=torch.float64).to(setting.device, dtype)

    name, shape = request["map"], request["shape"]
    if name == ATTENTION:
        return _attention(request, dtype, setting, random)
    made = {UNIT: _unit, PATCHES: _patches}.get(family(name), _rows)(name, shape, random)
    size = request.get("size")
    if size is None:
        return made
    far = made.tensors[0].double() * size
    largest = _LARGEST_HALF if dtype == torch.float16 else torch.finfo(dtype).max
    return Case([far.clamp(-largest, largest).to(dtype), *made.tensors[1:]], made.run, made.by_hand)


Random = Callable[..., Tensor]


def _form(name: str) -> tuple[str, bool]:
    """Return the form of a map, and whether it has a bias."""
    return "affine-like" if "affine_like" in name else "norm-like", not name.endswith("_without_bias")


def _rows(name: str, shape: Sequence[int], random: Random) -> Case:
    rows, n, m = shape
    form, bias = _form(name)
    function: Any = getattr(functional, form.replace("-", "_"))

    def run(backend: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, W, *b = tensors
        return (function(x, W, b[0] if b else None, _KAPPA, backend=backend),)

    def by_hand(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, W, *b = tensors
        if form == "norm-like":
            x = x / x.norm(dim=-1, keepdim=True)  # so that no length underflows
        return (references.ROWS[form](x, W, b[0] if b else None, _KAPPA),)

    return Case([random(rows, n), random(m, n), *([random(m)] if bias else [])], run, by_hand)


def _patches(name: str, shape: Sequence[int], random: Random) -> Case:
    """A map of patches: with stride and dilation for the first shape, which has groups; plain 3 x 3 for the others."""
    images, groups, channels, outputs, side = shape
    (form, bias), centred, turned = _form(name), "_centred" in name, "_transposed" in name
    uneven = groups > 1
    stride, padding, dilation = ((2, 1), (1, 2), (1, 2)) if uneven else ((1, 1), (1, 1), (1, 1))
    geometry = Geometry(
        groups, channels, outputs, (3, 3), stride, padding, dilation, (side, side + 1), (0, 0), transposed=turned
    )
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    settings |= {"form": form, "kappa": _KAPPA} | ({} if turned else {"center": centred})
    function: Any = functional.patch_norm_conv_transpose2d if turned else functional.patch_norm_conv2d

    def run(backend: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, W, *b = tensors
        return (function(x, W, b[0] if b else None, **settings, backend=backend),)

    weight = (groups * channels, outputs) if turned else (groups * outputs, channels)
    tensors = [random(images, groups * channels, side, side + 1), random(*weight, 3, 3)]
    tensors += [random(groups * outputs)] if bias else []
    return Case(tensors, run, partial(_patches_by_hand, geometry, form, centred))


def _patches_by_hand(geometry: Geometry, form: str, centred: bool, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    x, W, *b = tensors
    groups, channels, outputs = geometry.groups, geometry.channels, geometry.outputs
    image = x.reshape(len(x), groups, channels, *geometry.length)
    kernel = W.reshape(groups, *((channels, outputs) if geometry.transposed else (outputs, channels)), *geometry.kernel)
    if geometry.transposed:  # output position q reads input (q - dilation k) / stride: the filter is flipped
        kernel = kernel.flip((3, 4)).transpose(1, 2)
    bias = b[0].reshape(groups, outputs) if b else None
    return (references.patch_map(form, geometry.rows(image), kernel, bias, _KAPPA, centred).flatten(1, 2),)


def _unit(name: str, shape: Sequence[int], random: Random) -> Case:
    """Queries and keys normalised to unit length, as views of packed tokens."""
    N, H, L, S, d = shape

    def run(backend: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        pair: Any = importlib.import_module(f"affine_divergence.kernels.{backend}.unit").UnitPair
        found = pair.apply(*tensors)
        return found[0], found[2]

    def by_hand(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(x / x.norm(dim=-1, keepdim=True) for x in tensors)

    packed = [random(N, tokens, 3, H, d)[:, :, part].transpose(1, 2) for part, tokens in enumerate((L, S))]
    return Case(packed, run, by_hand)


def _attention(request: Mapping[str, Any], dtype: torch.dtype, setting: Setting, random: Random) -> Case:
    """The whole attention module on tokens x, with every parameter; the reference computes head by head."""
    batch, tokens, width, heads = request["shape"]
    settings = SETTINGS[request["variant"]]
    torch.manual_seed(setting.seed)
    names = [n for n, _ in ad.AffineLikeMultiheadAttention(width, heads).named_parameters()]

    def run(backend: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.device("meta"):
            module = ad.AffineLikeMultiheadAttention(width, heads, batch_first=True, backend=backend, **settings)
        x, *parameters = tensors
        given = dict(zip(names, parameters, strict=True))
        return (torch.func.functional_call(module, given, (x, x, x))[0],)

    def by_hand(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x, *parameters = tensors
        v = named_by_heads(dict(zip(names, parameters, strict=True)), heads, width // heads)
        return (by_heads({**v, "x": x, "y": x}, settings),)

    module = ad.AffineLikeMultiheadAttention(width, heads, dtype=torch.float64)
    own = [p.detach().to(setting.device, dtype) for p in module.parameters()]
    return Case([random(batch, tokens, width), *own], run, by_hand)
