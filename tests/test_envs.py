"""The environments: their spaces, observations, coordinates, ends of episodes, seeds and pictures."""

import functools
import gc
import json
import os
import pickle
import runpy
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv as GymnasiumAntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv as GymnasiumHalfCheetahEnv
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.envs
from sb3_metra.envs import find_spec
from sb3_metra.envs.locomotion import NORMALIZATION_PATH, AntEnv, HalfCheetahEnv, load_normalization
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.envs.vec import make_pixel_vec_env
from tests.programs import run_python

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "measure_normalization.py"
POINT, ANT, CHEETAH = "sb3_metra/PointMass-v0", "sb3_metra/Ant-v0", "sb3_metra/HalfCheetah-v0"
SHAPES = {POINT: ((2,), (2,), 2), ANT: ((29,), (8,), 2), CHEETAH: ((18,), (6,), 1)}
LENGTHS = {POINT: 100, ANT: 200, CHEETAH: 200}
GYMNASIUM_BODIES = {
    ANT: lambda: GymnasiumAntEnv(
        exclude_current_positions_from_observation=False,
        include_cfrc_ext_in_observation=False,
        terminate_when_unhealthy=False,
    ),
    CHEETAH: lambda: GymnasiumHalfCheetahEnv(exclude_current_positions_from_observation=False),
}
every_env = pytest.mark.parametrize("env_id", SHAPES)
every_body = pytest.mark.parametrize("env_id", GYMNASIUM_BODIES)


def actions_for(env: gym.Env, n: int, seed: int = 0) -> np.ndarray:
    """Uniformly random actions, ``(n, n_actions)``."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1.0, 1.0, size=(n, *env.action_space.shape)).astype(np.float32)


def roll(env: gym.Env, seed: int, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations and coordinates, the first included, and rewards of one episode."""
    observation, info = env.reset(seed=seed)
    observations, coordinates, rewards = [observation], [info["coordinates"]], []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        observations.append(observation)
        coordinates.append(info["coordinates"])
        rewards.append(reward)
    return np.array(observations), np.array(coordinates), np.array(rewards)


# Every environment


def test_all_environments_are_registered_with_their_time_limits() -> None:
    assert sb3_metra.envs.MAX_EPISODE_STEPS.items() >= LENGTHS.items()
    gym.register_envs(sb3_metra.envs)  # Gymnasium's way of saying that an import registers environments
    for env_id, length in LENGTHS.items():
        assert gym.spec(env_id).max_episode_steps == length


def test_importing_again_registers_nothing_twice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Gymnasium warns where a registration replaces another
        sb3_metra.envs._register()


@every_env
@pytest.mark.filterwarnings("ignore:.*A Box observation space m.*imum value is")
def test_checkers_of_gymnasium_and_sb3_pass(env_id: str) -> None:
    env = gym.make(env_id)
    # Gymnasium's checker would also try to open a window.
    gymnasium_check_env(env.unwrapped, skip_render_check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(env.unwrapped)
    env.close()


@every_env
def test_spaces_and_coordinates(env_id: str) -> None:
    observation_shape, action_shape, n_coordinates = SHAPES[env_id]
    env = gym.make(env_id)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, observation_shape, np.float32)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, action_shape, np.float32)
    observation, info = env.reset(seed=3)
    first = info["coordinates"].copy()
    assert observation.dtype == np.float32
    assert info["coordinates"].shape == (n_coordinates,)
    assert info["coordinates"].dtype == np.float64
    for action in actions_for(env, 20):
        _, _, _, _, later = env.step(action)
        assert later["coordinates"].shape == (n_coordinates,)
        assert later["coordinates"].dtype == np.float64
    np.testing.assert_array_equal(info["coordinates"], first)  # a copy, not a window on the simulation
    assert not np.array_equal(later["coordinates"], first)
    env.close()


@every_env
def test_seed_decides_the_trajectory(env_id: str) -> None:
    env, other = gym.make(env_id), gym.make(env_id)
    actions = actions_for(env, 50)
    observations, coordinates, rewards = roll(env, 7, actions)
    for again in (roll(env, 7, actions), roll(other, 7, actions)):
        for ours, theirs in zip((observations, coordinates, rewards), again, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(roll(other, 8, actions)[0][0], observations[0])
    env.close()
    other.close()


@every_env
def test_time_limit_truncates_and_does_not_terminate(env_id: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=0)
    ends = [env.step(action)[2:4] for action in actions_for(env, LENGTHS[env_id])]
    assert not any(terminated for terminated, _ in ends)
    assert [truncated for _, truncated in ends] == [False] * (LENGTHS[env_id] - 1) + [True]
    env.close()


def test_vec_env_keeps_last_observation_and_coordinates_of_an_episode() -> None:
    env = make_vec_env(POINT, n_envs=2, seed=0)
    first = env.reset()
    actions = np.array([[1.0, 0.0], [0.0, -1.0]], dtype=np.float32)
    for _ in range(100):
        observations, _, dones, infos = env.step(actions)
    assert dones.all()
    for i, way in enumerate(([10.0, 0.0], [0.0, -10.0])):
        assert infos[i]["TimeLimit.truncated"]
        np.testing.assert_allclose(infos[i]["terminal_observation"], first[i] + way, atol=1e-5)
        np.testing.assert_allclose(infos[i]["coordinates"], first[i] + way, atol=1e-5)
        np.testing.assert_allclose(env.reset_infos[i]["coordinates"], observations[i], atol=1e-7)
    env.close()


def test_import_needs_no_mujoco_and_its_absence_is_explained() -> None:
    program = """
import sys
import gymnasium, sb3_metra.envs
assert "mujoco" not in sys.modules, "importing the module has imported mujoco"
sys.modules["mujoco"] = None  # as if it were not installed
gymnasium.make("sb3_metra/PointMass-v0").reset()
try:
    gymnasium.make("sb3_metra/Ant-v0")
except ImportError as error:
    print(error)
"""
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr
    assert 'pip install "sb3-metra[mujoco]"' in done.stdout


# Ant and HalfCheetah


@every_body
def test_body_is_gymnasiums(env_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MuJoCo logs what the bare body warns of
    env, body = gym.make(env_id, normalize=False).unwrapped, GYMNASIUM_BODIES[env_id]()
    actions = actions_for(env, 60)
    observations, _, rewards = roll(env, 5, actions)
    expected = [body.reset(seed=5)[0]]
    for action, reward in zip(actions, rewards, strict=True):
        observation, expected_reward, terminated, _, info = body.step(action)
        expected.append(observation)
        assert reward == expected_reward
        assert not terminated
    np.testing.assert_array_equal(observations, np.array(expected, dtype=np.float32))
    assert set(env.step(actions[0])[4]) == {*info, "coordinates"}
    env.close()
    body.close()


@every_body
def test_observation_is_the_normalised_state(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    mean, std = load_normalization(env_id)
    observation, info = env.reset(seed=1)
    for action in actions_for(env, 30):
        state = np.concatenate((env.data.qpos, env.data.qvel))
        np.testing.assert_allclose(observation.astype(np.float64) * std + mean, state, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(info["coordinates"], env.data.qpos[: SHAPES[env_id][2]])
        observation, _, _, _, info = env.step(action)
    env.close()


def test_normalised_observation_by_hand() -> None:
    env = gym.make(ANT).unwrapped
    env.reset(seed=0)
    recorded = json.loads(NORMALIZATION_PATH.read_text())["environments"][ANT]
    position, velocity = np.arange(15.0), np.arange(100.0, 114.0)
    env.set_state(position, velocity)
    observation = env._get_obs()
    for index, value in ((0, 0.0), (1, 1.0), (2, 2.0), (14, 14.0), (15, 100.0), (28, 113.0)):
        expected = (value - recorded["mean"][index]) / recorded["std"][index]
        assert observation[index] == pytest.approx(expected, rel=1e-6)
    env.close()


def test_normalization_file_has_the_paper_size_and_plain_statistics() -> None:
    document = json.loads(NORMALIZATION_PATH.read_text())
    assert (document["provenance"]["rollouts"], document["provenance"]["length"]) == (10_000, 50)
    assert set(document["environments"]) == {ANT, CHEETAH, "sb3_metra/Quadruped-v0", "sb3_metra/Humanoid-v0"}
    for env_id in document["environments"]:
        mean, std = load_normalization(env_id)
        assert mean.shape == std.shape
        assert (std > 0.01).all()
    for env_id in (ANT, CHEETAH):
        mean, std = load_normalization(env_id)
        assert mean.shape == SHAPES[env_id][0]
        assert (std > 0.05).all()
    mean, std = load_normalization(ANT)
    # By symmetry Ant's position and linear velocity along x and y, and its legs, are alike.
    np.testing.assert_allclose(std[0], std[1], rtol=0.02)
    np.testing.assert_allclose(std[15], std[16], rtol=0.02)
    np.testing.assert_allclose(mean[[8, 10, 12, 14]] * [1, -1, -1, 1], 0.857, atol=0.005)
    np.testing.assert_allclose(mean[:2], 0.0, atol=0.03)


@every_body
def test_normalization_makes_random_rollouts_standard(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    # The states in which random actions are taken, in rollouts of length 50.
    observations = np.concatenate([roll(env, seed, actions_for(env, 50, seed))[0][:-1] for seed in range(60)])
    np.testing.assert_allclose(observations.mean(axis=0), 0.0, atol=0.4)
    np.testing.assert_allclose(observations.std(axis=0), 1.0, atol=0.3)
    env.close()


def test_unknown_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of .*got 'Ant-v5'"):
        load_normalization("Ant-v5")


def test_normalization_of_another_body_is_refused() -> None:
    with pytest.raises(ValueError, match=r"18 dimensions, but this xml_file has 29"):
        HalfCheetahEnv(xml_file="ant.xml")
    env = HalfCheetahEnv(xml_file="ant.xml", normalize=False)
    assert env.reset(seed=0)[0].shape == (29,)
    env.close()


def quaternion(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    """The unit quaternion (w, x, y, z) of a rotation about a unit axis."""
    half = np.deg2rad(degrees) / 2
    return np.array([np.cos(half), *(np.sin(half) * np.array(axis))])


@pytest.mark.parametrize(
    ("degrees", "axis", "on_back"),
    [
        (0, (1, 0, 0), False),
        (85, (1, 0, 0), False),
        (95, (1, 0, 0), True),
        (85, (0, -1, 0), False),
        (95, (0, -1, 0), True),
        (180, (0.6, 0.8, 0), True),
        (180, (0, 0, 1), False),  # turned round, not over
        (300, (1, 0, 0), False),
    ],
)
def test_ant_is_on_back_where_its_up_axis_points_down(
    degrees: float, axis: tuple[float, float, float], on_back: bool
) -> None:
    env = AntEnv()
    env.reset(seed=0)
    position = env.init_qpos.copy()
    for length in (1.0, 0.9):  # the reset's noise leaves quaternions of any length
        position[3:7] = length * quaternion(degrees, axis)
        env.set_state(position, env.init_qvel)
        assert env.is_on_back is on_back
        assert (env.data.body("torso").xmat[8] < 0) is np.bool_(on_back)
    env.close()


@pytest.mark.parametrize("terminate_on_back", [False, True])
def test_flipped_ant_terminates_only_where_asked(terminate_on_back: bool) -> None:
    env = gym.make(ANT, terminate_on_back=terminate_on_back)
    env.reset(seed=0)
    action = np.zeros(8, dtype=np.float32)
    assert env.step(action)[2] is False
    position = env.unwrapped.data.qpos.copy()
    position[2], position[3:7] = 1.0, quaternion(180, (1, 0, 0))
    env.unwrapped.set_state(position, env.unwrapped.init_qvel)
    _, _, terminated, truncated, _ = env.step(action)
    assert terminated is terminate_on_back
    assert truncated is False
    env.close()


@pytest.mark.parametrize("terminate_on_back", [False, True])
@pytest.mark.parametrize(
    ("degrees", "on_back"), [(0, False), (85, False), (-85, False), (95, True), (-180, True), (360, False), (540, True)]
)
def test_half_cheetah_terminates_upside_down_only_where_asked(
    terminate_on_back: bool, degrees: float, on_back: bool
) -> None:
    env = gym.make(CHEETAH, terminate_on_back=terminate_on_back)
    env.reset(seed=0)
    body = env.unwrapped
    body.set_state(body.init_qpos + np.eye(9)[1] + np.radians(degrees) * np.eye(9)[2], body.init_qvel)  # in the air
    _, _, terminated, truncated, _ = env.step(np.zeros(6, dtype=np.float32))
    assert body.is_on_back is on_back
    assert (body.data.body("torso").xmat[8] < 0) is np.bool_(on_back)
    assert terminated is (terminate_on_back and on_back)
    assert truncated is False
    env.close()


def test_ant_never_terminates_when_unhealthy() -> None:
    env = gym.make(ANT, terminate_on_back=True)
    env.reset(seed=0)
    position = env.unwrapped.init_qpos.copy()
    position[2] = 3.0  # far above Ant-v5's healthy heights
    env.unwrapped.set_state(position, env.unwrapped.init_qvel)
    assert env.step(np.zeros(8, dtype=np.float32))[2] is False
    env.close()


@pytest.mark.parametrize(
    ("env_class", "options"), [(AntEnv, {"terminate_on_back": True}), (HalfCheetahEnv, {"terminate_on_back": True})]
)
def test_pickled_body_keeps_its_options(env_class: type[AntEnv | HalfCheetahEnv], options: dict) -> None:
    env = env_class(normalize=False, frame_skip=4, **options)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.frame_skip == 4
    assert [getattr(twin, name) for name in options] == list(options.values())
    actions = actions_for(env, 5)
    for ours, theirs in zip(roll(env, 2, actions), roll(twin, 2, actions), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert twin.reset(seed=0)[0][0] == np.float32(twin.data.qpos[0])  # still not normalised
    env.close()
    twin.close()


def test_making_half_cheetah_leaves_no_warning_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    HalfCheetahEnv().close()
    assert list(tmp_path.iterdir()) == []
    assert "settotalmass" not in "".join(capfd.readouterr())


def test_other_warnings_of_mujoco_are_passed_on(tmp_path: Path) -> None:
    import mujoco

    handler = mujoco.get_mju_user_warning()  # None, or dm_control's where that has been imported
    model = Path(sys.modules["gymnasium.envs.mujoco"].__path__[0], "assets", "half_cheetah.xml").read_text()
    (tmp_path / "body.xml").write_text(model.replace("<compiler ", '<compiler nonsense="1" '))
    with pytest.raises(ValueError, match="nonsense"):  # MuJoCo's own error comes through
        HalfCheetahEnv(xml_file=str(tmp_path / "body.xml"))
    assert mujoco.get_mju_user_warning() is handler  # and the handler of before is back in place
    from sb3_metra.envs.locomotion import _warn_unless_deprecated_mass

    with pytest.warns(RuntimeWarning, match="something else"):
        _warn_unless_deprecated_mass("something else")


def test_measuring_script_writes_statistics_of_random_rollouts(tmp_path: Path) -> None:
    pytest.importorskip("dm_control", reason="the script measures the suite's bodies, too")
    written = tmp_path / "normalization.json"
    command = [
        str(SCRIPT),
        "--rollouts",
        "10",
        "--length",
        "20",
        "--seed",
        "3",
        "--output",
        str(written),
    ]
    before = NORMALIZATION_PATH.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    done = run_python(*command, env=environment)
    assert done.returncode == 0, done.stderr
    assert NORMALIZATION_PATH.read_bytes() == before
    document = json.loads(written.read_text())
    assert document["provenance"]["command"].endswith("--rollouts 10 --length 20 --seed 3")
    collect = runpy.run_path(str(SCRIPT))["collect"]
    assert document["environments"].keys() == {ANT, CHEETAH, "sb3_metra/Quadruped-v0", "sb3_metra/Humanoid-v0"}
    for env_id in (ANT, CHEETAH):
        env = gym.make(env_id, normalize=False)
        states = collect(env, rollouts=10, length=20, seed=3)
        assert states.shape == (200, *SHAPES[env_id][0])
        np.testing.assert_allclose(document["environments"][env_id]["mean"], states.mean(axis=0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(document["environments"][env_id]["std"], states.std(axis=0), rtol=1e-6)
        # Every rollout starts in a fresh state of the reset's noise, and moves on from there.
        assert np.abs(states[::20, 0]).max() <= 0.1
        assert np.unique(states[:, 0]).size == 200
        assert states[:, -6:].std() > 3.0  # random actions move the joints, which the reset's noise of 0.1 does not
        env.close()


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        (POINT, {"unit": "", "goal_range": 7.5, "camera": None}),
        (ANT, {"unit": "m", "goal_range": 50.0, "camera": "track", "render_fps": 20}),
        (CHEETAH, {"unit": "m", "goal_range": 100.0, "camera": "track", "render_fps": 20}),
    ],
)
def test_metadata_says_how_an_environment_is_shown(env_id: str, expected: dict) -> None:
    env = gym.make(env_id)
    assert env.metadata.items() >= expected.items()
    assert gym.make(POINT, arena=2.0).metadata["goal_range"] == 2.0
    env.close()


# Point mass


def test_point_mass_moves_by_hand() -> None:
    env = PointMassEnv(reset_noise_scale=0.0)
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(observation, [0.0, 0.0])
    observation, reward, terminated, truncated, info = env.step(np.array([0.3, 0.4], dtype=np.float32))
    np.testing.assert_allclose(info["coordinates"], [0.03, 0.04], rtol=1e-6)
    np.testing.assert_array_equal(observation, info["coordinates"].astype(np.float32))
    assert reward == pytest.approx(0.05, rel=1e-6)  # 3-4-5
    assert (terminated, truncated) == (False, False)
    info["coordinates"][:] = 99.0  # the caller's own copy
    # Beyond its bounds an action is clipped: back to the origin and as far again on the other side.
    _, reward, _, _, info = env.step(np.array([-5.0, 0.0], dtype=np.float32))
    np.testing.assert_allclose(info["coordinates"], [-0.07, 0.04], rtol=1e-6)
    assert reward == pytest.approx(np.hypot(0.07, 0.04) - 0.05, rel=1e-6)


def test_point_mass_return_is_the_distance_from_the_start() -> None:
    env = gym.make(POINT)
    _, coordinates, rewards = roll(env, 4, actions_for(env, 100))
    assert rewards.sum() == pytest.approx(np.linalg.norm(coordinates[-1] - coordinates[0]), abs=1e-9)
    assert np.abs(coordinates[0]).max() <= 0.1


def test_point_mass_stays_in_its_arena() -> None:
    env = gym.make(POINT, arena=1.5, reset_noise_scale=0.0)
    assert env.observation_space == gym.spaces.Box(-1.5, 1.5, (2,), np.float32)
    env.reset(seed=0)
    for _ in range(20):
        observation, reward, _, _, info = env.step(np.array([1.0, -0.5], dtype=np.float32))
        assert env.observation_space.contains(observation)
    np.testing.assert_allclose(info["coordinates"], [1.5, -1.0], rtol=1e-6)
    observation, reward, _, _, _ = env.step(np.array([1.0, 0.0], dtype=np.float32))
    assert reward == 0.0  # against the wall


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "step_size must be a finite number above 0, got 0.0"),
        ({"step_size": np.nan}, "step_size must be a finite number above 0, got nan"),
        ({"reset_noise_scale": -1.0}, "reset_noise_scale must be a finite number of at least 0, got -1.0"),
        ({"arena": 0.0}, "arena must be None or a finite number"),
        ({"arena": 0.05}, "at least reset_noise_scale=0.1, got 0.05"),
        ({"render_mode": "human"}, "render_mode must be None or \"rgb_array\", got 'human'"),
        ({"width": 0}, "width must be an integer of at least 1, got 0"),
    ],
)
def test_point_mass_refuses_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointMassEnv(**options)


@pytest.mark.parametrize("action", [np.zeros(1), np.zeros((1, 2)), np.float32(0.5)])
def test_point_mass_refuses_actions_of_another_shape(action: np.ndarray) -> None:
    env = PointMassEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must have shape \(2,\), got"):
        env.step(action)


# Pictures


def centre_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Mean (column, row) of the pixels of one colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return np.array([columns.mean(), rows.mean()])


def test_point_mass_picture_shows_where_the_point_is() -> None:
    env = PointMassEnv(
        step_size=1.0, reset_noise_scale=0.0, arena=4.0 / 1.05, render_mode="rgb_array", width=96, height=80
    )
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (80, 96, 3)
    assert first.dtype == np.uint8
    red = (200, 40, 40)
    np.testing.assert_allclose(centre_of(first, red), [47.5, 39.5], atol=0.5)
    env.step(np.array([1.0, 1.0], dtype=np.float32))
    env.step(np.array([1.0, 0.0], dtype=np.float32))
    # The picture's 80 rows show 8 units: a unit is 10 pixels, and up is towards row 0.
    np.testing.assert_allclose(centre_of(env.render(), red) - centre_of(first, red), [20.0, -10.0], atol=0.5)
    assert (env.render() == (120, 160, 220)).all(axis=2).any()  # its trail


def test_point_mass_view_widens_with_the_trail() -> None:
    env = PointMassEnv(step_size=50.0, render_mode="rgb_array")
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([1.0, 1.0], dtype=np.float32))
    column, row = centre_of(env.render(), (200, 40, 40))
    assert 230 < column < 256
    assert 0 < row < 26


@pytest.mark.filterwarnings("ignore:.*render.. draws nothing")
def test_point_mass_draws_nothing_without_a_render_mode() -> None:
    env = PointMassEnv()
    env.reset(seed=0)
    assert env.render() is None


@functools.cache
def find_backend() -> str | None:
    """A backend of OpenGL that draws without a display; ``None`` where the machine has none."""
    for backend in (os.environ.get("MUJOCO_GL"), "egl", "osmesa"):
        if backend not in ("egl", "osmesa"):
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MUJOCO_GL", backend)
            probe = HalfCheetahEnv(render_mode="rgb_array", width=8, height=8)
            try:
                probe.reset(seed=0)
                probe.render()
            except Exception:
                continue
            finally:
                probe.close()
            return backend
    return None


@pytest.fixture
def offscreen_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenGL backend that needs no display, or a skipped test where the machine has none."""
    if (backend := find_backend()) is None:
        pytest.skip("rendering needs the libraries of EGL or OSMesa")
    monkeypatch.setenv("MUJOCO_GL", backend)


@pytest.mark.usefixtures("offscreen_gl")
@every_body
def test_body_renders_at_the_size_asked_for(env_id: str) -> None:
    env = gym.make(env_id, render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (48, 64, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10
    env.close()


@pytest.mark.usefixtures("offscreen_gl")
@pytest.mark.parametrize("way", ["close", pytest.param("drop", marks=pytest.mark.slow)])
def test_an_environment_that_goes_leaves_the_pictures_of_others_alone(way: str) -> None:
    def make(env_id: str, width: int) -> gym.Env:
        env = gym.make(env_id, render_mode="rgb_array", width=width, height=48)
        env.reset(seed=0)
        return env

    ant, cheetah = make(ANT, 64), make(CHEETAH, 40)
    pictures = ant.render(), cheetah.render()
    third = make(CHEETAH, 64)
    third.render()
    ant.render()  # whose OpenGL context is the current one now
    if way == "close":
        third.close()
        third.close()  # twice does no harm
        ant.render()
    del third
    gc.collect()
    for env, picture in zip((ant, cheetah, ant), (pictures[0], pictures[1], pictures[0]), strict=True):
        np.testing.assert_array_equal(env.render(), picture)
    ant.close()
    cheetah.close()


def test_a_dropped_environment_closes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    env = HalfCheetahEnv()
    monkeypatch.setattr(HalfCheetahEnv, "close", lambda self: closed.append(self.env_id))
    del env
    gc.collect()
    assert closed == [CHEETAH]


@pytest.mark.parametrize(
    ("env_id", "error"),
    [
        ("sb3_metra/Nowhere-v0", gym.error.NameNotFound),
        ("sb3_metra.nothing:sb3_metra/Ant-v0", ModuleNotFoundError),
        ("sb3_metra.envs:sb3_metra/Nowhere-v0", gym.error.NameNotFound),
    ],
)
def test_environments_are_found_by_gymnasiums_names(env_id: str, error: type[Exception]) -> None:
    for name in ("sb3_metra/PixelPointMass-v0", "sb3_metra.envs:sb3_metra/PixelPointMass-v0"):
        assert find_spec(name).id == "sb3_metra/PixelPointMass-v0"
    with pytest.raises(error):
        find_spec(env_id)


def test_workers_make_environments_of_a_module() -> None:
    env = make_pixel_vec_env("sb3_metra.envs:sb3_metra/PixelPointMass-v0", n_envs=1)
    assert env.observation_space.shape == (3, 46, 46)
    env.close()
