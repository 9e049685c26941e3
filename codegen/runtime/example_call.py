"""One call of a model that is watched: which of its layers are called, and whose weights are read past them.

The model is in evaluation for it, without gradients and without torch's fused encoders; random numbers, buffers and
modes are then what they were.
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
    """Notes functions of torch that read the parameters of a layer while none of its owners is called."""

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
        """Return a module's forward that says when it runs."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            """Run the forward, and keep what runs it on the list."""
            self.called.add(id(module))
            self.running.append(module)
            try:
                return forward(*args, **kwargs)
            finally:
                self.running.pop()

        return watched


def called_by(model: nn.Module, example: object, layers: Collection[nn.Module]) -> tuple[set[int], dict[int, str]]:
    """Call a model and return the ids of the layers that were called, and of those read directly with the parameter.

    ``example`` is the batch: a tuple of arguments, a mapping of arguments by name, or the only argument. Whatever the
    call raises is raised.
    """
    owners: dict[int, tuple[str, list[nn.Module]]] = {}
    for layer in layers:
        for word, p in ((w, p) for part in layer.modules() for w, p in part._parameters.items() if p is not None):
            owners.setdefault(id(p), (word, []))[1].append(layer)
    for module in model.modules():  # of ties: an embedding may read the weight of a head
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
    """Call a model and return what each of the layers was called with first, in place and by name, by its id."""
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
    """Return a context in which compiled modules run as they were written, if anything was compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation, and its buffers and modes back at the end."""
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
            module.training = False  # ``eval`` of some modules does more
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        with torch.no_grad():
            for held, name, b, value in buffers:
                held[name] = b.copy_(value)
        for module, training in modes:
            module.training = training
