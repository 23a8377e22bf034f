"""First, last and later observations of episodes: those of a plain implementation that remembers whole episodes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra.common.buffers import DictSkillReplayBuffer, SkillReplayBuffer
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.episodes import Episodes
from sb3_metra.common.frame_buffer import FrameReplayBuffer
from sb3_metra.common.type_aliases import EpisodeObservations, SkillReplayBufferSamples, map_tensors
from tests.toys import scripted_envs, tiny_model

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
KINDS = ["vector", "dict", "frames", "dict of frames"]
Observation = dict[str, np.ndarray]


@dataclass
class Story:
    """All episodes of one environment: the number of the first step, and observations, one more than steps."""

    episodes: list[tuple[int, list[Observation]]] = field(default_factory=list)

    def find(self, step: int, oldest: int, ahead: int) -> tuple[Observation, Observation, Observation]:
        """First kept, last and later observation of the episode of a step."""
        begin, observations = next(x for x in reversed(self.episodes) if x[0] <= step)
        later = min(step - begin + ahead, len(observations) - 1)
        return observations[max(oldest - begin, 0)], observations[-1], observations[later]


class World:
    """
    Environments whose episodes are of random lengths and end in every way, a buffer, and what it should know.

    :param kind: one of ``KINDS``
    :param rng: what lengths, ends and observations are drawn from
    :param rows: number of rows of the buffer
    :param n_envs: number of environments
    :param longest: steps of the longest episode
    :param colours: number of different values of an observation; with 2, another episode may well begin where one ended
    """

    def __init__(self, kind: str, rng: np.random.Generator, rows: int, n_envs: int, longest: int, colours: int) -> None:
        self.kind, self.rng, self.rows, self.n_envs, self.longest, self.colours = (
            kind,
            rng,
            rows,
            n_envs,
            longest,
            colours,
        )
        self.n_stack = int(rng.integers(1, 4))
        shapes: dict[str, spaces.Space] = {"place": VECTOR, "floor": spaces.Discrete(256)}
        if "frames" in kind:
            shapes = {"camera": spaces.Box(0, 255, (2 * self.n_stack, 1, 1), np.uint8)} | (
                shapes if "dict" in kind else {}
            )
        self.keys = list(shapes) if "dict" in kind else list(shapes)[:1]
        space = spaces.Dict(shapes) if "dict" in kind else shapes[self.keys[0]]
        arguments: Any = (rows * n_envs, space, ACTIONS, "cpu", n_envs)
        if "frames" in kind:
            self.buffer: SkillReplayBuffer = FrameReplayBuffer(*arguments, skill_dim=1, n_stack=self.n_stack)
        else:
            self.buffer = (DictSkillReplayBuffer if kind == "dict" else SkillReplayBuffer)(*arguments, skill_dim=1)
        self.stories = [Story() for _ in range(n_envs)]
        self.steps = 0
        self.now = [self.reset(env) for env in range(n_envs)]

    def reset(self, env: int) -> Observation:
        first = self.observe()
        if "camera" in first:
            first["camera"] = np.concatenate([first["camera"][-2:]] * self.n_stack)
        self.stories[env].episodes.append((self.steps, [first]))
        return first

    def observe(self, before: Observation | None = None) -> Observation:
        seen: Observation = {"place": self.rng.integers(self.colours, size=3).astype(np.float64)}
        seen["floor"] = self.rng.integers(self.colours)
        seen["camera"] = self.rng.integers(self.colours, size=(2 * self.n_stack, 1, 1)).astype(np.uint8)
        if before is not None and "camera" in before:
            seen["camera"] = np.concatenate([before["camera"][2:], seen["camera"][-2:]])
        return {key: seen[key] for key in self.keys}

    def batch(self, observations: list[Observation]) -> Any:
        stacked = {key: np.stack([x[key] for x in observations]) for key in self.keys}
        return stacked if "dict" in self.kind else stacked[self.keys[0]]

    def step(self, silent: float, told: bool = True) -> None:
        """
        Add a transition of each environment, after which some episodes end.

        :param silent: share of steps that are followed by a reset out of sight
        :param told: tell the buffer of those
        """
        following = [self.observe(x) for x in self.now]
        lengths = [len(story.episodes[-1][1]) for story in self.stories]
        done = self.rng.random(self.n_envs) < 1 / self.longest
        done |= np.array(lengths) >= self.longest
        infos = [{"skill": np.ones(1), "TimeLimit.truncated": bool(d and self.rng.random() < 0.5)} for d in done]
        numbers = np.zeros((self.n_envs, 2)), np.zeros(self.n_envs)
        self.buffer.add(self.batch(self.now), self.batch(following), *numbers, done, infos)
        self.steps += 1
        for story, x in zip(self.stories, following, strict=True):
            story.episodes[-1][1].append(x)
        ended = self.rng.random(self.n_envs) < silent
        if told and ended.any():
            self.buffer.end_episodes(None if ended.all() else ended)
        self.now = [self.reset(i) if done[i] or ended[i] else x for i, x in enumerate(following)]

    def check(self, ahead: int) -> None:
        """Compare the episodes of all transitions that are kept."""
        kept = min(self.steps, self.rows)
        number, envs = np.divmod(np.arange(kept * self.n_envs), self.n_envs)
        number += self.steps - kept
        got = self.buffer._gather_episodes(number % self.rows, envs, ahead)
        expected = [self.stories[env].find(t, self.steps - kept, ahead) for t, env in zip(number, envs, strict=True)]
        for name, theirs, ours in zip(got._fields, got, zip(*expected, strict=True), strict=True):
            wanted = self.batch(list(ours))
            pairs = [(theirs[k], wanted[k]) for k in wanted] if isinstance(theirs, dict) else [(theirs, wanted)]
            for x, y in pairs:
                assert np.array_equal(x.numpy().reshape(y.shape), y), (name, self.steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_episodes_are_those_that_a_plain_implementation_remembers(seed: int, kind: str) -> None:
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    n_envs, rows, longest = int(rng.integers(1, 5)), int(rng.integers(1, 16)), int(rng.choice([1, 3, 10, 60]))
    world = World(kind, rng, rows, n_envs, longest, colours=int(rng.choice([2, 200])))
    for _ in range(4 * rows + 70):
        world.step(silent=0.1 * (seed % 2))
        world.check(ahead=int(rng.integers(1, 6)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_that_the_buffer_is_not_told_of_is_seen(kind: str) -> None:
    """By s, which is not s' of the step before."""
    world = World(kind, np.random.default_rng(0), 12, 2, 60, colours=200)
    for _ in range(60):
        world.step(silent=0.2, told=False)
        world.check(ahead=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["arrays", "pickle"])
def test_episodes_go_on_in_a_buffer_that_was_loaded(kind: str, way: str) -> None:
    world = World(kind, np.random.default_rng(1), 12, 3, 10, colours=200)
    for i in range(60):
        world.step(silent=0.05)
        if i % 7 == 3:
            if way == "arrays":
                arrays = {name: x.copy() for name, x in world.buffer.to_arrays().items()}
                world.buffer.load_arrays(world.buffer.meta(), arrays)
            else:
                world.buffer = pickle.loads(pickle.dumps(world.buffer))
            world.check(ahead=2)
    world.check(ahead=3)


# Batches


def vectors(n_steps: int = 30, rows: int = 20) -> SkillReplayBuffer:
    """Two environments with episodes of five steps, whose observations are the numbers of their steps."""
    buffer = SkillReplayBuffer(2 * rows, VECTOR, ACTIONS, "cpu", 2, skill_dim=1)
    for t in range(n_steps):
        obs = np.full((2, 3), t + t // 5, dtype=np.float64)  # an episode's end has a number of its own
        done = np.full(2, t % 5 == 4)
        buffer.add(obs, obs + 1, np.zeros((2, 2)), np.full(2, t), done, [{"skill": np.ones(1)}] * 2)
    return buffer


def test_episodes_come_with_the_batch_that_would_have_come_without() -> None:
    buffer = vectors()
    buffer.seed(1)
    plain = buffer.sample(50)
    buffer.seed(1)
    samples = buffer.sample_with_episodes(50, ahead=3)
    for x, y in zip(samples[:6], plain[:6], strict=True):
        assert th.equal(x, y)  # type: ignore[arg-type]
    episode = samples.episode
    assert isinstance(episode, EpisodeObservations)
    now = samples.observations
    assert isinstance(now, th.Tensor)
    assert th.equal(episode.first, now - now % 6)  # type: ignore[arg-type]
    assert th.equal(episode.last, now - now % 6 + 5)  # type: ignore[arg-type]
    assert th.equal(episode.ahead, th.minimum(now + 3, episode.last))  # type: ignore[arg-type, call-overload]


def test_steps_ahead_are_drawn_uniformly() -> None:
    samples = vectors().sample_with_episodes(4_000, ahead=(2, 4))
    assert samples.episode is not None
    steps = (samples.episode.ahead - samples.observations)[:, 0]  # type: ignore[operator]
    begun = steps[samples.observations[:, 0] % 6 == 0]  # type: ignore[index]
    counts = [int((begun == c).sum()) for c in range(7)]
    assert counts[:2] + counts[5:] == [0, 0, 0, 0]
    assert min(counts[2:5]) > 0.8 * len(begun) / 3


@pytest.mark.parametrize("ahead", [0, -1, (0, 2), (3, 2)])
def test_steps_ahead_that_cannot_be_are_refused(ahead: Any) -> None:
    with pytest.raises(
        ValueError, match="ahead must be a number of steps from 1 up, or the smallest and the largest, got"
    ):
        vectors().sample_with_episodes(3, ahead=ahead)


def test_running_episodes_end_with_what_is_newest() -> None:
    """And begin with what is oldest, where the ring has overwritten their beginning."""
    buffer = vectors(n_steps=28, rows=6)
    samples = buffer.sample_with_episodes(200, ahead=1)
    assert samples.episode is not None
    steps = samples.rewards[:, 0]
    ends = {
        step: (first, last)
        for step, first, last in zip(
            steps.tolist(), samples.episode.first[:, 0].tolist(), samples.episode.last[:, 0].tolist(), strict=True
        )
    }  # type: ignore[index]
    assert ends == {22: (26, 29), 23: (26, 29), 24: (26, 29), 25: (30, 33), 26: (30, 33), 27: (30, 33)}


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_shapes_and_types_of_observations(kind: str) -> None:
    world = World(kind, np.random.default_rng(2), 12, 2, 5, colours=200)
    for _ in range(20):
        world.step(silent=0.0)
    samples = world.buffer.sample_with_episodes(7, ahead=(1, 5))
    assert samples.episode is not None

    def kinds(observations: Any) -> Any:
        return map_tensors(lambda x: (x.dtype, x.shape), observations)

    for x in samples.episode:
        if isinstance(x, dict):
            assert kinds(x) == {key: kinds(samples.observations[key]) for key in x}  # type: ignore[index]
        else:
            assert kinds(x) == kinds(samples.observations)


def test_observations_of_episodes_are_normalised_as_others() -> None:
    env = VecNormalize(scripted_envs(2), clip_obs=1e6)
    model = tiny_model(env).learn(40)
    buffer = model.replay_buffer
    assert buffer is not None
    for x in (None, env):
        buffer.seed(0)
        episode = buffer.sample_with_episodes(30, env=x, ahead=2).episode
        assert episode is not None
        if x is None:
            plain = episode
    for name, got in zip(episode._fields, episode, strict=True):
        expected = env.normalize_obs(getattr(plain, name).numpy())
        assert np.allclose(got.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("again", [False, True])
def test_an_algorithm_keeps_its_episodes_apart(again: bool) -> None:
    """Observations are (environment, episode, step); a second call of ``learn`` begins new episodes unasked."""
    model = tiny_model(scripted_envs(3, lengths=(3, 5, 2, 4)), learning_starts=10**6)
    model.learn(3 * 22)
    if again:
        model.learn(3 * 22)
    assert model.replay_buffer is not None
    samples = model.replay_buffer.sample_with_episodes(400, ahead=2)
    assert samples.episode is not None
    first, last, ahead, now = (x.numpy() for x in (*samples.episode, samples.observations))  # type: ignore[union-attr]
    for x in (first, last, ahead):
        assert np.array_equal(x[:, :2], now[:, :2])
    assert not first[:, 2].any()
    assert np.array_equal(ahead[:, 2], np.minimum(now[:, 2] + 2, last[:, 2]))
    lengths = {tuple(x[:2]): x[2] for x in last}
    assert len({(*x[:2], x[2]) for x in last}) == len(lengths)  # one end for each episode
    assert set(lengths.values()) >= {3.0, 5.0, 2.0, 4.0}


def test_the_first_transitions_of_a_batch_keep_their_episodes() -> None:
    samples = vectors().sample_with_episodes(9, ahead=1)
    head = samples.head(4)
    assert head.episode is not None
    assert samples.episode is not None
    for x, y in zip(head.episode, samples.episode, strict=True):
        assert th.equal(x, y[:4])  # type: ignore[arg-type, index]


def test_a_recorded_step_reads_the_episodes_of_each_batch() -> None:
    """What is recorded runs on memory of its own, into which the episodes of later batches are copied, too."""
    buffer = vectors()

    def step(batch: SkillReplayBufferSamples) -> th.Tensor:
        assert batch.episode is not None
        return batch.episode.first.sum() + 10 * batch.episode.last.sum() + 100 * batch.episode.ahead.sum()  # type: ignore[union-attr]

    captured = CapturedStep(step, recorder=lambda function: function, warm_up=1)
    for _ in range(4):
        batch = buffer.sample_with_episodes(6, ahead=2)
        assert captured(batch) == step(batch)
    assert captured._replay is not None


# Corners


def test_an_endless_episode_does_not_overflow() -> None:
    episodes = Episodes(*np.zeros((2, 3, 1), dtype=np.int32))
    episodes._age[:] = 2**31 - 2  # as many steps so far
    for row in (0, 1, 2, 0, 1, 2):
        episodes.advance(row)
    assert (episodes.since_start >= 3).all()
    rows, envs = np.arange(3), np.zeros(3, dtype=int)
    assert episodes.first(rows, envs, oldest=0).tolist() == [0, 0, 0]
    assert episodes.remaining(rows, envs, newest=2).tolist() == [2, 1, 0]


def test_a_reset_that_no_image_shows_is_seen_in_the_other_observations() -> None:
    space = spaces.Dict({"camera": spaces.Box(0, 255, (2, 4, 4), np.uint8), "place": VECTOR})
    buffer = FrameReplayBuffer(6, space, ACTIONS, "cpu", skill_dim=1, n_stack=2)
    dark = np.zeros((1, 2, 4, 4), np.uint8)
    for here, there in ((0.0, 1.0), (1.0, 2.0), (5.0, 6.0)):  # from 2 to 5 in no time
        obs, next_obs = ({"camera": dark, "place": np.full((1, 3), x)} for x in (here, there))
        buffer.add(obs, next_obs, np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{"skill": np.ones(1)}])
    assert buffer.since_start[:3, 0].tolist() == [0, 1, 0]
    assert buffer.until_end[:3, 0].tolist() == [1, 0, -1]
