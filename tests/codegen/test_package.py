"""The package on disk: complete or absent, reproducible bytes, and readable differences."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codegen import atomic_replace, package
from codegen.compiler import build
from codegen.package import MANIFEST, check_name, differences, write
from codegen.targets.base import host_of
from derive.errors import UsageError
from tests.emitted import file_of, shipped

ROOT = Path(__file__).parents[2]
TEXTS = {"__init__.py": "A = 1\n", "sub/b.py": "B = 2\n", MANIFEST: json.dumps({"files": ["__init__.py", "sub/b.py"]})}


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_the_committed_package_is_what_the_derivations_say():
    lines = differences(shipped(), ROOT / "affine_divergence")
    assert not lines, "run `affdiv generate` and commit what it writes:\n" + "\n".join(lines)


def test_the_manifest_lists_every_file_with_its_digest_and_every_derivation():
    texts = shipped()
    manifest = json.loads(texts[MANIFEST])
    assert manifest["schema"] == "affdiv.package/1"
    assert manifest["files"].keys() | {MANIFEST} == texts.keys()
    assert all(hashlib.sha256(texts[n].encode()).hexdigest() == d for n, d in manifest["files"].items())
    names = {"affine-like", "norm-like", "linear/norm-like", "attention-value/affine-like"}
    assert names <= manifest["derivations"].keys()
    assert manifest["derivations"]["affine-like"] in texts[file_of("torch", "affine_like.py")]


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_hash_seed(tmp_path):
    code = (
        "import codegen.package as p, codegen.compiler as c, pathlib as l, sys; p.write(c.build(), l.Path(sys.argv[1]))"
    )
    for seed in ("0", "1", "4242"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "4242")


def test_nothing_in_the_text_names_a_date_a_version_or_the_package():
    other = build("another_name")
    assert {name: text for name, text in other.items() if name != MANIFEST} == {
        name: text for name, text in shipped().items() if name != MANIFEST
    }


def test_write_replaces_the_whole_folder(tmp_path):
    folder = tmp_path / "made"
    write({**TEXTS, "old.py": "", MANIFEST: json.dumps({"files": ["old.py"]})}, folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("")
    write(TEXTS, folder)
    assert contents(folder) == TEXTS
    assert [p.name for p in tmp_path.iterdir()] == ["made"], "something is left next to it"
    assert differences(TEXTS, folder) == []


def test_a_package_of_another_layout_is_replaced_whole(tmp_path):
    """Files of an earlier layout that its manifest lists are removed; other files stay."""
    folder, flat = tmp_path / "made", ["__init__.py", "_b.py", "_cpp_rows.h"]
    write({**dict.fromkeys(flat, "A = 0\n"), MANIFEST: json.dumps({"files": flat})}, folder)
    found = differences(TEXTS, folder)
    assert found[:3] == ["missing: sub/b.py", "not generated: _b.py", "not generated: _cpp_rows.h"]
    (folder / "sub").mkdir()
    (folder / "sub" / "mine.py").write_text("precious")
    with pytest.raises(UsageError, match=r"holds sub/mine\.py, which was not generated"):
        write(TEXTS, folder)
    (folder / "sub" / "mine.py").unlink()
    write(TEXTS, folder)
    assert contents(folder) == TEXTS and differences(TEXTS, folder) == []
    write({"__init__.py": "", MANIFEST: json.dumps({"files": ["__init__.py"]})}, folder)
    assert not (folder / "sub").exists(), "no folder is left behind"


def test_without_an_exchange_of_names_the_result_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_replace, "exchange", lambda first, second: False)
    write({"old.py": "", MANIFEST: json.dumps({"files": ["old.py"]})}, tmp_path / "made")
    write(TEXTS, tmp_path / "made")
    assert contents(tmp_path / "made") == TEXTS
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_failure_half_way_leaves_the_old_package(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    write(TEXTS, folder)
    written = []

    def fails(path, text):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        path.write_text(text)

    monkeypatch.setattr(package, "_write_file", fails)
    with pytest.raises(OSError, match="No space left"):
        write({name: text + "# new" for name, text in TEXTS.items()}, folder)
    assert contents(folder) == TEXTS
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


WRITER = """
import itertools, json, pathlib, sys
from codegen.package import MANIFEST, write
names = [f"f{k}.py" for k in range(40)]
for turn in itertools.count():
    texts = {name: f"VALUE = {turn}\\n" for name in names}
    write({**texts, MANIFEST: json.dumps({"files": names})}, pathlib.Path(sys.argv[1]))
    print(turn, flush=True)
"""


def test_a_kill_at_any_moment_leaves_one_whole_package(tmp_path):
    folder, clock = tmp_path / "made", random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(folder)]
        process = subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(clock.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        found = contents(folder)
        assert len(found) == 41
        assert len({text for name, text in found.items() if name != MANIFEST}) == 1, "files of two turns are mixed"


def test_differences_name_the_files_first_and_then_the_lines(tmp_path):
    write(TEXTS, tmp_path / "made")
    (tmp_path / "made" / "__init__.py").write_text("A = 2\n")
    (tmp_path / "made" / "extra.py").write_text("")
    (tmp_path / "made" / "sub" / "b.py").unlink()
    lines = differences(TEXTS, tmp_path / "made")
    assert lines[:2] == ["missing: sub/b.py", "not generated: extra.py"]
    assert lines[2:4] == ["--- made/__init__.py (there)", "+++ made/__init__.py (generated)"]
    assert {"-A = 2", "+A = 1"} <= set(lines)


@pytest.mark.parametrize(
    "name", ["", "1a", "a-b", "a b", "class", "é", "json", "Torch", "sympy", "derive", "../x", "a.b"]
)
def test_names_that_cannot_be_packages_are_refused(name):
    with pytest.raises(UsageError, match="package name"):
        check_name(name)


@pytest.mark.parametrize("name", ["affine_divergence", "layers", "my_layers2"])
def test_other_names_are_fine(name):
    check_name(name)


@pytest.mark.parametrize("targets", [["cuda"], ["torch", "fortran"], []])
def test_unknown_targets_are_refused(targets):
    with pytest.raises(UsageError, match="do not make up one package; give torch with any of"):
        host_of(targets)


def test_a_folder_with_files_of_someone_else_is_not_replaced(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "mine.py").write_text("precious")
    with pytest.raises(UsageError, match=r"holds mine\.py, which was not generated"):
        write(TEXTS, folder)
    (folder / MANIFEST).write_text("not json")
    with pytest.raises(UsageError, match=r"mine\.py"):
        write(TEXTS, folder)
    assert (folder / "mine.py").read_text() == "precious"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; choose a folder"):
        write(TEXTS, tmp_path / "file")
    with pytest.raises(UsageError, match="choose a folder that you may write to"):
        write(TEXTS, tmp_path / "file" / "made")
