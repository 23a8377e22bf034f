"""The pixel environments: frames, stacks, floors that tell the place, renderers that leave each other alone."""

import ctypes.util
import functools
import gc
import importlib.util
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import sb3_metra.envs
from sb3_metra.envs import rendering, vec
from sb3_metra.envs.frames import FrameStack
from sb3_metra.envs.pixel_point import PixelPointMassEnv
from sb3_metra.envs.vec import count_gpus, make_pixel_vec_env, measure_throughput
from tests.programs import run_python
from tests.toys import skip_without_drawing

POINT = "sb3_metra/PixelPointMass-v0"
QUADRUPED, HUMANOID = "sb3_metra/QuadrupedPixels-v0", "sb3_metra/HumanoidPixels-v0"
LENGTHS = {POINT: 100, QUADRUPED: 200, HUMANOID: 200}
SHAPES = {POINT: ((3, 46, 46), (2,)), QUADRUPED: ((9, 64, 64), (12,)), HUMANOID: ((9, 64, 64), (21,))}


@pytest.fixture(scope="session")
def dmc() -> Any:
    """The module of the suite's environments, or a skipped test where it, or a way to draw, is missing."""
    pytest.importorskip("dm_control", reason="dm_control is installed on Python 3.10 to 3.12 only")
    pytest.importorskip("shimmy", reason="Shimmy is installed on Python 3.10 to 3.12 only")
    from sb3_metra.envs import dmc

    skip_without_drawing()
    return dmc


# the humanoid's class is the quadruped's
every_env = pytest.mark.parametrize("env_id", [POINT, QUADRUPED, pytest.param(HUMANOID, marks=pytest.mark.slow)])


@pytest.fixture(scope="session")
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., gym.Env]]:
    """Makes environments that are closed after all tests."""
    made = []

    def make(env_id: str, **kwargs: Any) -> gym.Env:
        if env_id != POINT:
            request.getfixturevalue("dmc")
        made.append(gym.make(env_id, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(scope="session")
def lend(make: Callable[..., gym.Env]) -> Callable[[str], gym.Env]:
    """Lends the one environment of a name, for a renderer takes half a second: a test leaves it as it was."""
    return functools.cache(make)


def roll(env: gym.Env, seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations and coordinates, the first included, under random actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (n, *env.action_space.shape)).astype(np.float32)
    observation, info = env.reset(seed=seed)
    observations, coordinates = [observation], [info["coordinates"]]
    for action in actions:
        observation, _, _, _, info = env.step(action)
        observations.append(observation)
        coordinates.append(info["coordinates"])
    return np.array(observations), np.array(coordinates)


# Every environment


def test_pixel_environments_are_registered_with_their_time_limits() -> None:
    assert {name: sb3_metra.envs.MAX_EPISODE_STEPS[name] for name in LENGTHS} == LENGTHS
    for env_id, length in LENGTHS.items():
        assert gym.spec(env_id).max_episode_steps == length


def test_cheetah_is_small_and_sees_where_it_is(make: Callable[..., gym.Env]) -> None:
    """Two frames of 46x46; ten metres forwards the floor is redder."""
    env = make("sb3_metra/CheetahPixels-v0")
    observation, info = env.reset(seed=0)
    assert (observation.shape, env.action_space.shape, info["coordinates"].shape) == ((6, 46, 46), (6,), (2,))
    here, there = (env.unwrapped.goal_observation([x, 0.0])[0].mean() for x in (0.0, 10.0))
    assert there > here + 10
    assert env.spec is not None
    assert env.spec.max_episode_steps == 200


@every_env
def test_checkers_of_gymnasium_and_sb3_pass(env_id: str, lend: Callable[[str], gym.Env]) -> None:
    env = lend(env_id).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render_modes.*|.*spec.*")
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env)


@every_env
def test_spaces_and_coordinates(env_id: str, lend: Callable[[str], gym.Env]) -> None:
    env = lend(env_id)
    observation_shape, action_shape = SHAPES[env_id]
    assert env.observation_space == gym.spaces.Box(0, 255, observation_shape, np.uint8)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, action_shape, np.float32)
    observation, info = env.reset(seed=0)
    first, coordinates = observation.copy(), info["coordinates"].copy()
    assert (coordinates.shape, coordinates.dtype) == ((2,), np.float64)
    for _ in range(4):
        later, _, _, _, later_info = env.step(env.action_space.sample())
    np.testing.assert_array_equal(observation, first)  # the caller's own, not the environment's memory
    np.testing.assert_array_equal(info["coordinates"], coordinates)
    assert not np.array_equal(later, first)
    assert not np.array_equal(later_info["coordinates"], coordinates)


@every_env
def test_seed_decides_the_frames(env_id: str, lend: Callable[[str], gym.Env], make: Callable[..., gym.Env]) -> None:
    env, other = lend(env_id), make(env_id)
    expected = roll(env, 5, 8)
    for again in (roll(env, 5, 8), roll(other, 5, 8)):
        np.testing.assert_array_equal(again[0], expected[0])
        np.testing.assert_array_equal(again[1], expected[1])
    if env_id != POINT:  # whose first places differ by less than a shade may
        assert not np.array_equal(roll(other, 6, 0)[0], expected[0][:1])


@every_env
def test_time_limit_truncates_and_does_not_terminate(
    env_id: str, lend: Callable[[str], gym.Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = lend(env_id)
    if env_id != POINT:  # only the clock is tested
        monkeypatch.setattr(env.unwrapped, "_draw", lambda: np.zeros((64, 64, 3), np.uint8))
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(LENGTHS[env_id])]
    assert ends == [(False, False)] * (LENGTHS[env_id] - 1) + [(False, True)]


@every_env
def test_stack_repeats_the_first_frame_and_shifts(
    env_id: str, lend: Callable[[str], gym.Env], make: Callable[..., gym.Env]
) -> None:
    env = make(env_id, frame_stack=3) if env_id == POINT else lend(env_id)  # 3 is the suite's default
    observations, _ = roll(env, 0, 5)
    frames = observations[:, 6:]  # the newest of every stack
    for t, observation in enumerate(observations):
        expected = np.concatenate([frames[max(t - back, 0)] for back in (2, 1, 0)])
        np.testing.assert_array_equal(observation, expected)
    assert not np.array_equal(frames[0], frames[-1])
    again, _ = env.reset(seed=0)  # nothing is left of the episode before
    np.testing.assert_array_equal(again, observations[0])


@every_env
def test_stack_and_size_are_options(env_id: str, make: Callable[..., gym.Env]) -> None:
    env = make(env_id, frame_size=48, frame_stack=2)
    assert env.reset(seed=0)[0].shape == env.observation_space.shape == (6, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_size": 45}, "frame_size must be an integer of at least 46, got 45"),
        ({"frame_size": 64.0}, "frame_size must be an integer of at least 46, got 64.0"),
        ({"frame_stack": 0}, "frame_stack must be an integer of at least 1, got 0"),
        ({"frame_stack": True}, "frame_stack must be an integer of at least 1, got True"),
        ({"view": 0.0}, "view must be a finite number above 0, got 0.0"),
        ({"floor_size": np.inf}, "floor_size must be a finite number above 0, got inf"),
        ({"step_size": -1.0}, "step_size must be a finite number above 0, got -1.0"),
    ],
)
def test_point_mass_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelPointMassEnv(**options)


def test_frame_stack_by_hand() -> None:
    def frame(value: int) -> np.ndarray:
        return np.full((46, 46, 3), [value, value + 1, value + 2], dtype=np.uint8)

    stack = FrameStack(2, 46)
    assert stack.space.shape == (6, 46, 46)
    assert stack.reset(frame(10))[:, 0, 0].tolist() == [10, 11, 12, 10, 11, 12]
    assert stack.push(frame(20))[:, 7, 3].tolist() == [10, 11, 12, 20, 21, 22]
    assert stack.push(frame(30))[:, 45, 45].tolist() == [20, 21, 22, 30, 31, 32]


# Point mass


def test_point_mass_colours_by_hand() -> None:
    env = PixelPointMassEnv(frame_size=64, reset_noise_scale=0.0, step_size=1.0)
    frame = env.reset(seed=0)[0]
    # The point is white and of radius 0.05 * 64 = 3.2 pixels: columns 29 to 34 of the middle rows.
    np.testing.assert_array_equal(np.flatnonzero((frame == 255).all(axis=0)[31]), np.arange(29, 35))
    # A pixel is 0.1 wide; column 63 lies 3.15 to the right: 127.5 * (1 + 3.15 / 12.8) = 158.9; row 0 as far up.
    assert frame[:, 0, 63].tolist() == [159, 159, 128]
    assert frame[:, 63, 0].tolist() == [96, 96, 128]
    assert frame[:, 0, 0].tolist() == [96, 159, 128]
    for _ in range(4):
        frame = env.step(np.array([1.0, -0.5], dtype=np.float32))[0]
    # At (4, -2): 127.5 * (1 + 7.15 / 12.8) = 198.7 and 127.5 * (1 + 1.15 / 12.8) = 139.0.
    assert frame[:, 0, 63].tolist() == [199, 139, 128]
    for _ in range(20):
        frame = env.step(np.array([1.0, -1.0], dtype=np.float32))[0]
    assert frame[:, 0, 63].tolist() == [255, 0, 128]  # beyond the floor's edge


def test_point_mass_tells_every_place_apart() -> None:
    env = PixelPointMassEnv()
    env.reset(seed=0)
    seen = set()
    for x in np.arange(-9.5, 10.0):
        for y in np.arange(-9.5, 10.0):
            env._position = np.array([x, y])
            seen.add(env._draw().tobytes())
    assert len(seen) == 400


# The suite's tasks


def from_above(env: Any, x: float, y: float) -> np.ndarray:
    """Mean colour of a small piece of the floor, seen from straight above."""
    import mujoco

    camera = mujoco.MjvCamera()
    camera.lookat[:] = x, y, 0.0
    camera.distance, camera.azimuth, camera.elevation = 2.0, 90.0, -90.0
    picture = env._renderer(64, 64).render(env.data, camera)
    return picture[28:36, 28:36].astype(float).mean(axis=(0, 1))


@pytest.fixture(scope="session")
def quadruped(dmc: Any) -> Iterator[Any]:
    """A quadruped as it is by default, for tests that leave it as it was."""
    env = dmc.DMCPixelEnv("quadruped", "run")
    yield env
    env.close()


@pytest.fixture(scope="session")
def plain(dmc: Any) -> Iterator[Any]:
    """A quadruped on the suite's own floor, seen from the side, for tests that leave it as it was."""
    env = dmc.DMCPixelEnv("quadruped", "run", camera=2, color_floor=False)
    yield env
    env.close()


@pytest.mark.parametrize("domain", ["quadruped", "humanoid"])
@pytest.mark.parametrize("size", [100.0, 15.0])
def test_floor_tells_the_place(
    dmc: Any, quadruped: Any, lend: Callable[[str], gym.Env], domain: str, size: float
) -> None:
    if size == 15.0:
        env = lend({"quadruped": QUADRUPED, "humanoid": HUMANOID}[domain]).unwrapped
    else:
        env = quadruped if domain == "quadruped" else dmc.DMCPixelEnv(domain, "run")
    env.reset(seed=0)
    floor = dmc.find_floor(env.model)
    assert tuple(env.model.geom_size[floor, :2]) == (size, size)
    for x, y in ((0.3, 0.1), (-0.3, 0.1), (0.3, -0.6), (-0.75, 0.75)):
        # Light dims all three colours alike, so that their ratios are the texture's: 0 to 255 over the floor, blue 128.
        expected = 127.5 * (1 + np.array([x, y])) / 128
        red, green, blue = from_above(env, x * size, y * size)
        np.testing.assert_allclose([red / blue, green / blue], expected, atol=0.04)


def test_the_papers_environments_begin_as_the_authors_do(dmc: Any, lend: Callable[[str], gym.Env]) -> None:
    for env_id in (QUADRUPED, HUMANOID):
        env = lend(env_id).unwrapped
        assert env.model.geom_size[dmc.find_floor(env.model), :2].tolist() == [15.0, 15.0]
        upright = []
        for seed in range(8):
            _, info = env.reset(seed=seed)
            upright.append(env.data.body("torso").xmat[8])  # the cosine between the torso's up and the world's
            np.testing.assert_allclose(info["coordinates"], 0.0, atol=0.05)
        # the quadruped always on its feet, the humanoid any way up
        assert (min(upright) > 0.95) == (env_id == QUADRUPED)


def test_upright_episodes_begin_nearly_the_same(
    lend: Callable[[str], gym.Env], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = lend(QUADRUPED).unwrapped  # which is made upright
    monkeypatch.setattr(env, "_draw", lambda: np.zeros((64, 64, 3), np.uint8))
    quaternions = []
    for seed in range(40):
        env.reset(seed=seed)
        assert env.data.time == 0.0
        assert env.data.ncon == 0
        lowest = min(env.data.geom(f"toe_{x}").xpos[2] - 0.08 for x in ("front_left", "front_right", "back_left"))
        assert 0.0 < lowest < 0.15  # a toe is a sphere of radius 0.08, and no foot is far from the floor
        assert env.data.qpos[:2].tolist() == [0.0, 0.0]
        np.testing.assert_array_equal(env.data.qpos[7:], env.model.qpos0[7:])
        np.testing.assert_array_equal(env.data.qvel, 0.0)
        quaternions.append(env.data.qpos[3:7].copy())
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1.0)
    assert 0.015 < np.std(np.array(quaternions)[:, 1:]) < 0.025  # 120 numbers of standard deviation 0.02
    env.reset(seed=3)
    np.testing.assert_array_equal(env.data.qpos[3:7], quaternions[3])


def test_a_body_that_always_touches_something_cannot_begin_upright(lend: Callable[[str], gym.Env]) -> None:
    env = lend(QUADRUPED).unwrapped
    margins = env.model.geom_margin.copy()
    env.model.geom_margin[:] = 10.0  # what is nearer than 10 m counts as touching; the suite's own start fails, too
    with pytest.raises(ValueError, match=r"upright=True needs a body that touches nothing .* up to a height of 5 m"):
        env._stand_up(env._float)
    env.model.geom_margin[:] = margins


@pytest.mark.parametrize("terminate_on_back", [False, True])
def test_a_body_on_its_back_ends_an_episode_only_where_asked(
    lend: Callable[[str], gym.Env], make: Callable[..., gym.Env], terminate_on_back: bool
) -> None:
    env = (make(QUADRUPED, terminate_on_back=True) if terminate_on_back else lend(QUADRUPED)).unwrapped
    env.reset(seed=0)
    assert not env.is_on_back
    assert env.step(np.zeros(12))[2:4] == (False, False)
    env.data.qpos[2:7] = 0.5, 0.0, 1.0, 0.1, 0.0  # half a turn about x, nearly
    assert env.step(np.zeros(12))[2:4] == (terminate_on_back, False)
    assert env.is_on_back
    env.reset(seed=1)
    env.data.qpos[2:7] = 1.5, 0.8, 0.6, 0.0, 0.0  # some 74 degrees: on its side
    env.step(np.zeros(12))
    assert not env.is_on_back


def test_a_body_walks_on_beyond_the_drawn_floor(lend: Callable[[str], gym.Env]) -> None:
    env = lend(QUADRUPED).unwrapped  # whose floor ends 15 m from its middle
    env.reset(seed=0)
    env.data.qpos[:2] = 20.0, 20.0
    for _ in range(50):
        _, _, _, _, info = env.step(np.zeros(12))
    assert env.data.body("torso").xpos[2] > 0.3
    np.testing.assert_allclose(info["coordinates"], 20.0, atol=0.5)


def test_a_floor_of_ones_own_size_lies_about_the_origin(dmc: Any) -> None:
    env = dmc.DMCPixelEnv("cheetah", "run", floor_size=10.0)  # whose own floor is a strip from -2 m to 198 m
    env.reset(seed=0)
    for x, y in ((-8.0, 3.0), (-4.0, -3.0), (5.0, 3.0)):
        red, green, blue = from_above(env, x, y)
        np.testing.assert_allclose([red / blue, green / blue], 127.5 * (1 + np.array([x, y]) / 10) / 128, atol=0.04)
    env.close()


def test_floor_colours_by_hand(quadruped: Any) -> None:
    model = quadruped.model
    texture = model.texture("grid")
    pixels = texture.data.reshape(300, 300, 3)
    # MuJoCo lays the last row at the near end of y.
    assert pixels[299, 0].tolist() == [0, 0, 128]
    assert pixels[0, 0].tolist() == [0, 255, 128]
    assert pixels[299, 299].tolist() == [255, 0, 128]
    assert pixels[149, 100].tolist() == [85, 128, 128]  # 255 * 100 / 299 = 85.3, 255 * 150 / 299 = 127.9
    assert (np.diff(pixels[..., 0].astype(int), axis=1) >= 0).all()
    assert (np.diff(pixels[..., 1].astype(int), axis=0) <= 0).all()
    assert model.mat("grid").texrepeat.tolist() == [1.0, 1.0]


def test_plain_floor_is_left_as_it_is(dmc: Any, plain: Any, lend: Callable[[str], gym.Env]) -> None:
    from dm_control import suite

    original = suite.load("quadruped", "run")
    for name in ("tex_data", "mat_texrepeat", "mat_texuniform", "geom_matid"):
        np.testing.assert_array_equal(getattr(plain.model, name), getattr(original.physics.model.ptr, name))
    colored = lend(QUADRUPED).unwrapped
    assert not np.array_equal(from_above(plain, 2.0, 3.0), from_above(colored, 2.0, 3.0))


def test_task_without_a_floor_is_refused(dmc: Any) -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    with pytest.raises(ValueError, match=r"color_floor=True needs a task with a floor.*pass color_floor=False"):
        dmc.color_floor(model)


def test_coordinates_are_the_bodys_place(dmc: Any, quadruped: Any) -> None:
    toe = dmc.DMCPixelEnv("quadruped", "run", body="toe_front_left")
    for env, body in ((quadruped, "torso"), (toe, "toe_front_left")):
        _, info = env.reset(seed=1)
        for _ in range(3):
            np.testing.assert_array_equal(info["coordinates"], env.data.body(body).xpos[:2])
            _, _, _, _, info = env.step(env.action_space.sample())
    toe.close()


def test_actions_are_scaled_and_repeated(dmc: Any) -> None:
    from dm_control import suite

    env, reference = dmc.DMCPixelEnv("quadruped", "run", action_repeat=3), suite.load("quadruped", "run")
    env.reset(seed=4)
    reference.task._random = np.random.RandomState(4)
    reference.reset()
    action = np.linspace(-1.2, 1.0, 12).astype(np.float32)
    low, high = reference.action_spec().minimum, reference.action_spec().maximum
    assert len({*low, *high}) > 2  # every joint has its own bounds
    clipped = np.clip(action.astype(float), -1, 1)
    reward = env.step(action)[1]
    expected = [reference.step(low + (clipped + 1) / 2 * (high - low)).reward for _ in range(3)]
    np.testing.assert_allclose(env.data.ctrl, np.clip(low + (clipped + 1) / 2 * (high - low), low, high))
    assert env.data.time == pytest.approx(3 * 0.02)
    np.testing.assert_array_equal(env.data.qpos, reference.physics.data.qpos)
    assert reward == pytest.approx(sum(expected))
    with pytest.raises(ValueError, match=r"action must have shape \(12,\), got \(3,\)"):
        env.step(np.zeros(3))
    env.close()


def test_make_pixel_env_limits_episodes(dmc: Any) -> None:
    env = dmc.make_pixel_env("point_mass", "easy", camera="cam0", max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]
    env.close()
    # Without a limit, the suite's own of 1000 steps does not show either.
    env = dmc.make_pixel_env("point_mass", "easy", max_episode_steps=None, action_repeat=600)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[2:4] for _ in range(2)] == [(False, False)] * 2
    env.close()


@pytest.mark.slow
def test_every_task_of_the_suite_can_be_made(dmc: Any) -> None:
    from dm_control import suite

    assert len(suite.ALL_TASKS) == 51  # the documentation says that every one of them has a floor
    for domain, task in suite.ALL_TASKS:
        env = dmc.make_pixel_env(domain, task)
        observation, info = env.reset(seed=0)
        assert observation.std() > 5, (domain, task)
        for _ in range(2):
            observation, _, _, _, info = env.step(env.action_space.sample())
            assert env.observation_space.contains(observation)
            assert np.isfinite(info["coordinates"]).all()
        env.close()


def test_a_body_on_rails_may_end_on_its_back(dmc: Any) -> None:
    """Cheetah's torso turns about one hinge: over it goes."""
    env = dmc.DMCPixelEnv("cheetah", "run", terminate_on_back=True)
    env.reset(seed=0)
    assert env.step(np.zeros(6))[2:4] == (False, False)
    hinge = int(env.model.joint("rooty").qposadr[0])
    with env._physics.reset_context():
        env.data.qpos[hinge] = np.pi
    assert env.step(np.zeros(6))[2:4] == (True, False)
    env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "quadrupede"}, "domain and task must name a task .* got 'quadrupede' and 'run'"),
        ({"frame_size": 32}, "frame_size must be an integer of at least 46, got 32"),
        ({"quality": "best"}, 'quality must be "fast" or "full", got \'best\''),
        ({"camera": 4}, r"camera must be a number from -1 to 3 or one of \['global', 'x', 'y', 'egocentric'\], got 4"),
        ({"camera": "side"}, "camera must be .* got 'side'"),
        ({"action_repeat": 0}, "action_repeat must be an integer of at least 1, got 0"),
        ({"body": "head"}, "body must be one of .* got 'head'"),
        ({"floor_size": 0.0}, "floor_size must be a finite number above 0, .* got 0.0 and color_floor=True"),
        ({"floor_size": "15"}, "floor_size must be a finite number above 0, .* got '15'"),
        ({"floor_size": np.nan}, "floor_size must be a finite number above 0, .* got nan"),
        ({"floor_size": 9.0, "color_floor": False}, "goes with color_floor=True, got 9.0 and color_floor=False"),
        ({"terminate_on_back": True}, "terminate_on_back=True goes with upright=True for a body that floats"),
        ({"domain": "walker", "upright": True}, "upright=True needs a body that floats freely, and 'torso' is held"),
        ({"render_mode": "human"}, "render_mode must be None or \"rgb_array\", got 'human'"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
    ],
)
def test_suite_refuses_bad_options(dmc: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dmc.DMCPixelEnv(**{"domain": "quadruped", "task": "run", **options})


def test_camera_may_be_a_name(dmc: Any, plain: Any) -> None:
    frames = [plain.reset(seed=0)[0]]  # of camera 2
    for camera in ("y", "x"):
        env = dmc.DMCPixelEnv("quadruped", "run", camera=camera, color_floor=False)
        frames.append(env.reset(seed=0)[0])
        env.close()
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_pickled_environment_is_made_anew(plain: Any) -> None:
    copied = pickle.dumps(plain)
    assert len(copied) < 10_000  # its arguments, not its model
    twin = pickle.loads(copied)
    np.testing.assert_array_equal(roll(twin, 0, 2)[0], roll(plain, 0, 2)[0])
    twin.close()


# Renderers


def test_full_quality_is_what_dm_control_draws(dmc: Any, plain: Any) -> None:
    from dm_control import suite

    env = dmc.DMCPixelEnv("quadruped", "run", quality="full", camera=2, color_floor=False)
    reference = suite.load("quadruped", "run")
    frame = env.reset(seed=2)[0][6:].transpose(1, 2, 0)
    reference.task._random = np.random.RandomState(2)
    reference.reset()
    expected = reference.physics.render(64, 64, camera_id=2)
    difference = np.abs(frame.astype(int) - expected)
    assert difference.mean() < 1.0
    other = np.abs(plain.reset(seed=2)[0][6:].transpose(1, 2, 0).astype(int) - expected)
    assert 3.0 < other.mean() < 40.0  # fast leaves out the shadow, yet the scene is the same
    env.close()
    reference.close()


def test_terrain_is_drawn_as_the_episode_shapes_it(dmc: Any) -> None:
    env = dmc.DMCPixelEnv("quadruped", "escape", camera=2)
    env.reset(seed=0)
    env.reset(seed=1)
    frame = env._draw()
    fresh = dmc.DMCPixelEnv("quadruped", "escape", camera=2)
    np.testing.assert_array_equal(fresh.reset(seed=1)[0][6:].transpose(1, 2, 0), frame)
    env._renderer(64, 64).upload_terrain = lambda: None  # type: ignore[method-assign]
    assert not np.array_equal(env.reset(seed=2)[0], fresh.reset(seed=2)[0])  # the terrain of another episode
    env.close()
    fresh.close()


@pytest.mark.parametrize(
    ("way", "current"),
    [
        ("close", "other"),
        ("drop", "own"),
        pytest.param("close", "own", marks=pytest.mark.slow),
        pytest.param("drop", "other", marks=pytest.mark.slow),
    ],
)
def test_a_closed_environment_leaves_the_pictures_of_others_alone(
    dmc: Any, lend: Callable[[str], gym.Env], way: str, current: str
) -> None:
    env, other = dmc.DMCPixelEnv("quadruped", "run", camera=2), lend(HUMANOID).unwrapped
    expected = env.reset(seed=0)[0], other.reset(seed=0)[0]
    third = dmc.DMCPixelEnv("walker", "walk")
    third.reset(seed=0)
    if current == "other":
        env._draw()  # now its context is the current one
    if way == "close":
        third.close()
        third.close()  # twice does no harm
    del third
    gc.collect()
    for _ in range(2):
        for each, picture in ((env, expected[0]), (other, expected[1])):
            np.testing.assert_array_equal(each.reset(seed=0)[0], picture)
    env.close()
    np.testing.assert_array_equal(other.reset(seed=0)[0], expected[1])


def test_render_draws_a_larger_picture_and_no_other_frames(
    lend: Callable[[str], gym.Env], make: Callable[..., gym.Env]
) -> None:
    silent, env = lend(HUMANOID).unwrapped, make(HUMANOID, render_mode="rgb_array", width=120, height=80).unwrapped
    env.reset(seed=0)
    picture = env.render()
    assert (picture.shape, picture.dtype) == ((80, 120, 3), np.uint8)
    assert picture.std() > 5
    np.testing.assert_array_equal(env.reset(seed=0)[0], silent.reset(seed=0)[0])
    with pytest.warns(UserWarning, match="draws nothing"):
        assert silent.render() is None
    shown = {"render_fps": 20, "unit": "m", "goal_range": 10.0, "camera": 0}  # two control steps of 0.025 s
    assert env.metadata.items() >= shown.items()


def test_a_closed_renderer_says_so(quadruped: Any) -> None:
    from sb3_metra.envs.rendering import SceneRenderer, make_camera

    renderer = SceneRenderer(quadruped.model, 64, 64)
    renderer.close()
    with pytest.raises(RuntimeError, match="render cannot be called after close"):
        renderer.render(quadruped.data, make_camera(quadruped.model, 0))
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        SceneRenderer(quadruped.model, 0, 64)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere drawing without a screen is the system's")
def test_gl_is_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[str] = set()

    def load(library: str) -> None:
        if library not in found:
            raise OSError(library)

    monkeypatch.setattr(rendering.ctypes, "CDLL", load)
    for libraries, expected in (({"libEGL.so.1", "libOSMesa.so.8"}, "egl"), ({"libOSMesa.so.8"}, "osmesa")):
        monkeypatch.setenv("MUJOCO_GL", "")
        found = libraries
        assert rendering.choose_gl() == os.environ["MUJOCO_GL"] == expected
    found = set()
    assert rendering.choose_gl() == "osmesa"  # what is set is not questioned
    for value, reason in (("", "neither libEGL nor libOSMesa is found"), ("off", "MUJOCO_GL=off turns it off")):
        monkeypatch.setenv("MUJOCO_GL", value)
        assert rendering.choose_gl() == value
        with pytest.raises(ImportError, match=rf"{reason}.*sudo apt-get install {rendering.GL_PACKAGES}"):
            rendering._make_gl_context(64, 64)


def test_importing_environments_changes_nothing_outside() -> None:
    """Neither the process's variables nor another package, until an environment is made."""
    pytest.importorskip("gymnasium_robotics")
    program = """
import os
before = {**os.environ}
from gymnasium_robotics.envs.franka_kitchen import franka_env
function = franka_env.robot_get_obs
import sb3_metra.envs.dmc, sb3_metra.envs.kitchen, sb3_metra.envs.locomotion
print({name for name, value in os.environ.items() if before.get(name) != value} - {"PYOPENGL_PLATFORM"})  # MuJoCo's
print(franka_env.robot_get_obs is function)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = run_python("-c", program, env=environment)
    assert done.stdout.split() == ["set()", "True"], done.stderr


def installed_renderers() -> list[str]:
    """Environments of both packages that draw with MuJoCo, as far as the packages are installed."""
    needs = {QUADRUPED: "dm_control", "sb3_metra/KitchenPixels-v0": "gymnasium_robotics"}
    found = [env_id for env_id, package in needs.items() if importlib.util.find_spec(package)]
    return found or pytest.skip("needs dm_control or gymnasium_robotics")


TRY_EACH = """
for env_id in {}:
    try:
        gymnasium.make(env_id)
    except ImportError as error:
        print(type(error).__name__, error, sep=": ")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere drawing without a screen is the system's")
def test_missing_gl_is_explained_when_an_environment_is_made() -> None:
    env_ids = installed_renderers()
    program = """
import gymnasium, sb3_metra.envs
from sb3_metra.envs import rendering
rendering._is_installed = lambda library: False
gymnasium.make("sb3_metra/PixelPointMass-v0").reset()
"""
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = run_python("-c", program + TRY_EACH.format(env_ids), env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(env_ids)
    assert all("libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0" in line for line in lines)


@pytest.mark.skipif(bool(ctypes.util.find_library("OSMesa")), reason="the library that must be missing is installed")
def test_a_library_that_is_asked_for_and_missing_is_explained() -> None:
    env_ids = installed_renderers()
    environment = {**os.environ, "MUJOCO_GL": "osmesa"}
    environment.pop("PYOPENGL_PLATFORM", None)
    done = run_python("-c", "import gymnasium, sb3_metra.envs\n" + TRY_EACH.format(env_ids), env=environment)
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(env_ids), done.stderr
    for line in lines:
        assert line.startswith("ImportError: Pixel environments need OpenGL"), line
        assert "MUJOCO_GL=osmesa, whose library is not found" in line


def test_missing_packages_are_explained() -> None:
    program = """
import sys
for package in ("dm_control", "gymnasium_robotics"):
    sys.modules[package] = None  # as if it were not installed
import gymnasium, sb3_metra.envs
"""
    extras = {"QuadrupedPixels": "dmc", "Quadruped": "dmc", "KitchenPixels": "kitchen"}
    env_ids = [f"sb3_metra/{name}-v0" for name in extras]
    done = run_python("-c", program + TRY_EACH.format(env_ids))
    assert done.returncode == 0, done.stderr
    for line, extra in zip(done.stdout.strip().splitlines(), extras.values(), strict=True):
        assert f'pip install "sb3-metra[{extra}]"' in line


# Worker processes


def test_vec_env_gives_what_single_environments_give() -> None:
    vec_env = make_pixel_vec_env(POINT, n_envs=2, seed=3, env_kwargs={"frame_stack": 2})
    singles = [gym.make(POINT, frame_stack=2) for _ in range(2)]
    observations = vec_env.reset()
    for rank, env in enumerate(singles):
        np.testing.assert_array_equal(observations[rank], env.reset(seed=3 + rank)[0])
    action = np.array([[1.0, 0.0], [0.0, -1.0]], dtype=np.float32)
    for _ in range(100):
        observations, _, dones, infos = vec_env.step(action)
        expected = [env.step(action[rank])[0] for rank, env in enumerate(singles)]
    assert dones.all()
    for rank in range(2):
        np.testing.assert_array_equal(infos[rank]["terminal_observation"], expected[rank])
        assert infos[rank]["TimeLimit.truncated"]
        assert infos[rank]["episode"]["l"] == 100
    vec_env.close()


def test_throughput_counts_the_steps_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Counting:
        """Two environments whose steps take half a second each by a clock of their own."""

        action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

        def __init__(self, env_id: str, n_envs: int, seed: int, env_kwargs: dict[str, Any] | None):
            self.arguments, self.n_envs, self.steps, self.closed = (env_id, env_kwargs), n_envs, 0, False
            made.append(self)

        def reset(self) -> None:
            assert self.steps == 0

        def step(self, actions: np.ndarray) -> None:
            assert actions.shape == (self.n_envs, 2)
            assert not np.array_equal(actions[0], actions[-1]) or self.n_envs == 1
            self.steps += 1

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(vec, "make_pixel_vec_env", Counting)
    monkeypatch.setattr(vec, "time", SimpleNamespace(perf_counter=lambda: 0.5 * made[-1].steps))
    assert measure_throughput(POINT, (1, 3), steps=10, env_kwargs={"view": 2.0}) == {1: 2.0, 3: 6.0}
    assert [env.steps for env in made] == [11, 11]  # one goes ahead
    assert all(env.closed and env.arguments == (POINT, {"view": 2.0}) for env in made)
    for steps in (0, 2.0, True):
        with pytest.raises(ValueError, match=rf"steps must be an integer of at least 1, got {steps}"):
            measure_throughput(POINT, steps=steps)


def test_throughput_of_a_real_environment() -> None:
    assert measure_throughput(POINT, [1], steps=20)[1] > 20
    with pytest.raises(ValueError, match="n_envs must be an integer of at least 1, got 0"):
        measure_throughput(POINT, [0])


def threads() -> gym.Env:
    """An environment that reports its worker's environment variables as its name."""
    env = PixelPointMassEnv()
    names = ("OMP_NUM_THREADS", "LP_NUM_THREADS")
    env.variables = [os.environ.get(name) for name in names]
    return env


@pytest.mark.skipif(sys.platform == "win32", reason="functions of tests cannot be sent to spawned processes")
def test_workers_have_one_thread_and_the_main_process_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    vec_env = make_pixel_vec_env(threads, n_envs=1)
    assert vec_env.get_attr("variables") == [["1", "1"]]
    assert (os.environ["OMP_NUM_THREADS"], os.environ.get("LP_NUM_THREADS")) == ("2", None)
    vec_env.close()


def test_gpus_are_counted_by_their_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert count_gpus(tmp_path) == (2 if sys.platform == "linux" else 0)
    assert count_gpus(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("n_gpus", "n_devices", "named", "expected"),
    [
        (2, 3, None, ["0", "1", "0"]),  # EGL counts the CPU's driver, too
        (8, 1, None, [None, None, None]),  # GPUs that EGL has no driver for
        (1, 2, None, [None, None, None]),
        (2, 2, "1", ["1", "1", "1"]),  # what is named is kept
    ],
)
def test_workers_take_turns_with_the_gpus_that_can_draw(
    n_gpus: int, n_devices: int, named: str | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vec, "count_gpus", lambda: n_gpus)
    monkeypatch.setattr(vec, "count_egl_devices", lambda: n_devices)
    chosen = []
    for rank in range(3):
        monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", named or "")
        if named is None:
            monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID")
        vec.share_gpus(rank)
        chosen.append(os.environ.get("MUJOCO_EGL_DEVICE_ID"))
    assert chosen == expected
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "")  # so that what the last rank has set is taken back


def test_egl_devices_are_counted(dmc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if rendering.choose_gl() == "egl":
        assert rendering.count_egl_devices() >= 1
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.count_egl_devices() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's")
def test_a_gpu_that_is_named_and_missing_is_explained(dmc: Any) -> None:
    if rendering.choose_gl() != "egl":
        pytest.skip("drawing goes through EGL only where MUJOCO_GL says so")
    program = "import gymnasium, sb3_metra.envs; gymnasium.make('sb3_metra/QuadrupedPixels-v0')"
    environment = {**os.environ, "MUJOCO_EGL_DEVICE_ID": "99"}
    done = run_python("-c", program, env=environment)
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("ValueError: MUJOCO_EGL_DEVICE_ID must be an integer between 0 and "), done.stderr
    assert error.endswith("got 99.")


def test_what_a_worker_refuses_is_raised_here() -> None:
    with pytest.raises(ValueError, match=r"^frame_size must be an integer of at least 46, got 20\.$"):
        make_pixel_vec_env(POINT, n_envs=2, env_kwargs={"frame_size": 20})
    with pytest.raises(TypeError, match="unexpected keyword argument 'frame_sise'"):
        make_pixel_vec_env(POINT, n_envs=1, env_kwargs={"frame_sise": 64})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_envs": 0}, ValueError, "n_envs must be an integer of at least 1, got 0"),
        ({"start_method": "fork"}, ValueError, "start_method must be 'forkserver', 'spawn' or None, got 'fork'"),
        ({"env_id": "sb3_metra/Nothing-v0"}, gym.error.NameNotFound, "Nothing"),
    ],
)
def test_vec_env_refuses_bad_options(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_pixel_vec_env(**{"env_id": POINT, **arguments})


@pytest.mark.slow
def test_vec_env_of_suite_tasks(dmc: Any) -> None:
    vec_env = make_pixel_vec_env(dmc.make_pixel_env, 2, seed=0, env_kwargs={"domain": "walker", "task": "walk"})
    assert vec_env.reset().shape == (2, 9, 64, 64)
    observations, _, _, infos = vec_env.step(np.zeros((2, 6), dtype=np.float32))
    assert observations.std() > 5
    assert [info["coordinates"].shape for info in infos] == [(2,), (2,)]
    vec_env.close()
