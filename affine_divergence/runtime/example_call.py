"""Observe one call of a model: which of its layers are called, and which layers' weights are read directly.

The call runs in evaluation mode, without gradients and without torch's fused encoders; the random state, buffers and
modes are restored afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchFunctionMode):
    """Records torch functions that read a layer's parameters while none of its owners is running."""

    def __init__(self, owners: Mapping[int, tuple[str, list[nn.Module]]]) -> None:
        super().__init__()
        self.owners, self.running = owners, list[nn.Module]()
        self.called, self.direct = set[int](), dict[int, str]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") not in ("__get__", "size", "dim", "numel", "element_size", "data_ptr"):
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and id(leaf) in self.owners:
                    word, modules = self.owners[id(leaf)]
                    if not any(module is one for module in modules for one in self.running):
                        self.direct.update((id(module), word) for module in modules)
        return function(*args, **(kwargs or {}))

    def around(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return a module's forward, wrapped to record when it runs."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            """Run the forward with its module on the list of running ones."""
            self.called.add(id(module))
            self.running.append(module)
            try:
                return forward(*args, **kwargs)
            finally:
                self.running.pop()

        return watched


def called_by(model: nn.Module, example: object, layers: Collection[nn.Module]) -> tuple[set[int], dict[int, str]]:
    """Call a model; return the ids of the called layers, and the parameter by id of the layers that were read directly.

    ``example`` is the batch: a tuple of arguments, a mapping of arguments by name, or the only argument. Errors of the
    call propagate.
    """
    owners: dict[int, tuple[str, list[nn.Module]]] = {}
    for layer in layers:
        for word, p in ((w, p) for part in layer.modules() for w, p in part._parameters.items() if p is not None):
            owners.setdefault(id(p), (word, []))[1].append(layer)
    for module in model.modules():  # tied weights: an embedding may own the weight of a head
        for key in map(id, module._parameters.values()):
            if key in owners and not any(module is m for m in owners[key][1]):
                owners[key][1].append(module)
    watch = _Watch(owners)
    watched = {id(m): m for _, modules in owners.values() for m in modules}
    with _as_it_was(model), _uncompiled(), torch.no_grad(), torch.random.fork_rng(), watch:
        own = {key: m.__dict__.get("forward") for key, m in watched.items()}
        try:
            for module in watched.values():
                module.__dict__["forward"] = watch.around(module, module.forward)
            _call(model, example)
        finally:
            for key, module in watched.items():
                del module.__dict__["forward"]
                if own[key] is not None:
                    module.__dict__["forward"] = own[key]
    ids = {id(layer) for layer in layers}
    return watch.called & ids, {key: word for key, word in watch.direct.items() if key in ids}


def inputs_of(model: nn.Module, example: object, layers: Collection[nn.Module]) -> dict[int, tuple[Any, ...]]:
    """Call a model and return the first arguments of each layer, positional and named, by the layer's id."""
    met: dict[int, tuple[Any, ...]] = {}

    def meet(module: nn.Module, args: tuple[Any, ...], words: dict[str, Any]) -> None:
        met.setdefault(id(module), (args, dict(words)))

    handles = [layer.register_forward_pre_hook(meet, with_kwargs=True) for layer in layers]
    try:
        with _as_it_was(model), _uncompiled(), torch.no_grad(), torch.random.fork_rng():
            _call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return met


def _call(model: nn.Module, example: object) -> None:
    """Call a model with a batch: a tuple of arguments, a mapping of arguments by name, or the only argument."""
    if isinstance(example, Mapping):
        model(**example)
    else:
        model(*example if isinstance(example, tuple) else (example,))


def _uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which compiled modules run uncompiled, if torch's compiler was imported."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; restore its buffers and modes at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module._buffers, name, b, b.detach().clone())
        for module in model.modules()
        for name, b in module._buffers.items()
        if b is not None
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, _ in modes:
            module.training = False  # not ``eval()``, which does more in some modules
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        with torch.no_grad():
            for held, name, b, value in buffers:
                held[name] = b.copy_(value)
        for module, training in modes:
            module.training = training
