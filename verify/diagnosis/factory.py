"""``MODULE:FACTORY``: import a user's function and call it for a model, a batch and a loss.

a tuple (model, batch, loss) or (model, batch)    as ``verify.diagnose`` takes them
(model, batch, loss, optimizer)                   with the optimiser that trains the model
a model alone                                     one that holds an example of its input, as ``example_inputs``,
                                                  ``example_input_array`` (Lightning) or ``dummy_inputs``
                                                  (transformers); without a loss in its output, half the mean
                                                  square of the output stands in for one
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from derive.errors import UsageError
from verify.diagnosis.batch import Loss, first_line

_HERE, _LIBRARY = str(Path(__file__)), str(Path(traceback.__file__).parent)
EXAMPLES = ("example_inputs", "example_input_array", "dummy_inputs")


def load(words: str) -> Callable[[], Any]:
    """Return the function that ``MODULE:FACTORY`` names, the working folder being on the path.

    Raises UsageError for words of another form, a module that cannot be imported, a name that is no function.
    """
    module_name, colon, name = words.partition(":")
    parts = module_name.split(".")
    if not colon or not all(part.isidentifier() for part in [*parts, *name.split(".")]):
        raise UsageError(f"{words!r} is not of the form MODULE:FACTORY; write for example my_project.models:make")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name and (module_name == problem.name or module_name.startswith(f"{problem.name}.")):
            raise UsageError(
                f"no module {module_name!r} in {here} or among the installed packages; name a module as in an import"
            ) from problem
        raise UsageError(f"module {module_name!r} cannot be imported: {first_line(problem)}") from problem
    except (Exception, SystemExit) as problem:
        raise UsageError(f"module {module_name!r} cannot be imported: {_where(problem)}") from problem
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        what = "has no" if found is None else "holds a value, not a function, in"
        hint = f"; functions and classes there: {', '.join(known[:8])}" if known else ""
        raise UsageError(f"module {module_name!r} {what} {name!r}{hint}")
    return found


Made = tuple[nn.Module, Any, Loss | None, torch.optim.Optimizer | None]


def made(factory: Callable[[], Any], words: str) -> Made:
    """Return what the factory makes as model, batch, loss and optimiser, the last two None where they are left out.

    Raises UsageError where it raises or returns otherwise.
    """
    try:
        result = factory()
    except (Exception, SystemExit) as problem:
        raise UsageError(f"the factory {words!r} raised {_where(problem)}") from problem
    if isinstance(result, nn.Module):
        return _with_example(result)
    if isinstance(result, tuple) and len(result) in (2, 3, 4) and isinstance(result[0], nn.Module):
        model, batch, loss, optimizer = (*result, None, None)[:4]
        return model, batch, loss, optimizer
    shown = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"
    raise UsageError(f"the factory {words!r} returned {shown}; return (model, batch, loss), the model a torch module")


def _where(problem: BaseException) -> str:
    """Return the first line of a problem and the last line of code outside the libraries that led to it."""
    frames = traceback.extract_tb(problem.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(("<", _HERE, _LIBRARY))]
    return first_line(problem) + (f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else "")


def _with_example(model: nn.Module) -> Made:
    name = next((n for n in EXAMPLES if getattr(model, n, None) is not None), None)
    if name is None:
        raise UsageError(
            f"the factory returned a model alone, and this {type(model).__name__} holds no example of its input "
            f"({', '.join(EXAMPLES)}); return (model, batch, loss)"
        )
    return model, getattr(model, name), half_mean_square, None


def half_mean_square(output: Any) -> Tensor:
    """Return the loss that the output holds, and otherwise half the mean square of its first tensor of real numbers."""
    values = list(output.values()) if isinstance(output, Mapping) else output
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    candidates = values if isinstance(values, list | tuple) else [values]
    first = next((v for v in candidates if isinstance(v, Tensor) and v.is_floating_point()), None)
    if first is None:
        raise UsageError(f"the model returned a {type(output).__name__} without real numbers; return a loss beside it")
    return first.square().mean() / 2
