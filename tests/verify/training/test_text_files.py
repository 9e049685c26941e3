"""Texts as data: windows that give the text back, disjoint parts, and errors that name file and fix."""

import pytest
import torch

from derive.errors import UsageError
from verify.training import text_files
from verify.training.config import DATA
from verify.training.data import load
from verify.training.text_files import beginning, built_in_text, load_text

TEXT = "Zwölf Boxkämpfer jagen Eva quer über den Sylter Deich. 🥊\r\n" * 40


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def test_windows_are_the_text(write):
    data = load_text(write(TEXT), 10, 3)
    alphabet = sorted(set(TEXT))
    assert (data.name, data.classes, data.shape, data.kind) == ("text", len(alphabet), (10,), "text")
    ends = [round(0.9 * len(TEXT)), round(0.95 * len(TEXT))]
    ring = TEXT[beginning(len(TEXT), 3) :] + TEXT[: beginning(len(TEXT), 3)]
    pieces = (ring[: ends[0]], ring[ends[0] : ends[1]], ring[ends[1] :])
    for part, piece in zip((data.train, data.validation, data.test), pieces, strict=True):
        assert part.x.shape == part.y.shape == ((len(piece) - 1) // 10, 10)
        read = "".join(alphabet[number] for number in part.x.flatten().tolist())
        assert read == piece[: len(read)]
        following = "".join(alphabet[number] for number in part.y.flatten().tolist())
        assert following == piece[1 : len(following) + 1]


def test_the_digest_is_of_the_text_alone(write):
    first = load_text(write(TEXT), 10, 3).digest
    assert load_text(write(TEXT), 10, 3).digest == first
    assert load_text(write(b"\xef\xbb\xbf" + TEXT.encode()), 10, 3).digest == first, "a byte order mark is no character"
    assert load_text(write(TEXT.replace("Eva", "Ava")), 10, 3).digest != first


def test_the_built_in_text_is_there():
    data = built_in_text("declaration", 64, 5)
    assert len(data.train) > 100 and len(data.test) > 3 and 50 < data.classes < 80
    assert torch.equal(load("declaration", 5, context=64).train.x, data.train.x)
    other = load("declaration", 6, context=64)
    assert not torch.equal(other.test.x, data.test.x) and other.digest == data.digest
    assert "declaration" in DATA


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; give a text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "byte 8 is zero, so this is not text"),
        (b"abc \xff def" * 9, "byte 4 is not UTF-8; save the text as UTF-8"),
        ("gr\u00fcn".encode("latin-1"), "byte 2 is not UTF-8"),
        (b"a" * 1000, "repeats a single character"),
        (
            b"ab" * 100,
            "200 characters are too few for context = 10: the shortest of the three parts has 10 and needs 11",
        ),
    ],
)
def test_what_is_no_text_is_refused(content, message, write):
    with pytest.raises(UsageError) as caught:
        load_text(write(content), 10, 3)
    assert message in str(caught.value) and "text.txt" in str(caught.value)


def test_a_text_that_is_too_large_is_not_read(write, monkeypatch):
    path = write(TEXT)
    monkeypatch.setattr(text_files, "LARGEST_TEXT", 100)
    with pytest.raises(UsageError, match=r"bytes exceed the limit of 100; give a part of it"):
        load_text(path, 10, 3)


def test_just_long_enough(write):
    data = load_text(write(b"ab" * 110), 10, 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (19, 1, 1)
