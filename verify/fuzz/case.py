"""One fuzz case: the random choices for its number, the call, and the check of the result."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from verify.fuzz.maps import Problem
from verify.fuzz.operands import LAYOUTS, REFUSED, WRAPPED

MODES = (
    "eager", "eager", "eager", "no graph", "inference", "recorded", "many cotangents", "twice", "checkpointed", 
    "frozen",
    "autocast backward", "autocast", "watched", "default device", "mapped", "per sample", "tangent", "operator",
    "hooked", "wrapped", "refused", "meta", "16 bit",
)  # fmt: skip
_CLOSE = {torch.float64: 1e-9, torch.float32: 5e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
Pairs = list[tuple[str, Tensor, Tensor]]
Makers = Sequence[Callable[[random.Random], Problem]]


class Case:
    """The random choices for a case number: map, mode, dtype, threads, backend, and operands with layouts."""

    def __init__(self, number: int, makers: Makers) -> None:
        draw = self._draw = random.Random(number)
        torch.manual_seed(number)
        self.mode = draw.choice(MODES)
        self.problem = draw.choice(makers)(draw)
        narrow = draw.choice([torch.bfloat16, torch.float16])
        self.dtype = narrow if self.mode == "16 bit" else draw.choice([torch.float32, torch.float64])
        self.threads, self.backend = draw.choice([1, 2, 3]), draw.choice([None, "cpp", "cpp"])
        self.layouts = [draw.choice(["as it is", draw.choice(list(LAYOUTS))]) for _ in self.problem.shapes]
        self.odd, self.place = "", draw.randrange(len(self.problem.shapes))
        if self.mode in ("wrapped", "refused"):
            self.odd = draw.choice(list(WRAPPED if self.mode == "wrapped" else REFUSED))

    def __str__(self) -> str:
        """Return a description that identifies the case."""
        what = f"{self.odd} at {self.place}" if self.odd else ", ".join(self.layouts)
        shapes = " ".join(map(str, self.problem.shapes))
        settings = f"{self.dtype} {shapes} threads={self.threads} backend={self.backend}"
        return f"{self.problem.name}, {self.mode}, {settings}: {what}"

    def wrong(self) -> str:
        """Return what is wrong with the result, or an empty text if it is right."""
        torch.set_num_threads(self.threads)
        made = [torch.randn(s, dtype=torch.float64).to(self.dtype) for s in self.problem.shapes]
        given = [LAYOUTS[name](t) for name, t in zip(self.layouts, made, strict=True)]
        before = [t.clone() for t in given]
        found = self._refused(given) if self.mode == "refused" else self._compared(given)
        changed = [k for k, (a, b) in enumerate(zip(given, before, strict=True)) if not torch.equal(a, b)]
        return found or (f"operands {changed} changed" if changed else "")

    def _refused(self, given: list[Tensor]) -> str:
        changed: list[Any] = list(given)
        if not given[self.place].numel():
            return ""
        changed[self.place] = REFUSED[self.odd](given[self.place])
        try:
            found = self.problem.ours(*changed, backend=self.backend)
        except (TypeError, ValueError) as problem:
            return "" if type(problem) in (TypeError, ValueError) and ": " in str(problem) else f"unclear: {problem}"
        return f"taken: {type(found).__name__} {tuple(found.shape)}"

    def _compared(self, given: list[Tensor]) -> str:
        exact = [t.detach().double().contiguous().requires_grad_() for t in given]
        right = self.problem.reference(*exact)
        if self.mode == "meta":
            found = self.problem.ours(*(t.to("meta") for t in given), backend=None)
            return "" if found.is_meta and found.shape == right.shape else f"shape {tuple(found.shape)}"
        g = LAYOUTS[self._draw.choice(list(LAYOUTS))](torch.randn(right.shape, dtype=torch.float64).to(self.dtype))
        leaves = [t.detach().requires_grad_() for t in given]
        with ExitStack() as stack:
            pairs = _Answers(self, leaves, exact, right, g, stack).pairs()
        close = _CLOSE[torch.bfloat16] if self.mode == "autocast" else _CLOSE[self.dtype]
        for name, ours, theirs in pairs:
            distance = float((ours.double() - theirs).norm())
            size = float(theirs.norm())
            if ours.shape != theirs.shape or not distance <= close * (1 + size + theirs.numel() ** 0.5):
                return f"{name} is off by {distance:.2g} of {size:.2g}"
        return ""


class _Answers:
    """Named pairs of results, of our map and of the reference, for each mode."""

    def __init__(
        self, case: Case, leaves: list[Tensor], exact: list[Tensor], right: Tensor, g: Tensor, stack: ExitStack
    ) -> None:
        self._case, self._leaves, self._exact, self._right, self._g = case, leaves, exact, right, g
        self._stack = stack

    def pairs(self) -> Pairs:
        """Return the pairs for the case's mode."""
        own = f"_{self._case.mode.replace(' ', '_')}"
        return getattr(self, own)() if hasattr(self, own) else self._gradients(self._ours(*self._leaves))

    def _ours(self, *tensors: Tensor) -> Tensor:
        return self._case.problem.ours(*tensors, backend=self._case.backend)

    def _gradients(self, z: Tensor, wanted: Sequence[int] | None = None, **more: Any) -> Pairs:
        places = range(len(self._leaves)) if wanted is None else wanted
        found = torch.autograd.grad(z, [self._leaves[k] for k in places], self._g.to(z.dtype), **more)
        right = torch.autograd.grad(self._right, [self._exact[k] for k in places], self._g.double(), retain_graph=True)
        names = [f"gradient {k}" for k in places]
        return [("output", z.detach(), self._right.detach()), *zip(names, found, right, strict=True)]

    def _no_graph(self) -> Pairs:
        with torch.no_grad():
            return [("output", self._ours(*self._leaves), self._right.detach())]

    def _inference(self) -> Pairs:
        with torch.inference_mode():
            z = self._ours(*(t.clone() for t in self._leaves))
        return [("output", z, self._right.detach())]

    def _recorded(self) -> Pairs:
        return [(n, a.detach(), b) for n, a, b in self._gradients(self._ours(*self._leaves), create_graph=True)]

    def _twice(self) -> Pairs:
        z = self._ours(*self._leaves)
        self._gradients(z, retain_graph=True)
        return self._gradients(z)

    def _many_cotangents(self) -> Pairs:
        z, g = self._ours(*self._leaves), torch.stack([self._g, 2 * self._g])
        found = torch.autograd.grad(z, self._leaves, g, is_grads_batched=True)
        right = torch.autograd.grad(self._right, self._exact, self._g.double())
        return [
            (f"gradient {k}", a, torch.stack([b, 2 * b])) for k, (a, b) in enumerate(zip(found, right, strict=True))
        ]

    def _checkpointed(self) -> Pairs:
        return self._gradients(checkpoint(self._ours, *self._leaves, use_reentrant=False))

    def _frozen(self) -> Pairs:
        one = self._case.place
        leaves = [t if k == one else t.detach() for k, t in enumerate(self._leaves)]
        return self._gradients(self._ours(*leaves), [one])

    def _autocast_backward(self) -> Pairs:
        z = self._ours(*self._leaves)
        self._stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        return self._gradients(z)

    def _autocast(self) -> Pairs:
        with torch.autocast("cpu", torch.bfloat16):
            return [("output", self._ours(*self._leaves).detach(), self._right.detach())]

    def _watched(self) -> Pairs:
        self._stack.enter_context(FlopCounterMode(display=False))
        return self._gradients(self._ours(*self._leaves))

    def _default_device(self) -> Pairs:
        self._stack.enter_context(torch.device("cpu"))
        return self._gradients(self._ours(*self._leaves))

    def _mapped(self) -> Pairs:
        x, *others = (t.detach() for t in self._leaves)
        z = torch.vmap(lambda x: self._ours(x, *others))(torch.stack([x, x]))
        return [("output", z, torch.stack([self._right, self._right]).detach())]

    def _per_sample(self) -> Pairs:
        x, W, *others = (t.detach() for t in self._leaves)
        if not len(x):
            return []
        one = torch.func.grad(lambda W, x, g: (self._ours(x[None], W, *others) * g[None]).sum())
        found = torch.vmap(one, (None, 0, 0))(W, x, self._g)
        (right,) = torch.autograd.grad(self._right, self._exact[1], self._g.double())
        return [("sum of gradients", found.sum(0), right)]

    def _tangent(self) -> Pairs:
        points = tuple(t.detach().resolve_neg().contiguous() for t in self._leaves)  # limitations of torch
        ways = tuple(map(torch.randn_like, points))
        z, t, *_ = torch.func.jvp(self._ours, points, ways)
        right = torch.autograd.grad(self._right, self._exact, self._g.double())
        ours = (t.double() * self._g.double()).sum()
        theirs = sum(((a * w.double()).sum() for a, w in zip(right, ways, strict=True)), ours.new_zeros(()))
        return [("output", z, self._right.detach()), ("tangent along the cotangent", ours, theirs)]

    def _operator(self) -> Pairs:
        operator = self._case.problem.operator
        if operator is None:
            return self._gradients(self._ours(*self._leaves))
        return self._gradients(operator(*self._leaves, *self._case.problem.settings.values())[0])

    def _hooked(self) -> Pairs:
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t.double(), lambda t: t.to(self._case.dtype))
        with hooks:
            z = self._ours(*self._leaves)
        return self._gradients(z)

    def _wrapped(self) -> Pairs:
        leaves = [t.detach() for t in self._leaves]
        leaves[self._case.place] = WRAPPED[self._case.odd](leaves[self._case.place].contiguous())
        z = self._ours(*leaves)
        return [("output", getattr(z, "a", z).as_subclass(Tensor), self._right.detach())]
