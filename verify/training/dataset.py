"""Data sets in memory, independent of their source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Samples ``x`` of shape (samples, features) and their classes ``y`` of shape (samples,).

    For a text both hold character indices, of shape (windows, context). ``rows`` are the indices of the samples in this
    part, in order, None for all; so parts, and the splits of several seeds, can share one tensor.
    """

    x: Tensor
    y: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y if self.rows is None else self.rows)

    def first(self, count: int) -> Split:
        """Return the first ``count`` samples, or all if there are fewer."""
        if self.rows is None:
            return Split(self.x[:count], self.y[:count])
        return Split(self.x, self.y, self.rows[:count])

    def of(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples and classes at these positions of the part."""
        rows = self.numbers(places)
        return self.x.index_select(0, rows), self.y.index_select(0, rows)

    def numbers(self, places: Tensor) -> Tensor:
        """Return the indices into ``x`` of the samples at these positions."""
        return places if self.rows is None else self.rows[places]

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the part in chunks of at most ``size`` samples."""
        if self.rows is None:
            yield from zip(self.x.split(size), self.y.split(size), strict=True)
            return
        for rows in self.rows.split(size):
            yield self.x[rows], self.y[rows]

    def gathered(self) -> Split:
        """Return the same samples copied into separate tensors."""
        return self if self.rows is None else Split(self.x[self.rows], self.y[self.rows])


@dataclass(frozen=True)
class Dataset:
    """A named data set in three disjoint parts, with the digest of its source.

    The source and the split's seed determine the parts. ``shape`` is that of one sample: (channels, height, width) for
    an image, which the parts hold flattened, (context,) for a text. ``classes`` is the number of classes; for a text,
    of distinct characters.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    digest: str
    shape: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """The number of entries of one sample."""
        return self.train.x.shape[1]

    @property
    def kind(self) -> str:
        """The kind of samples: ``rows``, ``images`` or ``text``."""
        return "text" if not self.train.x.is_floating_point() else "images" if len(self.shape) == 3 else "rows"

    def to(self, device: str, moved: dict[int, Tensor] | None = None) -> Dataset:
        """Return the same data on a device; ``moved`` caches tensors already there, for data sets that share them."""
        there: dict[int, Tensor] = {} if moved is None else moved
        parts = [_moved(part, device, there) for part in (self.train, self.validation, self.test)]
        return replace(self, train=parts[0], validation=parts[1], test=parts[2])

    def limited(self, train: int, evaluation: int) -> Dataset:
        """Return the first ``train`` training samples and ``evaluation`` samples of each other part; 0 means all.

        The digest stays that of the whole source, which together with the two numbers determines the result.
        """
        return replace(
            self,
            train=self.train.first(train or len(self.train)),
            validation=self.validation.first(evaluation or len(self.validation)),
            test=self.test.first(evaluation or len(self.test)),
        )


def _moved(split: Split, device: str, there: dict[int, Tensor]) -> Split:
    """Return a part on a device; each tensor is moved once."""

    def move(tensor: Tensor) -> Tensor:
        """Return a tensor on the device, from the cache if it is there."""
        if tensor.data_ptr() not in there or there[tensor.data_ptr()].shape != tensor.shape:
            there[tensor.data_ptr()] = tensor.to(device)
        return there[tensor.data_ptr()]

    return Split(move(split.x), move(split.y), None if split.rows is None else split.rows.to(device))


def pooled(splits: list[Split]) -> tuple[Tensor, Tensor, list[int]]:
    """Return the samples and classes of several parts in joint tensors, and the offset of each part's tensor."""
    memories: dict[tuple[int, int], Split] = {}
    for split in splits:
        memories.setdefault(_place(split), split)
    ends, end = {}, 0
    for place, split in memories.items():
        ends[place] = end
        end += len(split.y)
    if len(memories) == 1:
        return splits[0].x, splits[0].y, [0] * len(splits)
    x, y = torch.cat([s.x for s in memories.values()]), torch.cat([s.y for s in memories.values()])
    return x, y, [ends[_place(split)] for split in splits]


def _place(split: Split) -> tuple[int, int]:
    return split.x.data_ptr(), len(split.y)
