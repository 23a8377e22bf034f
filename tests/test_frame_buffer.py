"""Each frame kept once: every sample is that of an ordinary buffer of stacks, which holds six times as much."""

import io
import json
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA
from sb3_metra.common import frame_buffer
from sb3_metra.common.buffers import DictSkillReplayBuffer, SkillReplayBuffer
from sb3_metra.common.frame_buffer import FrameReplayBuffer
from sb3_metra.common.type_aliases import SkillReplayBufferSamples, map_tensors
from tests.toys import scripted_envs, tiny_model

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)
SKILL_DIM = 3
Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def play(
    rng: np.random.Generator,
    n_envs: int,
    n_stack: int,
    shape: tuple[int, ...] = (3, 2, 2),
    lengths: tuple[int, int] = (1, 7),
    colours: int = 256,
    broken: float = 0.0,
) -> Iterator[Step]:
    """
    Yield what SB3 would hand to a buffer, for ever: episodes of random frames that begin with the first one repeated.

    An episode has ``lengths[0]`` to ``lengths[1]`` steps and ends by termination or by truncation; a share ``broken``
    of the steps is its last one without saying so, as where ``learn`` is called again.
    """

    def frame() -> np.ndarray:
        return rng.integers(colours, size=shape).astype(np.uint8)

    stacks = np.stack([np.concatenate([frame()] * n_stack) for _ in range(n_envs)])
    left = rng.integers(lengths[0], lengths[1] + 1, size=n_envs)
    while True:
        following = np.stack([np.concatenate([stack[shape[0] :], frame()]) for stack in stacks])
        left -= 1
        done = left == 0
        infos = [
            {"skill": rng.normal(size=SKILL_DIM), "TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done
        ]
        action = rng.uniform(-1, 1, size=(n_envs, 2)).astype(np.float32)
        yield stacks, following.copy(), action, rng.normal(size=n_envs), done, infos
        stacks = following
        for i in np.flatnonzero(done | (rng.random(n_envs) < broken)):
            stacks[i] = np.concatenate([frame()] * n_stack)
            left[i] = rng.integers(lengths[0], lengths[1] + 1)


def make_pair(
    n_envs: int, n_stack: int, rows: int, space: spaces.Space, **kwargs: Any
) -> tuple[FrameReplayBuffer, SkillReplayBuffer]:
    """A buffer of frames, and an ordinary one for the same transitions."""
    ordinary = DictSkillReplayBuffer if isinstance(space, spaces.Dict) else SkillReplayBuffer
    arguments: Any = (rows * n_envs, space, ACTIONS, "cpu", n_envs)
    kwargs |= {"skill_dim": SKILL_DIM}
    return FrameReplayBuffer(*arguments, n_stack=n_stack, **kwargs), ordinary(*arguments, **kwargs)


def everything(buffer: SkillReplayBuffer) -> SkillReplayBufferSamples:
    """All transitions that could be sampled."""
    rows, envs = np.divmod(np.arange(buffer.size() * buffer.n_envs), buffer.n_envs)
    return buffer._gather(rows, envs)


def assert_same(samples: SkillReplayBufferSamples, expected: SkillReplayBufferSamples) -> None:
    for name, x, y in zip(expected._fields[:6], samples[:6], expected[:6], strict=True):
        for part, (a, b) in enumerate(zip(x.values(), y.values(), strict=True) if isinstance(y, dict) else [(x, y)]):
            assert a.dtype == b.dtype, (name, part)
            assert th.equal(a, b), (name, part)


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 12))])
def test_every_sample_is_that_of_a_buffer_of_stacks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_envs, n_stack, rows = int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 20))
    channels, colours = int(rng.integers(1, 4)), int(rng.choice([2, 256]))  # with 2 colours, frames repeat by chance
    space = image_space(channels * n_stack, 1, 2)
    bootstraps = bool(rng.random() < 0.7)
    frames, stacks = make_pair(n_envs, n_stack, rows, space, handle_timeout_termination=bootstraps)
    lengths = (1, int(rng.choice([1, 3, 30])))
    steps = play(rng, n_envs, n_stack, (channels, 1, 2), lengths, colours, broken=0.1 * (seed % 2))
    for _ in range(4 * rows + 3):
        step = next(steps)
        frames.add(*step)
        stacks.add(*step)
        assert_same(everything(frames), everything(stacks))
    frames.seed(seed)
    samples = frames.sample(50)
    stacks.seed(seed)
    assert_same(samples, stacks.sample(50))  # type: ignore[arg-type]


def test_a_short_story_by_hand() -> None:
    """Frames 1, 2, 3 of an episode, and 7, 8 of the next, in stacks of three, in a buffer of two transitions."""
    buffer, _ = make_pair(1, 3, 2, image_space(3, 1, 1))

    def add(before: list[int], after: list[int], done: bool) -> None:
        obs, next_obs = (np.array(x, dtype=np.uint8).reshape(1, 3, 1, 1) for x in (before, after))
        buffer.add(obs, next_obs, np.zeros((1, 2)), np.zeros(1), np.array([done]), [{"skill": np.zeros(3)}])

    def pairs() -> list[list[list[int]]]:
        samples = everything(buffer)
        return [x.flatten(1).tolist() for x in (samples.observations, samples.next_observations)]  # type: ignore[union-attr]

    add([1, 1, 1], [1, 1, 2], False)
    assert pairs() == [[[1, 1, 1]], [[1, 1, 2]]]
    add([1, 1, 2], [1, 2, 3], True)
    assert pairs() == [[[1, 1, 1], [1, 1, 2]], [[1, 1, 2], [1, 2, 3]]]
    add([7, 7, 7], [7, 7, 8], False)  # takes the first one's place; the second still ends with 3, and begins with 1
    assert pairs() == [[[7, 7, 7], [1, 1, 2]], [[7, 7, 8], [1, 2, 3]]]


def test_samples_are_bytes_that_share_their_frames() -> None:
    buffer, _ = make_pair(2, 3, 5, image_space(9, 4, 4))
    steps = play(np.random.default_rng(0), 2, 3, (3, 4, 4))
    for _ in range(5):
        buffer.add(*next(steps))
    samples = buffer.sample(7)
    assert isinstance(samples.observations, th.Tensor)
    assert isinstance(samples.next_observations, th.Tensor)
    assert samples.observations.shape == samples.next_observations.shape == (7, 9, 4, 4)
    assert samples.observations.dtype == th.uint8
    pointers = {x.untyped_storage().data_ptr() for x in (samples.observations, samples.next_observations)}
    assert len(pointers) == 1
    assert samples.observations.untyped_storage().nbytes() == 7 * 4 * 3 * 4 * 4


def test_images_in_dictionaries() -> None:
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        {
            "wide": image_space(6, 2, 3),
            "grey": image_space(2, 4, 4),
            "speed": spaces.Box(-1, 1, (3,), np.float64),
            "floor": spaces.Discrete(4),
        }
    )
    frames, stacks = make_pair(2, 2, 6, space)
    assert frames.observation_space == stacks.observation_space
    wide, grey = play(rng, 2, 2, (3, 2, 3), (4, 4)), play(rng, 2, 2, (1, 4, 4), (4, 4))
    for _ in range(15):
        (a, next_a, *rest), (b, next_b, *_) = next(wide), next(grey)
        obs, next_obs = (
            {"wide": x, "grey": y, "speed": rng.uniform(-1, 1, (2, 3)), "floor": rng.integers(4, size=2)}
            for x, y in ((a, b), (next_a, next_b))
        )
        for buffer in (frames, stacks):
            buffer.add(dict(obs), dict(next_obs), *rest)  # type: ignore[arg-type]
    samples, expected = everything(frames), everything(stacks)
    assert isinstance(samples.observations, dict)
    assert isinstance(samples.next_observations, dict)
    in_order = [{key: x[key] for key in expected.observations} for x in samples[:3:2]]  # type: ignore[call-overload]
    assert_same(samples._replace(observations=in_order[0], next_observations=in_order[1]), expected)


def by_arrays(frames: FrameReplayBuffer) -> FrameReplayBuffer:
    """Another buffer, of another size before, that was given the arrays, which change afterwards."""
    other, _ = make_pair(frames.n_envs, frames.n_stack, 4, frames.observation_space)
    for step, _ in zip(play(np.random.default_rng(7), frames.n_envs, frames.n_stack), range(6), strict=False):
        other.add(*step)
    arrays = {name: x.copy() for name, x in frames.to_arrays().items()}
    other.load_arrays(json.loads(json.dumps(frames.meta())), arrays)
    for x in arrays.values():
        x[:] = 0
    return other


def by_pickle(frames: FrameReplayBuffer) -> FrameReplayBuffer:
    return pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(frames))))  # not looked at in between


@pytest.mark.parametrize("saved", [by_arrays, by_pickle])
@pytest.mark.parametrize("steps_before", [0, 1, 4, 9, 23, 60])
def test_a_saved_buffer_goes_on_as_it_would_have(
    steps_before: int, saved: Callable[[FrameReplayBuffer], FrameReplayBuffer]
) -> None:
    unbroken, stacks = make_pair(3, 3, 9, image_space(9, 2, 2))
    steps = play(np.random.default_rng(0), 3, 3, lengths=(1, 9), broken=0.1)

    def add(n: int, buffers: list[SkillReplayBuffer]) -> None:
        for step in (next(steps) for _ in range(n)):
            for buffer in buffers:
                buffer.add(*step)

    add(steps_before, [unbroken, stacks])
    frames = saved(unbroken)
    assert frames.size() == stacks.size()
    if steps_before > 0:
        assert_same(everything(frames), everything(stacks))
    for _ in range(20):
        add(1, [frames, stacks, unbroken])
        assert_same(everything(frames), everything(stacks))
    assert frames.meta() == unbroken.meta()
    arrays = frames.to_arrays()
    for name, x in unbroken.to_arrays().items():
        assert arrays.keys() == unbroken.to_arrays().keys()
        assert np.array_equal(x, arrays[name]), name


def test_saved_frames_that_do_not_fit_are_refused() -> None:
    frames, _ = make_pair(2, 3, 9, image_space(9, 2, 2))
    for step, _ in zip(play(np.random.default_rng(1), 2, 3, lengths=(2, 3)), range(13), strict=False):
        frames.add(*step)
    meta, arrays = frames.meta(), frames.to_arrays()
    twice = arrays["aside"].copy()
    twice[twice >= 0] = 1
    for change, bad, message in (
        ({"n_stack": 1}, {}, "n_stack 3, got 1"),
        ({"added": 12}, {}, "added that leads to pos 4, got 12"),
        ({"added": -1}, {}, "added, got -1"),
        ({"n_places": 2**40}, {}, "last_frames/observation of shape"),
        ({}, {"aside": arrays["aside"] + 100}, "different numbers below .* as aside"),
        ({}, {"aside": twice}, "different numbers below .* as aside"),
        ({}, {"frames/observation": arrays["frames/observation"][:-1]}, "frames/observation of shape"),
    ):
        other, _ = make_pair(2, 3, 9, image_space(9, 2, 2))
        with pytest.raises(ValueError, match=f"replay buffer must .*{message}"):
            other.load_arrays(meta | change, arrays | bad)
        assert other.size() == 0
        other.load_arrays(meta, arrays)
        assert_same(everything(other), everything(frames))


def test_files_of_earlier_versions_load() -> None:
    """They have neither a generator nor episodes, and free places in any order."""
    frames, stacks = make_pair(2, 3, 9, image_space(9, 2, 2))
    steps = play(np.random.default_rng(1), 2, 3, broken=0.1)
    for step in (next(steps) for _ in range(23)):
        frames.add(*step)
        stacks.add(*step)
    state = frames.__getstate__()
    for name in ("rng", "since_start", "until_end"):
        del state[name]
    old = object.__new__(FrameReplayBuffer)
    old.__setstate__(state | {"_free_places": state["_free_places"][::-1]})
    assert_same(everything(old), everything(frames))
    for step in (next(steps) for _ in range(23)):
        old.add(*step)
        stacks.add(*step)
        assert_same(everything(old), everything(stacks))


@pytest.mark.parametrize("way", ["arrays", "pickle"])
def test_a_file_holds_only_what_is_filled(way: str) -> None:
    frames, _ = make_pair(1, 3, 10_000, image_space(9, 16, 16))
    steps = play(np.random.default_rng(0), 1, 3, (3, 16, 16), (5, 5))
    for _ in range(20):
        frames.add(*next(steps))
    kept = (20 + 1 + 3 + 3) * 3 * 16 * 16  # 20 steps and one more, 3 ends, and the newest stack
    if way == "arrays":
        numbers = 20 * (4 * (2 + 1 + 1 + 1 + 3 + 2) + 2 + 4)
        assert sum(x.nbytes for x in frames.to_arrays().values()) == kept + numbers
    else:
        size = len(pickle.dumps(frames)) - len(pickle.dumps(frames.observation_space))
        assert kept < size < kept + 20 * 60 + 2_500


def test_nothing_is_shared_with_what_was_added() -> None:
    frames, _ = make_pair(2, 3, 9, image_space(9, 2, 2))
    steps = play(np.random.default_rng(1), 2, 3)
    obs, next_obs, action, reward, _, infos = next(steps)
    arrays = [obs, next_obs, action, reward.astype(np.float32), np.zeros(2, dtype=bool)]
    own = [x.copy() for x in arrays]
    frames.add(*own, infos)  # type: ignore[call-arg, arg-type]
    kept = {name: x.copy() for name, x in frames.to_arrays().items()}
    for x in own:
        x[:] = 1
    for info in infos:
        info["skill"][:] = 7.0
    assert all(np.array_equal(x, kept[name]) for name, x in frames.to_arrays().items())
    following = np.concatenate([next_obs[:, 3:], next_obs[:, :3]], axis=1)
    frames.add(next_obs, following, *arrays[2:], infos)  # type: ignore[arg-type]
    assert frames.since_start[:2].tolist() == [[0, 0], [1, 1]]  # the newest stack is still that of the first step


def test_bytes_per_transition() -> None:
    """64x64 RGB in stacks of three, episodes of 200: each byte is accounted for, and there are few."""
    n_envs, rows = 2, 1_000
    space, actions, frame = image_space(9, 64, 64), spaces.Box(-1.0, 1.0, (12,), np.float32), 3 * 64 * 64
    buffer = FrameReplayBuffer(rows * n_envs, space, actions, "cpu", n_envs, n_stack=3, skill_dim=4)
    # action, reward, done, timeout, skill, two counts within the episode; age, place aside
    others = rows * n_envs * (4 * (12 + 3 + 4 + 2) + 2 + 4)
    assert buffer.nbytes == others  # no frame yet
    stack, skill = np.zeros((n_envs, 9, 64, 64), np.uint8), np.zeros(4)
    for t in range(2 * rows):
        if t % 200 == 0:
            stack = np.full_like(stack, t // 200)
        following = np.concatenate([stack[:, 3:], np.full_like(stack[:, :3], t % 200)], axis=1)
        done = np.full(n_envs, t % 200 == 199)
        buffer.add(stack, following, np.zeros((n_envs, 12)), np.zeros(n_envs), done, [{"skill": skill}] * n_envs)
        stack = following
    frames = (rows + 3) * n_envs + 16  # and room for 16 ends, of which two times 5 or 6 are held
    assert buffer.nbytes == others + frame * (frames + 3 * n_envs)  # the newest stacks are kept to compare with
    assert buffer.nbytes / (rows * n_envs) <= 12_700


def test_forgetting() -> None:
    frames, stacks = make_pair(2, 3, 9, image_space(9, 2, 2))
    empty = frames.nbytes
    steps = play(np.random.default_rng(1), 2, 3)
    for _ in range(30):
        frames.add(*next(steps))
    frames.reset()
    assert frames.nbytes == empty
    steps = play(np.random.default_rng(2), 2, 3)
    for step in (next(steps) for _ in range(4)):
        frames.add(*step)
        stacks.add(*step)
    assert_same(everything(frames), everything(stacks))


@pytest.mark.parametrize(
    ("kwargs", "space", "message"),
    [
        ({"n_stack": 2}, image_space(9, 4, 4), "n_stack must be .* 9 channels of observation, got 2"),
        ({"n_stack": 0}, image_space(9, 4, 4), "n_stack must be .* got 0"),
        ({"n_stack": 1.5}, image_space(9, 4, 4), "n_stack must be .* got 1.5"),
        ({"n_stack": 4}, spaces.Dict({"camera": image_space(9, 4, 4)}), "9 channels of camera, got 4"),
        ({"n_stack": 1}, spaces.Box(-1, 1, (3,)), "observation_space must be uint8 images"),
        ({"n_stack": 1}, spaces.Dict({"a": spaces.Discrete(3)}), "observation_space must be uint8 images"),
        ({"n_stack": 3, "storage": "disk"}, image_space(9, 4, 4), "storage must be .* got 'disk'"),
        ({"n_stack": 3, "optimize_memory_usage": True}, image_space(9, 4, 4), "optimize_memory_usage must be False"),
    ],
)
def test_what_cannot_work_is_refused(kwargs: dict[str, Any], space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrameReplayBuffer(10, space, ACTIONS, "cpu", 1, skill_dim=SKILL_DIM, **kwargs)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (0, np.zeros((2, 9, 2)), r"observation must have shape \(2, 9, 2, 2\), got \(2, 9, 2\)"),
        (1, np.full((2, 9, 2, 2), 256), "observation must hold whole numbers that fit into uint8, got 256"),
        (1, np.full((2, 9, 2, 2), 0.5), "observation must hold whole numbers that fit into uint8, got 0.5"),
        (2, np.full((2, 2), np.nan), "action must be finite"),
        (3, np.full(2, np.nan), "reward must be finite"),
        (4, np.array(["no", "no"]), "done must be True or False"),
        (5, [{"skill": np.ones(1)}] * 2, r"skill must have shape \(2, 3\), got \(2, 1\)"),
    ],
)
def test_bad_transitions_are_refused_and_nothing_is_kept(name: int, value: Any, message: str) -> None:
    """Also where a new episode would begin, whose first frame takes the place of the last one's end."""
    frames, _ = make_pair(2, 3, 4, image_space(9, 2, 2))
    steps = play(np.random.default_rng(1), 2, 3, lengths=(3, 3))
    for step in (next(steps) for _ in range(6)):
        frames.add(*step)
    before, meta = {key: x.copy() for key, x in frames.to_arrays().items()}, frames.meta()
    good = next(steps)
    bad: Any = [value if i == name else x for i, x in enumerate(good)]
    with pytest.raises(ValueError, match=message):
        frames.add(*bad)
    assert frames.meta() == meta
    assert all(np.array_equal(x, before[key]) for key, x in frames.to_arrays().items())
    frames.add(*good)
    assert frames.since_start[2].tolist() == [0, 0]


@pytest.mark.parametrize("when", ["first", "later"])
def test_stacks_that_frames_cannot_give_back_are_refused(when: str) -> None:
    frames, stacks = make_pair(2, 3, 9, image_space(9, 2, 2))
    steps = play(np.random.default_rng(1), 2, 3, lengths=(5, 5))
    for _ in range(5 if when == "later" else 0):
        step = next(steps)
        frames.add(*step)
        stacks.add(*step)
    obs, next_obs, *rest = next(steps)
    padded, next_padded = obs.copy(), next_obs.copy()
    padded[1, :6] = next_padded[1, :3] = 0
    with pytest.raises(ValueError, match=r"observation must begin an episode with its first frame .*VecFrameStack"):
        frames.add(padded, next_padded, *rest)
    torn = next_obs.copy()
    torn[0, 2] += 1
    with pytest.raises(ValueError, match="observation must move by one frame"):
        frames.add(obs, torn, *rest)
    assert frames.size() == stacks.size()
    frames.add(obs, next_obs, *rest)
    stacks.add(obs, next_obs, *rest)
    assert_same(everything(frames), everything(stacks))


class _Gpu:
    """Let buffers take ``"cuda"`` for a device with a given number of free bytes, of which none is touched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        monkeypatch.setattr("stable_baselines3.common.buffers.get_device", th.device)
        monkeypatch.setattr(th.cuda, "mem_get_info", lambda device: (free, 2 * free))


@pytest.mark.parametrize(
    ("storage", "needed_share", "place"),
    [
        ("auto", 0.79, "the memory of cuda"),
        ("auto", 0.81, "host memory"),
        ("device", 0.99, "the memory of cuda"),
        ("host", 0.01, "host memory"),
    ],
)
def test_frames_go_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, storage: Any, needed_share: float, place: str
) -> None:
    needed = (100 + 3) * 9 * 16 // 3
    _Gpu(monkeypatch, int(needed / needed_share))
    buffer = FrameReplayBuffer(100, image_space(9, 4, 4), ACTIONS, "cuda", skill_dim=2, n_stack=3, storage=storage)
    assert str(buffer) == f"FrameReplayBuffer of 100 transitions, 0.00 GB of frames in {place}"


def test_too_little_memory_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = (10_000_000, image_space(9, 64, 64), ACTIONS)
    _Gpu(monkeypatch, 10**9)
    with pytest.raises(ValueError, match=r"frames take 122.88 GB, and cuda has 1.00 GB free"):
        FrameReplayBuffer(*arguments, "cuda", skill_dim=2, n_stack=3, storage="device")
    memory = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=60 * 10**9))
    monkeypatch.setattr(frame_buffer, "psutil", memory)
    with pytest.warns(UserWarning, match=r"frames take 122.88 GB, and 60.00 GB of memory are free"):
        FrameReplayBuffer(*arguments, "cpu", skill_dim=2, n_stack=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # SB3 would say that two stacks a transition do not fit
        FrameReplayBuffer(4_000_000, *arguments[1:], "cpu", skill_dim=2, n_stack=3)


class Walk(gym.Env):
    """A white square in the dark that actions move; two RGB frames a stack, episodes of five steps."""

    observation_space = image_space(6, 46, 46)
    action_space = ACTIONS

    def _frame(self) -> np.ndarray:
        frame = np.zeros((3, 46, 46), np.uint8)
        x, y = self.place.astype(int)
        frame[:, x : x + 6, y : y + 6] = 255
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.t = self.np_random.uniform(15, 25, size=2), 0
        self.stack = np.concatenate([self._frame()] * 2)
        return self.stack, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place, self.t = np.clip(self.place + 5 * action, 0, 40), self.t + 1
        self.stack = np.concatenate([self.stack[3:], self._frame()])
        return self.stack, 0.0, bool(self.place.max() == 40), self.t == 5, {}


def make_model(env: Any, **kwargs: Any) -> METRA:
    return METRA(
        "CnnPolicy",
        env,
        policy_kwargs={"net_arch": [8], "features_extractor_kwargs": {"depth": 4}},
        phi_kwargs={"net_arch": [8]},
        buffer_size=40,
        learning_starts=16,
        batch_size=8,
        train_freq=8,
        gradient_steps=2,
        device="cpu",
        seed=0,
        **kwargs,
    )


def test_metra_learns_the_same_from_frames(capsys: pytest.CaptureFixture[str]) -> None:
    models = []
    for kwargs in (
        {},
        {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"n_stack": 2}, "verbose": 1},
    ):
        model = make_model(DummyVecEnv([Walk, Walk]), **kwargs)
        model.learn(48)
        model.learn(48)  # begins new episodes in the middle of old ones, and wraps around
        models.append(model)
    ordinary, framed = models
    assert "FrameReplayBuffer of 40 transitions, 0.00 GB of frames in host memory" in capsys.readouterr().out
    assert ordinary.replay_buffer is not None
    assert framed.replay_buffer is not None
    assert framed.replay_buffer.full
    assert_same(everything(framed.replay_buffer), everything(ordinary.replay_buffer))
    for a, b in zip(framed.policy.parameters(), ordinary.policy.parameters(), strict=True):
        th.testing.assert_close(a, b)

    file = io.BytesIO()
    framed.save_replay_buffer(file)
    file.seek(0)
    fresh = make_model(DummyVecEnv([Walk, Walk]), **kwargs)
    fresh.load_replay_buffer(file)
    assert fresh.replay_buffer is not None
    assert_same(everything(fresh.replay_buffer), everything(ordinary.replay_buffer))
    fresh.learn(16, reset_num_timesteps=False)


def test_vec_normalize_may_scale_rewards_and_no_images() -> None:
    kwargs: dict[str, Any] = {"replay_buffer_class": FrameReplayBuffer, "replay_buffer_kwargs": {"n_stack": 2}}
    make_model(VecNormalize(DummyVecEnv([Walk]), norm_obs=False), **kwargs).learn(24)
    with pytest.raises(ValueError, match="observation_space must be uint8 images"):
        make_model(VecNormalize(DummyVecEnv([Walk])), **kwargs)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("storage", ["device", "host"])
def test_sampling_never_waits_for_the_gpu(storage: str) -> None:
    frames = FrameReplayBuffer(40, image_space(9, 4, 4), ACTIONS, "cuda", 2, n_stack=3, skill_dim=3, storage=storage)  # type: ignore[arg-type]
    _, stacks = make_pair(2, 3, 20, image_space(9, 4, 4))
    steps = play(np.random.default_rng(0), 2, 3, (3, 4, 4))
    for step in (next(steps) for _ in range(50)):
        frames.add(*step)
        stacks.add(*step)
    th.cuda.set_sync_debug_mode("error")
    try:
        samples = everything(frames)
    finally:
        th.cuda.set_sync_debug_mode("default")
    on_device: list[bool] = []
    map_tensors(lambda x: on_device.append(x.device.type == "cuda"), samples)
    assert all(on_device)
    assert_same(map_tensors(th.Tensor.cpu, samples), everything(stacks))


# What an algorithm takes unasked


@pytest.mark.parametrize(
    ("kind", "policy", "expected"),
    [
        ("vector", "MlpPolicy", SkillReplayBuffer),
        ("image", "CnnPolicy", FrameReplayBuffer),
        ("dict", "MultiInputPolicy", FrameReplayBuffer),
    ],
)
def test_images_are_kept_as_frames_unasked(kind: str, policy: str, expected: type[SkillReplayBuffer]) -> None:
    small = {"net_arch": [8]} | ({"features_extractor_kwargs": {"depth": 2}} if kind == "image" else {})
    model = tiny_model(scripted_envs(2, kind=kind), policy, policy_kwargs=small).learn(40)
    assert type(model.replay_buffer) is expected
    assert getattr(model.replay_buffer, "n_stack", 1) == 1


def test_environments_say_how_many_frames_they_stack(tmp_path: Path) -> None:
    env = make_vec_env("sb3_metra/PixelPointMass-v0", 2, env_kwargs={"frame_stack": 3})
    small = {"policy_kwargs": {"net_arch": [8], "features_extractor_kwargs": {"depth": 2}}}
    model = tiny_model(env, "CnnPolicy", **small).learn(16)
    assert isinstance(model.replay_buffer, FrameReplayBuffer)
    assert model.replay_buffer.n_stack == 3
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model")
    assert loaded.replay_buffer.n_stack == 3  # type: ignore[union-attr]
    assert tiny_model(env, "CnnPolicy", replay_buffer_kwargs={"n_stack": 1}, **small).replay_buffer.n_stack == 1
    other = tiny_model(env, "CnnPolicy", replay_buffer_class=SkillReplayBuffer, **small)
    assert type(other.replay_buffer) is SkillReplayBuffer
