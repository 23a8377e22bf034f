"""Replay: what is stored, what comes back, and how many bytes it takes."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.buffers import DictSkillReplayBuffer, SkillReplayBuffer
from sb3_metra.common.type_aliases import SkillReplayBufferSamples, map_tensors
from tests.toys import scripted_envs, tiny_model

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


def fill(buffer: SkillReplayBuffer, n_steps: int, skill_dim: int = 2) -> None:
    """Add transitions whose every number says which step and which environment they come from."""
    n_envs = buffer.n_envs
    for step in range(n_steps):
        number = 100.0 * step + np.arange(n_envs)  # (n_envs,)
        observations = np.repeat(number[:, None], 3, axis=1)
        infos = [{"skill": np.full(skill_dim, x), "TimeLimit.truncated": step % 5 == 4} for x in number]
        done = np.full(n_envs, step % 5 == 4 or step % 7 == 6)
        actions = np.repeat(number[:, None], 2, axis=1)
        buffer.add(observations, observations + 0.5, actions, number + 0.25, done, infos)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [4, 8, 21])
def test_skills_stay_beside_their_transitions(n_envs: int, n_steps: int) -> None:
    """Also once the oldest transitions are overwritten."""
    buffer = SkillReplayBuffer(8 * n_envs, VECTOR, ACTIONS, "cpu", n_envs, skill_dim=2)
    fill(buffer, n_steps)
    assert buffer.size() == min(n_steps, 8)
    samples = buffer.sample(400)
    number = samples.observations[:, 0].numpy()
    kept = {100.0 * step + env for step in range(max(0, n_steps - 8), n_steps) for env in range(n_envs)}
    assert set(number.tolist()) == kept
    for value, offset in (
        (samples.observations, 0.0),
        (samples.next_observations, 0.5),
        (samples.actions, 0.0),
        (samples.skills, 0.0),
        (samples.rewards, 0.25),
    ):
        assert np.array_equal(value.numpy(), np.repeat(number[:, None] + offset, value.shape[1], axis=1))
    steps = number // 100
    assert np.array_equal(samples.dones[:, 0].numpy(), ((steps % 7 == 6) & (steps % 5 != 4)).astype(np.float32))


def test_shapes_and_types_of_a_batch() -> None:
    buffer = SkillReplayBuffer(10, VECTOR, ACTIONS, "cpu", 2, skill_dim=4)
    fill(buffer, 5, skill_dim=4)
    samples = buffer.sample(6)
    assert isinstance(samples, SkillReplayBufferSamples)
    assert [tuple(x.shape) for x in samples[:6]] == [(6, 3), (6, 2), (6, 3), (6, 1), (6, 1), (6, 4)]
    assert {x.dtype for x in samples[:6]} == {th.float32}
    assert samples.episode is None


@pytest.mark.parametrize(("handled", "expected"), [(True, [0.0, 1.0, 0.0]), (False, [1.0, 1.0, 0.0])])
def test_time_limits_and_terminations(handled: bool, expected: list[float]) -> None:
    """An episode's end at a time limit is bootstrapped, unless it is to be treated as the authors' code does."""
    buffer = SkillReplayBuffer(3, VECTOR, ACTIONS, "cpu", handle_timeout_termination=handled, skill_dim=1)
    for done, truncated in ((True, True), (True, False), (False, False)):
        info = {"skill": np.ones(1), "TimeLimit.truncated": truncated}
        buffer.add(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1), np.array([done]), [info])
    samples = buffer._get_samples(np.arange(3))
    assert samples.dones.ravel().tolist() == expected


def test_a_transition_of_ant_takes_at_most_310_bytes() -> None:
    observation_space = spaces.Box(-np.inf, np.inf, (29,), np.float64)
    actions = spaces.Box(-1.0, 1.0, (8,), np.float32)
    buffer = SkillReplayBuffer(1_000, observation_space, actions, "cpu", 8, skill_dim=2)
    arrays = [value for value in vars(buffer).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 310 * buffer.buffer_size * 8
    assert buffer.buffer_size * 8 == 1_000


def test_double_precision_is_stored_with_32_bits() -> None:
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,), np.float64), "b": spaces.Box(0, 255, (3, 4, 4), np.uint8)})
    buffer = DictSkillReplayBuffer(4, space, spaces.Box(-1.0, 1.0, (2,), np.float64), "cpu", skill_dim=1)
    assert {key: stored.dtype for key, stored in buffer.observations.items()} == {"a": np.float32, "b": np.uint8}
    assert {key: stored.dtype for key, stored in buffer.next_observations.items()} == {"a": np.float32, "b": np.uint8}
    assert buffer.actions.dtype == np.float32
    assert buffer.observation_space["a"].dtype == np.float32
    assert np.array_equal(buffer.observation_space["a"].high, [1.0, 1.0])


def test_dictionaries() -> None:
    space = spaces.Dict({"place": VECTOR, "camera": spaces.Box(0, 255, (3, 4, 4), np.uint8)})
    buffer = DictSkillReplayBuffer(6, space, ACTIONS, "cpu", 2, skill_dim=2)
    for step in range(5):
        number = 10.0 * step + np.arange(2)
        place, camera = np.repeat(number[:, None], 3, axis=1), np.full((2, 3, 4, 4), step, np.uint8)
        obs, next_obs = {"place": place, "camera": camera}, {"place": place + 0.5, "camera": camera + 1}
        infos: list[dict[str, Any]] = [{"skill": np.full(2, x)} for x in number]
        buffer.add(obs, next_obs, np.zeros((2, 2)), np.zeros(2), np.zeros(2), infos)
    samples = buffer.sample(50)
    number = samples.observations["place"][:, 0]
    assert set(number.tolist()) == {20.0, 21.0, 30.0, 31.0, 40.0, 41.0}
    assert th.equal(samples.next_observations["place"][:, 0], number + 0.5)
    assert th.equal(samples.skills[:, 1], number)
    assert th.equal(samples.observations["camera"][:, 0, 0, 0], (number // 10).to(th.uint8))
    assert th.equal(samples.next_observations["camera"][:, 0, 0, 0], (number // 10).to(th.uint8) + 1)
    assert {key: tuple(x.shape) for key, x in samples.observations.items()} == {
        "place": (50, 3),
        "camera": (50, 3, 4, 4),
    }


@pytest.mark.parametrize("kind", ["vector", "double"])
def test_observations_are_normalised_when_sampled_and_not_before(kind: str) -> None:
    env = VecNormalize(scripted_envs(2, kind=kind), clip_obs=1e6)
    model = tiny_model(env)
    model.learn(40)
    buffer = model.replay_buffer
    assert set(np.unique(buffer.observations[: buffer.size(), :, 0])) == {0.0, 1.0}  # as the environment gave them
    buffer.seed(5)
    plain = buffer.sample(64)
    buffer.seed(5)
    normalised = buffer.sample(64, env=env)
    for name in ("observations", "next_observations"):
        expected = (getattr(plain, name).numpy() - env.obs_rms.mean) / np.sqrt(env.obs_rms.var + env.epsilon)
        got = getattr(normalised, name)
        assert got.dtype == th.float32
        assert np.allclose(got.numpy(), expected, atol=1e-5)
    rewards = plain.rewards.numpy() / np.sqrt(env.ret_rms.var + env.epsilon)
    assert np.allclose(normalised.rewards.numpy(), np.clip(rewards, -10, 10), atol=1e-5)
    assert th.equal(normalised.skills, plain.skills)


def test_samples_do_not_share_memory_with_the_buffer() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", skill_dim=1)
    fill(buffer, 4, skill_dim=1)
    before = {name: getattr(buffer, name).copy() for name in ("observations", "actions", "skills", "rewards")}
    map_tensors(lambda x: x.fill_(-1.0), buffer.sample_with_episodes(64))
    assert all(np.array_equal(getattr(buffer, name), old) for name, old in before.items())


def test_what_was_added_may_change_afterwards() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", skill_dim=1)
    skill, obs = np.ones(1, np.float32), np.ones((1, 3), np.float32)
    buffer.add(obs, obs, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{"skill": skill}])
    skill[:], obs[:] = 7.0, 7.0
    samples = buffer.sample(1)
    assert (samples.skills.item(), samples.observations[0, 0].item()) == (1.0, 1.0)


def test_head_takes_the_first_transitions() -> None:
    batch = SkillReplayBufferSamples(
        observations={"a": th.arange(5.0)[:, None]},
        actions=th.arange(5.0)[:, None],
        next_observations={"a": th.arange(5.0)[:, None] + 1},
        dones=th.arange(5.0)[:, None],
        rewards=th.arange(5.0)[:, None],
        skills=th.arange(5.0)[:, None],
    )
    head = batch.head(2)
    assert head.observations["a"].ravel().tolist() == [0.0, 1.0]
    assert head.next_observations["a"].ravel().tolist() == [1.0, 2.0]
    assert [x.ravel().tolist() for x in (head.actions, head.dones, head.rewards, head.skills)] == [[0.0, 1.0]] * 4
    assert head.actions.data_ptr() == batch.actions.data_ptr()
    assert len(batch.head(9).actions) == 5


def test_sharing_memory_between_s_and_the_next_s_is_refused() -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage must be False, got True"):
        SkillReplayBuffer(4, VECTOR, ACTIONS, optimize_memory_usage=True, skill_dim=1)


# What is refused

Step = dict[str, Any]


def good_step(n_envs: int = 2) -> Step:
    """A transition of each environment, which a buffer of vectors takes."""
    return {
        "obs": np.ones((n_envs, 3)),
        "next_obs": np.ones((n_envs, 3)),
        "action": np.zeros((n_envs, 2)),
        "reward": np.zeros(n_envs),
        "done": np.ones(n_envs, dtype=bool),
        "infos": [{"skill": np.ones(2), "TimeLimit.truncated": True} for _ in range(n_envs)],
    }


def with_one(shape: tuple[int, ...], value: float) -> np.ndarray:
    """Zeros, but for the last number."""
    array = np.zeros(shape)
    array.flat[-1] = value
    return array


def skills(*values: Any) -> list[Step]:
    return [{"skill": value} for value in values]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("next_obs", with_one((2, 3), np.inf), "observation must be finite, got NaN or infinity from the environment"),
        ("obs", with_one((2, 3), np.nan), "observation must be finite"),
        ("next_obs", with_one((2, 3), 1e200), r"observation must lie within -1e\+09 and 1e\+09, .* got 1e\+200"),
        ("next_obs", with_one((2, 3), -1e20), r"observation must lie within .* got -1e\+20"),
        ("next_obs", with_one((2, 3), 1e20).astype(np.float32), r"observation must lie within .* got 1e\+20"),
        ("next_obs", np.zeros((2, 1)), r"observation must have shape \(2, 3\), got \(2, 1\)"),
        ("obs", np.float64(0.0), r"observation must have shape \(2, 3\), got \(\)"),
        ("obs", np.zeros(3), r"observation must have shape \(2, 3\), got \(3,\)"),
        ("obs", np.full((2, 3), "a"), "observation must hold numbers, got <U1"),
        ("obs", [[0.0, 0.0, 0.0], [0.0]], "observation must have shape .* got parts of different shapes"),
        (
            "obs",
            (np.zeros((2, 3)), {}),
            r"observation must be an array or a dict, got a tuple: `env.reset\(\)` returns",
        ),
        ("action", with_one((2, 2), np.nan), "action must be finite"),
        ("action", np.zeros((2, 1)), r"action must have shape \(2, 2\), got \(2, 1\)"),
        ("action", np.zeros(2), r"action must have shape \(2, 2\), got \(2, 1\)"),
        ("reward", with_one((2,), np.nan), "reward must be finite"),
        ("reward", 0.0, r"reward must have shape \(2,\), got \(\)"),
        ("done", "no", r"done must have shape \(2,\)"),
        ("done", np.array(["no", "yes"]), "done must be True or False, got"),
        ("done", np.array([0.0, 0.5]), r"done must be True or False, got \[0.0, 0.5\]"),
        ("infos", [{}, {}], 'infos must hold the skill of each environment as "skill", got one without'),
        ("infos", skills(np.ones(2)), "infos must hold one dictionary for each of 2 environments, got 1"),
        ("infos", skills(np.ones(3), np.ones(3)), r"skill must have shape \(2, 2\), got \(2, 3\)"),
        ("infos", skills(1.0, 1.0), r"skill must have shape \(2, 2\), got \(2,\)"),
        ("infos", skills(np.ones(2), np.ones(1)), "skill must have shape .* got parts of different shapes"),
        ("infos", skills(np.ones(2), np.array([1.0, np.nan])), "skill must be finite"),
        (
            "infos",
            [{"skill": np.ones(2), "TimeLimit.truncated": "no"}] * 2,
            r'info\["TimeLimit.truncated"\] must be True or False',
        ),
    ],
)
def test_bad_transitions_are_refused_and_nothing_is_kept(name: str, value: Any, message: str) -> None:
    """A full ring stays as it was: a transition that was half written would replace part of the oldest one."""
    buffer = SkillReplayBuffer(6, VECTOR, ACTIONS, "cpu", 2, skill_dim=2)
    fill(buffer, 4)
    before = {key: x.copy() for key, x in buffer.to_arrays().items()}, buffer.meta()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=message):
            buffer.add(**(good_step() | {name: value}))
    assert all(np.array_equal(x, before[0][key]) for key, x in buffer.to_arrays().items())
    assert buffer.meta() == before[1]
    buffer.add(**good_step())
    assert buffer.pos == before[1]["pos"] + 1


@pytest.mark.parametrize("value", [9.9e8, -9.9e8, 1e-300])
def test_large_numbers_that_can_be_learnt_from_are_taken(value: float) -> None:
    buffer = SkillReplayBuffer(8, VECTOR, ACTIONS, "cpu", 2, skill_dim=2)
    buffer.add(**(good_step() | {"next_obs": np.full((2, 3), value)}))
    assert np.isfinite(buffer.next_observations**2).all()
    assert np.allclose(buffer.next_observations[0], value)


def test_bad_parts_of_dictionaries_are_refused() -> None:
    space = spaces.Dict({"place": VECTOR, "floor": spaces.Discrete(4), "keys": spaces.MultiBinary(2)})
    buffer = DictSkillReplayBuffer(8, space, ACTIONS, "cpu", 2, skill_dim=2)
    good = {"place": np.zeros((2, 3)), "floor": np.array([1, 3]), "keys": np.array([[True, False], [True, True]])}
    for bad, message in (
        ({"place": with_one((2, 3), np.nan)}, "place must be finite"),
        ({"floor": np.array([0.5, 1.0])}, "floor must hold whole numbers that fit into int64, got 0.5"),
        ({"floor": np.array([np.nan, 1.0])}, "floor must be finite"),
        ({"keys": np.full((2, 2), 300)}, "keys must hold whole numbers that fit into int8, got 300"),
    ):
        with pytest.raises(ValueError, match=message):
            buffer.add(**(good_step() | {"obs": good, "next_obs": good | bad}))
    for missing in (np.zeros((2, 3)), {"place": good["place"], "floor": good["floor"]}):
        with pytest.raises(ValueError, match=r"observation must be a dict of \['floor', 'keys', 'place'\], got"):
            buffer.add(**(good_step() | {"obs": missing, "next_obs": good}))
    assert buffer.size() == 0
    buffer.add(**(good_step() | {"obs": good, "next_obs": good}))
    assert buffer.observations["floor"][0].ravel().tolist() == [1, 3]
    assert buffer.observations["keys"][0].tolist() == [[1, 0], [1, 1]]
    assert good["floor"].shape == (2,)  # SB3 reshapes it within the caller's dictionary


def test_actions_of_an_integer_box_keep_their_fractions() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, spaces.Box(-10, 10, (2,), np.int64), "cpu", 2, skill_dim=2)
    buffer.add(**(good_step() | {"action": np.array([[0.25, -1.0], [0.5, 0.125]])}))
    assert buffer.actions[0].tolist() == [[0.25, -1.0], [0.5, 0.125]]


def test_discrete_actions_and_flags_of_other_kinds() -> None:
    """What SB3's environments give: actions without a last axis, and 0 or 1 as flags."""
    buffer = SkillReplayBuffer(4, VECTOR, spaces.Discrete(5), "cpu", 2, skill_dim=2)
    infos = [{"skill": np.ones(2), "TimeLimit.truncated": flag} for flag in (np.bool_(True), 0)]
    buffer.add(**(good_step() | {"action": np.array([4, 0]), "done": np.array([1.0, 0.0]), "infos": infos}))
    assert buffer.actions[0].tolist() == [[4], [0]]
    assert buffer.dones[0].tolist() == [1.0, 0.0]
    assert buffer.timeouts[0].tolist() == [1.0, 0.0]


def test_sampling_from_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="replay buffer must hold a transition before it is sampled from, got none"):
        SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", skill_dim=2).sample(3)


# Memory and random numbers of its own


def test_the_infos_of_the_environment_are_left_alone() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", 2, skill_dim=2)
    step = good_step()
    before = copy.deepcopy(step)
    buffer.add(**step)
    assert step["infos"][0].keys() == before["infos"][0].keys()
    for name in ("obs", "next_obs", "action", "reward", "done"):
        assert np.array_equal(step[name], before[name])


def test_nothing_is_shared_with_what_was_added() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", 2, skill_dim=2)
    step: Step = {name: x.astype(buffer.actions.dtype) if name != "infos" else x for name, x in good_step().items()}
    buffer.add(**step)
    kept = {name: x.copy() for name, x in buffer.to_arrays().items()}
    for x in [step[name] for name in ("obs", "next_obs", "action", "reward", "done")]:
        x[:] = 7.0
    for info in step["infos"]:
        info["skill"][:] = 7.0
    assert all(np.array_equal(x, kept[name]) for name, x in buffer.to_arrays().items())


def drawn(buffer: SkillReplayBuffer, n: int = 3) -> list[float]:
    return [x for _ in range(n) for x in buffer.sample(7).rewards.ravel().tolist()]


def test_sampling_has_a_generator_of_its_own() -> None:
    """Neither does NumPy's global state decide what is sampled, nor does sampling change it."""
    buffer = SkillReplayBuffer(80, VECTOR, ACTIONS, "cpu", 2, skill_dim=2)
    fill(buffer, 40)
    buffer.seed(3)
    first = drawn(buffer)
    buffer.seed(3)
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    assert drawn(buffer) == first
    assert np.random.get_state()[1].tolist() == before
    assert drawn(buffer) != first
    buffer.seed(4)
    assert drawn(buffer) != first
    assert isinstance(buffer.rng, np.random.Generator)
    assert isinstance(buffer.rng.bit_generator, np.random.PCG64)


# Saving


def make_buffer(kind: str, rows: int, n_envs: int, **kwargs: Any) -> SkillReplayBuffer:
    arguments: Any = (rows * n_envs, VECTOR, ACTIONS, "cpu", n_envs)
    if kind == "dict":
        arguments = (rows * n_envs, spaces.Dict({"a/b": VECTOR, "c": spaces.Discrete(3)}), *arguments[2:])
        return DictSkillReplayBuffer(*arguments, skill_dim=2, **kwargs)
    return SkillReplayBuffer(*arguments, skill_dim=2, **kwargs)


def random_steps(kind: str, n_envs: int, seed: int = 0) -> Iterator[Step]:
    """Transitions of episodes of random lengths, for ever."""
    rng = np.random.default_rng(seed)

    def observe() -> Any:
        place = rng.normal(size=(n_envs, 3))
        return {"a/b": place, "c": rng.integers(3, size=n_envs)} if kind == "dict" else place

    obs = observe()
    while True:
        next_obs, done = observe(), rng.random(n_envs) < 0.2
        infos = [{"skill": rng.normal(size=2), "TimeLimit.truncated": bool(rng.random() < 0.5)} for _ in range(n_envs)]
        action = rng.uniform(-1, 1, (n_envs, 2))
        yield {"obs": obs, "next_obs": next_obs, "action": action, "reward": rng.normal(size=n_envs)} | {
            "done": done,
            "infos": infos,
        }
        obs = observe() if done.all() else next_obs


@pytest.mark.parametrize("kind", ["vector", "dict"])
def test_a_copy_on_the_device_gives_the_same_samples(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, copied = (make_buffer(kind, 7, 2) for _ in range(2))
    own = copied._copy.__class__
    monkeypatch.setattr(own, "fits", lambda self, nbytes, device: self is copied._copy)
    steps = [random_steps(kind, 2) for _ in range(2)]
    for buffer in (plain, copied):
        buffer.seed(0)
    for n_steps in (1, 2, 5, 3, 7, 16, 0):  # also once round the ring, more than once, and nothing new
        for buffer, source in zip((plain, copied), steps, strict=True):
            for _ in range(n_steps):
                buffer.add(**next(source))
        for name in ("sample", "sample_with_episodes"):
            tensors: list[list[th.Tensor]] = [[], []]
            for buffer, found in zip((plain, copied), tensors, strict=True):
                map_tensors(found.append, getattr(buffer, name)(64))
            assert all(th.equal(x, y) and x.dtype == y.dtype for x, y in zip(*tensors, strict=True))
    copied.rewards[:] = 9.0
    assert (copied.sample(16).rewards != 9.0).all()  # it is the copy that is sampled from
    loaded = pickle.loads(pickle.dumps(copied))
    assert (loaded.sample(16).rewards == 9.0).all()


def same_arrays(first: SkillReplayBuffer, second: SkillReplayBuffer) -> bool:
    a, b = first.to_arrays(), second.to_arrays()
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("way", ["arrays", "pickle"])
@pytest.mark.parametrize("kind", ["vector", "dict"])
@pytest.mark.parametrize("n_steps", [0, 1, 6, 7, 20])
def test_a_saved_buffer_is_the_same_to_the_bit_and_goes_on_so(way: str, kind: str, n_steps: int) -> None:
    buffer = make_buffer(kind, 7, 2)
    buffer.seed(1)
    steps = random_steps(kind, 2)
    for _ in range(n_steps):
        buffer.add(**next(steps))
    if n_steps:
        buffer.sample(5)
    if way == "arrays":
        meta = json.loads(json.dumps(buffer.meta()))
        other = make_buffer(kind, 3, 2)  # of another size, and not empty
        other.add(**next(random_steps(kind, 2, seed=9)))
        other.load_arrays(meta, {key: x.copy() for key, x in buffer.to_arrays().items()})
    else:
        other = pickle.loads(pickle.dumps(buffer))
    assert other.meta() == buffer.meta()
    assert same_arrays(other, buffer)
    for _ in range(12):
        step = next(steps)
        for each in (buffer, other):
            each.add(**step)
        assert other.meta() == buffer.meta()
        assert same_arrays(other, buffer)
        for a, b in zip(buffer.sample(9)[:6], other.sample(9)[:6], strict=True):
            assert all(th.equal(a[key], b[key]) for key in a) if isinstance(a, dict) else th.equal(a, b)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["arrays", "pickle"])
def test_what_is_saved_is_as_large_as_what_it_holds(way: str) -> None:
    """200 transitions of a million."""
    buffer = SkillReplayBuffer(1_000_000, VECTOR, ACTIONS, "cpu", skill_dim=2)
    fill(buffer, 200)
    bytes_each = 4 * (3 + 3 + 2 + 1 + 1 + 1 + 2 + 1 + 1)
    assert sum(x.nbytes for x in buffer.to_arrays().values()) == 200 * bytes_each
    if way == "pickle":
        assert len(pickle.dumps(buffer)) < 200 * bytes_each + 4_000
        assert pickle.loads(pickle.dumps(buffer)).observations.shape == (1_000_000, 1, 3)


def test_a_loaded_buffer_shares_no_memory_with_the_arrays() -> None:
    buffer, other = make_buffer("vector", 7, 2), make_buffer("vector", 7, 2)
    for step, _ in zip(random_steps("vector", 2), range(9), strict=False):
        buffer.add(**step)
    other.load_arrays(buffer.meta(), buffer.to_arrays())
    other.observations[:] = 5.0
    assert not (buffer.observations == 5.0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": "FrameReplayBuffer"}, "class SkillReplayBuffer, got FrameReplayBuffer"),
        ({"n_envs": 3}, "n_envs 2, got 3"),
        ({"skill_dim": 5}, "skill_dim 2, got 5"),
        ({"observation_space": "Box(0, 1)"}, r"observation_space Box\(-inf, inf, \(3,\), float32\), got Box\(0, 1\)"),
        ({"handle_timeout_termination": False}, "handle_timeout_termination True, got False"),
        ({"pos": 7}, "pos below 7, got 7"),
        ({"pos": -1}, "pos, got -1"),
        ({"pos": 2.0}, "pos, got 2.0"),
        ({"full": 1}, "full, got 1"),
        ({"buffer_size": 0}, "pos below 0"),
        ({"pos": 3}, "observations of shape"),
        ({"rng": {"bit_generator": "MT19937"}}, "the state of a PCG64 as rng, got"),
        ({"rng": None}, "the state of a PCG64 as rng, got None"),
        ({"more": 1}, "described by class, .* got .* more"),
    ],
)
def test_saved_buffers_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    buffer, other = make_buffer("vector", 7, 2), make_buffer("vector", 7, 2)
    for step, _ in zip(random_steps("vector", 2), range(5), strict=False):
        buffer.add(**step)
    with pytest.raises(ValueError, match=f"replay buffer must .*{message}"):
        other.load_arrays(buffer.meta() | change, buffer.to_arrays())
    assert other.size() == 0
    other.load_arrays(buffer.meta(), buffer.to_arrays())


def test_saved_arrays_that_do_not_fit_are_refused() -> None:
    buffer, other = make_buffer("vector", 7, 2), make_buffer("vector", 7, 2)
    for step, _ in zip(random_steps("vector", 2), range(5), strict=False):
        buffer.add(**step)
    arrays = buffer.to_arrays()
    for bad, message in (
        ({key: x for key, x in arrays.items() if key != "skills"}, "got others: skills"),
        (arrays | {"more": np.zeros(3)}, "got others: more"),
        (arrays | {"skills": arrays["skills"][:3]}, "skills of shape .5, 2, 2. and type float32, got .3, 2, 2."),
        (arrays | {"skills": arrays["skills"].astype(np.float64)}, "skills of shape .* and float64"),
        (arrays | {"observations": np.full_like(arrays["observations"], np.nan)}, "finite observations, got NaN"),
    ):
        with pytest.raises(ValueError, match=f"replay buffer must hold .*{message}"):
            other.load_arrays(buffer.meta(), bad)
    assert other.size() == 0


@pytest.mark.parametrize("kind", ["vector", "dict"])
def test_files_of_earlier_versions_load(kind: str) -> None:
    """They hold whole arrays, no generator, and no episodes, which are found again from where they ended."""
    buffer = make_buffer(kind, 7, 2)
    for step, _ in zip(random_steps(kind, 2), range(11), strict=False):
        buffer.add(**step)
    new = ("rng", "since_start", "until_end", "_episodes")
    old = object.__new__(type(buffer))
    old.__setstate__({name: x for name, x in vars(buffer).items() if name not in new})
    assert all(np.array_equal(x, old.to_arrays()[name]) for name, x in buffer.to_arrays().items() if name not in new)
    old.sample(5)
    step = next(random_steps(kind, 2, seed=4))
    rows, envs = np.divmod(np.arange(14), 2)
    for each in (buffer, old):
        each.add(**step)
    assert old.pos == buffer.pos == 5
    assert np.array_equal(old._episodes.first(rows, envs, 5), buffer._episodes.first(rows, envs, 5))
    assert np.array_equal(old._episodes.remaining(rows, envs, 4), buffer._episodes.remaining(rows, envs, 4))


def test_samples_lie_where_tensors_lie() -> None:
    """Products depend in their last bits on where an array lies, which NumPy leaves to chance: a run would, too."""
    buffer = SkillReplayBuffer(64, VECTOR, ACTIONS, "cpu", 1, skill_dim=2)
    fill(buffer, 8)
    samples = [buffer.sample(n) for n in range(1, 40)]
    places = [x.data_ptr() for sample in samples for x in sample if isinstance(x, th.Tensor)]
    assert {place % 64 for place in places} == {0}
