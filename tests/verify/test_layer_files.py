"""``affdiv verify FILE.toml`` checks a layer from a file like a shipped one, alone or with a given package."""

import json
import shutil
from functools import cache

import pytest

import affdiv
from codegen.compiler import build_layer
from codegen.package import MANIFEST, write
from derive.spec import loads_spec
from tests.codegen.layer_files import FILES
from tests.emitted import file_of
from verify.checks.runner import tasks_for

NAME = "tanh_features"
SELF_FACTOR = f"identity/{NAME}/affine-like/self-factor"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILES[NAME].text)
    return path


@cache
def texts():
    """The files of the layer's package, derived once: each test damages a copy of its own."""
    return build_layer(loads_spec(FILES[NAME].text))


@pytest.fixture
def package(tmp_path):
    write(texts(), tmp_path / "made")
    return tmp_path / "made"


def run(capsys, *words):
    code = affdiv.run(["verify", *map(str, words)])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_every_family_has_checks_of_every_map_target_and_path(file):
    ids = {task.id for task in tasks_for([str(file)])}
    for kind in ("affine-like", "norm-like"):
        assert f"derivation/{NAME}/{kind}/self-factor" in ids
        for ending in ("", "/cpp"):
            for path in ("frozen-subsets", "batches", "layouts", "no-energy", "forward-mode", "vmap", "compiled"):
                assert f"path/{NAME}/{kind}/{path}{ending}" in ids
            assert f"identity/{NAME}/{kind}/self-factor{ending}" in ids
            assert f"gradient/{NAME}/{kind}/backward-dW{ending}/float32" in ids
        for target in ("triton", "cuda"):
            assert f"identity/{NAME}/{kind}/self-factor/{target}" in ids


def test_a_layer_from_a_file_stands_beside_a_shipped_one(file, capsys):
    words = ["--only", SELF_FACTOR, "--only", "identity/linear/self-factor", "--json"]
    code, out, _ = run(capsys, file, "linear", *words)
    checks = json.loads(out)["checks"]
    assert code == 0 and [c["status"] for c in checks] == ["pass", "pass"]
    assert checks[0]["layer"] == NAME
    assert checks[0]["reproduce"] == f"affdiv verify {file} --only {SELF_FACTOR} --seed 0"


def test_a_package_is_checked_with_its_file(file, package, capsys):
    code, out, _ = run(capsys, file, "--package", package, "--only", SELF_FACTOR)
    assert code == 0 and "1 passed" in out
    copy = shutil.copytree(package, package.with_name("copy"), ignore=shutil.ignore_patterns("__pycache__"))
    source = copy / file_of("torch", "affine_like.py")
    source.write_text(source.read_text().replace("torch.sqrt(E + 1)", "torch.sqrt(E + 2)"))
    code, out, _ = run(capsys, file, "--package", copy, "--only", SELF_FACTOR)
    assert code == 1 and f"--only {SELF_FACTOR} --seed 0 --package {copy}" in out


def test_a_package_without_its_file_says_what_cannot_be_checked(package, capsys):
    manifest = json.loads((package / MANIFEST).read_text())
    manifest.pop("spec", None)
    (package / MANIFEST).write_text(json.dumps(manifest))
    code, out, _ = run(capsys, "--package", package)
    assert code == 0 and "1 passed, 0 failed, 1 skipped" in out
    assert "affdiv verify FILE.toml --package FOLDER" in out
    (package / "modules.py").write_text("")
    code, out, _ = run(capsys, "--package", package)
    assert code == 1 and "modules.py differs from the generated file" in out


def test_a_package_that_holds_its_layer_needs_no_file(file, package, capsys):
    manifest = json.loads((package / MANIFEST).read_text())
    (package / MANIFEST).write_text(json.dumps({**manifest, "spec": file.read_text()}))
    code, out, _ = run(capsys, "--package", package, "--only", SELF_FACTOR)
    assert code == 0 and "1 passed" in out


OTHER = FILES[NAME].text.replace("+ b[i]", "+ 2*b[i]")
WRONG = {
    "another layer": (["other.toml", "--package", "made"], "was generated from another layer than"),
    "a shipped layer": (["affine", "--package", "made"], "was generated from one layer file, but 'affine' was"),
    "two files": (["mine.toml", "other.toml", "--package", "made"], "name that file alone"),
    "the package of the shipped layers": (["mine.toml", "--package", "empty"], "holds no layer from a file"),
    "one name twice": (["mine.toml", "other.toml"], "are both named 'tanh_features'"),
    "no file": (["nowhere.toml"], "is not a file; check the path"),
    "no check": (["mine.toml", "--only", SELF_FACTOR + "s"], f"did you mean '{SELF_FACTOR}'"),
    "broken manifest": (["mine.toml", "--package", "broken"], "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_exits_2_with_value_cause_and_fix(name, file, package, capsys, monkeypatch):
    monkeypatch.chdir(file.parent)
    (file.parent / "other.toml").write_text(OTHER)
    (file.parent / "empty").mkdir()
    (file.parent / "broken").mkdir()
    (file.parent / "broken" / MANIFEST).write_text("{")
    words, message = WRONG[name]
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err
