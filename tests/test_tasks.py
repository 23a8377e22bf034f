"""The downstream tasks: when there is a reward, where goals lie, what is told, and that hurdles are in the way."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_env_of_gymnasium
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import sb3_metra.envs  # noqa: F401
from sb3_metra.downstream import TASKS
from sb3_metra.downstream.tasks import HURDLES, AchieveTask, GoalTask
from tests.toys import Chores

STATE_TASKS = [
    "sb3_metra/PointMassGoal-v0",
    "sb3_metra/PointMassMultiGoals-v0",
    "sb3_metra/AntMultiGoals-v0",
    "sb3_metra/HalfCheetahGoal-v0",
    "sb3_metra/HalfCheetahHurdle-v0",
]
PIXEL_TASKS = ["sb3_metra/QuadrupedGoal-v0", "sb3_metra/HumanoidGoal-v0", "sb3_metra/KitchenGoal-v0"]


def point_task(**kwargs: Any) -> GoalTask:
    """The point mass, which starts at the origin and moves by 1 at a step."""
    body = gym.make("sb3_metra/PointMass-v0", step_size=1.0, reset_noise_scale=0.0, max_episode_steps=-1)
    return GoalTask(body, **{"goal_range": 4.0, "radius": 1.5, **kwargs})


def walk(env: gym.Env, steps: int, action: tuple[float, float] = (1.0, 0.0)) -> list[tuple[float, bool]]:
    """Rewards and ends of some steps along x."""
    return [
        (float(reward), done) for _, reward, done, *_ in (env.step(np.array(action, np.float32)) for _ in range(steps))
    ]


def make(env_id: str, **kwargs: Any) -> gym.Env:
    if "PointMass" not in env_id:
        pytest.importorskip("mujoco")
    if env_id in PIXEL_TASKS:
        pytest.importorskip("gymnasium_robotics" if "Kitchen" in env_id else "dm_control")
    return gym.make(env_id, **kwargs)


@pytest.mark.parametrize(
    "env_id", STATE_TASKS + [pytest.param(env_id, marks=pytest.mark.slow) for env_id in PIXEL_TASKS]
)
def test_checkers_pass(env_id: str) -> None:
    env = make(env_id)
    check_env(env)
    check_env_of_gymnasium(env, skip_render_check=True, skip_close_check=True)
    assert env.spec is not None
    assert (env.spec.id, env.spec.max_episode_steps) == (env_id, 200)
    env.close()


def test_every_task_is_tested() -> None:
    assert set(STATE_TASKS + PIXEL_TASKS) <= set(TASKS)


@pytest.mark.parametrize(
    ("env_id", "goal_range", "radius", "new_goal_every"),
    [
        ("sb3_metra/AntMultiGoals-v0", 7.5, 3.0, 50),
        ("sb3_metra/HalfCheetahGoal-v0", 100.0, 3.0, None),
        ("sb3_metra/QuadrupedGoal-v0", 7.5, 1.5, None),
        ("sb3_metra/HumanoidGoal-v0", 5.0, 1.5, None),
    ],
)
def test_numbers_are_the_paper_s(env_id: str, goal_range: float, radius: float, new_goal_every: int | None) -> None:
    kwargs = gym.spec(env_id).kwargs
    assert (kwargs["goal_range"], kwargs["radius"], kwargs.get("new_goal_every")) == (
        goal_range,
        radius,
        new_goal_every,
    )


@pytest.mark.parametrize("env_id", STATE_TASKS)
def test_a_seed_gives_the_same_goals_and_the_body_s_own_time_limit_is_gone(env_id: str) -> None:
    env = make(env_id)
    seen = []
    for _ in range(2):
        observation, _ = env.reset(seed=3)
        env.action_space.seed(0)
        steps, truncated = 0, False
        while not truncated:
            observation, _, _, truncated, _ = env.step(env.action_space.sample())
            steps += 1
        seen.append(np.concatenate([observation[key] for key in sorted(observation)]))
        assert steps == 200
    np.testing.assert_array_equal(*seen)


# Reaching goals


def test_staying_at_the_goal_is_rewarded_at_every_step() -> None:
    env = point_task()
    observation, info = env.reset(options={"goal": [3.0, 0.0]})
    np.testing.assert_array_equal(observation["goal"], [3, 0])
    np.testing.assert_array_equal(observation["observation"], [0, 0])
    assert not info["is_success"]
    # at x = 1: 2 away; at 2, 3 and 4: 1, 0 and 1 away; at 5: 2 away
    assert walk(env, 5) == [(0, False), (1, False), (1, False), (1, False), (0, False)]
    *_, info = env.step(np.zeros(2, np.float32))
    assert (info["is_success"], info["goals_reached"]) == (True, 1)


def test_reaching_a_single_goal_is_rewarded_once_and_ends_the_episode() -> None:
    env = point_task(reward="reach")
    env.reset(options={"goal": [3.0, 0.0]})
    assert walk(env, 2) == [(0, False), (1, True)]


def test_the_radius_itself_is_outside() -> None:
    env = point_task(radius=1.0)
    env.reset(options={"goal": [3.0, 0.0]})
    assert [reward for reward, _ in walk(env, 4)] == [0, 0, 1, 0]


def test_each_of_several_goals_is_rewarded_once_for_reaching() -> None:
    env = point_task(reward="reach", new_goal_every=3, goal_range=0.1, radius=5.0)
    env.reset()
    assert [reward for reward, _ in walk(env, 7, (0.0, 0.0))] == [1, 0, 0, 1, 0, 0, 1]
    assert env.step(np.zeros(2, np.float32))[4]["goals_reached"] == 3


def test_the_next_goal_lies_about_the_last_one() -> None:
    env = point_task(new_goal_every=2, goal_range=0.5)
    observation, _ = env.reset(seed=0, options={"goal": [100.0, 0.0]})
    goals = [observation["goal"]]
    goals += [env.step(np.zeros(2, np.float32))[0]["goal"] for _ in range(40)]
    moves = np.diff(goals, axis=0)
    assert (moves[::2] == 0).all()
    assert (moves[1::2] != 0).all()
    assert np.abs(moves).max() <= 0.5 < 2 * np.abs(moves).max()
    assert np.abs(goals[-1] - goals[0]).max() > 0.5


def test_goals_are_drawn_from_the_whole_range() -> None:
    env = point_task()
    goals = np.stack([env.reset(seed=seed)[0]["goal"] for seed in range(200)])
    assert np.abs(goals).max() <= 4
    np.testing.assert_allclose([goals.min(), goals.max()], [-4, 4], atol=0.1)


def test_a_relative_goal_is_the_way_there() -> None:
    env = point_task(relative_goal=True)
    env.reset(options={"goal": [3.0, 1.0]})
    observation, *_, info = env.step(np.array([1.0, 0.0], np.float32))
    np.testing.assert_array_equal(observation["goal"], [2, 1])
    np.testing.assert_array_equal(info["goal"], [3, 1])


def test_the_body_s_reward_is_left_out() -> None:
    env = point_task()
    env.reset(options={"goal": [-30.0, 0.0]})
    assert walk(env, 3) == [(0, False)] * 3  # the point mass itself rewards the way from the start


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"goal_range": 0.0}, "goal_range must be a finite number greater than 0, got 0.0"),
        ({"radius": -1.0}, "radius must be a finite number greater than 0, got -1.0"),
        ({"radius": np.nan}, "radius must be a finite number greater than 0, got nan"),
        ({"new_goal_every": -5}, "new_goal_every must be an integer of at least 1, got -5"),
        ({"reward": "dense"}, 'reward must be "stay" or "reach", got \'dense\''),
    ],
)
def test_bad_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        point_task(**kwargs)


def test_an_environment_without_coordinates_is_refused() -> None:
    with pytest.raises(ValueError, match=r'env must report info\["coordinates"\]'):
        GoalTask(gym.make("Pendulum-v1"), goal_range=1.0, radius=1.0)


@pytest.mark.parametrize("goal", [[1.0], [1.0, np.nan], "there"])
def test_a_goal_of_another_shape_is_refused(goal: Any) -> None:
    with pytest.raises(ValueError, match=r"goal must be a finite place of shape \(2,\), got|could not convert"):
        point_task().reset(options={"goal": goal})


def test_tasks_run_in_processes() -> None:
    env = make_vec_env("sb3_metra.downstream:sb3_metra/PointMassGoal-v0", 2, seed=0, vec_env_cls=SubprocVecEnv)
    assert env.reset()["goal"].shape == (2, 2)
    assert env.step(np.zeros((2, 2), np.float32))[1].shape == (2,)
    env.close()


# Named tasks


def test_a_task_is_rewarded_once_and_ends_the_episode() -> None:
    env = AchieveTask(Chores(reset_noise_scale=0.0, step_size=0.6))
    check_env(env)
    observation, info = env.reset(options={"task": "north"})
    np.testing.assert_array_equal(observation["goal"], [0, 1])
    assert not info["is_success"]
    assert walk(env, 3, (1.0, 0.0)) == [(0, False)] * 3  # east is not what was asked for
    assert walk(env, 2, (0.0, 1.0)) == [(0, False), (1, True)]


def test_tasks_are_drawn_by_the_seed() -> None:
    env = AchieveTask(Chores())
    drawn = [[tuple(env.reset(seed=seed)[0]["goal"]) for seed in range(20)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {(1, 0), (0, 1)}


def test_tasks_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r'env must report info\["tasks"\]'):
        AchieveTask(gym.make("sb3_metra/PointMass-v0"))
    with pytest.raises(ValueError, match=r"task must be one of \['east', 'north'\], got 'west'"):
        AchieveTask(Chores()).reset(options={"task": "west"})


# Hurdles


def test_a_hurdle_passed_is_worth_one_and_passing_back_takes_it() -> None:
    env = make("sb3_metra/HalfCheetahHurdle-v0")
    body: Any = env.unwrapped
    observation, info = env.reset(seed=0)
    foot = body.get_body_com("bfoot")[0]
    np.testing.assert_allclose(
        observation["hurdle"], [3.0 if foot > -1 else -1.0, 3.0 - foot if foot > -1 else -1 - foot], rtol=1e-5
    )
    assert info["hurdles_passed"] == 0

    def move(x: float) -> tuple[float, int]:
        body.set_state(np.array([x, 1.0, *body.init_qpos[2:]]), body.init_qvel)
        _, reward, *_, info = env.step(np.zeros(6, np.float32))
        return float(reward), info["hurdles_passed"]

    assert move(6.0) == (1.0, 1)  # beyond 3
    assert move(13.0) == (2.0, 3)  # beyond 7 and 11
    assert move(13.0) == (0.0, 3)
    assert move(0.0) == (-3.0, 0)
    assert move(-10.0) == (0.0, 0)  # hurdles behind the start do not count
    assert move(40.0) == (7.0, 7)


def test_hurdles_are_in_the_way() -> None:
    env = make("sb3_metra/HalfCheetahHurdle-v0")
    body: Any = env.unwrapped
    assert sum(body.model.geom(i).name.startswith("hurdle") for i in range(body.model.ngeom)) == len(HURDLES)
    touches = []
    for x in (5.62, 7.62):  # the rear foot, 62 cm behind, falls between two bars, and onto one
        env.reset(seed=0)
        body.set_state(np.array([x, 0.5, *body.init_qpos[2:]]), body.init_qvel)
        touched = False
        for _ in range(40):
            env.step(np.zeros(6, np.float32))
            names = {body.model.geom(geom).name for pair in body.data.contact.geom for geom in pair}
            touched |= any(name.startswith("hurdle") for name in names)
        touches.append(touched)
    assert touches == [False, True]
