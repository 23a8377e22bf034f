"""The dm_control suite's Quadruped and Humanoid as states: their physics, starts, rewards, ends and options."""

import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

pytest.importorskip("dm_control", reason="dm_control is installed on Python 3.10 to 3.12 only")

from sb3_metra.envs.locomotion import load_normalization
from sb3_metra.envs.suite import HumanoidEnv, QuadrupedEnv, SuiteEnv

QUADRUPED, HUMANOID = QuadrupedEnv.env_id, HumanoidEnv.env_id
CLASSES: dict[str, type[SuiteEnv]] = {QUADRUPED: QuadrupedEnv, HUMANOID: HumanoidEnv}
SIZES = {QUADRUPED: (23, 22, 12, 12), HUMANOID: (28, 27, 0, 21)}  # positions, velocities, activations, actions
every_body = pytest.mark.parametrize("env_id", CLASSES)


def draw_actions(env: gym.Env, n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (n, *env.action_space.shape)).astype(np.float32)


@every_body
def test_body_moves_as_the_suites_own(env_id: str) -> None:
    from dm_control import suite

    env = CLASSES[env_id](normalize=False)
    theirs = suite.load(env_id.split("/")[1].split("-")[0].lower(), "run")
    env.reset(seed=3)
    physics = theirs.physics
    with physics.reset_context():
        physics.data.qpos[:] = env.data.qpos
    theirs._reset_next_step = False
    bounds = physics.model.actuator_ctrlrange
    for action in draw_actions(env, 10):
        observation, _, _, _, _ = env.step(action)
        for _ in range(2):
            theirs.step(bounds[:, 0] + (action.astype(np.float64) + 1.0) / 2.0 * np.ptp(bounds, axis=1))
        expected = np.concatenate((physics.data.qpos, physics.data.qvel, physics.data.act))
        np.testing.assert_allclose(observation, expected, rtol=1e-5, atol=1e-6)
    assert env.data.time == pytest.approx(physics.data.time)
    assert env.dt == pytest.approx({QUADRUPED: 0.04, HUMANOID: 0.05}[env_id])
    env.close()


@every_body
def test_spaces_limits_and_what_the_observation_is(env_id: str) -> None:
    nq, nv, na, nu = SIZES[env_id]
    env = gym.make(env_id)
    assert env.spec.max_episode_steps == 200
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (nq + nv + na,), np.float32)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (nu,), np.float32)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(draw_actions(env, 1)[0])
    mean, std = load_normalization(env_id)
    data = env.unwrapped.data
    state = np.concatenate((data.qpos, data.qvel, data.act))
    np.testing.assert_allclose(observation.astype(np.float64) * std + mean, state, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(info["coordinates"], data.qpos[:2])
    assert not np.shares_memory(info["coordinates"], data.qpos)
    env.close()


@every_body
def test_checkers_of_gymnasium_and_sb3_pass(env_id: str) -> None:
    env = CLASSES[env_id]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec.*|.*A Box observation space m.*")
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env)
    env.close()


@every_body
def test_episodes_begin_upright_at_rest_and_as_low_as_nothing_touches(env_id: str) -> None:
    import mujoco

    env = CLASSES[env_id](normalize=False)
    tilts = []
    for seed in range(5):
        env.reset(seed=seed)
        data = env.data
        assert data.ncon == 0
        assert not data.qvel.any()
        assert not data.act.any()
        np.testing.assert_array_equal(data.qpos[:2], 0.0)
        np.testing.assert_array_equal(data.qpos[7:], env.model.qpos0[7:])
        tilts.append(data.body("torso").xmat[8])
        data.qpos[2] -= 0.01  # the next lower height
        mujoco.mj_forward(env.model, data)
        assert data.ncon > 0
    assert min(tilts) > 0.98
    assert len(set(tilts)) == 5
    env.close()


def test_actions_are_scaled_to_the_actuators_bounds() -> None:
    env = QuadrupedEnv()
    env.reset(seed=0)
    bounds = env.model.actuator_ctrlrange
    for action, expected in (
        (-1.0, bounds[:, 0]),
        (1.0, bounds[:, 1]),
        (3.0, bounds[:, 1]),
        (0.0, bounds.mean(axis=1)),
    ):
        env.step(np.full(12, action, dtype=np.float32))
        np.testing.assert_allclose(env.data.ctrl, expected, atol=1e-12)
    assert bounds[:, 1].tolist() == [1.0, 1.1, 0.8] * 4
    with pytest.raises(ValueError, match=r"action must have shape \(12,\), got \(11,\)"):
        env.step(np.zeros(11, dtype=np.float32))
    env.close()


@every_body
def test_return_is_the_distance_from_the_start(env_id: str) -> None:
    env = CLASSES[env_id]()
    _, info = env.reset(seed=1)
    start, total = info["coordinates"], 0.0
    for action in draw_actions(env, 20):
        _, reward, terminated, truncated, info = env.step(action)
        assert (type(reward), terminated, truncated) == (float, False, False)
        total += reward
    assert total == pytest.approx(np.hypot(*(info["coordinates"] - start)), abs=1e-9)
    assert total > 0.0
    env.close()


@every_body
@pytest.mark.parametrize("terminate_on_back", [False, True])
def test_a_body_on_its_back_terminates_only_where_asked(env_id: str, terminate_on_back: bool) -> None:
    env = CLASSES[env_id](terminate_on_back=terminate_on_back)
    env.reset(seed=0)
    action = np.zeros(env.model.nu, dtype=np.float32)
    assert env.step(action)[2] is False
    qpos = env.data.qpos.copy()
    qpos[2], qpos[3:7] = 2.0, [0.0, 1.0, 0.0, 0.0]
    env.set_state(qpos, np.zeros(env.model.nv))
    assert env.step(action)[2] is terminate_on_back
    assert env.is_on_back
    env.close()


@every_body
def test_goal_is_the_body_at_rest_at_a_place(env_id: str) -> None:
    env = CLASSES[env_id](normalize=False)
    env.reset(seed=0)
    before = env.state_vector()
    goal = env.goal_observation(np.array([4.0, -3.0]))
    np.testing.assert_array_equal(env.state_vector(), before)
    height = {QUADRUPED: 0.52, HUMANOID: 1.29}[env_id]
    np.testing.assert_allclose(goal[:7], [4.0, -3.0, height, 1.0, 0.0, 0.0, 0.0], atol=1e-6)
    assert not goal[SIZES[env_id][0] :].any()
    with pytest.raises(ValueError, match=r"goal must be a place, finite numbers of shape \(2,\)"):
        env.goal_observation(np.array([4.0]))
    env.close()


@every_body
def test_metadata_says_how_a_body_is_shown(env_id: str) -> None:
    env = CLASSES[env_id]()
    goal_range, fps, camera = {QUADRUPED: (15.0, 25, "y"), HUMANOID: (10.0, 20, "back")}[env_id]
    shown: dict[str, Any] = {"unit": "m", "goal_range": goal_range, "camera": camera, "render_fps": fps}
    assert env.metadata.items() >= shown.items()
    assert env.model.camera(camera).id >= 0
    env.close()


def test_pickled_body_keeps_its_options() -> None:
    env = QuadrupedEnv(normalize=False, terminate_on_back=True, action_repeat=3)
    twin = pickle.loads(pickle.dumps(env))
    assert (twin.frame_skip, twin.terminate_on_back) == (12, True)
    np.testing.assert_array_equal(env.reset(seed=4)[0], twin.reset(seed=4)[0])
    env.close()
    twin.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_repeat": 0}, "action_repeat must be an integer of at least 1, got 0"),
        ({"action_repeat": True}, "action_repeat must be an integer of at least 1, got True"),
        ({"normalize": "no"}, "normalize must be True or False, got 'no'"),
        ({"terminate_on_back": 1}, "terminate_on_back must be True or False, got 1"),
        ({"frame_skip": 3}, "frame_skip must be left out, the environment sets it, got 3"),
        ({"camera_name": "above"}, r"camera_name must be one of \['back', 'side', 'egocentric'\], got 'above'"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HumanoidEnv(**options)
