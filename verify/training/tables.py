"""Exported tables as files: written as Parquet, and read back from CSV or Parquet.

Both formats have the same columns in the same order with the same types. A table of an earlier version may lack
columns: a missing metric counts as not measured, a missing setting as its default value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from derive.errors import UsageError
from verify.training.config import TrialConfig
from verify.training.experiment import SETTINGS
from verify.training.export import COLUMNS, table, unquoted
from verify.training.rates import Trial
from verify.training.store import Row
from verify.training.table_checks import LARGEST_FILE, LARGEST_UNPACKED, MOST_LINES, check_table

_HINTS = get_type_hints(TrialConfig)
_NOT_FLOAT: dict[str, type] = {"trial": str, "state": str, "outcome": str, "diverged_at": int}
_DEFAULTS = {field.name: field.default for field in fields(TrialConfig)}
_REQUIRED = ("trial", "outcome", "method", "learning_rate")
_ARROW = {str: "string", int: "int64", float: "float64"}


@cache
def type_of(column: str) -> type:
    """Return the type of a column's values: str, int or float; any value may be missing."""
    if column not in SETTINGS:
        return _NOT_FLOAT.get(column, float)
    hint = _HINTS[column]
    plain = [kind for kind in get_args(hint) if kind is not type(None)] if isinstance(hint, UnionType) else [hint]
    return plain[0] if isinstance(plain[0], type) else str


def demand_parquet(doing: str) -> None:
    """Raise UsageError, with the fix, if the package for Parquet is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise UsageError(f"{doing} Parquet needs pyarrow: pip install 'affine-divergence[data]'") from None


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return the table of trials as the bytes of a Parquet file, with the columns' types."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, getattr(pyarrow, _ARROW[type_of(name)])()) for name in COLUMNS])
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(table(rows), schema=schema), buffer)
    return buffer.getvalue()


def read_table(path: Path) -> list[Trial]:
    """Return the lines of an exported table, a ``.csv`` or ``.parquet`` file.

    Raises:
        UsageError: the file is missing, unreadable, too large or not an exported table; the text names row and column
        of
            an invalid value, see ``table_checks``.
    """
    if not path.is_file():
        raise UsageError(
            f"table {str(path)!r} does not exist or is not a file; name one that `experiment export` wrote"
        )
    if path.suffix not in _READERS:
        raise UsageError(f"table {str(path)!r}: its name must end in .csv or .parquet")
    columns, lines, rows = _READERS[path.suffix](path)
    for column in columns:
        if column not in COLUMNS:
            raise UsageError(f"{path}: the column {column!r} is not known; give a table that `experiment export` wrote")
    for column in _REQUIRED:
        if column not in columns:
            raise UsageError(f"{path}: the column {column!r} is missing; give a table that `experiment export` wrote")
    missing = {name: _absent(name) for name in COLUMNS if name not in columns}
    trials: list[Trial] = [{name: (missing | line)[name] for name in COLUMNS} for line in lines]
    check_table(path, trials, rows)
    return trials


def _absent(column: str) -> Any:
    default = _DEFAULTS.get(column)
    return None if default is MISSING else default


Read = tuple[list[str], list[dict[str, Any]], list[int]]  # columns, lines, and the number of each line in the file


def _read_csv(path: Path) -> Read:
    _demand_size(path, path.stat().st_size, LARGEST_FILE, "bytes")
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        columns, lines, rows = list(reader.fieldnames or ()), [], []
        _demand_once(path, columns)
        for line in reader:
            lines.append(_converted(path, reader.line_num, line, len(columns)))
            rows.append(reader.line_num)
            _demand_size(path, len(lines), MOST_LINES, "lines")
        return columns, lines, rows
    except (UnicodeDecodeError, csv.Error) as problem:
        raise UsageError(f"{path}: not readable as CSV ({problem}); export the table again") from None


def _demand_once(path: Path, columns: Sequence[str]) -> None:
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: the column {twice!r} occurs twice; export the table again")


def _demand_size(path: Path, size: int, most: int, unit: str) -> None:
    if size > most:
        raise UsageError(f"{path}: {size} {unit} exceed the limit of {most}; give a part of the table")


def _converted(path: Path, number: int, line: dict[Any, Any], columns: int) -> dict[str, Any]:
    if len(line) != columns or None in line.values():
        raise UsageError(
            f"{path}:{number}: the number of values differs from the number of headings; export the table again"
        )
    found = {}
    for name, text in line.items():
        kind = type_of(name)
        try:
            found[name] = None if text == "" else unquoted(text) if kind is str else kind(text)
        except ValueError as problem:
            raise UsageError(f"{path}:{number}: column {name!r}: {problem}; export the table again") from None
    return found


def _read_parquet(path: Path) -> Read:
    demand_parquet("reading")
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        _demand_size(path, file.metadata.num_rows, MOST_LINES, "lines")
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        _demand_size(path, sum(group.total_byte_size for group in groups), LARGEST_UNPACKED, "unpacked bytes")
        _demand_once(path, file.schema_arrow.names)
        for field in file.schema_arrow:
            if field.name in COLUMNS and str(field.type) != _ARROW_NAMES[type_of(field.name)]:
                raise UsageError(f"{path}: the column {field.name!r} holds {field.type}; export the table again")
        lines = [line for batch in file.iter_batches(_BATCH) for line in _short(path, batch)]
    except (pyarrow.ArrowException, OSError) as problem:
        raise UsageError(f"{path}: not a readable Parquet file ({problem}); export the table again") from None
    return file.schema_arrow.names, lines, list(range(1, len(lines) + 1))


def _short(path: Path, batch: Any) -> list[dict[str, Any]]:
    """Return the lines of a batch; UsageError if it unpacks to too many bytes, as a repeated large value would."""
    _demand_size(path, batch.nbytes, LARGEST_FILE, "bytes in a few lines")
    return list(batch.to_pylist())


_BATCH = 256  # lines of Parquet read at a time
_ARROW_NAMES = {str: "string", int: "int64", float: "double"}
_READERS = {".csv": _read_csv, ".parquet": _read_parquet}
READABLE = tuple(_READERS)
