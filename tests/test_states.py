"""The state of an environment: an episode goes on elsewhere, to the bit, through JSON and arrays."""

import functools
import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor

import sb3_metra.envs
from sb3_metra.common.wrapper_state import get_states, set_states
from sb3_metra.envs.point import PointMassEnv
from tests.test_goal_observation import make  # noqa: F401  (a fixture)
from tests.test_kitchen import kitchen  # noqa: F401  (a fixture)
from tests.test_pixel_envs import HUMANOID, dmc  # noqa: F401  (a fixture)

CHEETAH = "sb3_metra/CheetahPixels-v0"
SUITE = ("sb3_metra/Quadruped-v0", "sb3_metra/Humanoid-v0")
Maker = Callable[..., gym.Env]
every_env = pytest.mark.parametrize(
    "env_id",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in (HUMANOID, CHEETAH) else [])  # of the quadruped's class
        for name in sb3_metra.envs.MAX_EPISODE_STEPS
    ],
)


@pytest.fixture(scope="session")
def open_env(make: Maker, request: pytest.FixtureRequest) -> Maker:  # noqa: F811
    """Lends the first or the second environment of a name, or skips the test where something for it is missing."""

    @functools.cache
    def open_env(env_id: str, number: int = 1) -> gym.Env:
        if "Kitchen" in env_id:
            request.getfixturevalue("kitchen")
        if env_id in SUITE:
            pytest.importorskip("dm_control")
        if "FourRooms" in env_id:
            pytest.importorskip("minigrid")
        return Monitor(make(env_id))

    return open_env


def through_json(state: Any) -> Any:
    """The state as a file would keep it: arrays as they are, all else through JSON."""
    if isinstance(state, np.ndarray):
        return state.copy()
    if isinstance(state, dict):
        return {name: through_json(value) for name, value in state.items()}
    if isinstance(state, list):
        return [through_json(value) for value in state]
    return json.loads(json.dumps(state))


def go_on(env: gym.Env, n: int, seed: int) -> list[np.ndarray]:
    """All that an environment gives for some actions, with one reset of its own in between."""
    rng = np.random.default_rng(seed)
    if isinstance(env.action_space, gym.spaces.Discrete):
        actions = rng.integers(env.action_space.n, size=n)
    else:
        actions = rng.uniform(-1.0, 1.0, (n, *env.action_space.shape)).astype(np.float32)
    given: list[Any] = []
    for step, action in enumerate(actions):
        observation, reward, terminated, truncated, info = env.step(action)
        given += [observation, np.array([reward, terminated, truncated])]
        given += [np.array(str(value) if isinstance(value, dict) else value) for value in info.values()]
        if step == n // 2:
            given.append(env.reset()[0])
    return [*given, env.action_space.sample()]


@every_env
def test_an_episode_goes_on_elsewhere_to_the_bit(env_id: str, open_env: Maker) -> None:
    env, other = open_env(env_id), open_env(env_id, 2)
    env.reset(seed=3)
    go_on(env, 5, seed=0)
    state = get_states([env])
    kept = through_json(state)
    expected = go_on(env, 4, seed=1)
    np.testing.assert_equal(state, kept)  # what was given does not change
    other.reset(seed=8)
    go_on(other, 2, seed=5)
    for resumed in (other, env):
        set_states([resumed], through_json(kept))
        for ours, theirs in zip(go_on(resumed, 4, seed=1), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@every_env
def test_the_innermost_environment_has_a_state_of_its_own(env_id: str, open_env: Maker) -> None:
    env = open_env(env_id)
    env.reset(seed=0)
    state = through_json(env.unwrapped.get_state())
    again = env.unwrapped
    first = [env.reset()[0] for _ in range(2)]
    again.set_state(state)
    np.testing.assert_array_equal([env.reset()[0] for _ in range(2)], first)


def test_counters_and_sums_are_part_of_the_state() -> None:
    env = Monitor(gym.make("sb3_metra/PointMass-v0", max_episode_steps=4, reset_noise_scale=0.0))
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([1.0, 0.0]))
    state = get_states([env])
    assert state is not None
    monitor, limit, order, body, _ = state["environments"][0]
    assert (limit["_elapsed_steps"], order["_has_reset"]) == (3, True)
    np.testing.assert_allclose(monitor["rewards"], [0.1, 0.1, 0.1])
    np.testing.assert_allclose(body["own"]["position"], [0.3, 0.0])
    other = Monitor(gym.make("sb3_metra/PointMass-v0", max_episode_steps=4, reset_noise_scale=0.0))
    set_states([other], state)  # without a reset
    _, _, terminated, truncated, info = other.step(np.array([0.0, 1.0]))
    assert (terminated, truncated) == (False, True)
    assert info["episode"]["l"] == 4
    assert info["episode"]["r"] == pytest.approx(np.hypot(0.3, 0.1), abs=1e-6)
    assert len(monitor["rewards"]) == 3  # not the list of the other one


def test_what_is_no_state_is_refused() -> None:
    env = PointMassEnv()
    with pytest.raises(ValueError, match=r"state must have the names \['np_random', 'position', 'start'\], got \[\]"):
        env.set_state({})
    with pytest.raises(ValueError, match=r"state\['start'\] must have shape \(2,\), got \(3,\)"):
        env.set_state({**env.get_state(), "start": np.zeros(3)})
    with pytest.raises(ValueError, match="state must be a dict that get_state has made, got ndarray"):
        env.set_state(np.zeros(2))
    assert get_states([gym.make("Pendulum-v1")]) is None
