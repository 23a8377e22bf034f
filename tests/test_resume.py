"""A run that goes on from a checkpoint is the run that never stopped, to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401  registers the environments
from sb3_metra import METRA
from sb3_metra.common.checkpoint import RunCheckpointCallback, find_checkpoint
from tests.toys import same, state_of, tiny_model

POINT = "sb3_metra/PointMass-v0"


class Remembering(gym.Env):
    """A walk on a line that gives its state, and whose noise comes from three generators."""

    observation_space, action_space = gym.spaces.Box(-99, 99, (2,), np.float32), gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=2), 0
        return np.float32(self.x), {}

    def step(self, action: np.ndarray) -> Any:
        noise = self.np_random.normal() + np.random.normal() + random.gauss(0, 1)
        self.x, self.t = self.x + 0.1 * action + 0.01 * noise, self.t + 1
        return np.float32(self.x), float(self.x[0]), False, self.t == 13, {}

    def get_state(self) -> dict[str, Any]:
        return {"x": self.x.copy(), "t": self.t, "rng": self.np_random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        self.x, self.t = state["x"].copy(), state["t"]
        self.np_random.bit_generator.state = state["rng"]


class Stateless(gym.Env):
    """The same walk, but it keeps its state to itself."""

    observation_space, action_space = Remembering.observation_space, Remembering.action_space

    def __init__(self) -> None:
        self.reset, self.step = (walk := Remembering()).reset, walk.step  # type: ignore[method-assign]


def remembering(n: int = 3) -> VecEnv:
    return make_vec_env(Remembering, n, seed=5)


def point(n: int = 2) -> VecEnv:
    return make_vec_env(POINT, n, seed=5)


def normalised() -> VecEnv:
    return VecNormalize(remembering())


def processes() -> VecEnv:
    return make_vec_env(POINT, 2, seed=5, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "fork"})


class Record(BaseCallback):
    """Counts and keeps what it sees, in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.rewards: list[float] = []

    def _on_step(self) -> bool:
        self.rewards.append(float(self.locals["rewards"].sum()))
        return True


class Killed(BaseException):
    """What stops a run without a word."""


class Kill(BaseCallback):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.at:
            raise Killed
        return True


def spoil_generators() -> None:
    """A new process has its generators anywhere."""
    random.seed(99)
    np.random.seed(99)
    th.manual_seed(99)


def run(make: Any, folder: Path, steps: int, kill: int | None = None, **kwargs: Any) -> tuple[METRA, Record]:
    """A run that is killed and goes on, or one that is not."""

    def callbacks() -> list[BaseCallback]:
        envs = [make_vec_env(Remembering, 1, seed=1), make_vec_env(Stateless)] if make is remembering else []
        evaluations = [EvalCallback(x, eval_freq=17, n_eval_episodes=1, verbose=0) for x in envs]
        return [RunCheckpointCallback(40, folder), Record(), *evaluations]

    env = make()
    model = tiny_model(env, **kwargs)
    first = callbacks()
    if kill is None:
        model.learn(steps, first)
        env.close()
        return model, first[1]
    with pytest.raises(Killed):
        model.learn(steps, [*first, Kill(kill)])
    env.close()
    spoil_generators()
    second = callbacks()
    model = METRA.resume(folder, make(), device="cpu")
    assert 0 < model.num_timesteps < kill
    model.learn(steps - model.num_timesteps, second, reset_num_timesteps=False)
    model.env.close()
    return model, second[1]


def noise() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(2), np.full(2, 0.3))


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (remembering, {}),
        (remembering, {"random_warmup": True, "learning_starts": 100}),
        (remembering, {"action_noise": noise, "learning_rate": lambda remaining: 1e-3 * remaining}),
        (point, {"skill_dim": 4, "discrete": True}),
        pytest.param(normalised, {}, marks=pytest.mark.slow),  # see the overlapped one
        (processes, {}),
        pytest.param(lambda: make_vec_env(Stateless, 3, seed=5), {}, marks=pytest.mark.slow),
        pytest.param(
            remembering,
            {"overlap": True, "action_noise": noise, "learning_rate": lambda remaining: 1e-3 * remaining},
            marks=pytest.mark.slow,
        ),
        (normalised, {"overlap": True}),
        (lambda: make_vec_env(Stateless, 3, seed=5), {"overlap": True}),
    ],
)
def test_a_killed_run_goes_on_to_the_bit(make: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    def arguments() -> dict[str, Any]:
        return {name: value() if value is noise else value for name, value in kwargs.items()}

    if "learning_rate" in kwargs:
        from stable_baselines3.common.utils import LinearSchedule

        kwargs = kwargs | {"learning_rate": LinearSchedule(1e-3, 0.0, 1.0)}
    spoil_generators()
    whole, seen = run(make, tmp_path / "whole", 180, **arguments())
    spoil_generators()
    resumed, seen_again = run(make, tmp_path / "killed", 180, kill=140, **arguments())
    assert resumed.num_timesteps == whole.num_timesteps
    assert resumed._n_updates == whole._n_updates > 0
    assert same(state_of(resumed), state_of(whole))
    own, other = resumed.replay_buffer.to_arrays(), whole.replay_buffer.to_arrays()
    assert all(np.array_equal(own[name], other[name]) for name in other)
    assert seen_again.rewards == seen.rewards
    assert (seen_again.n_calls, resumed._episode_num) == (seen.n_calls, whole._episode_num)
    for mine, other in zip(resumed._callback.callbacks[2:], whole._callback.callbacks[2:], strict=True):
        assert mine.last_mean_reward == other.last_mean_reward
        assert mine.best_mean_reward == other.best_mean_reward


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_that_a_callback_stops_in_a_round_goes_on(overlap: bool, tmp_path: Path) -> None:
    whole = tiny_model(remembering(1), train_freq=20, overlap=overlap)
    whole.learn(160)
    model = tiny_model(remembering(1), train_freq=20, overlap=overlap)
    model.learn(160, StopTrainingOnMaxEpisodes(5))
    assert model._round != (0, 0)
    model.save_checkpoint(tmp_path)
    spoil_generators()
    resumed = METRA.resume(tmp_path, remembering(1), device="cpu")
    resumed.learn(160 - resumed.num_timesteps, reset_num_timesteps=False)
    assert same(state_of(resumed), state_of(whole))


@pytest.mark.parametrize("what", ["reset", "step"])
def test_a_run_whose_environments_somebody_else_moved_goes_on(what: str, tmp_path: Path) -> None:
    whole, arguments = tiny_model(remembering()), {"reset": (), "step": (np.zeros((3, 2), np.float32),)}[what]
    whole.learn(24)
    getattr(whole.env, what)(*arguments)
    whole.save_checkpoint(tmp_path)
    whole.learn(48, reset_num_timesteps=False)
    resumed = METRA.resume(tmp_path, remembering(), device="cpu").learn(48)
    own, other = resumed.replay_buffer.to_arrays(), whole.replay_buffer.to_arrays()
    assert all(np.array_equal(own[name], other[name]) for name in other)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    model = tiny_model(remembering())
    for steps in (24, 24, 24):
        model.learn(steps, reset_num_timesteps=False)
        model.save_checkpoint(tmp_path / "checkpoints")
    older, newer = sorted((tmp_path / "checkpoints").iterdir())
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints") == find_checkpoint(newer) == newer
    with (newer / "model.zip").open("r+b") as file:
        file.truncate(1_000)
    with pytest.warns(UserWarning, match=r"resuming from .*because .*model\.zip is missing, incomplete"):
        assert find_checkpoint(tmp_path) == older
    with pytest.raises(ValueError, match=r"model\.zip is missing, incomplete"):
        find_checkpoint(newer)
    (older / "manifest.json").unlink()
    with pytest.raises(ValueError, match="must hold a complete checkpoint, got"):
        METRA.resume(tmp_path, remembering())
    with pytest.raises(ValueError, match="must hold a complete checkpoint, got none"):
        METRA.resume(tmp_path / "nowhere", remembering())


def test_other_environments_are_refused(tmp_path: Path) -> None:
    model = tiny_model(remembering()).learn(24)
    model.save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="env must have 3 environments"):
        METRA.resume(tmp_path, remembering(2), device="cpu")


def test_what_makes_no_checkpoint_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="keep must be an integer of at least 1, got 0"):
        model.save_checkpoint(tmp_path, keep=0)
    with pytest.raises(ValueError, match="folder must be a path, got None"):
        model.save_checkpoint(None)
    with pytest.raises(ValueError, match="path must be a path, got None"):
        METRA.resume(None, model.env)
    with pytest.raises(ValueError, match="env must be given to resume"):
        METRA.resume(model.save_checkpoint(tmp_path), None)


def test_a_checkpoint_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="no checkpoint could be written to .*file"):
        model = tiny_model(remembering()).learn(96, RunCheckpointCallback(1, tmp_path / "file"))
    assert model.num_timesteps == 96
    for arguments in ({"save_freq": 0}, {"save_freq": 10, "keep": 0}, {"save_freq": 2.5}):
        with pytest.raises(ValueError, match=f"{list(arguments)[-1]} must be an integer of at least 1"):
            RunCheckpointCallback(save_path=tmp_path, **arguments)


def test_the_toy_of_this_file_is_left_alone_by_a_checkpoint(tmp_path: Path) -> None:
    """Taking a checkpoint in the middle of episodes changes nothing if the environments give their state."""
    plain = tiny_model(remembering()).learn(150)
    saved = tiny_model(remembering()).learn(150, RunCheckpointCallback(7, tmp_path))
    assert same(state_of(plain), state_of(saved))
    assert len(list(tmp_path.iterdir())) == 2
