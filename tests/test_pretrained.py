"""The models that come with the package: small, without pickles, and as good as they say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sb3_metra
from sb3_metra.cli import main
from sb3_metra.commands.report import default_page
from sb3_metra.pretrained import FOLDER, find_pretrained, names


def test_they_are_small_and_hold_no_pickle() -> None:
    files = [file for name in names() for file in find_pretrained(name)[0].iterdir()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert all(json.loads(file.read_text())["pickled"] == {} for file in files if file.name == "model.json")


@pytest.mark.parametrize("name", names())
def test_each_acts_and_encodes(name: str) -> None:
    model = sb3_metra.load_pretrained(name, device="cpu")
    space = model.observation_space
    observation = np.zeros(space.shape, space.dtype)
    skills = model.skill_prior.evaluation_skills(4, np.random.default_rng(0))
    actions = model.predict(np.stack([observation] * 4), state=skills, deterministic=True)[0]
    assert np.ptp(actions, axis=0).max() > 0.1  # the skill matters
    assert model.encode(observation).shape == (model.skill_prior.dim,)


def test_the_point_reaches_goals_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["goals", "--pretrained", "point_mass", "--n-goals", "6", "--n-envs", "6"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["env"] == "sb3_metra/PointMass-v0"
    assert result["goal_distance"] < 0.2


def test_another_environment_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "Pendulum-v1", "--n-skills", "2", "--n-envs", "2"]
    assert main(["evaluate", "--pretrained", "point_mass", *arguments]) == 2
    assert "model must act in this environment" in capsys.readouterr().err


def test_the_page_goes_into_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(FOLDER.glob("**/*.html"))
    assert main(["report", "--pretrained", "point_mass", "--no-video", "--max-episode-steps", "9"]) == 0
    assert capsys.readouterr().out.startswith("skills.html (")
    page = (tmp_path / "skills.html").read_text(encoding="utf-8")
    versions = find_pretrained("point_mass")[1]["versions"]
    assert f'"torch":["{versions["torch"]}",' in page.replace(" ", "")  # what it was trained with
    assert sorted(FOLDER.glob("**/*.html")) == before


def test_another_page_goes_beside_its_model(tmp_path: Path) -> None:
    assert default_page(tmp_path / "model.zip") == tmp_path / "skills.html"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["goals", "--pretrained", "nobody"], "name must be "),
        (["evaluate", "--pretrained"], f"--pretrained must be followed by one of {', '.join(names())}, got nothing"),
    ],
)
def test_what_is_not_there_is_said(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err
