"""Discover skills in an environment of your own: here Gymnasium's Pendulum, told where it is by a wrapper."""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.evaluation import SkillEvalCallback


class AngleAsCoordinate(gym.Wrapper):
    """Reports the pendulum's angle, in quarter turns, as the coordinate that coverage is measured in."""

    def _tell(self, info: dict[str, Any]) -> dict[str, Any]:
        return info | {"coordinates": np.array([self.unwrapped.state[0] / (np.pi / 2)])}

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return obs, self._tell(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, self._tell(info)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=40_000)
args = parser.parse_args()


def make_env() -> gym.Env:
    """Any environment of Gymnasium will do; coordinates are needed for measuring only."""
    return AngleAsCoordinate(gym.make("Pendulum-v1"))


arch = {"net_arch": [64, 64]}
model = METRA(
    "MlpPolicy",
    make_vec_env(make_env, n_envs=8, seed=0),
    skill_dim=4,
    discrete=True,
    learning_rate=1e-3,
    dual_lambda=3.0,
    learning_starts=1600,
    policy_kwargs=arch,
    phi_kwargs=arch,
    seed=0,
    device="cpu",
)
callback = SkillEvalCallback(make_vec_env(make_env, n_envs=4), eval_freq=10_000, n_skills=8, verbose=1)
model.learn(args.steps, callback, progress_bar=True)
for skill, trajectory in enumerate(callback.last_trajectories[: model.skill_prior.dim]):
    angles = trajectory.coordinates[:, 0]
    print(f"skill {skill}: from {angles[0]:+.1f} to {angles[-1]:+.1f} quarter turns, {np.ptp(angles):.1f} in between")
