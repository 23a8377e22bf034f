"""Zero-shot goals: which skill is chosen when, what counts as reached, and that it works on a point that obeys."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_metra import VISR
from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation import GoalReacher, evaluate_goals, sample_goals
from sb3_metra.evaluation.goals import evaluate_task_goals, goal_distance, goal_staying_time, goal_success
from sb3_metra.evaluation.metadata import goal_range_of
from tests.toys import TINY, Chores, Follower, goal_points, scripted_envs, tiny_model


class Obedient(Follower):
    """Moves by its skill; a one-hot skill of four moves east, north, west or south."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        ways = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
        return (state @ ways if self.skill_prior.discrete else state), state


def where(observation: np.ndarray) -> np.ndarray:
    """A phi that is the place itself."""
    return np.asarray(observation, np.float32)


def four_ways(observation: np.ndarray) -> np.ndarray:
    """A phi whose components are how far east, north, west and south a place is."""
    return np.concatenate([where(observation), -where(observation)], axis=-1)


def reacher(goals: Any, discrete: bool = False, **kwargs: Any) -> GoalReacher:
    prior = OneHotPrior(4) if discrete else SpherePrior(2)
    return GoalReacher(Obedient(PointMassEnv(), prior), four_ways if discrete else where, prior, goals, **kwargs)


# Which skill


def test_the_skill_points_from_here_to_the_goal() -> None:
    actions, skills = reacher(np.array([3.0, 4.0])).predict(np.array([[0.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(skills, [[0.6, 0.8], [0, 1]], atol=1e-6)
    np.testing.assert_array_equal(actions, skills)


def test_a_discrete_skill_is_the_largest_component() -> None:
    _, skills = reacher(np.array([1.0, -4.0]), discrete=True).predict(np.array([[0.0, 0.0], [0.0, -4.0], [9.0, -4.0]]))
    np.testing.assert_array_equal(skills.argmax(axis=1), [3, 0, 2])


def test_each_environment_has_its_goal() -> None:
    _, skills = reacher(np.array([[1.0, 0.0], [0.0, 1.0]])).predict(np.zeros((2, 2)))
    np.testing.assert_array_equal(skills, [[1, 0], [0, 1]])


def test_one_observation_gives_one_action() -> None:
    action, skill = reacher(np.array([0.0, 2.0])).predict(np.zeros(2))
    assert action.shape == skill.shape == (2,)


def test_the_skill_is_chosen_anew_at_every_step_unless_held() -> None:
    start, later = np.zeros((2, 2)), np.array([[5.0, 0.0], [5.0, 0.0]])
    goal = np.array([5.0, 5.0])
    for hold in (False, True):
        policy = reacher(goal, hold=hold)
        _, skills = policy.predict(start, None, np.array([True, True]))
        _, skills = policy.predict(later, skills, np.array([False, True]))  # the second environment begins again
        half = 0.5**0.5
        np.testing.assert_allclose(skills, [[half, half] if hold else [0, 1], [0, 1]], atol=1e-6)
        _, skills = policy.predict(start, skills)
        np.testing.assert_allclose(skills[1], [0, 1] if hold else [half, half], atol=1e-6)


def test_the_goal_can_be_moved() -> None:
    policy = reacher(np.array([1.0, 0.0]))
    policy.goals = np.array([-1.0, 0.0])
    np.testing.assert_array_equal(policy.predict(np.zeros(2))[1], [-1, 0])


def test_sb3_evaluates_it() -> None:
    env = goal_points(2)
    policy = reacher(np.array([[3.0, 4.0], [0.0, -3.0]]))
    mean, _ = evaluate_policy(policy, env, n_eval_episodes=2, warn=False)  # type: ignore[arg-type]
    assert mean == pytest.approx(3.5, abs=0.2)  # the return is how far from the start the point ended


# What counts


COORDINATES = [np.array([[0.0], [2.0], [4.0], [6.0], [8.0]]), np.array([[0.0], [-1.0], [0.0], [5.0]])]
GOALS = np.array([[5.0], [0.0]])


def test_metrics_by_hand() -> None:
    np.testing.assert_array_equal(goal_distance(COORDINATES, GOALS), [3, 5])
    np.testing.assert_array_equal(goal_success(COORDINATES, GOALS, 1.0), [False, True])  # 1 away is not within 1
    np.testing.assert_array_equal(goal_success(COORDINATES, GOALS, 1.5), [True, True])
    np.testing.assert_allclose(goal_staying_time(COORDINATES, GOALS, 1.5), [2 / 4, 2 / 3])


def test_the_start_is_no_success() -> None:
    assert not goal_success([np.array([[0.0], [9.0]])], np.array([[0.0]]))[0]


def test_goals_lie_in_their_ranges() -> None:
    goals = sample_goals((50.0, 5.0), 400, np.random.default_rng(1))
    assert goals.shape == (400, 2)
    np.testing.assert_allclose(np.abs(goals).max(axis=0), [50, 5], rtol=0.02)
    np.testing.assert_array_equal(sample_goals((50.0, 5.0)), sample_goals((50.0, 5.0)))
    for env_id, half_widths in (("sb3_metra/Ant-v0", (50.0, 50.0)), ("sb3_metra/HalfCheetah-v0", (100.0,))):
        env = make_vec_env(env_id)
        env.reset()
        assert goal_range_of(env) == half_widths


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3, 8])
def test_an_obedient_point_reaches_what_is_near_enough(discrete: bool, n_envs: int) -> None:
    goals = np.array([[2.0, 1.0], [-1.0, 2.0], [30.0, 0.0], [0.5, -1.0]])
    prior = OneHotPrior(4) if discrete else SpherePrior(2)
    model, encode = Obedient(PointMassEnv(), prior), four_ways if discrete else where
    done: list[int] = []
    seen = evaluate_goals(model, goal_points(n_envs), goals, encode, prior, progress=done.append)
    assert done[-1] == 4
    assert [len(places) for places in seen.coordinates] == [41] * 4
    np.testing.assert_array_equal(goal_success(seen.coordinates, goals, 0.2), [True, True, False, True])
    metrics = seen.metrics()
    assert metrics["goal_success_3"] == metrics["goal_success_1"] == 0.75
    assert metrics["goal_distance"] == pytest.approx(26 / 4, abs=0.5)
    assert 0 < metrics["goal_staying_time_1"] < metrics["goal_staying_time_3"] < 1


def test_a_held_skill_runs_past_the_goal() -> None:
    prior = SpherePrior(2)
    model, goals = Obedient(PointMassEnv(), prior), np.array([[2.0, 0.0], [0.0, -1.0]])
    held = evaluate_goals(model, goal_points(2), goals, where, prior, hold=True)
    steered = evaluate_goals(model, goal_points(2), goals, where, prior)
    np.testing.assert_allclose(goal_distance(held.coordinates, goals), [2, 3], atol=0.2)  # 40 steps are 4 units
    assert goal_distance(steered.coordinates, goals).max() < 0.15


def test_a_seed_repeats_an_evaluation() -> None:
    prior = SpherePrior(2)
    runs = [
        evaluate_goals(
            Obedient(PointMassEnv(), prior), goal_points(2), sample_goals((3, 3), 5), where, prior, seed=seed
        )
        for seed in (1, 1, 2)
    ]
    first, again, other = (np.concatenate(run.coordinates) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_episodes_that_end_apart_are_kept_whole() -> None:
    prior = SpherePrior(2)
    env = DummyVecEnv([partial(gym.wrappers.TimeLimit, PointMassEnv(), length) for length in (5, 12)])
    goals = np.array([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    seen = evaluate_goals(Obedient(PointMassEnv(), prior), env, goals, where, prior)
    assert [len(places) for places in seen.coordinates] == [6, 13, 6]
    np.testing.assert_allclose([places[-1, 0] for places in seen.coordinates[:2]], [0.5, 1.2], atol=0.15)


def test_a_model_goes_with_its_own_phi() -> None:
    env = goal_points(2, length=5)
    model = tiny_model(env)
    seen = evaluate_goals(model, env, sample_goals((3, 3), 3), model.encode, model.skill_prior)
    assert [len(places) for places in seen.coordinates] == [6] * 3


def chores(n: int = 2, length: int = 14) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.wrappers.TimeLimit(Chores(), length) for _ in range(n)])


def test_tasks_are_goals_too() -> None:
    prior = SpherePrior(2)
    model = Obedient(PointMassEnv(), prior)
    tasks = ["north", "east", "east"]
    assert evaluate_task_goals(model, chores(), tasks, where, prior).tolist() == [True, True, True]
    assert evaluate_task_goals(model, chores(length=8), tasks, where, prior).tolist() == [False] * 3  # 0.8 units
    # a phi that sees east alone sends every skill there
    eastward = evaluate_task_goals(model, chores(), tasks, lambda place: where(place) * [1, 0], prior)
    assert eastward.tolist() == [False, True, True]


# Bad input


def test_goals_of_another_shape_are_refused() -> None:
    model = tiny_model(goal_points(1))
    with pytest.raises(ValueError, match=r"goals must be observations, one or a batch of them: .*\(3,\)"):
        GoalReacher(model, model.encode, model.skill_prior, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="goals must be one, or one for each of the 2 observations, got 3"):
        reacher(np.zeros((3, 2))).predict(np.zeros((2, 2)))


@pytest.mark.parametrize("goals", [np.zeros(2), np.zeros((0, 2)), np.array([[np.nan, 0.0]])])
def test_goals_that_are_no_table_of_places_are_refused(goals: np.ndarray) -> None:
    prior = SpherePrior(2)
    with pytest.raises(ValueError, match=r"goals must be finite places of shape \(n, k\), got"):
        evaluate_goals(Obedient(PointMassEnv(), prior), goal_points(1), goals, where, prior)


def test_environments_that_lack_what_is_needed_are_refused() -> None:
    prior = SpherePrior(2)
    model, goals = Obedient(PointMassEnv(), prior), np.zeros((1, 2))
    with pytest.raises(
        ValueError,
        match=r"env must have a method goal_observation\(goal\), or be a goal environment with .*, got one without",
    ):
        evaluate_goals(model, scripted_envs(1), goals, where, prior)
    with pytest.raises(ValueError, match=r'as many coordinates as info\["coordinates"\] of env, got 1 and \['):
        evaluate_goals(model, goal_points(1), goals[:, :1], where, prior)
    with pytest.raises(ValueError, match="env must be a VecNormalize with training=False"):
        evaluate_goals(model, VecNormalize(goal_points(1)), goals, where, prior)


def test_tasks_that_an_environment_does_not_have_are_refused() -> None:
    prior = SpherePrior(2)
    for env in (goal_points(1), chores(1)):
        with pytest.raises(ValueError, match=r'tasks must be among info\["tasks"\] of env, .*, got \[\'west\'\]'):
            evaluate_task_goals(Obedient(PointMassEnv(), prior), env, ["west"], where, prior)


@pytest.mark.parametrize(("half_widths", "n"), [((), 5), ((0.0,), 5), ((np.inf,), 5), ((1.0,), 0)])
def test_a_bad_range_of_goals_is_refused(half_widths: tuple[float, ...], n: int) -> None:
    with pytest.raises(ValueError, match=r"n must be an integer of at least 1, got 0|half_widths must be finite"):
        sample_goals(half_widths, n)


def test_trajectories_without_goals_are_refused() -> None:
    with pytest.raises(ValueError, match="one trajectory for each of the 1 goals, got 2"):
        goal_distance(COORDINATES, GOALS[:1])


# The picture


@pytest.mark.parametrize("k", [1, 2])
def test_the_picture_shows_what_was_reached(k: int, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from sb3_metra.evaluation.plotting import plot_goals

    places = [np.repeat(places, k, axis=1) for places in COORDINATES]
    goals = np.repeat(GOALS, k, axis=1) + np.array([[0.0], [50.0]])
    figure = plot_goals(places, goals, tmp_path / "goals.png", radius=1.5)
    (axes,) = figure.axes
    assert axes.get_title() == "1 of 2 goals reached within 1.5"
    assert (tmp_path / "goals.png").stat().st_size > 1000
    markers = [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(marker for marker in markers if marker in ("o", "x")) == ["o", "x"]


def test_gym_environments_are_taken_as_they_are() -> None:
    prior = SpherePrior(2)
    env = gym.wrappers.TimeLimit(PointMassEnv(), 5)
    seen = evaluate_goals(Obedient(env, prior), env, np.ones((1, 2)), where, prior)
    assert len(seen.coordinates[0]) == 6


def test_a_model_that_knows_the_skill_towards_a_goal_is_asked() -> None:
    """VISR's skill is phi of the goal, wherever the body is."""
    model = VISR("MlpPolicy", goal_points(1), **TINY)
    goal, places = np.array([2.0, 1.0], np.float32), np.tile(np.array([-1.0, 0.5], np.float32), (3, 1))
    reacher = GoalReacher(model, goals=goal)
    expected = model.skill_prior.toward(model.encode(goal))
    np.testing.assert_array_equal(reacher.predict(places, deterministic=True)[1], np.tile(expected, (3, 1)))
    assert not np.allclose(GoalReacher(model, model.encode, model.skill_prior, goal).skills(places[0]), expected)
    with pytest.raises(ValueError, match="goals must be one, or one for each of the observations"):
        GoalReacher(tiny_model(goal_points(1)), goals=np.zeros((3, 2), np.float32)).predict(
            np.zeros((2, 2), np.float32)
        )
