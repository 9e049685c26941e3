"""The digests of the generated package: of every file that computes something, whatever its language."""

import hashlib
from pathlib import Path

import affine_divergence
from verify.package_sources import digests

FOLDER = Path(affine_divergence.__file__).parent
SILENT = {"manifest.json", "py.typed"}  # what says something of the package and computes nothing


def test_every_file_that_computes_has_its_digest():
    files = {path.name for path in FOLDER.iterdir() if path.is_file()}
    found = digests()
    assert set(found) == files - SILENT
    for name, digest in found.items():
        assert digest == hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()


def test_a_changed_file_changes_its_digest_alone(tmp_path, monkeypatch):
    for path in FOLDER.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(affine_divergence, "__file__", str(tmp_path / "__init__.py"))
    before = digests()
    for name in before:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
        after = digests()
        assert [n for n in after if after[n] != before[n]] == [name]
        before = after
