"""The derived kernel of every captured module equals that of ``jacrev``, at sizes that the capture did not use."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest

from codegen.capture import captured
from tests.codegen.capture import modules, more_modules
from tests.codegen.capture.kernels import largest_difference
from tests.marks import one_in

CLOSE = 1e-9


def other_sizes(factory: Any, used: list[dict[str, int]]) -> dict[str, int]:
    """Small sizes at which the factory was not called."""
    names = list(inspect.signature(factory).parameters)
    rows: list[tuple[int, ...]] = (
        [(8,), (10,)] if len(names) == 1 else [(3, 3, 3, 3), (3, 2, 3, 2), (3, 3, 2), (2, 3, 3)]
    )
    return next(row for row in (dict(zip(names, r, strict=False)) for r in rows) if row not in used)


def check(factory: Any) -> None:
    found = captured(factory)
    used = [{k: v for k, v in s.sizes.items() if k != "B"} for s in found.samples]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where vmap of a backward pass is slow
        assert largest_difference(found, factory, other_sizes(factory, used)) < CLOSE


@pytest.mark.parametrize("factory", one_in(2, modules.QUICK), ids=lambda f: f.__name__)
def test_the_kernel_of_a_module_is_that_of_jacrev(factory: Any) -> None:
    check(factory)


LONG = (*modules.SLOW, *more_modules.MORE)


@pytest.mark.slow
@pytest.mark.parametrize("factory", LONG[::3], ids=lambda f: f.__name__)  # all of them take five minutes: captured.md
def test_the_kernel_of_a_long_module_is_that_of_jacrev(factory: Any) -> None:
    check(factory)
