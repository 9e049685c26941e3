"""``affdiv generate``: exit codes, messages and JSON."""

import json

import pytest

import affdiv
from tests.codegen.layer_files import AFFINE, FILES


def run(capsys, *words):
    code = affdiv.run(["generate", *map(str, words)])
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_generate_then_check_then_damage(tmp_path, capsys):
    code, out, _ = run(capsys, "--out", tmp_path, "--package", "mine")
    assert code == 0 and "files written" in out
    assert run(capsys, "--out", tmp_path, "--package", "mine", "--check")[:1] == (0,)
    (tmp_path / "mine" / "functional.py").write_text("")
    code, out, _ = run(capsys, "--out", tmp_path, "--package", "mine", "--check")
    assert code == 1
    assert "run `affdiv generate` to update it" in out.splitlines()[-1]
    assert (tmp_path / "mine" / "functional.py").read_text() == "", "a check writes nothing"


def test_json_report(tmp_path, capsys):
    words = ("--out", tmp_path, "--package", "mine", "--json")
    for status, more in (("written", []), ("same", []), ("differs", ["--check"])):
        if status == "differs":
            (tmp_path / "mine" / "functional.py").unlink()
        code, out, _ = run(capsys, *words, *more)
        report = json.loads(out)
        assert report["schema"] == "affdiv.generate/1" and report["status"] == status
        assert code == (1 if status == "differs" else 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--package", "json"], "would hide the module"),
        (["--package", "a-b"], "is not an identifier"),
        (["--targets", "fortran"], "give torch with any of"),
        (["--out", "/proc/nowhere"], "choose a folder that you may write to"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_how_to_mend_it(capsys, words, message):
    code, out, err = run(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err


def test_layers_says_which_targets_have_kernels_for_a_file(tmp_path, capsys):
    rows = tmp_path / "rows.toml"
    rows.write_text(AFFINE)
    look_up = tmp_path / "bag.toml"
    look_up.write_text(FILES["bag"].text)
    assert affdiv.run(["layers", str(rows), "--json"]) == 0
    known = {"torch's operations", "kernels in Triton", "kernels in CUDA C++", "kernels in C++", "JAX's operations"}
    assert set(json.loads(capsys.readouterr().out)["targets"].values()) == known
    assert affdiv.run(["layers", str(look_up)]) == 0
    out = capsys.readouterr().out
    assert "cpp      kernels in C++" in out and "triton   kernels in Triton" in out and "jax      JAX's" in out
    assert affdiv.run(["layers", "affine"]) == 0
    assert "affine-like*" in capsys.readouterr().out
    assert affdiv.run(["layers", "afine"]) == 2
    assert "did you mean 'affine'" in capsys.readouterr().err
