"""Four rooms: where the walls are, what is reported, and goals by room and by cell."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sb3_metra  # noqa: F401  registers the environments

pytest.importorskip("minigrid")
LEFT, RIGHT, FORWARD = range(3)


@pytest.fixture
def env() -> gym.Env:
    return gym.make("sb3_metra/FourRooms-v0", render_mode="rgb_array")


def walk(env: gym.Env, direction: int, n: int) -> tuple[np.ndarray, float, bool, bool, dict]:
    """Turn to a direction, 0 for east and on clockwise, and go some steps."""
    while env.unwrapped._rooms.agent_dir != direction:
        env.step(RIGHT)
    for _ in range(n):
        outcome = env.step(FORWARD)
    return outcome


def test_it_is_an_environment(env: gym.Env) -> None:
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == 100
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)


def test_turning_going_and_walls_by_hand(env: gym.Env) -> None:
    observation, info = env.reset(seed=0)
    assert info["coordinates"].tolist() == [4.0, 4.0]
    assert info["tasks"] == {"north west": True, "north east": False, "south west": False, "south east": False}
    np.testing.assert_array_equal(observation[:2], np.float32([-1.0, -1.0]))
    observation, *_, info = walk(env, 0, 2)
    # east of the agent 2 cells are free, south more than 8 through a gate, west 5 and north 3
    np.testing.assert_allclose(observation, np.float32([-0.6, -1.0, 1.0, 0.0, 0.5, 2.0, 1.25, 0.75]))
    assert info["coordinates"].tolist() == [6.0, 4.0]
    assert walk(env, 0, 9)[4]["coordinates"].tolist() == [8.0, 4.0]  # up to the wall
    before = env.step(LEFT)[0]
    assert before[2:].tolist() == [0.0, -1.0, 0.75, 0.0, 1.0, 1.75]  # from east to north
    assert walk(env, 3, 9)[4]["coordinates"].tolist() == [8.0, 1.0]


def test_a_gate_leads_into_another_room(env: gym.Env) -> None:
    """With this layout the north wall's gate is in the seventh row."""
    env.reset(seed=1)
    walk(env, 1, 3)
    outcome = walk(env, 0, 5)
    assert outcome[4]["coordinates"].tolist() == [9.0, 7.0]
    assert not outcome[4]["tasks"]["north east"]  # in the gate
    outcome = walk(env, 0, 1)
    assert (outcome[1], outcome[4]["tasks"]["north east"]) == (1.0, True)
    assert walk(env, 2, 2)[1] == 0.0


def test_the_rooms_are_the_same_whatever_the_seed() -> None:
    pictures = []
    for seed in (0, 1):
        env = gym.make("sb3_metra/FourRooms-v0", render_mode="rgb_array", start="south east", layout=3).unwrapped
        env.reset(seed=seed)
        pictures.append([[env._cell(x, y) for x in range(19)] for y in range(19)])
    assert pictures[0] == pictures[1]
    assert sum(cell is None for row in pictures[0] for cell in row) == 260


def test_goals(env: gym.Env) -> None:
    env.reset(seed=0)
    look = env.unwrapped.goal_observation
    np.testing.assert_allclose(look("south east"), np.float32([0.8, 0.8, 1.0, 0.0, 1.0, 1.0, 0.75, 0.75]))
    np.testing.assert_allclose(look([1, 17]), np.float32([-1.6, 1.6, 1.0, 0.0, 1.75, 0.0, 0.0, 1.75]))
    for bad, message in (
        ("cellar", "goal must be one of"),
        ([0, 5], "goal must lie between 1 and 17"),
        ([1], "a place"),
    ):
        with pytest.raises(ValueError, match=message):
            look(bad)
    with pytest.raises(ValueError, match="action must be 0, 1 or 2, got 3"):
        env.unwrapped.step(3)
