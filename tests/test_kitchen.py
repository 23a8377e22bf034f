"""The Kitchen: its six tasks, its pictures, and the repair that lets Gymnasium-Robotics run on newer MuJoCo."""

import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import sb3_metra.envs
from tests.programs import run_python
from tests.toys import skip_without_drawing

KITCHEN = "sb3_metra/KitchenPixels-v0"
NONE_DONE = dict.fromkeys(
    ("bottom burner", "light switch", "slide cabinet", "hinge cabinet", "microwave", "kettle"), False
)
# Joints of the model at a task's goal, by name; the kettle's is its place.
GOALS = {
    "bottom burner": {"knob_Joint_2": -0.88, "bottom_left_burner": -0.01},
    "light switch": {"light_switch": -0.69, "light_joint": -0.05},
    "slide cabinet": {"slide_cabinet": 0.37},
    "hinge cabinet": {"right_hinge_cabinet": 1.45},
    "microwave": {"microwave": -0.75},
    "kettle": {"kettle": [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]},
}
every_task = pytest.mark.parametrize("task", GOALS)


@pytest.fixture(scope="session")
def kitchen() -> Any:
    """The module of the Kitchen, or a skipped test where it, or a way to draw, is missing."""
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium_robotics")
    from sb3_metra.envs import kitchen

    skip_without_drawing()
    return kitchen


@pytest.fixture(scope="session")
def make(kitchen: Any) -> Iterator[Callable[..., Any]]:
    """Makes environments that are closed after all tests."""
    made = []

    def make(**kwargs: Any) -> Any:
        made.append(kitchen.KitchenPixelEnv(**kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(scope="session")
def env(make: Callable[..., Any]) -> Any:
    """One kitchen for most tests, because its textures take a second to load; an episode leaves nothing behind."""
    return make()


@pytest.fixture(scope="session")
def full(make: Callable[..., Any]) -> Any:
    """A kitchen that is drawn with everything, which takes a second, too."""
    return make(quality="full")


@pytest.fixture(scope="session")
def small(make: Callable[..., Any]) -> Any:
    """A kitchen with other options."""
    return make(frame_stack=2, frame_size=48, render_mode="rgb_array", width=80, height=60)


@pytest.fixture(scope="session")
def registered(kitchen: Any) -> Iterator[gym.Env]:
    """Another kitchen as it is by default, made by its name."""
    env = gym.make(KITCHEN)
    yield env
    env.close()


@pytest.fixture
def unseen(env: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The kitchen in the dark: what moves is as it was, and nothing is drawn."""
    monkeypatch.setattr(env, "_draw", lambda: np.zeros((64, 64, 3), np.uint8))
    return env


def put(env: Any, joints: dict[str, Any]) -> None:
    """Put things of the kitchen where they are wanted."""
    for name, value in joints.items():
        env.data.joint(name).qpos[:] = value


def newest(observation: np.ndarray) -> np.ndarray:
    """The newest frame of a stack, rows first, as integers that can be subtracted."""
    return observation[-3:].transpose(1, 2, 0).astype(int)


@every_task
def test_task_is_achieved_when_its_thing_is_at_its_goal(unseen: Any, task: str) -> None:
    env = unseen
    _, info = env.reset(seed=0)
    assert info["tasks"] == NONE_DONE
    still = np.zeros(9, dtype=np.float32)
    assert env.step(still)[4]["tasks"] == NONE_DONE
    before = {name: env.data.joint(name).qpos.copy() for name in GOALS[task]}
    put(env, GOALS[task])
    _, reward, _, _, info = env.step(still)
    assert (info["tasks"], reward) == ({**NONE_DONE, task: True}, 1.0)
    put(env, before)
    for _ in range(2):
        _, reward, _, _, later = env.step(still)
        assert (later["tasks"], reward) == ({**NONE_DONE, task: True}, 0.0)  # it was achieved in this episode
    assert env.reset()[1]["tasks"] == NONE_DONE
    assert info["tasks"] == {**NONE_DONE, task: True}  # the caller's own


def test_all_tasks_do_not_terminate(unseen: Any) -> None:
    env = unseen
    env.reset(seed=0)
    for joints in GOALS.values():
        put(env, joints)
    _, reward, terminated, truncated, info = env.step(np.zeros(9, dtype=np.float32))
    assert info == {"tasks": dict.fromkeys(NONE_DONE, True)}  # and no coordinates
    assert (reward, terminated, truncated) == (6.0, False, False)


@every_task
def test_goal_is_the_kitchen_as_an_episode_begins_but_for_the_task(env: Any, task: str) -> None:
    import mujoco

    first, _ = env.reset(seed=0)
    goal = env.goal_observation(task)
    assert env.observation_space.contains(goal)
    put(env, GOALS[task])
    if task == "hinge cabinet":
        put(env, {"left_hinge_cabinet": 0.0})
    mujoco.mj_forward(env.model, env.data)
    np.testing.assert_array_equal(goal, np.tile(env._draw().transpose(2, 0, 1), (3, 1, 1)))
    changed = np.abs(newest(goal) - newest(first)).max(axis=2) > 10
    assert 3 <= changed.sum() < 0.25 * changed.size  # something of it is seen, and the rest stays


def test_a_look_leaves_the_episode_bit_identical(env: Any) -> None:
    import mujoco

    def episode(tasks: tuple[str, ...]) -> list[Any]:
        given: list[Any] = [env.reset(seed=3)[0]]
        kind = mujoco.mjtState.mjSTATE_INTEGRATION  # warm start and time included
        state = np.empty(mujoco.mj_stateSize(env.model, kind))
        for action in np.random.default_rng(0).uniform(-1, 1, (5, 9)).astype(np.float32):
            for task in tasks:
                env.goal_observation(task)
            given.append(env.step(action)[0])
            mujoco.mj_getState(env.model, env.data, state, kind)
            given += [state.copy(), repr(env._kitchen.robot_env.np_random.bit_generator.state)]
        return given

    for expected, given in zip(episode(()), episode(("kettle", "light switch")), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("quality", ["fast", pytest.param("full", marks=pytest.mark.slow)])
def test_lamp_lights_the_hob_only_when_it_is_switched_on(quality: str, request: pytest.FixtureRequest) -> None:
    env = request.getfixturevalue("env" if quality == "fast" else "full")
    off = newest(env.reset(seed=0)[0])[24:34, 28:40]  # the hob below the lamp
    on = newest(env.goal_observation("light switch"))[24:34, 28:40]
    assert off.mean() < 90 < 150 < on.mean()


@pytest.mark.slow
def test_fast_is_the_same_scene_as_full(env: Any, full: Any) -> None:
    frames = [newest(kitchen.reset(seed=0)[0]) for kitchen in (env, full)]
    assert 3.0 < np.abs(frames[0] - frames[1]).mean() < 20.0  # shadows and smooth edges


def test_seed_decides_the_frames(env: Any, registered: gym.Env) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 9)).astype(np.float32)

    def roll(env: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        observations = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
        return np.array(observations), env.data.qpos.copy()

    expected, place = roll(env, 5)
    for again, other_place in (roll(env, 5), roll(registered.unwrapped, 5)):
        np.testing.assert_array_equal(again, expected)
        np.testing.assert_array_equal(other_place, place)
    # The arm steers by its noisy reading of its joints, so that another seed moves it otherwise.
    assert not np.array_equal(roll(env, 6)[1], place)


def test_checkers_of_gymnasium_and_sb3_pass(env: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render_modes.*|.*spec.*")
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env)


def test_stack_repeats_the_first_frame_and_shifts(small: Any) -> None:
    assert (small.frame_stack, small.observation_space.shape) == (2, (6, 48, 48))
    action = np.ones(9, dtype=np.float32)
    observations = [small.reset(seed=0)[0], *(small.step(action)[0] for _ in range(4))]
    frames = [observation[3:] for observation in observations]
    for t, observation in enumerate(observations):
        np.testing.assert_array_equal(observation, np.concatenate([frames[max(t - 1, 0)], frames[t]]))
    assert not np.array_equal(frames[0], frames[-1])


def test_pickled_kitchen_keeps_its_options(small: Any) -> None:
    twin = pickle.loads(pickle.dumps(small))
    np.testing.assert_array_equal(twin.reset(seed=0)[0], small.reset(seed=0)[0])
    assert twin.render().shape == (60, 80, 3)
    assert twin.metadata["render_fps"] == 12  # 40 steps of 0.002 s
    twin.close()


def test_actions_are_wanted_velocities_of_nine_joints(unseen: Any) -> None:
    env = unseen
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (9,), np.float32)
    places = []
    for wanted in (-1.0, 1.0, 7.0):
        env.reset(seed=0)
        action = np.zeros(9, dtype=np.float32)
        action[0] = wanted
        for _ in range(5):
            env.step(action)
        places.append(env.data.joint("robot:panda0_joint1").qpos[0])
    assert places[0] < 0.0 < 0.3 < places[1]  # it starts at 0.148
    assert places[1] == places[2]  # clipped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_size": 45}, "frame_size must be an integer of at least 46, got 45"),
        ({"frame_stack": 0}, "frame_stack must be an integer of at least 1, got 0"),
        ({"quality": "best"}, 'quality must be "fast" or "full", got \'best\''),
        ({"render_mode": "human"}, "render_mode must be None or \"rgb_array\", got 'human'"),
        ({"height": 0}, "height must be an integer of at least 1, got 0"),
    ],
)
def test_kitchen_refuses_bad_options(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_kitchen_refuses_what_is_no_action_and_no_task(env: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must have shape \(9,\), got \(7,\)"):
        env.step(np.zeros(7))
    for goal in ("top burner", 3, [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"goal must name a task, one of \['bottom burner', .*'kettle'\], got "):
            env.goal_observation(goal)


def test_episodes_of_the_registered_environment_have_50_steps(
    registered: gym.Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = registered
    assert isinstance(env, TimeLimit)
    assert sb3_metra.envs.MAX_EPISODE_STEPS[KITCHEN] == 50
    frame = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(env.unwrapped, "_draw", lambda: frame)  # only the clock is tested
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]


# The repair


def test_gymnasium_robotics_is_repaired_only_where_it_fails(
    kitchen: Any, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium_robotics.envs.franka_kitchen import franka_env
    from gymnasium_robotics.utils import mujoco_utils

    env.reset(seed=0)
    names = env._kitchen.robot_env.model_names.joint_names
    try:
        expected = mujoco_utils.robot_get_obs(env.model, env.data, names)
        fails = False
    except AssertionError:
        expected, fails = (env.data.qpos[:9], env.data.qvel[:9]), True
    for given, wanted in zip(kitchen.robot_joints(env.model, env.data, names), expected, strict=True):
        np.testing.assert_array_equal(given, wanted)

    monkeypatch.setattr(franka_env, "robot_get_obs", mujoco_utils.robot_get_obs)
    assert kitchen.repair_robot_joints() is fails
    assert (franka_env.robot_get_obs is kitchen.robot_joints) is fails
    # Where a joint's type equals its name, as before MuJoCo 3.12, nothing is touched.
    monkeypatch.setattr(franka_env, "robot_get_obs", mujoco_utils.robot_get_obs)
    monkeypatch.setattr(kitchen.mujoco.mjtJoint, "mjJNT_HINGE", np.int32(3))
    assert kitchen.repair_robot_joints() is False
    assert franka_env.robot_get_obs is mujoco_utils.robot_get_obs


@pytest.mark.slow
def test_a_program_that_closes_nothing_ends_quietly(kitchen: Any) -> None:
    """dm_control, loaded after the Kitchen drew, ends EGL at the program's end: renderers must be closed before."""
    pytest.importorskip("dm_control")
    program = """
import gymnasium, sb3_metra.envs
for name in ("KitchenPixels-v0", "QuadrupedPixels-v0"):
    env = gymnasium.make(f"sb3_metra/{name}")
    env.reset(seed=0)
"""
    done = run_python("-c", program)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr, done.stderr
