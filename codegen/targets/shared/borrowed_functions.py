"""The functions of the torch target over the maps of another target's files."""

from __future__ import annotations

import re
from collections.abc import Sequence

from codegen.printing.naming import AngleFamily, Family
from codegen.targets.torch import target as torch_target

_TITLE = '"""The generated maps as functions'


def borrowed_functions(families: Sequence[Family | AngleFamily], target: str, title: str) -> str:
    """Return ``functional.py`` with the maps taken from the files of a target.

    ``title`` ends its first sentence, which begins with "The generated maps as functions".
    """
    text = re.sub(r"(?m)(?<=^from \.kernels\.)torch(?=\.)", target, torch_target.functions_text(families))
    return text.replace(f"{_TITLE} of tensors.", f"{_TITLE}{title}.", 1)
