"""The digests of the generated package cover every source file, whatever its language."""

import hashlib
import shutil
from pathlib import Path

import affine_divergence
from verify.package_sources import digests

FOLDER = Path(affine_divergence.__file__).parent
SILENT = {"manifest.json", "py.typed"}  # metadata, not source files


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_every_file_that_computes_has_its_digest():
    files = {path.relative_to(FOLDER).as_posix() for path in files_of(FOLDER)}
    found = digests()
    assert set(found) == files - SILENT
    for name, digest in found.items():
        assert digest == hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()


def test_a_changed_file_changes_its_digest_alone(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(affine_divergence, "__file__", str(tmp_path / "__init__.py"))
    before = digests()
    for name in before:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
        after = digests()
        assert [n for n in after if after[n] != before[n]] == [name]
        before = after
