"""The statistics that observations were normalised with: a model carries them wherever it goes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_metra.common.arguments import FLAG, POSITIVE, number

_COUNT = number(0)


def _are_statistics(mean: Any, var: Any) -> bool:
    return (
        all(isinstance(x, np.ndarray) and np.isfinite(x).all() for x in (mean, var))
        and mean.shape == var.shape
        and bool((var >= 0).all())
    )


class ObservationNormalization:
    """
    A frozen copy of what SB3's ``VecNormalize`` knows of observations. Of a dictionary, it normalises some keys.

    :param mean: mean of each component, an array, or a dictionary of arrays
    :param var: variance of each component, likewise
    :param count: number of observations behind them
    :param clip: largest absolute value of a normalised component
    :param epsilon: added to the variance
    :param training: whether training continues to update them
    :raises ValueError: for what are no statistics
    """

    def __init__(
        self,
        mean: np.ndarray | dict[str, np.ndarray],
        var: np.ndarray | dict[str, np.ndarray],
        count: float,
        clip: float = 10.0,
        epsilon: float = 1e-8,
        training: bool = True,
    ) -> None:
        self.mean, self.var, self.count = mean, var, _COUNT("count", count)
        self.clip, self.epsilon = POSITIVE("clip", clip), _COUNT("epsilon", epsilon)
        self.training = FLAG("training", training)
        means, variances = self._by_key("mean"), self._by_key("var")
        if means.keys() != variances.keys() or not all(_are_statistics(x, variances[key]) for key, x in means.items()):
            raise ValueError("mean and var must be finite arrays of one shape, var not below 0")

    @classmethod
    def of(cls, env: VecEnv | None) -> ObservationNormalization | None:
        """
        The statistics of environments.

        :param env: environments, ``VecNormalize`` somewhere around them
        :return: ``None`` if their observations are not normalised
        """
        vec_normalize = None if env is None else unwrap_vec_normalize(env)
        if vec_normalize is None or not vec_normalize.norm_obs:
            return None
        rms: Any = vec_normalize.obs_rms
        parts = rms.values() if isinstance(rms, dict) else [rms]
        mean, var = (
            {key: getattr(x, name).copy() for key, x in rms.items()}
            if isinstance(rms, dict)
            else getattr(rms, name).copy()
            for name in ("mean", "var")
        )
        count = max((x.count for x in parts), default=0.0)
        return cls(mean, var, count, vec_normalize.clip_obs, vec_normalize.epsilon, vec_normalize.training)

    def normalize(self, observation: Any) -> Any:
        """
        Normalise observations as ``VecNormalize`` does.

        :param observation: one observation, or a batch, as they come from the environment
        :return: as ``predict`` and ``encode`` of the model expect them, float32
        """
        if isinstance(self.mean, dict):
            own = self.mean.keys()
            return {key: self._normalize(x, key) if key in own else x for key, x in observation.items()}
        return self._normalize(observation)

    def _normalize(self, x: np.ndarray, key: str | None = None) -> np.ndarray:
        mean: Any = self.mean if key is None else self.mean[key]
        var: Any = self.var if key is None else self.var[key]
        return np.clip((x - mean) / np.sqrt(var + self.epsilon), -self.clip, self.clip).astype(np.float32)

    def wrap(self, venv: VecEnv, training: bool = False) -> VecNormalize:
        """
        Environments with these statistics around them; rewards stay as they are.

        :param venv: environments whose observations are not normalised
        :param training: whether the statistics move on
        :raises ValueError: if their observations have other shapes
        """
        self._check(venv.observation_space)
        keys = list(self.mean) if isinstance(self.mean, dict) else None
        vec_normalize = VecNormalize(
            venv, training, norm_reward=False, clip_obs=self.clip, epsilon=self.epsilon, norm_obs_keys=keys
        )
        self._set(vec_normalize)
        return vec_normalize

    def apply_to(self, vec_normalize: VecNormalize) -> None:
        """
        Let environments that are normalised already have these statistics.

        :param vec_normalize: changed in place
        :raises ValueError: if it does not normalise the same observations
        """
        if not vec_normalize.norm_obs:
            raise ValueError("VecNormalize must have norm_obs=True, got False: the model learnt on normalised ones")
        self._check(vec_normalize.observation_space)
        if isinstance(self.mean, dict) and list(self.mean) != list(vec_normalize.norm_obs_keys or ()):
            got = vec_normalize.norm_obs_keys
            raise ValueError(f"VecNormalize must have norm_obs_keys {list(self.mean)}, got {got}")
        self._set(vec_normalize)

    def _set(self, vec_normalize: VecNormalize) -> None:
        rms: dict[str | None, Any]
        rms = {key: RunningMeanStd(shape=mean.shape) for key, mean in self._by_key("mean").items()}
        for key, x in rms.items():
            x.mean, x.var, x.count = self._by_key("mean")[key].copy(), self._by_key("var")[key].copy(), self.count
        vec_normalize.obs_rms = rms if isinstance(self.mean, dict) else rms[None]
        vec_normalize.clip_obs, vec_normalize.epsilon = self.clip, self.epsilon

    def _by_key(self, name: str) -> dict[Any, np.ndarray]:
        value = getattr(self, name)
        return value if isinstance(value, dict) else {None: value}

    def _check(self, space: spaces.Space) -> None:
        for key, mean in self._by_key("mean").items():
            inner = space.spaces.get(key) if isinstance(space, spaces.Dict) else space if key is None else None
            if inner is None or inner.shape != mean.shape:
                got = space if key is None else f"{inner} as {key!r}"
                raise ValueError(
                    f"Observation spaces do not match: the model learnt on normalised observations of shape "
                    f"{mean.shape}, got {got}"
                )


def normalize_env(env: VecEnv, carried: ObservationNormalization | None, learnt: bool = True) -> VecEnv:
    """
    Training environments whose observations are normalised as the model knows them.

    What is not normalised is wrapped with the model's statistics. A ``VecNormalize`` that has seen nothing yet gets
    them; one that has statistics of its own keeps those.

    :param env: environments
    :param carried: the model's statistics; ``None`` leaves the environments alone
    :param learnt: whether the model has learnt already, and would not know observations normalised otherwise
    :raises ValueError: if they cannot be normalised that way
    """
    own = ObservationNormalization.of(env)
    if carried is None:
        if learnt and own is not None:
            warnings.warn(
                "the model learnt on observations as they are, and gets normalised ones from VecNormalize: give "
                "norm_obs=False unless it is to learn from scratch",
                stacklevel=3,
            )
        return env
    vec_normalize = unwrap_vec_normalize(env)
    if vec_normalize is None:
        return carried.wrap(env, carried.training)
    if own is None or own.count < 1.0:  # SB3's statistics begin with a count of 1e-4
        carried.apply_to(vec_normalize)
    elif learnt and own.count < carried.count:
        warnings.warn(
            f"VecNormalize keeps statistics of {own.count:.0f} observations, fewer than the {carried.count:.0f} behind "
            "those of the model: pass environments without VecNormalize to use the model's",
            stacklevel=3,
        )
    return env
