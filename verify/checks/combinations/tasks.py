"""The combination checks, one for each map, path and target, over the rows of its covering array."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from verify.checks.combinations import attention, patches, rows
from verify.checks.combinations.covering import Row, Rule, covering_rows, described
from verify.checks.combinations.instance import Instance
from verify.checks.combinations.paths import COMPILED, INDUCTOR, PATHS, compiled
from verify.checks.gradients import onednn
from verify.checks.record import Outcome, Setting, Task
from verify.checks.target import holds_kernels, package
from verify.cuda_on_host import Host, missing
from verify.threads import so_many_threads

BACKENDS = ("torch", "cpp", "triton", "cuda")
INTERPRETED = ("triton", "cuda")
_SEVERAL = 3  # threads for the large edge cases
_OF_SEVERAL = {"shared", "blocks", "many", "three images"}
_ORDERS = (0, 7)  # orders in which the emulated CUDA threads of a block run: by index, and shuffled with a seed
_LETTERS = {"x": "x", "weight": "W", "bias": "b"}
_OUTPUTS = ("traced", "inference", "forward-mode", "dual-numbers", "rounding")


def of_rows(layer: str) -> list[Task]:
    """Return the checks of the maps of ``affine`` or ``linear``."""
    return [task for kind in rows.KINDS if kind.layer == layer for task in _tasks(kind, rows, _backends_of_rows(kind))]


def of_patches(layer: str) -> list[Task]:
    """Return the checks of the maps of ``convolution`` or ``transposed-convolution``, over all spatial axes."""
    kinds = [kind for kind in patches.KINDS if kind.layer == layer]
    return [task for kind in kinds for task in _tasks(kind, patches, BACKENDS)]


def of_attention(layer: str) -> list[Task]:
    """Return the checks of whole attention modules."""
    return [task for kind in attention.KINDS if kind.layer == layer for task in _tasks(kind, attention, BACKENDS)]


def _backends_of_rows(kind: rows.Kind) -> tuple[str, ...]:
    return ("torch",) if kind.centred else BACKENDS


def _tasks(kind: Any, family: Any, backends: Sequence[str]) -> Iterator[Task]:
    for backend in backends:
        for path in family.paths(kind, backend):
            yield _task(kind, family, backend, path)


def _task(kind: Any, family: Any, backend: str, path: str) -> Task:
    identity = "/".join(("path", kind.name, path, *(() if backend == "torch" else (backend,))))

    def run(setting: Setting) -> Outcome:
        """Return the largest error over the combinations of this path."""
        lacking = _lacking(backend, setting)
        if lacking:
            return Outcome(lacking)
        if not setting.full and family.is_left_out(kind, backend, path):
            return Outcome("compilation is slow: without --full only other maps of this kind are compiled")
        chosen = combinations_of(kind, family, backend, path, full=setting.full)

        def drawn(number: int) -> tuple[Instance, torch.Generator]:
            generator = setting.generator(f"{identity}/{number}")
            return family.instance(kind, chosen[number], generator, setting.device), generator

        with torch.random.fork_rng(devices=[]), _on(backend, setting):
            return judged(path, chosen, drawn)

    of_host = backend == "cuda"
    return Task(identity, kind.layer, backend, "several", equations(kind, path), run, uses_device=not of_host)


def equations(kind: Any, path: str) -> str:
    """Return the ids of the equations that a path evaluates."""
    if kind.layer == attention.NAME:
        parts = ("projection", "value", "output")
        return ", ".join(f"attention-{part}/affine-like/forward" for part in parts)
    if path in _OUTPUTS:
        return f"{kind.name}/forward"
    return ", ".join((f"{kind.name}/forward", *(f"{kind.name}/backward-d{_LETTERS[name]}" for name in kind.tensors)))


def combinations_of(kind: Any, family: Any, backend: str, path: str, *, full: bool = False) -> list[Row]:
    """Return the combinations to check for a map, a backend and a path.

    They contain all pairs of ordinary levels, and every edge case beside ordinary levels (two edge cases at once could
    hide each other's errors). The eager path, which has most branches, also pairs every edge case with every choice of
    frozen tensors. Interpreted kernels are a hundred times slower: they cover pairs on the eager path and single levels
    elsewhere. With ``full``, all triples, and pairs with each edge case.
    """
    table, edges = family.factors(kind, backend, path)
    whole = path == "eager"
    strength = 2 + (whole and family is attention)  # triples, because masks, weights and added tokens interact
    strength = strength + 1 if full else 1 if backend in INTERPRETED and not whole else strength
    calm = _array(tuple(table.items()), family.RULES, strength, ("ordinary",))
    if full:
        return [*calm, *_array(tuple(table.items()), family.RULES, 2, edges)]
    beside = ("edge", "wanted") if whole and (family is not patches or backend in ("torch", "cpp")) else ("edge",)
    return [*calm, *_array(tuple(table.items()), family.RULES, beside, edges)]


@cache
def _array(
    table: tuple[tuple[str, tuple[Any, ...]], ...], rules: tuple[Rule, ...], groups: Any, edges: tuple[str, ...]
) -> tuple[Row, ...]:
    """Return the covering array of factors and edge cases, computed once per process."""
    factors = {"edge": edges, **dict(table)}
    if not edges:
        return ()
    return tuple(covering_rows(factors, rules, groups if isinstance(groups, int) else [groups]))


def judged(
    path: str,
    chosen: Sequence[Mapping[str, Any]],
    drawn: Callable[[int], tuple[Instance, torch.Generator]],
    bound: float = 1.0,
) -> Outcome:
    """Return the largest error of the combinations, in units of the rounding bound, and the combination that has it."""
    if path in (COMPILED, INDUCTOR):
        compiler = "aot_eager" if path == COMPILED else INDUCTOR
        errors = compiled([drawn(number)[0] for number in range(len(chosen))], compiler)
    else:
        errors = [_error(path, row, drawn, number) for number, row in enumerate(chosen)]
    order = sorted(range(len(chosen)), key=lambda number: -errors[number])
    worst = errors[order[0]]
    named = described({name: level for name, level in chosen[order[0]].items() if name != "path"})
    reason = f"largest error against the hand-written map in rounding bounds, {len(chosen)} combinations; at {named}"
    return Outcome(reason, measured=worst, bound=bound)


def _error(
    path: str, row: Mapping[str, Any], drawn: Callable[..., tuple[Instance, torch.Generator]], number: int
) -> float:
    """Return the error of one combination; RuntimeError names the combination if it raises."""
    several = _OF_SEVERAL & {row.get("edge"), row.get("images")}
    try:
        low = "images" in row and (row["dtype"] == "bfloat16" or path == "autocast")  # see ``cases.Subject``
        with so_many_threads(_SEVERAL if several else 1), onednn(not low):
            return PATHS[path](*drawn(number))
    except Exception as problem:
        lines = str(problem).strip().splitlines() or [""]
        raise RuntimeError(f"{type(problem).__name__}: {lines[0]}; at {described(row)}") from problem


def _lacking(backend: str, setting: Setting) -> str:
    """Return why CUDA kernels cannot run here, or an empty text if they can or none are required."""
    if backend != "cuda":
        return ""
    if not holds_kernels("cuda"):
        return "the package has no CUDA kernels; generate them with `affdiv generate --targets torch,cuda`"
    if setting.device == "cuda":
        return (
            "" if torch.cuda.is_available() else "no CUDA device on this machine (torch.cuda.is_available() is False)"
        )
    lack = missing()
    return f"the CUDA kernels cannot be compiled for the CPU: {lack}" if lack else ""


@contextmanager
def _on(backend: str, setting: Setting) -> Iterator[None]:
    """Emulate CUDA kernels on the CPU unless the setting's device is a GPU."""
    if backend != "cuda" or setting.device == "cuda":
        yield
        return
    with Host(package().__name__, watched=False):
        yield
