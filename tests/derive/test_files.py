"""A file is written completely or not at all; devices and pipes are written to directly."""

import os
from pathlib import Path

import pytest

from derive.errors import UsageError
from derive.export.files import write_text


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo() and os.read(reader, 9) == b"text"
    os.close(reader)


def test_a_missing_folder_is_named_and_no_option_is(tmp_path):
    with pytest.raises(UsageError, match=r"the folder .*nowhere' does not exist; create it first"):
        write_text(tmp_path / "nowhere" / "file", "")
    with pytest.raises(UsageError, match=r"name another path$"):
        write_text(Path("/proc/file"), "")
