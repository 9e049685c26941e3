"""The figures in the note on speed equal those of the results file."""

import json
from pathlib import Path

import pytest

from derive.errors import UsageError
from verify.bench import speed_note

NOTES = Path(__file__).parents[3] / "paper_notes"


def run_of(threads, ratio):
    both = {"median": ratio, "lower": ratio / 2, "upper": 2 * ratio}
    row = {"shape": "2x3x4", "provider": "ours", "ratio": {"both": both}, "saved_bytes": 2**19}
    return {
        "circumstances": {
            "commit": "abc",
            "versions": {"torch": "2"},
            "device": {"threads": threads, "cores": 2, "load_average": [1.0, 0, 0]},
        },
        "limits": {"copy_bytes": 1e10, "product_operations": 1e11},
        "rows": [{**row, "ratio_of_least": {"both": ratio}}],
    }


@pytest.mark.parametrize(("name", "before"), [("speed-cpu", "| ours |"), ("suite-speed-cpu", "| case |")])
def test_the_note_holds_the_figures_of_the_results(name, before):
    text = (NOTES / "performance.md").read_text(encoding="utf-8")
    runs = json.loads((NOTES / "results" / f"{name}.json").read_text(encoding="utf-8"))["runs"]
    assert speed_note.rewritten(text, runs) == text
    assert speed_note.rewritten(text.replace(before, f"{before} 0.5"), runs) == text


def test_the_last_run_of_each_number_of_threads_is_told():
    runs = [run_of(2, 1.5), run_of(1, 1.25), run_of(2, 1.75)]
    told = speed_note.figures(runs)
    assert "| ours | 1.250 (0.62 to 2.50), 1.250 | 1.750 (0.88 to 3.50), 1.750 | 0.50 |" in told
    assert "1.500" not in told and told.index("1 thread:") < told.index("2 threads:")


def test_a_text_without_marks_is_left_alone(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps({"runs": [run_of(1, 1.0)]}))
    (tmp_path / "n.md").write_text("words")
    assert speed_note.main([str(tmp_path / "r.json"), str(tmp_path / "n.md")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and (tmp_path / "n.md").read_text() == "words"
    with pytest.raises(UsageError, match="no place for the figures"):
        speed_note.rewritten("words", [])
