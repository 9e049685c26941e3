"""Choose the backend that computes a map: torch's operations, Triton kernels, CUDA C++ kernels, or C++ kernels.

The caller's choice comes first, then the environment variable AFFINE_DIVERGENCE_BACKEND, then device and shape decide:

CPU            the C++ kernels for float32, float64 and, for rows, bfloat16, if the input is large enough and there is a
               compiler; it is called at first use, and its output is cached on disk. Otherwise torch's operations.
CUDA, rows     of the installed backends: Triton for short rows, which its kernels read once; for longer rows, where
               the matrix product takes most of the time, the CUDA kernels around a library's product. This order
               follows from counting memory traffic; it is not a measurement.
CUDA, patches  torch's operations: the kernels of convolutions have not been timed on a GPU.

Tensors that are not plain, such as those distributed over several devices, always use torch's operations. A compiled
function keeps the choice that was made when it was traced, and calls kernels as operators; an exported program has
torch's operations only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active as _are_transforms_active
from torch._C import _is_any_autocast_enabled, _is_tracing
from torch.autograd import Function
from torch.compiler import is_compiling, is_dynamo_compiling, is_exporting

from .operands import KEYS_ARE_KNOWN, PLAIN, constant, is_traced
from .rows import straight
from .targets import BACKENDS, DEVICES, INSTALL, INTERPRETED, NEEDS

VARIABLE = "AFFINE_DIVERGENCE_BACKEND"

Pair = tuple[type[Function], Any]
Call = Callable[..., Tensor]

_SHORT_ROW = 2048  # bytes of a row (float32 or wider) up to which Triton's kernels hold it as a whole
_SET = getattr(os.environ, "_data", os.environ)  # a plain dict: os.environ.get is slow for a missing name
_KEY = os.environ.encodekey(VARIABLE) if hasattr(os.environ, "encodekey") and _SET is not os.environ else VARIABLE
_ENOUGH = 2**10  # entries of x below which compiling for a second does not pay off
_OLDEST_GPU = (8, 0)  # the lowest compute capability that the kernels are compiled for
_PREFERRED = {True: ("triton", "cuda"), False: ("cuda", "triton")}  # keyed by whether rows are short
_TOLD: list[str] = []  # problems that were warned of
_THERE: dict[tuple[str, torch.dtype], bool] = {}
_ON_HOST: dict[tuple[str, torch.dtype], Pair] = {}
_AT_ONCE: dict[tuple[str, torch.dtype], Call] = {}  # C++ kernels as autograd functions


class _Loaded:
    """Loaded functions of backends, one attribute per map: compilers miss changes of a dictionary during tracing."""


def check_backend(name: str, backend: object, source: str = "") -> str | None:
    """Return the name of a backend, or None for None; raise ValueError for any other value."""
    if backend is None or backend in BACKENDS:
        return backend if isinstance(backend, str) else None
    known = ", ".join(map(repr, BACKENDS))
    raise ValueError(f"{name}: backend is {backend!r}{source}; choose one of {known}, or leave it out")


def chosen(name: str, backend: str | None, home: str, own: Pair, x: Tensor, weight: Tensor) -> Pair:
    """Return the function to run and its form for compilers: ``own``, which is torch's, or a backend's.

    ``name`` is the public function, for messages; ``home`` the map's file in every target's folder and its class, such
    as ``affine_like.AffineLike``; ``x`` is (B, n), ``weight`` (m, n), or both have groups, channels and axes of space.
    Raises ValueError for a backend that is unknown, not installed, not part of this package, or that does not support
    the device of ``x``.
    """
    asked = backend if backend is not None else (os.environ.get(VARIABLE) or None if _KEY in _SET else None)
    if not is_compiling() and _is_tracing():  # tracers record torch's operations
        return own
    if asked is not None:
        return _asked(name, asked, backend, home, own, x)
    if not x.is_cpu:
        return _on_device(home, own, x, weight)
    if is_compiling():
        return _in_graph(home, own, x, weight)
    if type(x) not in PLAIN or x.numel() < _ENOUGH:
        return own
    return _ON_HOST.get((home, x.dtype)) or _on_host(home, own, x, weight)


def at_once(home: str, backend: str | None, x: Tensor, weight: Tensor, bias: Tensor | None) -> Call | None:
    """Return the C++ fast path if every operand is a plain dense matrix and no backend was requested, else None.

    This does the checks and the choice in as few steps as possible: a matrix product evicts the caches, and after one
    each step takes a microsecond. Any other call goes through the checks and ``chosen``.
    """
    if backend is not None or is_dynamo_compiling() or type(x) not in PLAIN or type(weight) not in PLAIN:
        return None
    try:
        given, shape, dtype = x.shape, weight.shape, x.dtype
        found = _AT_ONCE.get((home, dtype))
        usual = (
            found is not None
            and len(given) == 2 == len(shape)
            and given[1] == shape[1]
            and given[0] * given[1] >= _ENOUGH
            and weight.dtype is dtype
            and (bias is None or (type(bias) in PLAIN and bias.dtype is dtype and bias.shape == shape[:1]))
            and x.is_cpu
            and _KEY not in _SET
            and not _are_transforms_active()
            and not _is_tracing()
            and not _is_any_autocast_enabled()
        )
    except RuntimeError:  # nested tensors have no shape
        return None
    return found if usual else None


def chosen_for_rows(name: str, backend: str | None, home: str, own: Pair, x: Tensor) -> Pair:
    """Return the same as ``chosen`` for a map of the rows of ``x`` (..., n) without a weight."""
    return chosen(name, backend, home, own, x, x)


def _asked(name: str, asked: str, argument: str | None, home: str, own: Pair, x: Tensor) -> Pair:
    """Return the functions of the backend requested by an argument or by the environment."""
    source = "" if argument is not None else f" by the environment variable {VARIABLE}"
    found = _possible(name, asked, source, home, x.device.type)
    return own if found == "torch" else _loaded(found, home)


def _on_host(home: str, own: Pair, x: Tensor, weight: Tensor) -> Pair:
    """Return the C++ kernels for a type, loaded and compiled, or ``own`` if that fails; cache the result."""
    there = _has_kernels(home, x.dtype)
    _ON_HOST[home, x.dtype] = _loaded("cpp", home) if there else own
    if there and KEYS_ARE_KNOWN:
        _AT_ONCE[home, x.dtype] = straight(_loaded("cpp", home)[0])
    return _ON_HOST[home, x.dtype]


def _in_graph(home: str, own: Pair, x: Tensor, weight: Tensor) -> Pair:
    """Return the C++ kernels for a compiled graph if they suit, else ``own``, which compilers fuse."""
    if is_exporting() or not (is_traced(x) and is_traced(weight)):
        return own
    if not _is_on_host(home) or x.numel() < _ENOUGH or not _has_kernels(home, x.dtype):
        return own
    pair = _loaded("cpp", home)
    suits = getattr(pair[1], "suits", None)
    return pair if suits is None or suits(x, weight) else own


@constant
def _is_on_host(home: str) -> bool:
    """Return whether a map has C++ kernels that could be compiled; only then does the input's size matter."""
    return not _lack("cpp", home)


@constant
def _has_kernels(home: str, dtype: torch.dtype) -> bool:
    """Return whether the C++ kernels of a map for a type exist and could be loaded and compiled."""
    if (home, dtype) not in _THERE:
        _THERE[home, dtype] = not _lack("cpp", home) and _load("cpp", home) and _is_compiled(home, dtype)
    return _THERE[home, dtype]


def _on_device(home: str, own: Pair, x: Tensor, weight: Tensor) -> Pair:
    """Return the choice on a GPU for a map of rows; ``own`` for a map of patches, whose weight has axes of space."""
    if not x.is_cuda or not _is_plain(x) or (weight is not x and weight.dim() > 2):
        return own
    longest = x.shape[-1] if weight is x else max(weight.shape)
    found = _best(home, longest * max(x.element_size(), 4) <= _SHORT_ROW, x.device.index or 0)
    return own if found == "torch" else _loaded(found, home)


def _is_compiled(home: str, dtype: torch.dtype) -> bool:
    """Compile the kernels of a map for a type; return False, with a warning, if the compiler fails."""
    module = import_module(_module("cpp", home), __package__)
    if dtype not in module.KERNELS.types:
        return False
    try:
        module.KERNELS.on(torch.empty(0, dtype=dtype))
    except import_module(".kernel_cache", __package__).KernelError as problem:
        _tell(problem)
        return False
    return True


def _tell(problem: Exception) -> None:
    """Warn that there are no kernels, only once: other maps lack them for the same reason."""
    if not _TOLD:
        _TOLD.append(str(problem))
        mend = f"Maps are computed by torch's operations; set {VARIABLE}=torch to silence this warning"
        warnings.warn(f"{problem}\n{mend}", RuntimeWarning, stacklevel=2)


def _is_plain(x: Tensor) -> bool:
    return type(x) in PLAIN or is_compiling()


@constant
def _best(home: str, short: bool, device: int) -> str:
    """Load and return the preferred backend for a CUDA device among those that are installed."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < _OLDEST_GPU:
        return "torch"
    there = (b for b in _PREFERRED[short] if not _lack(b, home) and _is_kept(b) and _load(b, home))
    return next((b for b in there if not _is_by_name(b, home)), "torch")


def _is_kept(backend: str) -> bool:
    """Return whether a backend's compiled kernels can be cached on disk, if this package does that; warn if not."""
    if backend != "cuda":
        return True
    cache = import_module(".kernel_cache", __package__)
    try:
        cache.folder()
    except cache.KernelError as problem:
        _tell(problem)
        return False
    return True


def _is_by_name(backend: str, home: str) -> bool:
    """Return whether the loaded kernels of a map are used only on request."""
    return bool(getattr(import_module(_module(backend, home), __package__), "BY_NAME", False))


@constant
def _possible(name: str, asked: str, source: str, home: str, device: str) -> str:
    """Load and return the requested backend; raise ValueError if it cannot compute the map on such a device."""
    check_backend(name, asked, source)
    if asked == "torch" or device == "meta":  # meta tensors have no values to compute
        return "torch"
    if asked == "cpp" and _is_target(asked) and not _has(asked, home):  # some maps have no C++ kernels
        return "torch"
    lack = _lack(asked, home) or _misplaced(asked, device)
    if lack:
        raise ValueError(f"{name}: backend is {asked!r}{source}, but {lack}, or use 'torch'")
    _load(asked, home)
    return asked


@cache
def _lack(backend: str, home: str) -> str:
    """Return what a backend lacks to compute a map, and the fix; "" if it lacks nothing."""
    if not _has(backend, home):
        return f"this package holds no kernels/{backend}/{_file(home)}.py; generate it with `--targets torch,{backend}`"
    if backend not in NEEDS:
        return str(import_module(f"..kernels.{backend}.runtime.compile", __package__).missing())
    needed = NEEDS[backend]
    try:
        there = find_spec(needed) is not None
    except ModuleNotFoundError:  # its parent package is missing
        there = False
    return "" if there else f"{needed} is not installed; install it (`{INSTALL[backend]}`)"


@cache
def _has(backend: str, home: str) -> bool:
    return _is_target(backend) and find_spec(_module(backend, home), __package__) is not None


@cache
def _is_target(backend: str) -> bool:
    """Return whether the package holds a backend's kernels at all."""
    return find_spec(f"..kernels.{backend}", __package__) is not None


def _misplaced(backend: str, device: str) -> str:
    """Return why a backend cannot work on a type of device, and the fix; "" if it can."""
    if device == DEVICES[backend]:
        return ""
    if DEVICES[backend] == "cpu":
        return f"x is on the device {device!r}; move x to the CPU"
    if backend not in INTERPRETED:
        return f"x is on the device {device!r}; move x to a CUDA device"
    interpreted: bool = import_module(f"..kernels.{backend}.runtime.tiles", __package__).INTERPRETED.value
    if interpreted and device == "cpu":
        return ""
    return (
        f"x is on the device {device!r}, where only Triton's interpreter could run; move x to a GPU, or for the CPU "
        "set TRITON_INTERPRET=1 before Triton is imported"
    )


def _load(backend: str, home: str) -> bool:
    """Import a backend's functions of a map, once; always True."""
    if not hasattr(_Loaded, _key(backend, home)):
        module, function = import_module(_module(backend, home), __package__), home.partition(".")[2]
        setattr(_Loaded, _key(backend, home), (getattr(module, function), getattr(module, f"{function}Reverse")))
    return True


def _loaded(backend: str, home: str) -> Pair:
    """Return a backend's functions of a map, which have been loaded."""
    pair: Pair = getattr(_Loaded, _key(backend, home))
    return pair


def _module(backend: str, home: str) -> str:
    """Return the relative name of the module with a backend's functions of a map."""
    return f"..kernels.{backend}.{_file(home)}"


def _file(home: str) -> str:
    return home.partition(".")[0]


def _key(backend: str, home: str) -> str:
    return f"{backend}_{home.replace('.', '_')}"
