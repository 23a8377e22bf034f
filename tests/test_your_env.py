"""The page about one's own environment: its code runs as it stands, and mazes of Gymnasium-Robotics by their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_metra import METRA
from sb3_metra.evaluation import evaluate_goals, rollout_skills
from tests.toys import TINY

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "your_env.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "page"}
    for long, short in (
        ("learn(100_000", "learn(400"),
        ("=1_600", "=100"),
        ("train_freq=200", "train_freq=50"),
        ("eval_freq=20_000", "eval_freq=20_000, n_skills=4"),
    ):
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["model"]._n_updates == 50
    assert (tmp_path / "mountain_car.zip").is_file()
    (trajectory,) = rollout_skills(names["model"], names["make_env"](), np.float32([[1.0, 0.0]]))
    assert -12.0 <= trajectory.coordinates.min() <= trajectory.coordinates.max() <= 6.0
    assert np.abs(trajectory.observations).max() > 0.5  # scaled


@pytest.mark.parametrize("name", ["PointMaze_UMaze-v3", "AntMaze_UMaze-v5"])
def test_mazes_work_by_their_names(name: str) -> None:
    pytest.importorskip("gymnasium_robotics")
    arguments = TINY | {"train_freq": 16, "phi_kwargs": {"net_arch": [8]}}
    model = METRA("MultiInputPolicy", f"gymnasium_robotics:{name}", **arguments).learn(32)
    assert model._n_updates > 0
    env = gym.make(name, max_episode_steps=5)
    goal = env.unwrapped.maze.cell_rowcol_to_xy(np.array([1, 1]))
    result = evaluate_goals(model, env, goal[None])
    assert [places.shape for places in result.coordinates] == [(6, 2)]
    env.close()
