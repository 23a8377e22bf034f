"""The CSV of a study, and what is drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sb3_metra.cli import main
from sb3_metra.hyperparams import load_settings
from sb3_metra.study import results
from sb3_metra.study.results import collect, curves, draw, find_change, read_results, scores, tables, write_results

POINT, CHEETAH = "sb3_metra/PointMass-v0", "sb3_metra/HalfCheetah-v0"
HEADER = "method,env,seed,change,steps,cpu_seconds,coverage\n"


def rows(*lines: str) -> str:
    return HEADER + "".join(f"{line}\n" for line in lines)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    lines = []
    for env, scale in ((POINT, 1), (CHEETAH, 10)):
        for seed in (0, 1):
            for steps in (100, 200):
                cpu = "" if seed else str(steps * 0.6)
                lines.append(f"metra,{env},{seed},,{steps},{cpu},{scale * (steps / 100 + seed)}")
                lines.append(f"diayn,{env},{seed},wide,{steps},60,{scale * steps / 100}")
    path = tmp_path / "results.csv"
    path.write_text(rows(*lines, f"Mine,{POINT},0,,100,6,9"))
    return path


def run_folder(place: Path, change: str | None, seed: int, *, gradient_steps: int | None = None) -> Path:
    place.mkdir()
    settings = load_settings(POINT, "csf")
    if gradient_steps is not None:
        settings["gradient_steps"] = gradient_steps
    record = {"algorithm": "csf", "env": POINT, "seed": seed, "settings": settings}
    (place / "settings.json").write_text(json.dumps(record | ({} if change is None else {"change": change})))
    header = "eval/distance,eval/policy_state_coverage,time/cpu_seconds,time/total_timesteps,train/loss\n"
    (place / "progress.csv").write_text(header + "1.5,7.0,12.25,800.0,3\n,,13,900,3\n2,8,25,1600,3\n")
    return place


def test_runs_become_rows(tmp_path: Path) -> None:
    places = [
        run_folder(tmp_path / "a", "wide", 0),
        run_folder(tmp_path / "b", None, 1),
        run_folder(tmp_path / "c", None, 2, gradient_steps=160),
    ]
    found = collect(places)
    assert [row["change"] for row in found] == ["wide"] * 2 + [""] * 2 + ["gradient_steps=160"] * 2
    assert found[0] == {
        "method": "csf",
        "env": POINT,
        "seed": 0,
        "change": "wide",
        "steps": "800",
        "cpu_seconds": "12.25",
        "coverage": "7",
        "distance": "1.5",
    }
    write_results(found, tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text().startswith(HEADER.strip() + ",distance\n")
    assert [row.label for row in read_results(tmp_path / "results.csv")][::2] == [
        "CSF, wide",
        "CSF",
        "CSF, gradient_steps=160",
    ]
    with pytest.raises(ValueError, match=r"RUN must be a folder with settings\.json and progress\.csv, got"):
        collect([tmp_path])


def test_a_change_inside_a_block_is_named() -> None:
    settings = load_settings(POINT)
    settings["policy_kwargs"] = settings["policy_kwargs"] | {"layer_norm": True}
    record = {"env": POINT, "algorithm": "metra", "settings": settings | {"n_timesteps": 5}}
    assert find_change(record) == "policy_kwargs.layer_norm=True"


def test_rows_of_a_method_of_ones_own_are_drawn(file: Path) -> None:
    found = curves(read_results(file), POINT)
    assert list(found) == ["METRA", "DIAYN, wide", "Mine"]
    x, y = found["METRA"][1]
    assert (x.tolist(), y.tolist()) == ([100.0, 200.0], [2.0, 3.0])
    minutes = curves(read_results(file), POINT, "cpu_minutes")
    assert [x.tolist() for x, _ in minutes["METRA"]] == [[1.0, 2.0]]  # the other seed knows none
    table = tables(read_results(file), intervals=False)[POINT].splitlines()
    assert table[2] == "| Mine | 1 | 100 | 9.0 | - | 9 | 0.1 |"  # the best one first
    assert table[3] == "| METRA | 2 | 200 | 2.5 | - | 3 | 2.0 |"


def test_a_table_has_intervals(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What rliable says, which tests of its own ask for."""
    iqm = {"value": 2.5, "low": 2.04, "high": 2.96}
    method = {"n_runs": 2, "last": 200.0, "final": {"iqm": iqm, "runs": []}, "best": {"runs": [2.0, 3.0]}}
    monkeypatch.setattr(results, "summarize", lambda found, intervals: {"METRA": method})
    assert tables(read_results(file))[POINT].endswith("\n| METRA | 2 | 200 | 2.5 | 2.0 to 3.0 | 3 | 2.0 |")


def test_scores_are_what_rliable_reads(file: Path) -> None:
    table = scores(read_results(file))
    assert set(table) == {"METRA", "DIAYN, wide"}  # the third is in one environment only
    np.testing.assert_allclose(table["METRA"], [[2 / 9, 2 / 2.5], [3 / 9, 3 / 2.5]])
    np.testing.assert_allclose(table["DIAYN, wide"], [[2 / 9, 2 / 2.5]] * 2)


def test_the_page_draws_itself(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = draw(file, tmp_path, intervals=False)
    page = (tmp_path / "results.md").read_text()
    assert written[0] == tmp_path / "results.md"
    assert len(written) == 5
    for path in written[1:]:
        assert path.stat().st_size > 1000
        assert f"]({path.name})" in page
    assert page.index(f"## {POINT}") < page.index(f"## {CHEETAH}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER, "must hold at least one row, got none"),
        ("method,env,seed,steps\na,b,0,1\n", "must have the columns method, .*, got none of the name coverage"),
        (rows(f"metra,{POINT},0,,100,1,"), "line 2: coverage must not be empty"),
        (rows(f"metra,{POINT},0,,100,1,2", f"metra,{POINT},0,,many,1,2"), "line 3: steps must be a number, got 'many'"),
        (rows(f"metra,{POINT},0,,100,soon,2"), "line 2: cpu_seconds must be a number, got 'soon'"),
    ],
)
def test_a_wrong_csv_is_one_sentence(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "results.csv")


def test_the_command_collects_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        run_folder(tmp_path / f"point_csf_s{seed}", None, seed)
    out = tmp_path / "out"
    words = ["study", "arena", "--out", str(out), "--no-intervals"]
    assert main([*words, "--collect", str(tmp_path / "point_*")]) == 0
    text = (out / "results.csv").read_text()
    (out / "results.csv").write_text(text + f"mine,{POINT},0,,800,1,99,\n")
    assert main([*words, "--draw"]) == 0
    assert "| mine | 1 | 800 | 99.0 | - | 99 | 0.0 |" in (out / "results.md").read_text()
    capsys.readouterr()
    assert main([*words, "--collect", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("sb3-metra study: RUN must be a folder with settings.json and")


def test_the_arenas_page_is_what_its_csv_says() -> None:
    folder = Path(__file__).resolve().parents[1] / "docs" / "results" / "arena"
    found = read_results(folder / "results.csv")
    page = (folder / "results.md").read_text(encoding="utf-8")
    for env, table in tables(found, intervals=False).items():
        assert f"## {env}\n" in page
        for line in table.splitlines():
            label, runs, steps = line.split(" | ")[:3]
            assert f"{label} | {runs} | {steps} | " in page
