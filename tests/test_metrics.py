"""Coverage while training, faithfulness of phi, tables and intervals, against values worked out by hand."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.evaluation import (
    CoverageTracker,
    SkillTrajectory,
    achieved_tasks,
    evaluate_skills,
    rollout_skills,
    skill_metrics,
    skill_table,
    skills_to_show,
    state_coverage,
    task_coverage,
)
from sb3_metra.evaluation.faithfulness import (
    constraint_violation,
    displacement_cosine,
    encode_trajectories,
    path_cosine,
    temporal_correlation,
)
from sb3_metra.evaluation.metrics import headline, judged_by
from tests.programs import run_python


def trajectory(places: list, skill: tuple = (1.0, 0.0), tasks: dict | None = None, reward: float = 0.0):
    """A trajectory whose observations are its places."""
    places = np.asarray(places, dtype=np.float64)
    return SkillTrajectory(np.asarray(skill, np.float32), places, places, [], reward, tasks or {})


class Numbered(gym.Env):
    """
    Episode e of environment i starts at 100 i + 10 e and moves by 1 a step; task "far" is achieved at the third step
    of one episode, the second by default.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, index: int, length: int, far: int = 1) -> None:
        self.index, self.length, self.far_episode, self.episode = index, length, far, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.place, self.steps, self.far = 100.0 * self.index + 10.0 * self.episode, 0, False
        return np.array([self.place], np.float32), {"coordinates": np.array([self.place])}

    def step(self, action):
        self.place, self.steps = self.place + 1.0, self.steps + 1
        self.far |= self.episode == self.far_episode and self.steps == 3
        info = {"coordinates": np.array([self.place]), "tasks": {"far": self.far, "never": False}}
        return np.array([self.place], np.float32), 0.0, self.steps == self.length, False, info


def track(env: VecEnv, n_steps: int, **kwargs) -> CoverageTracker:
    tracker = CoverageTracker(env.num_envs, **kwargs)
    env.reset()
    tracker.reset(env.reset_infos)
    for _ in range(n_steps):
        _, _, dones, infos = env.step(np.zeros((env.num_envs, 1)))
        tracker.step(infos, dones, env.reset_infos)
    env.close()
    return tracker


# Coverage


def test_cells_have_a_size_for_each_coordinate() -> None:
    places = [np.array([[0.0, 0.0, 7.0], [1.5, 1.5, 8.0], [2.5, -0.5, 9.0]])]
    assert state_coverage(places, columns=[0]) == 3
    assert state_coverage(places, 2.0, columns=[0]) == 2  # 0 and 1.5 share one
    # by x in steps of 2 and y in steps of 10: (0, 0), (0, 0), (1, -1)
    assert state_coverage(places, (2.0, 10.0), columns=[0, 1]) == 2
    assert state_coverage(places, (10.0, 2.0), columns=[2, 1]) == 2  # (0, 0), (0, 0), (0, -1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"cell_size": (1.0, 2.0, 3.0)}, r"cell_size must be one number or 2, one for each coordinate, got \(1.0,"),
        ({"cell_size": (1.0, -2.0)}, "cell_size must be a finite number greater than 0"),
        ({"columns": [2]}, r"columns must be among 0 to 1, got \[2\]"),
        ({"columns": []}, r"columns must be the numbers of at least one coordinate, got \[\]"),
    ],
)
def test_coverage_refuses_what_does_not_fit(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        state_coverage([np.zeros((2, 2))], **kwargs)


@pytest.mark.parametrize("vec_env", [DummyVecEnv, SubprocVecEnv])
def test_tracker_counts_every_state_of_training_once(vec_env: type) -> None:
    """Two environments with episodes of 3 and 5 steps: places by hand, over ends that the environments reset."""
    env = vec_env([lambda: Numbered(0, 3), lambda: Numbered(1, 5)])
    tracker = track(env, 8)
    # env 0: 0..3, 10..13 and, begun, 20..22; env 1: 100..105 and 110..113
    assert tracker.metrics()["total_state_coverage"] == (4 + 4 + 3) + (6 + 4)
    assert tracker.metrics()["total_task_coverage"] == 1


def test_tracker_forgets_old_episodes() -> None:
    tracker = track(DummyVecEnv([lambda: Numbered(0, 3)]), 10, queue_episodes=2)
    # episodes of 4 places each: 0, 1 and 2 are over, of which the last two count, and 2 places of episode 3 are there
    assert tracker.metrics() == {
        "total_state_coverage": 3 * 4 + 2,
        "queue_state_coverage": 2 * 4 + 2,
        "total_task_coverage": 1,
        "queue_task_coverage": 1,  # achieved in episode 1
    }
    later = track(DummyVecEnv([lambda: Numbered(0, 3)]), 13, queue_episodes=2)
    assert (later.metrics()["total_task_coverage"], later.metrics()["queue_task_coverage"]) == (1, 0)


def test_tracker_agrees_with_counting_everything_again() -> None:
    rng = np.random.default_rng(0)
    tracker, episodes, running = CoverageTracker(3, cell_size=0.7, queue_episodes=4), [], [[], [], []]
    starts = rng.normal(size=(3, 2))
    tracker.reset([{"coordinates": place} for place in starts])
    for places, place in zip(running, starts, strict=True):
        places.append(place)
    for _ in range(200):
        places, dones, resets = rng.normal(size=(3, 2)), rng.random(3) < 0.2, rng.normal(size=(3, 2))
        tracker.step([{"coordinates": p} for p in places], dones, [{"coordinates": p} for p in resets])
        for i in range(3):
            running[i].append(places[i])
            if dones[i]:
                episodes.append(running[i])
                running[i] = [resets[i]]
        recent = [*episodes[-4:], *running]
        assert tracker.metrics() == {
            "total_state_coverage": state_coverage([np.array(e) for e in [*episodes, *running]], 0.7),
            "queue_state_coverage": state_coverage([np.array(e) for e in recent], 0.7),
        }
    assert len(episodes) > 50


def test_tracker_keeps_each_cell_once() -> None:
    tracker = CoverageTracker(1, queue_episodes=10)
    tracker.reset([{"coordinates": np.zeros(2)}])
    for _ in range(1000):
        tracker.step([{"coordinates": np.zeros(2)}], [False], [{}])
    counter = tracker._counters["state"]
    assert len(counter._recent) == len(counter._running[0]) == 1
    with pytest.raises(ValueError, match="queue_episodes must be an integer of at least 1, got 0"):
        CoverageTracker(1, queue_episodes=0)


def test_tracker_has_no_number_for_what_is_not_told() -> None:
    tracker = CoverageTracker(1)
    tracker.reset([{}])
    tracker.step([{}], [True], [{}])
    assert tracker.metrics() == {}


def test_tasks_are_counted_over_episodes() -> None:
    first = trajectory([[0.0]], tasks={"kettle": False, "light": True, "hinge": False})
    second = trajectory([[0.0]], tasks={"kettle": True, "light": True, "hinge": False})
    assert achieved_tasks([first, second]) == ["kettle", "light"]
    assert task_coverage([first]) == 1
    with pytest.raises(ValueError, match=r'info\["tasks"\]'):
        task_coverage([first, trajectory([[0.0]])])


# phi


def test_cosine_by_hand() -> None:
    paths = [np.array([[0.0, 0.0], [9.0, 9.0], [0.0, 2.0]]), np.zeros((3, 2)), np.array([[1.0, 1.0], [0.0, 1.0]])]
    skills = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(path_cosine(paths, skills, SpherePrior(2)), [1.0, 0.0, -1.0])
    # discrete skills are paired with the centred one-hot, here (1, -1/2, -1/2), of length sqrt(1.5)
    (cosine,) = path_cosine([np.array([[0.0, 0, 0], [1.0, 0, 0]])], np.eye(3, dtype=np.float32)[:1], OneHotPrior(3))
    assert cosine == pytest.approx(1 / np.sqrt(1.5))
    trajectories = [trajectory([[0.0, 0.0], [0.0, 3.0]], (0.0, 1.0)), trajectory([[0.0, 0.0], [1.0, 1.0]])]
    cosines = displacement_cosine(trajectories, lambda observations: 2.0 * observations, SpherePrior(2))
    np.testing.assert_allclose(cosines, [1.0, np.sqrt(0.5)])


def test_violations_by_hand() -> None:
    # steps (0.6, 0.6): squares add up to 0.72; (0.9, 0.9): to 1.62, 0.81 on average; (1.1, 1.1): 1.21 on average
    path = np.cumsum([[0.0, 0.0], [0.6, 0.6], [0.9, 0.9], [1.1, 1.1]], axis=0)
    assert constraint_violation([path]) == pytest.approx(2 / 3)
    assert constraint_violation([path], "mean") == pytest.approx(1 / 3)
    assert constraint_violation([np.array([[0.0], [1.0]])]) == 0.0  # exactly 1 is allowed
    # no step leads from one trajectory to the next
    assert constraint_violation([np.zeros((2, 1)), np.full((2, 1), 50.0)]) == 0.0
    with pytest.raises(ValueError, match='norm must be "sum" or "mean", got \'max\''):
        constraint_violation([path], "max")  # type: ignore[arg-type]


def test_temporal_correlation_by_hand() -> None:
    line = np.outer(np.arange(6.0), [3.0, 4.0])
    assert temporal_correlation([line, 2 + line]) == pytest.approx(1.0)
    # 0, 1, 3: distances 1, 3, 2 for gaps 1, 2, 1 -> Pearson sqrt(3)/2; ranks 0, 2, 1 against 0.5, 2, 0.5 -> the same
    path = np.array([[0.0], [1.0], [3.0]])
    assert temporal_correlation([path]) == pytest.approx(np.sqrt(3) / 2)
    assert temporal_correlation([path], "spearman") == pytest.approx(np.sqrt(3) / 2)
    # monotone, but not proportional
    bent = np.array([[0.0], [1.0], [10.0]])
    assert temporal_correlation([np.square(line)], "spearman") < 1.0
    assert temporal_correlation([bent]) != pytest.approx(temporal_correlation([path]))
    assert temporal_correlation([bent], "spearman") == pytest.approx(temporal_correlation([path], "spearman"))
    assert np.isnan(temporal_correlation([np.zeros((4, 2))]))
    with pytest.raises(ValueError, match='method must be "pearson" or "spearman"'):
        temporal_correlation([path], "kendall")  # type: ignore[arg-type]


def test_temporal_correlation_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    path = np.random.default_rng(0).normal(size=(30, 3)).round(1).cumsum(axis=0)
    i, j = np.triu_indices(30, k=1)
    distances = np.linalg.norm(path[i] - path[j], axis=1)
    assert temporal_correlation([path]) == pytest.approx(stats.pearsonr(distances, j - i)[0])
    assert temporal_correlation([path], "spearman") == pytest.approx(stats.spearmanr(distances, j - i)[0])
    assert temporal_correlation([path], max_pairs=200) == pytest.approx(temporal_correlation([path]), abs=0.15)


def test_phi_sees_dictionaries_as_batches() -> None:
    observations = [{"a": np.array([float(t)]), "b": np.zeros((2, 2))} for t in range(4)]
    told = SkillTrajectory(np.array([1.0], np.float32), np.zeros((4, 1)), observations)
    (path,) = encode_trajectories([told], lambda batch: batch["a"] * 0.5)
    np.testing.assert_array_equal(path[:, 0], [0.0, 0.5, 1.0, 1.5])
    np.testing.assert_allclose(displacement_cosine([told], lambda batch: batch["a"], SpherePrior(1)), [1.0])


# All metrics at once


def test_metrics_and_table_by_hand() -> None:
    there_and_back = [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [1.5, 0.5]]
    straight = [[0.5, 0.5], [0.5, 3.5], [0.5, 6.5]]
    trajectories = [trajectory(there_and_back, (1.0, 0.0), reward=2.0), trajectory(straight, (0.0, 1.0), reward=4.0)]
    metrics = skill_metrics(trajectories, SpherePrior(2), lambda observations: observations / 3.0)
    assert metrics["policy_state_coverage"] == 5  # (0,0), (1,0), (2,0), (0,3), (0,6)
    assert (metrics["distance"], metrics["distance_max"]) == (3.5, 6.0)
    assert (metrics["episode_return"], metrics["episode_length"]) == (3.0, 2.5)
    assert (metrics["phi_cosine"], metrics["phi_violation"]) == (1.0, 0.0)
    first, second = skill_table(trajectories, SpherePrior(2), lambda observations: observations)
    assert first == {
        "skill": [1.0, 0.0],
        "episode_length": 3,
        "episode_return": 2.0,
        "distance": 1.0,
        "distance_max": 2.0,
        "path_length": 3.0,
        "straightness": pytest.approx(1 / 3),
        "cells": 3,
        "phi_cosine": 1.0,
    }
    assert (second["straightness"], second["cells"]) == (1.0, 3)
    assert skill_table([trajectory([[1.0], [1.0]])])[0]["straightness"] == 0.0
    assert skill_metrics(trajectories, columns=[0])["distance"] == 0.5


def test_a_repertoire_is_judged_by_cells_then_tasks_then_nothing() -> None:
    placed = trajectory([[0.0], [1.0]], tasks={"kettle": True})
    assert headline(skill_metrics([placed])) == "policy_state_coverage"
    placed.coordinates = np.zeros(0)
    assert headline(skill_metrics([placed])) == "task_coverage"
    placed.tasks = {}
    assert headline(skill_metrics([placed])) is None


class Still:
    """A policy with a prior and no phi."""

    skill_prior = OneHotPrior(2)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros((len(observation), 1)), state


def test_models_without_phi_are_measured_without_it() -> None:
    env = DummyVecEnv([lambda: Numbered(0, 3)])
    metrics = evaluate_skills(Still(), env, n_skills=2)
    assert metrics["policy_state_coverage"] == 8
    assert not any(name.startswith("phi") for name in metrics)
    assert judged_by(Still(), env) == "policy_state_coverage"


def test_rollouts_report_the_tasks_of_their_own_episode() -> None:
    env = DummyVecEnv([lambda: Numbered(0, 4, far=2)])  # each chunk begins with a reset after the one at the end
    trajectories = rollout_skills(Still(), env, np.eye(2))
    assert [t.tasks for t in trajectories] == [{"far": False, "never": False}, {"far": True, "never": False}]


def test_rollouts_refuse_skills_of_another_dimension() -> None:
    with pytest.raises(ValueError, match="skills must have the model's 2 components, got 3"):
        rollout_skills(Still(), Numbered(0, 3), np.eye(3))
    with pytest.raises(ValueError, match="skills must hold at least one skill, got none"):
        rollout_skills(Still(), Numbered(0, 3), np.zeros((0, 2)))


def test_progress_bar_is_on_the_standard_error(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    rollout_skills(Still(), Numbered(0, 3), np.eye(2), progress_bar=True)
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "skill" in streams.err
    monkeypatch.setattr("sb3_metra.evaluation.rollout.tqdm", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-metra\[progress\]"'):
        rollout_skills(Still(), Numbered(0, 3), np.eye(2), progress_bar=True)


def test_skills_to_show() -> None:
    np.testing.assert_allclose(skills_to_show(SpherePrior(2), 4), [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-7)
    np.testing.assert_array_equal(skills_to_show(SpherePrior(1), 5), [[-1], [1]])
    np.testing.assert_array_equal(skills_to_show(OneHotPrior(3), 5), np.eye(3))
    SpherePrior(4).validate(skills_to_show(SpherePrior(4), 6))
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        skills_to_show(SpherePrior(2), 0)


# Several runs


def test_intervals_over_runs() -> None:
    aggregate = pytest.importorskip("sb3_metra.evaluation.aggregate")
    before = np.random.get_state()[1].copy()
    scores = {"eight": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0], "one": [5.0]}
    result = aggregate.aggregate_runs(scores, reps=500, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert result == aggregate.aggregate_runs(scores, reps=500, seed=3)
    assert result != aggregate.aggregate_runs(scores, reps=500, seed=4)
    eight = result["eight"]
    assert eight["n_runs"] == 8
    assert eight["iqm"]["value"] == pytest.approx(4.5)  # 3, 4, 5, 6: a quarter of the runs left out on either side
    assert eight["mean"]["value"] == pytest.approx(16.0)
    assert eight["median"]["value"] == pytest.approx(4.5)
    for statistic in ("iqm", "mean", "median"):
        assert 1.0 <= eight[statistic]["low"] < eight[statistic]["value"] < eight[statistic]["high"] <= 100.0
    assert eight["iqm"]["high"] < eight["mean"]["high"]  # the run that stands out counts for less
    assert result["one"]["mean"] == {"value": 5.0, "low": None, "high": None}


@pytest.mark.slow
def test_intervals_cover_what_they_should() -> None:
    """Of 60 samples of 20 runs from a known distribution, about 95 % of the intervals hold the mean."""
    aggregate = pytest.importorskip("sb3_metra.evaluation.aggregate")
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        mean = aggregate.aggregate_runs({"": rng.normal(3.0, 1.0, 20)}, reps=100)[""]["mean"]
        held += mean["low"] <= 3.0 <= mean["high"]
    assert 50 <= held <= 60


def test_tasks_are_strata() -> None:
    """Runs are drawn within each task, so that the scales of tasks do not widen the interval."""
    aggregate = pytest.importorskip("sb3_metra.evaluation.aggregate")
    table = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    result = aggregate.aggregate_runs({"": table}, reps=100)[""]
    assert result["mean"] == {"value": 50.0, "low": 50.0, "high": 50.0}
    value, low, high = aggregate.aggregate_curves(np.array([[1.0, 2.0], [1.0, 4.0]]), "mean", reps=100)
    np.testing.assert_array_equal(value, [1.0, 3.0])
    assert (low[0], high[0]) == (1.0, 1.0)
    assert (low[1], high[1]) == (2.0, 4.0)
    with pytest.raises(ValueError, match="scores of 'a' must be finite numbers"):
        aggregate.aggregate_runs({"a": [1.0, np.nan]})
    with pytest.raises(ValueError, match='statistic must be "iqm", "mean" or "median"'):
        aggregate.aggregate_curves(table, "mode")


def test_intervals_name_the_extra_that_is_missing() -> None:
    code = "import sys; sys.modules['rliable'] = None; import sb3_metra.evaluation.aggregate"
    result = run_python("-c", code)
    assert 'pip install "sb3-metra[stats]"' in result.stderr.splitlines()[-1]
