"""What environments cannot do is refused at once, in a sentence with the argument, what came and what is expected."""

import ctypes.util
from collections.abc import Callable
from importlib.util import find_spec as is_installed
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator
from stable_baselines3.common.monitor import Monitor

from sb3_metra.common.workers import WorkerError
from sb3_metra.envs import MAX_EPISODE_STEPS, find_spec
from sb3_metra.envs.vec import make_pixel_vec_env, measure_throughput

NAN, INF = float("nan"), float("inf")
SIZES = [0, -1, 2.0, True, "64", None, NAN, INF]
POSITIVE = [0.0, -1.0, NAN, INF, "1", True, [1.0]]
NUMBERS = [NAN, -INF, "1", True, [1.0]]
FLAGS = ["no", "false", 0, 1, 2.0, None]
MODES = ["RGB_array", "ansi", True, 1]
PICTURE: dict[str, list[Any]] = {"render_mode": MODES, "width": SIZES, "height": SIZES}
POINT = {**PICTURE, "step_size": POSITIVE, "reset_noise_scale": [-1.0, *NUMBERS], "arena": [0.05, *POSITIVE]}
FRAMES = {"frame_size": [45, *SIZES], "frame_stack": SIZES}
PIXELS = {**PICTURE, **FRAMES, "quality": ["best", "", None, True, 1]}
SUITE = {
    **PIXELS,
    "action_repeat": SIZES,
    "color_floor": FLAGS,
    "upright": FLAGS,
    "terminate_on_back": FLAGS,
    "floor_size": POSITIVE,
    "task_kwargs": [[], "x", 1],
}
LOADED = {"camera": ["top", 99, -2, 1.0, True, None, NAN], "body": ["leg", 1, True, ["torso"]]}
RANGES = [[1.0, 0.0], 1.0, (0.0,), (0.0, NAN), ("0", "1"), "01", None]
BODY = {
    **PICTURE,
    "normalize": FLAGS,
    "frame_skip": SIZES,
    "max_geom": SIZES,
    "reset_noise_scale": [-0.1, *NUMBERS],
    "forward_reward_weight": NUMBERS,
    "ctrl_cost_weight": NUMBERS,
    "xml_file": [3, True],
    "exclude_current_positions_from_observation": [True, False],
}
LOADED_BODY = {"camera_id": ["track", 7, -1, True, 1.5], "camera_name": ["top", 0, True]}
ANT = {
    **BODY,
    "contact_cost_weight": NUMBERS,
    "healthy_reward": NUMBERS,
    "healthy_z_range": RANGES,
    "contact_force_range": RANGES,
    "terminate_on_back": FLAGS,
    "terminate_when_unhealthy": [True],
    "include_cfrc_ext_in_observation": [True],
}
SUITE_BODY = {
    **PICTURE,
    "normalize": FLAGS,
    "terminate_on_back": FLAGS,
    "action_repeat": SIZES,
    "max_geom": SIZES,
}
TABLE: dict[str, dict[str, list[Any]]] = {
    "sb3_metra/PointMass-v0": POINT,
    "sb3_metra/PixelPointMass-v0": {**POINT, **FRAMES, "view": POSITIVE, "floor_size": POSITIVE},
    "sb3_metra/Ant-v0": {**ANT, **LOADED_BODY, "main_body": ["head", 99, True]},
    "sb3_metra/HalfCheetah-v0": {**BODY, **LOADED_BODY},
    "sb3_metra/Quadruped-v0": {**SUITE_BODY, **LOADED_BODY},
    "sb3_metra/Humanoid-v0": {**SUITE_BODY, **LOADED_BODY},
    "sb3_metra/QuadrupedPixels-v0": {
        **SUITE,
        "domain": ["quadrupet", 1, None, ["quadruped"]],
        "task": ["fly", 1, None],
    },
    "sb3_metra/CheetahPixels-v0": {"action_repeat": SUITE["action_repeat"]},
    "sb3_metra/HumanoidPixels-v0": LOADED,
    "sb3_metra/KitchenPixels-v0": PIXELS,
    "sb3_metra/FourRooms-v0": {**PICTURE, "layout": [-1, 0.5, "0", None], "start": ["north", 1, None, ["north west"]]},
}
NEEDS = {"Four": "minigrid", "Point": "numpy", "Ant": "mujoco", "Half": "mujoco", "Kitch": "gymnasium_robotics"}


def needs(env_id: str) -> None:
    """Skip where a simulator, or a way to draw, is missing."""
    package = next((needed for name, needed in NEEDS.items() if name in env_id), "dm_control")
    if is_installed(package) is None:
        pytest.skip(f"{package} is missing")
    if "Humanoid" in env_id and not (ctypes.util.find_library("EGL") or ctypes.util.find_library("OSMesa")):
        pytest.skip("drawing needs the libraries of EGL or OSMesa")


def assert_refused(function: Callable[..., Any], argument: str, value: Any, **others: Any) -> None:
    """One sentence, which names the argument, what came and what is expected."""
    with pytest.raises(ValueError, match=argument) as refusal:
        function(**{**others, argument: value})
    sentence = str(refusal.value)
    assert sentence.count("\n") == 0
    assert repr(value) in sentence
    assert "must " in sentence


def test_every_environment_is_in_the_table() -> None:
    assert TABLE.keys() == MAX_EPISODE_STEPS.keys()


@pytest.mark.parametrize(("env_id", "argument"), [(env_id, name) for env_id, row in TABLE.items() for name in row])
def test_arguments_of_environments(env_id: str, argument: str) -> None:
    needs(env_id)
    spec = gym.spec(env_id)
    make = load_env_creator(str(spec.entry_point))  # gym.make itself fails at render modes that are no strings
    for value in TABLE[env_id][argument]:
        assert_refused(make, argument, value, **spec.kwargs)


@pytest.mark.parametrize("env_id", TABLE)
def test_names_that_no_argument_has(env_id: str) -> None:
    needs(env_id)
    with pytest.raises(TypeError, match="unexpected keyword argument 'frame_sise'"):
        gym.make(env_id, frame_sise=64)


@pytest.mark.parametrize("env_id", ["sb3_metra/PointMass-v0", "sb3_metra/PixelPointMass-v0", "sb3_metra/Ant-v0"])
def test_actions(env_id: str) -> None:
    needs(env_id)
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    size = env.action_space.shape[0]
    for action, message in (
        (np.zeros(size + 1), rf"action must have shape \({size},\), got \({size + 1},\)"),
        (0.0, rf"action must have shape \({size},\), got \(\)"),
        (np.full(size, NAN), r"action must be finite numbers, got array\(\[nan"),
        (np.array([INF, *[0.0] * (size - 1)]), r"action must be finite numbers, got array\(\[inf"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step(action)
    env.step(np.zeros(size))
    env.close()


@pytest.mark.parametrize("steps", [0, -200, 2.5, True, "200", NAN])
def test_lengths_of_pixel_environments(steps: Any) -> None:
    needs("sb3_metra/QuadrupedPixels-v0")
    from sb3_metra.envs.dmc import make_pixel_env

    assert_refused(make_pixel_env, "max_episode_steps", steps, domain="walker", task="walk")


def broken() -> gym.Env:
    raise RuntimeError("no license\nfor this simulator")


VEC = {
    "n_envs": SIZES,
    "seed": [-1, 1.0, "0", True, NAN],
    "env_kwargs": [[], "x", 1],
    "start_method": ["fork", "thread", 1],
    "step_timeout": [0, -1.0, NAN, "30", True],
    "env_id": [3, None, b"sb3_metra/PointMass-v0"],
}


@pytest.mark.parametrize("argument", VEC)
def test_arguments_of_vectorised_environments(argument: str) -> None:
    for value in VEC[argument]:
        assert_refused(make_pixel_vec_env, argument, value, env_id="sb3_metra/PixelPointMass-v0")


def test_names_that_nobody_registered() -> None:
    with pytest.raises(gym.error.NameNotFound, match="Nothing"):
        make_pixel_vec_env("sb3_metra/Nothing-v0")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        make_pixel_vec_env("no_such_module:Nothing-v0")
    assert_refused(find_spec, "env_id", 3)


def test_throughput() -> None:
    for n_workers in (2, None, 2.0):
        assert_refused(measure_throughput, "n_workers", n_workers, env_id="sb3_metra/PixelPointMass-v0")


def test_an_environment_that_fails_while_a_worker_makes_it() -> None:
    message = (
        r"^Worker 0 of 2 \(the first is 0\) raised RuntimeError while its environment was made: no license for this sim"
    )
    with pytest.raises(WorkerError, match=message):
        make_pixel_vec_env(broken, n_envs=2)


def test_numbers_of_numpy_are_numbers() -> None:
    env = gym.make(
        "sb3_metra/PixelPointMass-v0",
        frame_size=np.int64(46),
        view=np.float32(6.4),
        arena=3,
        width=np.int32(64),
    )
    assert Monitor(env).reset(seed=0)[0].shape == (3, 46, 46)
