"""Replay: what is stored, what comes back, and how many bytes it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.buffers import DictSkillReplayBuffer, SkillReplayBuffer
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
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
    assert [tuple(x.shape) for x in samples] == [(6, 3), (6, 2), (6, 3), (6, 1), (6, 1), (6, 4)]
    assert {x.dtype for x in samples} == {th.float32}


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
    np.random.seed(5)
    plain = buffer.sample(64)
    np.random.seed(5)
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
    for value in buffer.sample(64):
        value.fill_(-1.0)
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


def test_what_is_not_finite_is_not_stored() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", 2, skill_dim=1)
    infos = [{"skill": np.full(1, 9.0)}] * 2
    bad = np.array([[0.0, 0.0, 0.0], [0.0, np.inf, 0.0]])
    with pytest.raises(ValueError, match="observation must be finite, got NaN or infinity from the environment"):
        buffer.add(np.zeros((2, 3)), bad, np.zeros((2, 2)), np.zeros(2), np.zeros(2), infos)
    assert buffer.size() == 0
    assert not buffer.skills.any()


def test_sharing_memory_between_s_and_the_next_s_is_refused() -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage must be False, got True"):
        SkillReplayBuffer(4, VECTOR, ACTIONS, optimize_memory_usage=True, skill_dim=1)


def test_a_transition_without_a_skill_is_refused() -> None:
    buffer = SkillReplayBuffer(4, VECTOR, ACTIONS, "cpu", skill_dim=2)
    arrays = (np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    with pytest.raises(KeyError, match="skill"):
        buffer.add(*arrays, [{}])
    with pytest.raises(ValueError, match="shape"):
        buffer.add(*arrays, [{"skill": np.zeros(3)}])
    assert buffer.size() == 0
