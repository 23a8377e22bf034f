"""Bodies in a batch: equal to the bit to environments that are stepped in turn, and resumed within an episode."""

import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import sb3_metra.envs.batch
from sb3_metra.common.env_state import get_env_state, set_env_state
from sb3_metra.envs.batch import BatchVecEnv, can_batch, count_cores, make_batch_vec_env, make_fast_vec_env
from tests.programs import run_python
from tests.test_envs import offscreen_gl  # noqa: F401  (a fixture)
from tests.test_states import through_json

pytest.importorskip("mujoco.batch")

ANT, CHEETAH = "sb3_metra/Ant-v0", "sb3_metra/HalfCheetah-v0"
QUADRUPED, HUMANOID = "sb3_metra/Quadruped-v0", "sb3_metra/Humanoid-v0"
POINT = "sb3_metra/PointMass-v0"
every_body = pytest.mark.parametrize("env_id", [ANT, CHEETAH, QUADRUPED, HUMANOID])
Maker = Callable[..., VecEnv]


@pytest.fixture
def made() -> Iterator[Maker]:
    """Closes what was made after the test."""
    envs: list[VecEnv] = []

    def make(maker: Callable[..., VecEnv], env_id: str, n_envs: int = 3, seed: int | None = 5, **kwargs: Any) -> VecEnv:
        if env_id in (QUADRUPED, HUMANOID):
            pytest.importorskip("dm_control")
        envs.append(maker(env_id, n_envs, seed=seed, **kwargs))
        return envs[-1]

    yield make
    for env in envs:
        env.close()


def draw_actions(env: VecEnv, steps: int, seed: int = 0) -> np.ndarray:
    shape = (steps, env.num_envs, *env.action_space.shape)
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare to the bit, kinds of floats aside; of the time that Monitor took only that there is one."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            if key != "t":
                assert_same(ours[key], value)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    elif isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    else:
        assert ours == theirs
        assert np.signbit(ours) == np.signbit(theirs) if isinstance(theirs, float) else True


def assert_same_steps(batch: VecEnv, dummy: VecEnv, actions: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Step both alike and compare all that they return; which episodes ended, ``(steps, n_envs)``."""
    ends = []
    for action in actions:
        ours, theirs = batch.step(action), dummy.step(action)
        assert_same(ours, theirs)
        assert_same(batch.reset_infos, dummy.reset_infos)
        ends.append(theirs[2])
    return np.array(ends)


@pytest.mark.parametrize(
    ("env_id", "n_threads"),
    [
        *((env_id, 2) for env_id in (ANT, CHEETAH, QUADRUPED, HUMANOID)),
        (CHEETAH, 1),
        *(pytest.param(env_id, 1, marks=pytest.mark.slow) for env_id in (ANT, QUADRUPED, HUMANOID)),
    ],
)
def test_batch_is_equal_to_the_bit_to_environments_in_turn(made: Maker, env_id: str, n_threads: int) -> None:
    kwargs = {"max_episode_steps": 15}
    batch = made(make_batch_vec_env, env_id, n_threads=n_threads, env_kwargs=kwargs)
    dummy = made(make_vec_env, env_id, env_kwargs=kwargs)
    assert isinstance(batch, BatchVecEnv)
    assert batch.n_threads == n_threads
    assert (batch.observation_space, batch.action_space) == (dummy.observation_space, dummy.action_space)
    for seed in (None, 11):  # the seed of the beginning, then another one
        batch.seed(seed) if seed else None
        dummy.seed(seed) if seed else None
        assert_same(batch.reset(), dummy.reset())
        assert_same(batch.reset_infos, dummy.reset_infos)
        ends = assert_same_steps(batch, dummy, draw_actions(batch, 40))
        assert ends.sum() == 6  # two episodes of each


@every_body
def test_early_ends_are_the_same(made: Maker, env_id: str) -> None:
    kwargs = {"max_episode_steps": 12, "terminate_on_back": True}
    batch, dummy = (made(maker, env_id, env_kwargs=kwargs) for maker in (make_batch_vec_env, make_vec_env))
    assert_same(batch.reset(), dummy.reset())
    actions = draw_actions(batch, 30)
    assert_same_steps(batch, dummy, actions[:4])
    for env in (batch, dummy):  # the second one lies on its back now, with its counters and sums as they were
        body = env.get_attr("unwrapped")[1]
        qpos = body.data.qpos.copy()
        if env_id == CHEETAH:
            qpos[1:3] += [0.5, np.pi]
        else:
            qpos[2], qpos[3:7] = qpos[2] + 0.5, [0.0, 1.0, 0.0, 0.0]
        env.env_method("set_state", qpos, np.zeros(body.model.nv), indices=[1])
    results = batch.step(actions[4]), dummy.step(actions[4])
    assert_same(*results)
    _, _, dones, infos = results[0]
    assert dones.tolist() == [False, True, False]
    assert not infos[1]["TimeLimit.truncated"]
    assert infos[1]["episode"]["l"] == 5
    assert_same_steps(batch, dummy, actions[5:])


@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        (ANT, {"contact_cost_weight": 0.0, "normalize": False, "frame_skip": 3, "main_body": "front_left_leg"}),
        (ANT, {"ctrl_cost_weight": 2.0, "healthy_reward": 3.0, "healthy_z_range": (0.5, 0.8)}),
        (ANT, {"contact_cost_weight": 0.1, "contact_force_range": (-3.0, 2.0), "forward_reward_weight": 0.3}),
        (CHEETAH, {"ctrl_cost_weight": 2.0, "forward_reward_weight": 0.3, "reset_noise_scale": 0.0}),
        (QUADRUPED, {"action_repeat": 1, "normalize": False}),
    ],
)
def test_options_reach_the_batch(made: Maker, env_id: str, options: dict[str, Any]) -> None:
    batch, dummy = (made(maker, env_id, env_kwargs=options) for maker in (make_batch_vec_env, make_vec_env))
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, draw_actions(batch, 12))


def test_forces_from_outside_are_felt_and_cost_as_in_turn(made: Maker) -> None:
    batch, dummy = (
        made(maker, ANT, env_kwargs={"contact_cost_weight": 0.1}) for maker in (make_batch_vec_env, make_vec_env)
    )
    assert_same(batch.reset(), dummy.reset())
    for env in (batch, dummy):
        env.get_attr("data")[1].xfrc_applied[1] = [0.0, 0.0, 50.0, 0.0, 0.1, 0.0]  # lifts the torso off the floor
        env.env_method("get_state")  # a method may have changed the body, so the batch looks at it again
    assert_same_steps(batch, dummy, draw_actions(batch, 12))
    assert batch.get_attr("data")[1].qpos[2] > 1.0
    assert batch.step(draw_actions(batch, 1)[0])[3][1]["reward_contact"] < 0.0


def test_one_environment_and_double_actions(made: Maker) -> None:
    batch, dummy = made(make_batch_vec_env, ANT, 1), made(make_vec_env, ANT, 1)
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, draw_actions(batch, 5).astype(np.float64))


def test_actions_in_any_order_of_memory(made: Maker) -> None:
    batch, dummy = made(make_batch_vec_env, ANT, 8), made(make_vec_env, ANT, 8)
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, [np.asfortranarray(action) for action in draw_actions(batch, 5)])


@pytest.mark.slow
@every_body
def test_whole_episodes_are_equal_to_the_bit(made: Maker, env_id: str) -> None:
    batch, dummy = (made(maker, env_id, n_envs=8) for maker in (make_batch_vec_env, make_vec_env))
    assert_same(batch.reset(), dummy.reset())
    assert assert_same_steps(batch, dummy, draw_actions(batch, 450)).sum() == 16


@every_body
def test_what_is_handed_out_is_never_changed(made: Maker, env_id: str) -> None:
    batch = made(make_batch_vec_env, env_id, env_kwargs={"max_episode_steps": 3})
    kept = [batch.reset(), list(batch.reset_infos)]
    for action in draw_actions(batch, 8):
        kept.append((batch.step(action), list(batch.reset_infos)))
        if len(kept) == 4:
            before = pickle.dumps(kept)
    assert pickle.dumps(kept[:4]) == before


def test_environments_can_be_asked_in_the_middle_of_an_episode(made: Maker) -> None:
    batch, dummy = made(make_batch_vec_env, CHEETAH), made(make_vec_env, CHEETAH)
    actions = draw_actions(batch, 10)
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, actions[:5])
    for ours, theirs in zip(batch.get_attr("data"), dummy.get_attr("data"), strict=True):
        for name in ("time", "qpos", "xpos", "geom_xmat", "qacc_warmstart", "efc_force"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert batch.env_is_wrapped(Monitor) == [True] * 3
    assert batch.get_attr("total_steps", [0, 2]) == [5, 5]
    assert_same(batch.env_method("goal_observation", np.array([7.0])), dummy.env_method("goal_observation", [7.0]))
    for env in (batch, dummy):
        env.set_attr("nickname", "fast", indices=1)
    assert batch.get_attr("nickname", 1) == ["fast"]
    assert_same_steps(batch, dummy, actions[5:])


@pytest.mark.parametrize(
    "env_id", [ANT, *(pytest.param(name, marks=pytest.mark.slow) for name in (CHEETAH, QUADRUPED, HUMANOID))]
)
def test_pictures_are_the_same(made: Maker, env_id: str, offscreen_gl: None) -> None:  # noqa: F811
    kwargs = {"render_mode": "rgb_array", "width": 48, "height": 48}
    batch, dummy = (made(maker, env_id, 2, env_kwargs=kwargs) for maker in (make_batch_vec_env, make_vec_env))
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, draw_actions(batch, 4))
    assert_same(list(batch.get_images()), list(dummy.get_images()))
    assert batch.render().shape == (96, 48, 3)  # one above the other
    assert batch.render().std() > 10


@every_body
def test_batch_goes_on_in_the_middle_of_an_episode(made: Maker, env_id: str) -> None:
    """Also as environments that are stepped in turn, and those go on as a batch."""
    kwargs = {"max_episode_steps": 9}
    batch = made(make_batch_vec_env, env_id, env_kwargs=kwargs)
    batch.reset()
    actions = draw_actions(batch, 30)
    for action in actions[:13]:  # one episode and a bit
        batch.step(action)
    wrapped = get_env_state(batch)
    kept = through_json(wrapped)
    uninterrupted = [batch.step(action) for action in actions[13:]]
    np.testing.assert_equal(wrapped, kept)
    samples = [space.sample() for space in batch.get_attr("action_space")]
    other = made(make_batch_vec_env, env_id, seed=99, env_kwargs=kwargs)
    in_turn = made(make_vec_env, env_id, seed=7, env_kwargs=kwargs)
    for resumed in (other, batch, in_turn):
        resumed.reset()
        resumed.step(actions[0])
        set_env_state(resumed, through_json(kept))
        assert_same([resumed.step(action) for action in actions[13:]], uninterrupted)
        assert_same([space.sample() for space in resumed.get_attr("action_space")], samples)
    set_env_state(other, get_env_state(in_turn))
    assert_same(other.step(actions[0]), in_turn.step(actions[0]))
    assert uninterrupted[-1][2].tolist() == [False] * 3
    assert sum(step[2].sum() for step in uninterrupted) == 6


def test_state_of_another_batch_is_refused(made: Maker) -> None:
    batch, larger = made(make_batch_vec_env, CHEETAH), made(make_batch_vec_env, CHEETAH, n_envs=4)
    with pytest.raises(ValueError, match="env must have 4 environments, got 3"):
        set_env_state(batch, get_env_state(larger))
    ant = made(make_batch_vec_env, "sb3_metra/Ant-v0")
    with pytest.raises(ValueError, match="env must be a HalfCheetahEnv as in the checkpoint, got AntEnv"):
        set_env_state(ant, get_env_state(batch))


# What is refused, and what falls back


def test_what_cannot_be_batched_is_stepped_in_turn_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sb3_metra.envs.batch, "_said", set())
    with pytest.warns(UserWarning, match="PointMass-v0 is stepped one environment after the other: a batch holds Ant,"):
        env = make_batch_vec_env(POINT, 2, seed=3)
    assert type(env) is DummyVecEnv
    assert env.reset().shape == (2, 2)
    env.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_batch_vec_env(POINT).close()


def test_a_mujoco_without_batches_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)
    monkeypatch.setattr(sb3_metra.envs.batch, "_said", set())
    assert not can_batch(CHEETAH)
    with pytest.warns(UserWarning, match=r"a batch needs the module mujoco\.batch of MuJoCo 3\.17 \(.*\)\.$"):
        env = make_batch_vec_env(CHEETAH)
    assert type(env) is DummyVecEnv
    env.close()


def test_which_environments_can_be_batched() -> None:
    assert can_batch(ANT)
    assert can_batch("sb3_metra.envs:" + CHEETAH, {"render_mode": "rgb_array", "normalize": False})
    assert not can_batch(POINT)
    assert not can_batch("sb3_metra/QuadrupedPixels-v0")
    assert not can_batch(ANT, {"render_mode": "human"})
    assert not can_batch(lambda: gym.make(ANT))
    with pytest.raises(gym.error.NameNotFound):
        can_batch("sb3_metra/Nowhere-v0")


def test_asking_loads_no_mujoco_for_others() -> None:
    program = (
        "import sys; from sb3_metra.envs.batch import can_batch; assert not can_batch('sb3_metra/PointMass-v0'); "
        "assert 'mujoco' not in sys.modules"
    )
    done = run_python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_envs", 0, "n_envs must be an integer of at least 1, got 0"),
        ("n_envs", 2.0, "n_envs must be an integer of at least 1, got 2.0"),
        ("n_threads", 0, "n_threads must be an integer of at least 1, got 0"),
        ("n_threads", True, "n_threads must be an integer of at least 1, got True"),
        ("seed", -1, "seed must be an integer of at least 0, got -1"),
        ("env_kwargs", [1], "env_kwargs must be a dict of an environment's arguments, or None, got .1."),
        ("env_kwargs", {"frame_skip": 0}, "frame_skip must be an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_batch_vec_env(CHEETAH, **{name: value})


def test_more_threads_than_cores_are_warned_of(made: Maker) -> None:
    with pytest.warns(UserWarning, match=f"n_threads should be at most {count_cores()}, the cores of this process"):
        made(make_batch_vec_env, CHEETAH, 1, n_threads=count_cores() + 1)


def test_actions_of_another_shape_are_refused(made: Maker) -> None:
    batch = made(make_batch_vec_env, CHEETAH)
    batch.reset()
    with pytest.raises(ValueError, match=r"action must have shape \(3, 6\), got \(2, 6\)"):
        batch.step(np.zeros((2, 6), np.float32))
    with pytest.raises(ValueError, match="action must be finite numbers, got"):
        batch.step(np.full((3, 6), np.nan, np.float32))
    assert batch.get_attr("data")[0].time == 0.0  # nobody has moved


def test_an_environment_of_a_batch_is_not_stepped_alone(made: Maker) -> None:
    batch = made(make_batch_vec_env, CHEETAH)
    batch.reset()
    with pytest.raises(RuntimeError, match="step the vectorised environment"):
        batch.env_method("step", np.zeros(6, np.float32), indices=0)


def test_stepping_before_the_first_reset_is_refused_as_in_turn(made: Maker) -> None:
    batch, dummy = made(make_batch_vec_env, CHEETAH), made(make_vec_env, CHEETAH)
    for env in (batch, dummy):
        with pytest.raises(RuntimeError, match="needs reset"):
            env.step(np.zeros((3, 6), np.float32))
    assert_same(batch.reset(), dummy.reset())
    assert_same_steps(batch, dummy, draw_actions(batch, 3))


def test_what_can_be_batched_is_and_the_rest_without_a_word(made: Maker) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(made(make_fast_vec_env, ANT)) is BatchVecEnv
        assert type(made(make_fast_vec_env, POINT)) is DummyVecEnv
    assert made(make_fast_vec_env, ANT, 2).n_threads == min(2, count_cores())
