"""A path that cannot be written is rejected before any work, and the check leaves nothing behind."""

from pathlib import Path

import pytest

from derive.errors import UsageError
from verify.files import check_folder, make_folder


def test_check_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "new" / "deeper", ["report.html"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="taken' is a file, not a folder"):
        check_folder(tmp_path / "taken", [])
    with pytest.raises(UsageError, match="taken', where the output should go, is a file, not a folder"):
        check_folder(tmp_path / "taken" / "below", [])


def test_a_folder_where_a_file_should_go_is_named(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UsageError, match=r"report\.html' is a folder where a file should go"):
        check_folder(tmp_path, ["report.html"])


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(UsageError) as caught:
        check_folder(Path("/proc/out"), [])
    assert str(caught.value).startswith("output folder '/proc/out' cannot be written: ")
    assert str(caught.value).endswith("; name another folder with --out")


def test_folder_is_made_with_its_parents(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(UsageError, match=r"cannot be written"):
        make_folder(Path("/proc/out"))
