"""What cannot be captured is refused with one message: the operator or value, the source line, and the fix."""

from __future__ import annotations

import re
from typing import Any

import pytest

import affdiv
from codegen.capture import capture
from codegen.capture.errors import CaptureError
from codegen.capture.operators import RULES, covered
from derive.errors import UsageError
from tests.codegen.capture import bad
from tests.marks import one_in

REFUSED: dict[Any, tuple[str, str]] = {  # parts of the problem and of the fix in the message
    bad.raises: ("raised KeyError: 'width' (bad.py, line", "make its integer parameters sizes"),
    bad.returns_a_module: ("returned a Linear", "return (module, example inputs)"),
    bad.returns_text: ("returned a str as an example", "return (module, example inputs)"),
    bad.takes_text: ("'kind' of the factory", "annotate it int"),
    bad.lazy: ("lazy parameter 'weight'", "give its sizes"),
    bad.without_parameters: ("ReLU has no trainable parameter", "requires_grad"),
    bad.frozen: ("no trainable parameter", "requires_grad"),
    bad.counts_calls: ("a different module each time", "global state"),
    bad.draws: ("a different module each time", "random numbers"),
    bad.decides_by_values: ("control flow that depends on the values of a tensor (bad.py, line", "torch.where"),
    bad.reads_a_number: ("a number is read out of a tensor", "the tensor itself"),
    bad.loops: ("number of operators depends on the sizes", "over an axis"),
    bad.drops: ("dropout with p = 1/2 is random", ".eval()"),
    bad.noise: ("random numbers are drawn in forward (aten.randn_like at bad.py, line", ".eval()"),
    bad.unknown: ("aten.special_i0 has no rule (bad.py, line", "covered operators"),
    bad.does_not_fit: ("no polynomial in the sizes", "multiply them"),
    bad.odd_scale: ("fits no formula in the sizes", "rational number times a power"),
    bad.overwrites: ("aten.mul_ writes into a tensor that shares memory with another", "without the underscore"),
    bad.sorts: ("the order of entries depends on their values", "softmax"),
    bad.picks: ("the shape of a result depends on the values of a tensor (bad.py, line", "mask"),
    bad.no_output: ("returns no tensor of real numbers", "return the output"),
    bad.wrong_width: ("cannot be exported", "example inputs"),
    bad.pads: ("padding_idx", "leave padding_idx out"),
    bad.counts_its_calls: ("Counted computes a different function when called again", "not change what it reads"),
    bad.changes_its_weight: (
        "aten.mul_ writes into a tensor that shares memory with another",
        "without the underscore",
    ),
    bad.empty_example: ("returned an example input of shape (0, 2)", "return (module, example inputs)"),
    bad.waits: ("returned a coroutine", "return (module, example inputs)"),
    bad.assigns: ("aten.fill_ writes into a tensor that shares memory with another", "instead of assigning into it"),
    bad.remembers: ("changes a buffer that is used afterwards", ".eval()"),
}


@pytest.mark.parametrize("factory", one_in(2, REFUSED), ids=lambda f: f.__name__)
def test_a_bad_factory_is_refused_by_name_place_and_fix(factory: Any) -> None:
    with pytest.raises(CaptureError) as refusal:
        capture(factory)
    message = str(refusal.value)
    problem, mend = REFUSED[factory]
    assert re.sub(r"\s+", " ", problem) in message and mend in message and "; " in message, message
    assert "\n" not in message.strip()


def test_in_place_on_a_tensor_of_its_own_is_read() -> None:
    assert capture(bad.inplace_activation).parameters


@pytest.mark.parametrize(
    "words",
    [
        "tests.codegen.capture.bad:raises",
        "tests.codegen.capture.bad:nothing",
        "tests.codegen.capture.bad:NOT_A_FUNCTION",
        "no_such_module:f",
        "tests.codegen.capture.bad:Of",
        "a b:c",
    ],
)
def test_the_command_line_refuses_with_exit_code_two(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert affdiv.run(["derive", words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "Traceback" not in told


def test_commands_take_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert affdiv.run(["derive", "tests.codegen.capture.modules:linear"]) == 0
    assert "sum[j](input[s,j]**2) + 1" in capsys.readouterr().out
    assert affdiv.run(["solve", "torch.nn:Linear", "--example", "B in_features"]) == 0
    assert "affine-like" in capsys.readouterr().out
    assert affdiv.run(["layers", "--operators"]) == 0
    assert "aten.scaled_dot_product_attention" in capsys.readouterr().out


def test_an_example_goes_with_a_class_only() -> None:
    with pytest.raises(UsageError, match="goes with a class"):
        capture("tests.codegen.capture.modules:linear", example="B n")


def test_a_class_whose_forward_takes_more_than_a_tensor_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes x, y, but --example describes one tensor; write a function"):
        capture("tests.codegen.capture.bad:TwoInputs", example="B n")


def test_every_rule_says_what_it_is() -> None:
    assert len(RULES) > 200 and all(covered().values())
