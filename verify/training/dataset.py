"""What a trial trains on, whatever it was read from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Samples ``x`` of shape (samples, features) and their classes ``y`` of shape (samples,).

    Of a text both are numbers of characters, of shape (windows, context).
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def first(self, count: int) -> Split:
        """Return the first ``count`` samples, or all where there are fewer."""
        return Split(self.x[:count], self.y[:count])

    def to(self, device: str) -> Split:
        """Return the same samples on a device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set in three disjoint parts, with the digest of exactly these numbers.

    ``shape`` is that of one sample: (channels, height, width) of an image, which the parts hold flattened, (context,)
    of a text. ``classes`` is the number of classes, of a text that of its different characters.
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
        """What the samples are: ``rows``, ``images`` or ``text``."""
        return "text" if not self.train.x.is_floating_point() else "images" if len(self.shape) == 3 else "rows"

    def to(self, device: str) -> Dataset:
        """Return the same data on a device."""
        parts = (self.train.to(device), self.validation.to(device), self.test.to(device))
        return replace(self, train=parts[0], validation=parts[1], test=parts[2])

    def limited(self, train: int, evaluation: int) -> Dataset:
        """Return the first ``train`` training samples and ``evaluation`` samples of each other part; 0 means all.

        The digest stays that of the whole: what is left follows from it and the two numbers.
        """
        return replace(
            self,
            train=self.train.first(train or len(self.train)),
            validation=self.validation.first(evaluation or len(self.validation)),
            test=self.test.first(evaluation or len(self.test)),
        )
