"""Tables as files: both formats hold the same data, read back as written, and other files are rejected."""

import csv
import io
import sys

import pytest

import affdiv
from derive.errors import UsageError
from tests.verify.hypotheses.made_up import row
from verify.hypotheses import judge
from verify.training.export import COLUMNS, table, to_csv
from verify.training.tables import read_table, to_parquet, type_of

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

ROWS = [
    row(rate=1 / 3, ratio=float("inf"), method="affine-like"),
    row(rate=2.0, epochs=None, steps=7, method="batch-norm", seed=2**60),
    row(rate=0.1, ratio=1.25, model="mlp"),
]


@pytest.fixture
def written(tmp_path):
    (tmp_path / "t.csv").write_text(to_csv(ROWS))
    (tmp_path / "t.parquet").write_bytes(to_parquet(ROWS))
    return tmp_path


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_is_read_is_what_was_exported(written, form):
    found = read_table(written / f"t.{form}")
    assert found == table(ROWS)
    assert [type(v) for line in found for v in line.values()] == [
        type(v) for line in table(ROWS) for v in line.values()
    ]
    assert judge(found) == judge(table(ROWS))


def test_columns_have_their_types_in_both_forms(written):
    schema = parquet.read_schema(written / "t.parquet")
    assert schema.names == list(COLUMNS) == next(csv.reader(io.StringIO(to_csv(ROWS))))
    kinds = {"string": str, "int64": int, "double": float}
    assert [kinds[str(field.type)] for field in schema] == [type_of(name) for name in COLUMNS]
    assert (type_of("epochs"), type_of("method"), type_of("learning_rate"), type_of("diverged_at")) == (
        int, str, float, int,
    )  # fmt: skip


def test_the_effective_rate_is_the_rate_times_kappa():
    found = {line["method"]: line for line in table(ROWS)}
    assert found["affine-like"]["effective_rate"] == found["affine-like"]["learning_rate"] == 1 / 3
    assert (found["none"]["kappa"], found["none"]["effective_rate"]) == (65.0, pytest.approx(6.5))


def test_an_older_table_lacks_columns(tmp_path):
    old = [name for name in COLUMNS if name not in ("dtype", "largest_self_factor_ratio", "kappa")]
    lines = [",".join(old), *(",".join("" if t[c] is None else str(t[c]) for c in old) for t in table(ROWS))]
    (tmp_path / "old.csv").write_text("\n".join(lines) + "\n")
    found = read_table(tmp_path / "old.csv")
    assert {t["dtype"] for t in found} == {"float64"}
    assert {t["largest_self_factor_ratio"] for t in found} == {t["kappa"] for t in found} == {None}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "does not exist"),
        ("t.txt", b"", "must end in .csv or .parquet"),
        ("t.csv", b"", "the column 'trial' is missing"),
        ("t.csv", b"trial,outcome,method,learning_rate,colour\n", "the column 'colour' is not known"),
        (
            "t.csv",
            b"trial,outcome,method,learning_rate\na,finished,none,fast\n",
            "t.csv:2: column 'learning_rate': could not convert",
        ),
        ("t.csv", b"trial,outcome,method,learning_rate\na,finished\n", "t.csv:2: the number of values differs"),
        (
            "t.csv",
            b"trial,outcome,method,learning_rate\na,finished,none,1,2\n",
            "t.csv:2: the number of values differs",
        ),
        ("t.csv", b"\xff", "not readable as CSV"),
        ("t.parquet", b"PAR1", "not a readable Parquet file"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_table(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


ONE = """
methods = ["none"]
learning_rates = [0.1]
widths = [4]
depths = [1]
steps = 2
"""


def test_the_command_writes_both_forms_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(ONE)
    assert affdiv.run(["experiment", "run", "mine.toml", "--workers", "1"]) == 0
    capsys.readouterr()
    command = ["experiment", "export", "mine.toml"]
    assert affdiv.run(command) == 0
    printed = capsys.readouterr().out
    for name, options in (("new/t.csv", []), ("t.parquet", ["--format", "parquet"])):
        assert affdiv.run([*command, *options, "-o", name]) == 0
        assert capsys.readouterr() == ("", f"written: {name} (1 trials)\n")
    assert (tmp_path / "new" / "t.csv").read_text() == printed
    assert read_table(tmp_path / "t.parquet") == read_table(tmp_path / "new" / "t.csv")
    for options, message in [
        (["--format", "xlsx"], "--format 'xlsx' is not known; choose one of csv, parquet"),
        (["--format", "parquet"], "name a file with -o FILE"),
        (["-o", "mine.toml/t.csv"], "is a file, not a folder"),
    ]:
        assert affdiv.run([*command, *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert affdiv.run([*command, "--format", "parquet", "-o", "t.parquet"]) == 2
    assert "needs pyarrow: pip install 'affine-divergence[data]'" in capsys.readouterr().err
