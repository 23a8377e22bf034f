"""A model that learnt on normalised observations takes their statistics along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from sb3_metra import METRA
from sb3_metra.common.normalization import ObservationNormalization
from tests.toys import Scripted, scripted_envs, tiny_model


class Far(Scripted):
    """Observations about 1000."""

    def _observation(self) -> Any:
        return super()._observation() + np.float32(1000.0)


def far(n: int = 2) -> VecEnv:
    return DummyVecEnv([lambda i=i: Far(i) for i in range(n)])


def trained(**kwargs: Any) -> METRA:
    return tiny_model(VecNormalize(far(), **kwargs)).learn(48)


def statistics(env: VecNormalize) -> list[Any]:
    return [env.obs_rms.mean.tolist(), env.obs_rms.var.tolist(), env.clip_obs, env.epsilon]


def test_normalisation_is_vec_normalizes() -> None:
    env = VecNormalize(far(), clip_obs=0.5, epsilon=1e-3)
    model = tiny_model(env).learn(48)
    carried = model.normalization
    assert carried is not None
    observations = np.random.default_rng(0).normal(1000.0, 3.0, (5, 3)).astype(np.float32)
    expected = env.normalize_obs(observations)
    assert np.array_equal(carried.normalize(observations), expected)
    assert np.array_equal(carried.normalize(observations[0]), expected[0])
    frozen = carried.wrap(far(1))
    assert np.array_equal(frozen.normalize_obs(observations), expected)
    assert (frozen.training, frozen.norm_reward) == (False, False)
    other = VecNormalize(far(1))
    carried.apply_to(other)
    assert statistics(other) == statistics(env)
    other.reset()  # its own arrays move
    assert statistics(env) != statistics(other)
    assert carried.mean.tolist() == env.obs_rms.mean.tolist()


def test_a_model_on_observations_as_they_are_has_none(tmp_path: Path) -> None:
    assert tiny_model().normalization is None
    assert tiny_model(VecNormalize(far(), norm_obs=False)).normalization is None
    tiny_model().save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(2), device="cpu")
    assert loaded.normalization is None
    assert loaded.get_vec_normalize_env() is None


def test_a_file_carries_the_statistics(tmp_path: Path) -> None:
    model = trained(clip_obs=5.0)
    env = model.get_vec_normalize_env()
    model.save(tmp_path / "model")
    then = statistics(env)
    model.learn(48)
    assert statistics(env) != then
    loaded = METRA.load(tmp_path / "model", device="cpu")
    assert statistics(loaded.normalization.wrap(far())) == then
    loaded.save(tmp_path / "again")  # also without an environment
    assert statistics(METRA.load(tmp_path / "again", device="cpu").normalization.wrap(far())) == then


@pytest.mark.parametrize("training", [True, False])
def test_an_environment_as_it_is_gets_them(training: bool, tmp_path: Path) -> None:
    model = trained()
    env = model.get_vec_normalize_env()
    env.training = training
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=far(), device="cpu")
    wrapped = loaded.get_vec_normalize_env()
    assert wrapped is loaded.get_env()
    assert statistics(wrapped) == statistics(env)
    loaded.learn(24)
    assert (statistics(wrapped) == statistics(env)) == (not training)
    assert loaded.normalization.mean.tolist() == wrapped.obs_rms.mean.tolist()


def test_a_single_environment_gets_them_too(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=gym.wrappers.TimeLimit(Far(), 20), device="cpu")
    assert np.abs(loaded.get_env().reset()).max() <= 10.0
    assert abs(loaded.get_vec_normalize_env().obs_rms.mean[0] - 1000.0) < 10.0


def test_a_vec_normalize_that_has_seen_nothing_gets_them(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    blank = VecNormalize(far(), norm_reward=True)
    loaded = METRA.load(tmp_path / "model", env=blank, device="cpu")
    assert loaded.get_env() is blank
    assert blank.norm_reward
    assert statistics(blank) == statistics(model.get_vec_normalize_env())


@pytest.mark.filterwarnings("ignore:VecNormalize keeps statistics")
def test_a_vec_normalize_with_statistics_keeps_them(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    own = VecNormalize(far())
    own.reset()
    before = statistics(own)
    loaded = METRA.load(tmp_path / "model", env=own, device="cpu")
    assert statistics(own) == before
    assert loaded.normalization.mean.tolist() == before[0]


def test_another_environment_of_a_running_model_gets_them() -> None:
    model = trained()
    expected = statistics(model.get_vec_normalize_env())
    model.set_env(far())
    assert statistics(model.get_vec_normalize_env()) == expected
    model.learn(24)


class Pair(gym.Env):
    """Two observations by name."""

    def __init__(self) -> None:
        place, sign = spaces.Box(-9.0, 9.0, (2,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = spaces.Dict({"place": place, "sign": sign})
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _observation(self) -> dict[str, np.ndarray]:
        return {"place": self.np_random.normal(3.0, 1.0, 2).astype(np.float32), "sign": np.ones(1, np.float32)}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._observation(), 0.0, False, bool(self.np_random.random() < 0.2), {}


def test_some_keys_of_a_dictionary(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([Pair]), norm_obs_keys=["place"])
    model = tiny_model(env, "MultiInputPolicy").learn(24)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=DummyVecEnv([Pair]), device="cpu")
    wrapped = loaded.get_vec_normalize_env()
    assert wrapped.norm_obs_keys == ["place"]
    assert wrapped.obs_rms["place"].mean.tolist() == env.obs_rms["place"].mean.tolist()
    observation = {"place": np.array([4.0, 2.0], np.float32), "sign": np.ones(1, np.float32)}
    ours, theirs = loaded.normalization.normalize(observation), env.normalize_obs(observation)
    assert all(np.array_equal(ours[key], theirs[key]) for key in observation)
    with pytest.raises(ValueError, match=r"norm_obs_keys \['place'\], got \['place', 'sign'\]"):
        METRA.load(tmp_path / "model", env=VecNormalize(DummyVecEnv([Pair])), device="cpu")


def test_what_cannot_be_normalised_so_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    with pytest.raises(ValueError, match="norm_obs=True, got False"):
        METRA.load(tmp_path / "model", env=VecNormalize(far(), norm_obs=False), device="cpu")
    with pytest.raises(ValueError, match=r"Observation spaces do not match: .* of shape \(3,\), got Dict"):
        METRA.load(tmp_path / "model", env=DummyVecEnv([Pair]), device="cpu")


def test_statistics_count_what_they_saw() -> None:
    env = VecNormalize(far())
    carried = ObservationNormalization.of(env)
    assert carried.count < 1.0
    env.reset()
    assert ObservationNormalization.of(env).count == pytest.approx(2.0, abs=1e-3)
    assert ObservationNormalization.of(None) is None


def test_observations_that_a_model_does_not_know_are_announced(tmp_path: Path) -> None:
    tiny_model(far()).learn(48).save(tmp_path / "plain")
    trained().save(tmp_path / "normalised")
    with pytest.warns(UserWarning, match="learnt on observations as they are, and gets normalised ones"):
        METRA.load(tmp_path / "plain", env=VecNormalize(far()), device="cpu")
    env = VecNormalize(far())
    env.reset()
    with pytest.warns(UserWarning, match="keeps statistics of 2 observations, fewer than the 50"):
        METRA.load(tmp_path / "normalised", env=env, device="cpu")
    with pytest.warns(UserWarning, match="NormalizeObservation of Gymnasium keeps statistics of its own"):
        tiny_model(gym.wrappers.NormalizeObservation(Far()))


@pytest.mark.filterwarnings("error")
def test_observations_that_a_model_knows_are_not(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    model.set_env(model.get_env())
    METRA.load(tmp_path / "model", env=model.get_env(), device="cpu")
    tiny_model(far()).set_env(VecNormalize(far()))  # has learnt nothing


def test_wrappers_around_normalisation_leave_observations_as_they_are() -> None:
    tiny_model(VecMonitor(VecNormalize(far()))).learn(8)
    with pytest.raises(ValueError, match="VecNormalize around the wrappers that change its observations, got VecFrame"):
        tiny_model(VecFrameStack(VecNormalize(far()), 2))
