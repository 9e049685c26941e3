"""ASCII replacements of characters, for streams whose encoding lacks them."""

import io

import pytest

from derive.export.encodings import plain, write_any


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5 × 10⁻⁷", "5 x 10^-7"),
        ("10¹² – 3", "10^12 - 3"),
        ("ü → ∞", "u -> inf"),
        ("x²", "x^2"),
        ("日", "?"),
        ("a", "a"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == shown


def test_a_stream_keeps_what_it_can_write():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    write_any(stream)
    stream.write("ü × 10⁻⁷ ✗")
    stream.flush()
    assert raw.getvalue().decode("latin-1") == "ü × 10^-7 x"
