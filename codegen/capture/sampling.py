"""Call and export a factory at several sizes; the number of samples is one more size if it is free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sympy import Symbol

from codegen.capture.assignments import CALLS, divisible_rows, rows, small_rows
from codegen.capture.errors import CaptureError, refuse
from codegen.capture.exporting import Program, export
from codegen.capture.factory import Factory, Made
from derive.algebra.index import size_symbol
from derive.forward_map import BATCH
from derive.names import RESERVED

BATCH_NAME = "B"
_MOST_REFUSED = 12
SMALL = 3
_COUNTS = (3, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12)


@dataclass(frozen=True)
class Sample:
    """A program at some sizes, including the batch ``B`` if it is free."""

    sizes: Mapping[str, int]
    program: Program


@dataclass
class Samples:
    """Programs of one factory; ``batched`` says whether the first axis of every example is the batch."""

    samples: list[Sample] = field(default_factory=list)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    batched: bool = False
    divisible: bool = False

    def points(self) -> list[dict[Symbol, int]]:
        """Return the sizes of each sample by symbol; a size that another always divides is replaced by the quotient."""
        divisors = self._divisors() if self.divisible else {}
        found = []
        for sample in self.samples:
            point = {self.symbols[n]: v for n, v in sample.sizes.items() if n not in divisors}
            for name, divisor in divisors.items():
                word = f"{self.symbols[name]}_by_{self.symbols[divisor]}"
                point[size_symbol(word)] = sample.sizes[name] // sample.sizes[divisor]
            found.append(point)
        return found

    def _divisors(self) -> dict[str, str]:
        """Return the largest other size that divides each size in every sample."""
        rows = [s.sizes for s in self.samples]
        names = [n for n in rows[0] if n != BATCH_NAME]
        found = {}
        for name in names:
            others = [n for n in names if n != name and all(r[name] % r[n] == 0 for r in rows)]
            if others:
                found[name] = max(others, key=lambda n: rows[0][n])
        return found


def samples(factory: Factory) -> Samples:
    """Return the programs of a factory; raise CaptureError if it refuses all sizes, or differs between calls."""
    found = Samples()
    refused: list[CaptureError] = []
    for row in _rows(factory, found, refused):
        made = _tried(factory, row, refused)
        if made is None:
            continue
        if not found.samples:
            found.batched = _batch_is_free(factory, made, row)
            _same_twice(factory, row)
        program = _exported(made, row, found, refused)
        if program is not None:
            found.samples.append(program)
        if len(found.samples) >= CALLS:
            break
    if not found.samples:
        raise refused[0]
    if factory.sizes and len(found.samples) < 3:
        raise refused[0]
    found.symbols, found.divisible = _symbols(factory, found.batched), bool(refused)
    found.samples += _small(factory, found.batched)
    return found


def _small(factory: Factory, batched: bool) -> list[Sample]:
    """Return programs at the smallest sizes that the factory accepts."""
    small: list[Sample] = []
    for row in small_rows(factory.sizes) if factory.sizes else ():
        refused: list[CaptureError] = []
        made = _tried(factory, row, refused)
        if made is not None and batched:
            row = {**row, BATCH_NAME: 2 + len(small) % 2}
            made = made.with_batch(row[BATCH_NAME])
        try:
            small += [Sample(row, export(made))] if made is not None else []
        except CaptureError:
            continue
        if len(small) == SMALL:
            break
    return small


def _rows(factory: Factory, found: Samples, refused: list[CaptureError]) -> Iterator[dict[str, int]]:
    """Yield sizes to try: if the factory refuses the first ones, sizes that divide each other."""
    if not factory.sizes:
        yield from itertools.repeat({}, CALLS)
        return
    for row in rows(factory.sizes):
        yield row
        if len(refused) >= _MOST_REFUSED and len(found.samples) < 3:
            break
        if len(refused) >= 3 and not found.samples and _always(refused):
            return
    else:
        return
    found.samples.clear()
    yield from divisible_rows(factory.sizes)


def _always(refused: list[CaptureError]) -> bool:
    """Return whether the refusals are independent of the sizes: the same message each time, which names no size."""
    return len({str(r) for r in refused}) == 1


def _tried(factory: Factory, row: dict[str, int], refused: list[CaptureError]) -> Made | None:
    try:
        return factory(row)
    except CaptureError as problem:
        if not problem.about_sizes:
            raise
        refused.append(problem)
        return None


def _exported(made: Made, row: dict[str, int], found: Samples, refused: list[CaptureError]) -> Sample | None:
    sizes = dict(row)
    if found.batched:
        taken = {*row.values()} if len(found.samples) % 2 else {*row.values(), 3}
        free = [n for n in _COUNTS if n not in taken]
        sizes[BATCH_NAME] = free[len(found.samples) % 4] if row else _COUNTS[len(found.samples)]
        made = made.with_batch(sizes[BATCH_NAME])
    try:
        return Sample(sizes, export(made))
    except CaptureError as problem:
        if not problem.about_sizes:
            raise
        refused.append(problem)
        return None


def _batch_is_free(factory: Factory, made: Made, row: dict[str, int]) -> bool:
    """Return whether the module also accepts a different number of rows in its examples."""
    lead = made.leading()
    if lead is None:
        return False
    try:
        before = export(made)
    except CaptureError:
        return False
    for count in (lead + 1, lead + 3):
        try:
            after = export(factory(row).with_batch(count))
        except CaptureError:
            return False
        if [n.operator for n in before.nodes] != [n.operator for n in after.nodes]:
            return False
    return True


def _same_twice(factory: Factory, row: dict[str, int]) -> None:
    """Refuse a factory that makes another module when called again, and a module that changes from call to call."""
    try:
        made = factory(row)
        first, again, second = export(made), export(made), export(factory(row))
    except CaptureError:
        return
    a, b, c = ([(n.operator, n.arguments, n.shape) for n in p.nodes] for p in (first, second, again))
    if a != c:
        raise refuse(
            f"{type(made.module).__name__} computes a different function when called again",
            "forward must not change what it reads",
        )
    if a != b:
        node = next(
            (
                x
                for x, y in zip(first.nodes, second.nodes, strict=False)
                if (x.operator, x.arguments, x.shape) != (y.operator, y.arguments, y.shape)
            ),
            None,
        )
        raise refuse(
            f"the factory {factory.words!r} makes a different module each time it is called: it depends on something "
            "besides its sizes",
            "make it depend on its sizes alone, not on global state, counters or random numbers",
            node.source if node else "",
        )


def _symbols(factory: Factory, batched: bool) -> dict[str, Symbol]:
    """Return a symbol for each size; names with another meaning in formulas get the suffix ``_1``."""
    found: dict[str, Symbol] = {}
    for name in factory.sizes:
        word = name.strip("_").replace("__", "_")
        if word in RESERVED or word in (BATCH.name, BATCH_NAME) or not word[:1].isalpha():
            word = f"{word or 'n'}_1" if word[:1].isalpha() or not word else f"n{word}"
        found[name] = size_symbol(word)
    if batched:
        found[BATCH_NAME] = BATCH.size
    return found
