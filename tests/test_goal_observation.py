"""Goals as observations: what a place looks like, and that looking leaves the running episode alone."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_metra.envs.frames import FrameStack
from sb3_metra.envs.pixel_point import PixelPointMassEnv
from sb3_metra.envs.point import PointMassEnv
from tests.test_pixel_envs import HUMANOID, QUADRUPED, dmc  # noqa: F401  (a fixture)
from tests.test_pixel_envs import POINT as PIXEL_POINT

POINT, ANT, CHEETAH = "sb3_metra/PointMass-v0", "sb3_metra/Ant-v0", "sb3_metra/HalfCheetah-v0"
GOALS: dict[str, Any] = {
    POINT: [2.0, -3.0],
    ANT: [20.0, -35.0],
    CHEETAH: [-70.0],
    PIXEL_POINT: [2.0, -3.0],
    QUADRUPED: [10.0, -12.0],
    HUMANOID: [-4.0, 9.0],
}
every_env = pytest.mark.parametrize(
    "env_id", [pytest.param(name, marks=[pytest.mark.slow] if name == HUMANOID else []) for name in GOALS]
)


@pytest.fixture(scope="session")
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., gym.Env]]:
    """Makes environments that are closed after all tests."""
    made = []

    def make(env_id: str, **kwargs: Any) -> gym.Env:
        if env_id in (QUADRUPED, HUMANOID):
            request.getfixturevalue("dmc")
        if env_id in (ANT, CHEETAH):
            pytest.importorskip("mujoco")
        made.append(gym.make(env_id, **kwargs))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(scope="session")
def lend(make: Callable[..., gym.Env]) -> Callable[[str], gym.Env]:
    """Lends the one environment of a name."""
    return functools.cache(make)


def look(env: gym.Env, goal: Any) -> np.ndarray:
    """A goal as an observation."""
    return env.get_wrapper_attr("goal_observation")(goal)


def physics(env: gym.Env) -> np.ndarray:
    """All that decides how an episode goes on: the state of the integrator, warm start and time included."""
    import mujoco

    model, data = env.unwrapped.model, env.unwrapped.data
    state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return state


def episode(env: gym.Env, goals: list[Any]) -> list[Any]:
    """What every step of an episode gives, with a look at goals before each."""
    actions = np.random.default_rng(0).uniform(-1, 1, (6, *env.action_space.shape)).astype(np.float32)
    observation, info = env.reset(seed=3)
    given = [observation, info["coordinates"]]
    for action in actions:
        for goal in goals:
            look(env, goal)
        observation, reward, _, _, info = env.step(action)
        given += [observation, reward, info["coordinates"], repr(env.np_random.bit_generator.state)]
        if hasattr(env.unwrapped, "data"):
            given.append(physics(env))
    observation, info = env.reset()  # the next episode's first place is drawn from the same stream
    return [*given, observation, info["coordinates"]]


@every_env
def test_a_look_leaves_the_episode_bit_identical(env_id: str, lend: Callable[[str], gym.Env]) -> None:
    plain, looking = episode(lend(env_id), []), episode(lend(env_id), [GOALS[env_id]])
    assert len(plain) == len(looking)
    for expected, given in zip(plain, looking, strict=True):
        np.testing.assert_array_equal(given, expected)


@every_env
def test_goal_is_an_observation_of_the_space(env_id: str, make: Callable[..., gym.Env]) -> None:
    env = make(env_id)
    goal = look(env, GOALS[env_id])  # before the first reset, too
    env.reset(seed=0)
    again = look(env, np.array(GOALS[env_id], dtype=np.float32))
    assert goal.dtype == env.observation_space.dtype
    assert env.observation_space.contains(goal)
    np.testing.assert_array_equal(again, goal)
    elsewhere = look(env, np.zeros_like(GOALS[env_id]))
    assert not np.array_equal(elsewhere, goal)
    goal[:] = 0  # the caller's own
    np.testing.assert_array_equal(look(env, GOALS[env_id]), again)


@every_env
def test_a_body_at_rest_observes_its_own_place(env_id: str, lend: Callable[[str], gym.Env]) -> None:
    env = lend(env_id).unwrapped
    env.reset(seed=0)
    goal = np.array(GOALS[env_id])
    if env_id in (POINT, PIXEL_POINT):
        env._position = goal
        own = env._frames.reset(env._draw()) if env_id == PIXEL_POINT else env._position.astype(np.float32)
    elif env_id in (ANT, CHEETAH):
        qpos = env.init_qpos.copy()
        qpos[: goal.size] = goal
        env.set_state(qpos, np.zeros(env.model.nv))
        own = env._get_obs()
        np.testing.assert_array_equal(env._get_coordinates(), goal)
    else:
        import mujoco

        mujoco.mj_resetData(env.model, env.data)
        env.data.qpos[:2] = goal
        mujoco.mj_forward(env.model, env.data)
        own = env._frames.reset(env._draw())
        np.testing.assert_array_equal(env._info()["coordinates"], goal)
    np.testing.assert_array_equal(look(env, goal), own)


def test_point_masses_are_exact() -> None:
    np.testing.assert_array_equal(PointMassEnv().goal_observation([2.5, -3.0]), np.float32([2.5, -3.0]))
    goal = PixelPointMassEnv(frame_size=64, frame_stack=2).goal_observation([4.0, -2.0])
    # At (4, -2) the upper right pixel lies 3.15 further either way: 127.5 * (1 + 7.15 / 12.8) = 198.7, and 139.0.
    assert goal[:, 0, 63].tolist() == [199, 139, 128, 199, 139, 128]


def test_ants_goal_by_hand(make: Callable[..., gym.Env]) -> None:
    goal = look(make(ANT, normalize=False), [20.0, -35.0])
    # x, y, the height of ant.xml's torso, upright; every joint at 0, which is where Gymnasium's resets add their noise.
    np.testing.assert_array_equal(goal, np.float32([20, -35, 0.75, 1, *[0] * 25]))


def test_repeating_a_frame_leaves_the_stack_alone() -> None:
    stack = FrameStack(2, 46)
    first, second = (np.full((46, 46, 3), value, np.uint8) for value in (10, 20))
    stack.reset(first)
    assert stack.repeat(second)[:, 0, 0].tolist() == [20] * 6
    assert stack.push(second)[:, 0, 0].tolist() == [10] * 3 + [20] * 3


@every_env
@pytest.mark.parametrize("goal", [[1.0, 2.0, 3.0], 1.0, [[1.0]], "there", None, "nan"])
def test_what_is_no_place_is_refused(env_id: str, goal: Any, lend: Callable[[str], gym.Env]) -> None:
    n = len(GOALS[env_id])
    goal = [np.nan] * n if goal == "nan" else goal
    with pytest.raises(ValueError, match=rf"goal must be a place, finite numbers of shape \({n},\), got ") as caught:
        look(lend(env_id), goal)
    assert repr(goal) in str(caught.value)


@pytest.mark.parametrize("env_class", [PointMassEnv, PixelPointMassEnv])
def test_goal_outside_the_arena_is_refused(env_class: type[PointMassEnv]) -> None:
    env = env_class(arena=2.0)
    env.goal_observation([2.0, -2.0])
    with pytest.raises(ValueError, match=r"goal must lie in the arena, from -2.0 to 2.0, got \[0.0, 2.1\]"):
        env.goal_observation([0.0, 2.1])


def test_bodies_of_the_suite_are_moved_by_their_own_joints(dmc: Any) -> None:  # noqa: F811
    # A free joint, slides along x and y, a slide along x alone, and a part of a body that lies off its root.
    for domain, task, options, place in (
        ("quadruped", "run", {"body": "toe_front_left"}, [3.0, 4.0]),
        ("point_mass", "easy", {"body": "pointmass"}, [0.1, -0.2]),
        ("walker", "walk", {}, [5.0, 0.0]),
    ):
        env = dmc.DMCPixelEnv(domain, task, **options)
        data = dmc.stand_at(env.model, env._body_index, place)
        np.testing.assert_allclose(data.xpos[env._body_index, :2], place, atol=1e-9)
        assert not data.qvel.any()
        env.close()


def test_place_that_joints_do_not_reach_is_refused(dmc: Any) -> None:  # noqa: F811
    for domain, task, body in (("walker", "walk", "torso"), ("pendulum", "swingup", "pole")):
        env = dmc.DMCPixelEnv(domain, task, color_floor=domain == "walker")
        with pytest.raises(ValueError, match=rf"goal must be a place that the body '{body}' can be moved to"):
            env.goal_observation([0.0, 1.0])
        env.close()
