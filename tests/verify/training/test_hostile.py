"""Malicious files are rejected within two seconds, with the position, and never with a traceback.

The slow test covers a corpus of damaged and absurd files of every kind that the program reads.
"""

import csv
import io
import random
import struct
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

import affdiv
from derive.errors import UsageError, printable
from tests.verify.hypotheses.made_up import row
from verify.claims.markdown import _link
from verify.training import pixels, table_checks
from verify.training.data import load
from verify.training.experiment import load_experiment
from verify.training.export import to_csv, unquoted, written
from verify.training.sources import load_sources
from verify.training.store import Store
from verify.training.tables import read_table, to_parquet

ROWS = [row(method=m, seed=seed, rate=rate) for m in ("none", "rms-norm") for seed in range(3) for rate in (0.1, 1.0)]


@pytest.fixture
def fast():
    """Rejections are immediate."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 2.0


def png(width, height, body=b"", chunks=()):
    """A PNG with an arbitrary header."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def picture(side=4, value=7):
    buffer = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(tmp_path, content):
    for k, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(content if k else picture())
    return tmp_path


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(60_000, 60_000), "60000 x 60000 pixels are too many|exceeds limit"),
        (png(12_000, 12_000), "12000 x 12000 pixels are too many"),
        (png(2**31 - 1, 2**31 - 1), "cannot be read"),
        (png(4, 4, b"\0" * 200_000_000), "too few|cannot be read"),
        (png(4, 4, b"", [(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 100_000_000))]), "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * (pixels.LARGEST_IMAGE + 1), "bytes are too many for an image; give at most"),
        (picture()[:40], "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_images_that_are_bombs(tmp_path, content, words):
    with pytest.raises(UsageError, match=words) as caught:
        load(str(folder_of(tmp_path, content)), 0)
    assert "1.png" in str(caught.value) or "too few" in words, "the second is a small image, with rubbish behind it"


def table_of(folder, name, **columns):
    parquet.write_table(pyarrow.table(columns), folder / name)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("label", [10**12, 2**62, 100_000, -1])
def test_labels_that_are_absurd(tmp_path, label):
    for name in ("train.parquet", "test.parquet"):
        table_of(tmp_path, name, img=[{"bytes": picture()}] * 3, label=[0, label, 1])
    with pytest.raises(UsageError, match=rf"train\.parquet: the label '{label}' is not a class"):
        load(str(tmp_path), 0)


@pytest.mark.usefixtures("fast")
def test_a_table_of_images_that_unpacks_to_terabytes(tmp_path):
    """A million rows of one picture, stored once in a dictionary."""
    big = picture(pixels.LARGEST_SIDE)
    images = pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(100_000, np.int32)), pyarrow.array([big]))
    table_of(tmp_path, "train.parquet", img=images, label=pyarrow.array(np.zeros(100_000, np.int64)))
    table_of(tmp_path, "test.parquet", img=[big], label=[0])
    with pytest.raises(UsageError, match=r"100000 images of 786432 bytes are more than"):
        load(str(tmp_path), 0)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MOST_LINES", 5, "lines exceed the limit of 5"),
        ("LARGEST_FILE", 100, "exceed the limit of 100"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_that_are_bombs(tmp_path, monkeypatch, limit, value, words, ending):
    path = tmp_path / f"mine.{ending}"
    path.write_bytes(to_csv(ROWS).encode() if ending == "csv" else to_parquet(ROWS))
    monkeypatch.setattr(f"verify.training.tables.{limit}", value)
    with pytest.raises(UsageError, match=words):
        read_table(path)


def changed(column, value, number=2):
    """The table with one value changed."""
    lines = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    lines[number][column] = value
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((name, "nan") for name in ("test_accuracy", "learning_rate", "test_loss", "largest_self_factor_ratio")),
        *((name, "") for name in ("test_accuracy", "validation_loss", "method", "trial", "learning_rate", "seed")),
        *((name, "0") for name in ("batch_size", "learning_rate", "effective_rate", "kappa", "width", "depth")),
        *((name, "-1") for name in ("seed", "batch_size", "test_loss", "test_accuracy", "split_seed")),
        *((name, "x") for name in ("method", "seed", "state", "outcome", "test_accuracy", "epochs", "dtype")),
        ("test_accuracy", "1.01"),
        ("validation_accuracy", "inf"),
        ("largest_self_factor_ratio", "0.5"),
        ("epochs", "1e99"),
        ("seed", "9" * 5000),
        ("width", "99999999"),
        ("diverged_at", "3"),
        ("outcome", "diverged"),
        ("outcome", ""),
        ("trial", "\x1b[31m"),
        ("angle", "__import__('os')"),
        ("method", "m" * 20_000),
    ],
)
def test_values_of_a_table_are_checked_with_their_place(tmp_path, column, value):
    (tmp_path / "t.csv").write_text(changed(column, value))
    with pytest.raises(UsageError) as caught:
        read_table(tmp_path / "t.csv")
    message = str(caught.value)
    assert "t.csv:4: " in message and "column '" in message and len(message) < 1000 and "\x1b" not in message


def test_a_trial_that_is_there_twice(tmp_path):
    text = to_csv(ROWS)
    lines = text.splitlines(keepends=True)
    (tmp_path / "t.csv").write_text(text + lines[3])
    with pytest.raises(UsageError, match=r"t\.csv:14: column 'trial': repeats the trial of row 4"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(text + "other" + lines[3][lines[3].index(",") :])
    with pytest.raises(UsageError, match=r"t\.csv:14: column 'seed': repeats all settings of row 4"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text(text.replace("test_loss", "test_accuracy"))
    with pytest.raises(UsageError, match="the column 'test_accuracy' occurs twice"):
        read_table(tmp_path / "t.csv")


def test_what_was_exported_is_read_back_whole(tmp_path):
    diverged = row(seed=9)
    diverged.result.update(diverged_at=3, test_accuracy=None, test_loss=None)
    rows = [*ROWS, diverged]
    (tmp_path / "t.csv").write_text(to_csv(rows))
    (tmp_path / "t.parquet").write_bytes(to_parquet(rows))
    assert read_table(tmp_path / "t.csv") == read_table(tmp_path / "t.parquet")
    assert all(
        len(str(value)) < table_checks.LONGEST_VALUE for line in read_table(tmp_path / "t.csv") for value in line
    )


def test_a_spreadsheet_computes_nothing_of_a_table():
    for given in ("-atan(r)", "=1+1", "@x", "+r", "atan(r)", "'quoted", -1.5, 3, None):
        text = written(given)
        assert not str(text).startswith(tuple("=+-@")) or isinstance(given, float | int)
        assert not isinstance(given, str) or unquoted(text) == given


@pytest.mark.parametrize("name", ["\x1b]0;pwn\x07", "a\u202egnp.exe", "a\x9b31m", "x\x00y"])
def test_nothing_that_a_terminal_obeys_reaches_it(name, tmp_path, capsys):
    assert printable(name).isprintable()
    assert str(UsageError(name)).isprintable()
    assert affdiv.run(["experiment", "status", name, "--store", str(tmp_path)]) == 2
    assert affdiv.run(["report", "--table", f"{tmp_path}/{name}.csv".replace("\0", "")]) == 2
    seen = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in seen.err + seen.out)


def test_names_of_files_stay_names(tmp_path, capsys):
    name = "a](javascript:x) <b>`|\x1b[31m.csv"
    (tmp_path / name).write_text(to_csv(ROWS))
    (source,) = load_sources([tmp_path], [])
    assert source.name.isprintable()
    link = _link(tmp_path / name, tmp_path)
    assert link.startswith("[a\\]\\(javascript:x\\) \\<b\\>\\`|\\\\x1b\\[31m.csv](a%5D%28javascript%3Ax%29%20")
    assert affdiv.run(["report", "--table", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page and "\x1b" not in page and "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\\u0000b", "x" * 5000])
def test_paths_that_name_none(path, tmp_path):
    (tmp_path / "mine.toml").write_text(f'methods = ["none"]\nlearning_rates = [0.1]\ndata = "{path}"\n')
    with pytest.raises(UsageError, match=r"mine\.toml:3: data: "):
        load_experiment(tmp_path / "mine.toml")


def test_the_home_of_nobody_is_wrong_usage(tmp_path, capsys):
    words = ["experiment", "run", "smoke", "--data", "~nosuchuser/x", "--store", str(tmp_path / "s")]
    assert affdiv.run(words) == 2
    assert "'~nosuchuser/x' is not a valid path" in capsys.readouterr().err


def spoiled(content, chance):
    """The content with bytes changed, cut, doubled, or replaced by values that often break readers."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(content) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(content):
            content[place] = chance.randrange(256)
        elif kind == 1:
            del content[place : place + chance.choice((1, 7, 100))]
        elif kind == 2:
            content[place:place] = content[place : place + 50] * chance.choice((1, 3))
        else:
            content[place:place] = chance.choice(
                (b"\0", b"nan", b"-1", b"9" * 40, b'"', b"\xff\xfe", b",,", b"\n", b"[" * 99)
            )
    return bytes(content)


def corpus(tmp_path):
    """Valid inputs with their readers: an experiment, tables, images, a store."""
    with Store(tmp_path / "whole", create=True) as store:
        store.register("mine", "text", {}, [(f"id{k}", own.config, 10) for k, own in enumerate(ROWS)])
    return {
        "mine.toml": (Path("verify/training/experiments/attention.toml").read_bytes(), load_experiment),
        "t.csv": (to_csv(ROWS).encode(), read_table),
        "t.parquet": (to_parquet(ROWS), read_table),
        "image.png": (picture(16), lambda path: pixels.decoded(str(path), path.read_bytes())),
        "trials.sqlite": ((tmp_path / "whole" / "trials.sqlite").read_bytes(), read_store),
    }


def read_store(path):
    with Store(path, read_only=True) as store:
        store.check()
        for name in store.experiments():
            store.rows(name)
            store.progress(name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mine.toml", "t.csv", "t.parquet", "image.png", "trials.sqlite"])
def test_a_corpus_of_spoiled_files_is_read_or_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[3])
    content, read = corpus(tmp_path)[kind]
    chance = random.Random(kind)
    for number in range(400):
        path = tmp_path / kind
        path.write_bytes(spoiled(content, chance))
        began = time.process_time()
        try:
            read(path)
        except UsageError as problem:
            assert all(c.isprintable() or c in "\n\t" for c in str(problem)), number
        except Exception as problem:
            pytest.fail(f"file {number} of {kind}: {type(problem).__name__}: {problem}")
        assert time.process_time() - began < 2.0 * (1 + 4 * (sys.gettrace() is not None)), number


def test_settings_of_rows_are_those_of_trials():
    """The table used in these tests is valid."""
    assert asdict(ROWS[0].config)["method"] == "none"
