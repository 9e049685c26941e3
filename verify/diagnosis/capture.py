"""Record one forward and backward pass: each layer's input, its self factors, the gradient at its output.

A hook on the layer's output records its gradient, so later in-place changes of the output do not matter. Checkpointing
runs layers again during the backward pass; such a rerun counts only if the first run built no graph. torch's attention
projects inside one function; to record its projections, ``torch.nn.functional.linear`` is replaced while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affine_divergence import self_factor
from verify.diagnosis.differentiation import WholeCall
from verify.diagnosis.kernel import Law
from verify.diagnosis.layers import Attention, Piece, Plan, Site, Unjudged, affine_stand_in, with_offsets
from verify.diagnosis.reads import Arrange, arranged_for, normalised_entries
from verify.diagnosis.samples import Shape, factors_of
from verify.diagnosis.sums import all_finite

NO_GRAPH = "it ran without gradients (no_grad, or checkpointing that recomputes)"
_ENTRY = {
    bias: affine_stand_in(1, 1, bias) for bias in (False, True)
}  # the layer that a gain is for each normalised entry
_ATTENTION_ARGUMENTS = (
    "query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal",
)  # fmt: skip
CLOSED = "it is computed inside the generated attention, where its output cannot be observed"


Keep = Callable[[str, int, Tensor], Tensor]


def nothing(_: str, __: int, x: Tensor) -> Tensor:
    """Keep nothing of the input."""
    return x.new_empty(0)


@dataclass
class Call:
    """One use of a layer: its input, its self factors (groups, rows), and the gradient of the loss at its output.

    ``x`` holds only the entries of the input that are kept, perhaps none; ``shape`` is the input's shape. ``traced``
    says that the output is part of a graph; ``gradient`` is None until the backward pass has reached it, or if not
    kept.
    """

    site: Site
    x: Tensor
    shape: torch.Size
    factors: Tensor
    dtype: torch.dtype
    traced: bool
    gradient: Tensor | None = None

    def forget(self) -> None:
        """Release all tensors, to free their memory for later passes."""
        self.x, self.factors, self.gradient = self.x.new_empty([0] * self.x.dim()), self.factors.new_empty(0), None


@dataclass(frozen=True)
class Attended:
    """One call of torch's attention: the module and its arguments by name."""

    module: nn.MultiheadAttention
    given: Mapping[str, Any]


@dataclass
class Captured:
    """Every call of every site in one pass, and the sites that cannot be judged.

    ``kept`` maps (site name, number of the call, input) to the part of the input to keep; without it the whole input
    and the gradient are kept. ``backward`` is set when the backward pass begins; ``listening`` if that moment is
    unknown.
    """

    kept: Keep | None = None
    calls: dict[str, list[Call]] = field(default_factory=dict)
    refused: dict[str, Unjudged] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)
    whole: dict[str, WholeCall] = field(default_factory=dict)
    attended: dict[str, list[Attended]] = field(default_factory=dict)
    backward: bool = False
    listening: bool = False
    _again: set[str] = field(default_factory=set)

    def add(
        self,
        site: Site,
        x: Any,
        z: Any,
        arranged: Arrange = lambda tensor: tensor,
        entries: Tensor | None = None,
    ) -> None:
        """Record one use of a site; ``arranged`` brings an output, or its gradient, into the layout of the input.

        ``entries`` are the input entries to keep, if they are known already.
        """
        if site.name in self.refused or not self._counts(site):
            return
        try:
            if (
                site.gain and self.kept is not None
            ):  # normalised inputs keep their length, so the factors are reported once
                call = Call(site, x, x.shape, x.new_ones(1), z.dtype, z.grad_fn is not None)
            else:
                call = _call(site, x, arranged(z) if isinstance(z, Tensor) else z)
        except (TypeError, ValueError) as problem:
            self.refuse(site.name, site.type, str(problem).removeprefix("self_factor: "))
            return
        if call.factors.numel() == 0:
            self.empty.add(site.name)
            return
        known = self.calls.setdefault(site.name, [])
        if self.kept is not None:
            call.x = self.kept(site.name, len(known), call.x) if entries is None else entries
        elif call.traced:
            inner, axes_first = unmapped(z)
            inner.register_hook(lambda gradient: self._meet(call, _as_batch(site, arranged(axes_first(gradient)))))
        known.append(call)

    def record(self, module: nn.Module, site: Site, arguments: Any, words: Any, output: Any) -> None:
        """Record one call of a module."""
        if _plain(arguments, words, output, module):  # so that this computation is not recorded as the model's
            with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
                self._record(module, site, arguments, words, output)
        else:
            self._record(module, site, arguments, words, output)

    def _record(self, module: nn.Module, site: Site, arguments: Any, words: Any, output: Any) -> None:
        if site.read is None:
            self.add(site, first_argument(arguments, words), output)
            if site.name in self.refused:
                self.keep(site.name, module, arguments, words, output)
            return
        if site.gain and self.kept is not None and self._entries_alone(module, site, output):
            return
        try:
            read = site.read(module, arguments, words, output)
        except (TypeError, ValueError) as problem:
            self.refuse(site.name, site.type, str(problem))
            self.keep(site.name, module, arguments, words, output)
            return
        self.add(site, read.x, read.z, read.arranged)

    def _entries_alone(self, module: nn.Module, site: Site, output: Any) -> bool:
        """Record one call of a norm from its output alone, if that determines the entries to keep."""
        arranged, number, keep = arranged_for(module), len(self.calls.get(site.name, ())), self.kept
        if keep is None or type(output) is not Tensor:
            return False
        rows = arranged(output.detach())
        entries = normalised_entries(module, rows, lambda tensor: keep(site.name, number, tensor))
        if entries is not None:
            self.add(site, rows, output, arranged, entries)
        return entries is not None

    def keep(self, name: str, module: nn.Module, arguments: Any, words: Any, output: Any) -> None:
        """Keep the first call of a module, to be judged by automatic differentiation."""
        z = output[0] if isinstance(output, tuple | list) and output else output
        if self.backward or not isinstance(z, Tensor) or torch._C._functorch.is_functorch_wrapped_tensor(z):
            return
        if name in self.whole:
            self.whole[name].calls += 1
            return
        call = self.whole[name] = WholeCall(name, module, arguments, words, z.detach())
        if z.requires_grad:
            z.register_hook(lambda gradient: self._meet(call, gradient))

    def _counts(self, site: Site) -> bool:
        """Whether a run counts; one during the backward pass counts only if it replaces runs without a graph."""
        if not self.backward:
            return True
        if all(not call.traced for call in self.calls.get(site.name, ())):
            self.calls.pop(site.name, None)
            self._again.add(site.name)
        return site.name in self._again

    def _meet(self, call: Call | WholeCall, gradient: Tensor) -> None:
        if self.backward or self.listening:  # an earlier call comes from a derivative inside the loss
            call.gradient = gradient.detach()

    def refuse(self, name: str, kind: str, reason: str) -> None:
        """Remove a site from the record, with the reason."""
        self.calls.pop(name, None)
        self.refused[name] = Unjudged(name, kind, reason)


def _plain(arguments: Any, words: Any, output: Any, module: nn.Module) -> bool:
    """Whether no argument, output or parameter is a tensor subclass, which computes by dispatch."""
    given = [*arguments, *words.values(), output, *module._parameters.values()]
    return all(type(t) in (Tensor, nn.Parameter) for t in given if isinstance(t, Tensor))


def _call(site: Site, x: Any, z: Any) -> Call:
    if not isinstance(x, Tensor) or not isinstance(z, Tensor):
        raise TypeError(f"it was called with a {type(x).__name__} and returned a {type(z).__name__}, not tensors")
    x, z = _samples_first(site, x), _samples_first(site, z)
    factors = self_factors(site, x)
    if not all_finite(factors):
        raise ValueError("its input holds NaN or infinity, or is too large to be squared")
    view: Any = site.view
    units = view.out_channels // view.groups if site.shape is Shape.PATCHES else z.shape[-1]
    if factors.numel() * units != z.numel():
        raise ValueError("its output has a shape other than its settings give; call it without output_size")
    return Call(site, x.detach(), x.shape, factors, z.dtype, z.grad_fn is not None)


def unmapped(tensor: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the tensor inside the wrappers of ``torch.func``, and a function that moves ``vmap`` axes to the front."""
    axes: list[int] = []
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            axes.append(torch._C._functorch.maybe_get_bdim(tensor))
        tensor = torch._C._functorch.get_unwrapped(tensor)

    def _arranged(inner: Tensor) -> Tensor:
        for axis in reversed(axes):
            inner = inner.movedim(axis, 0)
        return inner

    return tensor, _arranged


def _samples_first(site: Site, tensor: Tensor) -> Tensor:
    """Return an input or output with the hidden axes of ``vmap`` in front; images are merged into one batch."""
    inner, arranged = unmapped(tensor)
    if inner is tensor:
        return tensor
    return _as_batch(site, arranged(inner))


def _as_batch(site: Site, tensor: Tensor) -> Tensor:
    """Return images with all axes before the channels merged."""
    if site.shape is not Shape.PATCHES or site.gain:
        return tensor
    kernel_size: Any = site.view.kernel_size
    extra = tensor.dim() - 2 - len(kernel_size)
    return tensor.flatten(0, extra) if extra > 0 else tensor


@torch.no_grad()
def self_factors(site: Site, x: Tensor) -> Tensor:
    """Return the derived self factor of each row, (groups, rows); raises the errors of ``ad.self_factor``."""
    x = torch.zeros_like(x) if site.offsets_only else x.detach()
    if site.gain:
        return self_factor(_ENTRY["bias" in site.trained], x.unsqueeze(-1)).transpose(0, 1).flatten(1)
    return factors_of(site.shape, site.view, self_factor(site.view, x))


def _as_called(site: Site, arguments: tuple[Any, ...], words: dict[str, Any]) -> Site:
    """Return the site for this call: bags with offsets or weights are treated as a linear map of counts."""
    given = sum(a is not None for a in (*arguments, *words.values()))
    return with_offsets(site) if site.shape is Shape.BAGS and given > 1 else site


def first_argument(arguments: tuple[Any, ...], words: dict[str, Any]) -> Any:
    """Return the first argument of a layer's call, positional or by name."""
    return arguments[0] if arguments else next(iter(words.values()), None)


@contextmanager
def capturing(plan: Plan, kept: Keep | None = None) -> Iterator[Captured]:
    """Record every call of the plan's sites inside the context; ``kept`` selects the input entries to keep."""
    captured, handles = Captured(kept), []
    for module, site in plan.sites.items():

        def _record(module: nn.Module, arguments: Any, words: Any, output: Any, site: Site = site) -> None:
            captured.record(module, _as_called(site, arguments, words), arguments, words, output)

        handles.append(module.register_forward_hook(_record, with_kwargs=True, prepend=True))
    for module, name in plan.others.items():

        def _keep(module: nn.Module, arguments: Any, words: Any, output: Any, name: str = name) -> None:
            captured.keep(name, module, arguments, words, output)

        handles.append(module.register_forward_hook(_keep, with_kwargs=True, prepend=True))
    try:
        with _attention_calls(plan, captured):
            yield captured
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attention_calls(plan: Plan, captured: Captured) -> Iterator[None]:
    """Record the projections of torch's attention, which are not modules."""
    if not plan.attention:
        yield
        return
    running: list[nn.Module] = []
    real = F.linear

    def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        z = real(input, weight, bias)
        if running and isinstance(running[-1], nn.MultiheadAttention):
            _projection(plan.attention[running[-1]], running[-1], (input, weight, bias, z), captured)
        return z

    def _enter(module: nn.Module, *_: Any) -> None:
        running.append(module)

    def _leave(module: nn.Module, arguments: Any, words: Any, output: Any) -> None:
        running.pop()
        if isinstance(module, nn.MultiheadAttention):
            given = {**dict(zip(_ATTENTION_ARGUMENTS, arguments, strict=False)), **words}
            captured.attended.setdefault(plan.attention[module].name, []).append(Attended(module, given))
        else:
            _generated_projections(plan.attention[module].name, module, arguments, words, captured)

    handles = [module.register_forward_pre_hook(_enter) for module in plan.attention]
    handles += [m.register_forward_hook(_leave, with_kwargs=True, prepend=True) for m in plan.attention]
    F.linear = _linear
    try:
        yield
    finally:
        F.linear = real
        for handle in handles:
            handle.remove()


def _projection(
    attention: Attention,
    module: nn.MultiheadAttention,
    met: tuple[Tensor, Tensor, Tensor | None, Tensor],
    captured: Captured,
) -> None:
    """Record one projection: rows of the input projections' weight, or the output projection."""
    x, weight, bias, z = met
    held = {word: t for word, t in (("weight", weight), ("bias", bias)) if t is not None}
    pieces = {word: _piece(t, module, attention) for word, t in held.items()}
    part = _part(pieces["weight"], weight, module.embed_dim)
    site_name, kind = f"{attention.name}.{part}" if attention.name else part, f"{type(module).__name__}.{part}"
    found = {word: piece for word, piece in pieces.items() if piece is not None}
    if len(found) < len(pieces):
        captured.refuse(site_name, kind, "its weight or bias is computed from other parameters")
        return
    trained = tuple(word for word, t in held.items() if (t if t._base is None else t._base).requires_grad)
    if not trained:
        captured.refuse(
            site_name, kind, "frozen: none of its parameters requires a gradient, so no step changes its output"
        )
        return
    stand_in = affine_stand_in(weight.shape[1], weight.shape[0], "bias" in trained)
    law = Law("affine" if "bias" in trained else "linear")
    captured.add(Site(site_name, kind, stand_in, law, Shape.ROWS, found, trained), x, z)


def _piece(part: Tensor, module: nn.Module, attention: Attention) -> Piece | None:
    """Return the parameter and rows of which a tensor is a view, or None."""
    for word, value in module.named_parameters():
        if part is value:
            return Piece(attention.parameters[word])
        if part._base is value:
            start = (part.storage_offset() - value.storage_offset()) // value.stride(0)
            return Piece(attention.parameters[word], start, start + part.shape[0])
    return None


def _part(piece: Piece | None, weight: Tensor, width: int) -> str:
    """Return the name of a projection: ``qkv``, ``q``, ``k``, ``v``, ``kv`` or ``out_proj``."""
    if piece is None:
        return "projection"
    word = piece.parameter.rpartition(".")[2]
    if word != "in_proj_weight":
        return "out_proj" if word == "weight" else word[0]
    first = piece.start // width
    return "qkv"[first : first + weight.shape[0] // width]


def _generated_projections(name: str, module: nn.Module, arguments: Any, words: Any, captured: Captured) -> None:
    """Record the self factors of the generated attention's projections, whose outputs cannot be observed."""
    given = {**dict(zip(("query", "key", "value"), arguments, strict=False)), **words}
    sources = {id(given[word]): given[word] for word in ("query", "key", "value")}
    site_name = f"{name}.qkv" if name else "qkv"
    kind = f"{type(module).__name__}.qkv"
    site = Site(site_name, kind, module, Law("affine", "affine-like"), Shape.ROWS, {}, ("weight", "bias"), closed=True)
    for x in sources.values():
        captured.add(site, x, x)
