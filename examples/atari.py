"""Discover skills in an Atari game: where Ms. Pac-Man goes, learnt from the console's memory, 128 bytes."""

import argparse
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.evaluation import rollout_skills, state_coverage
from sb3_metra.evaluation.plotting import plot_trajectories

PLACE = [10, 16]  # the bytes that hold Ms. Pac-Man's x and y, in pixels of the screen
JINGLE = 65  # steps that the game plays music before she can move

gym.register_envs(ale_py)


class OneLife(gym.Wrapper):
    """An episode is a life, without the music; the memory is scaled, and her place told in units of 8 pixels."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (128,), np.float32)
        self.lives, self.place = 0, np.zeros(2)

    def _see(self, memory: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        if info["lives"] == self.lives:  # the game puts her back to the start when she loses a life
            self.place = memory[PLACE] / 8.0
        return np.float32(memory / 127.5 - 1.0), info | {"coordinates": self.place}

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        memory, info = self.env.reset(**kwargs)
        for _ in range(JINGLE):
            memory, _, _, _, info = self.env.step(0)
        self.lives = info["lives"]
        return self._see(memory, info)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        memory, reward, terminated, truncated, info = self.env.step(action)
        observation, info = self._see(memory, info)
        return observation, reward, terminated or info["lives"] < self.lives, truncated, info


def make_env() -> gym.Env:
    """A game of Ms. Pac-Man, 100 steps of four frames."""
    return TimeLimit(OneLife(gym.make("ALE/MsPacman-v5", obs_type="ram")), 100)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

arch = {"net_arch": [128, 128]}
model = METRA(
    "MlpPolicy",
    make_vec_env(make_env, n_envs=8, seed=args.seed),
    skill_dim=2,
    train_freq=100,
    gradient_steps=50,
    learning_starts=4_000,
    learning_rate=1e-3,
    ent_coef="auto_0.1",
    dual_lambda=3.0,
    policy_kwargs=arch,
    phi_kwargs=arch | {"normalize_steps": True},
    seed=args.seed,
    device="cpu",
)
model.learn(args.steps, progress_bar=True)

skills = model.skill_prior.evaluation_skills(48, np.random.default_rng(0))
trajectories = rollout_skills(model, make_vec_env(make_env, n_envs=8, seed=0), skills)
distance = np.mean([np.linalg.norm(t.coordinates[-1] - t.coordinates[0]) for t in trajectories])
cells = state_coverage(t.coordinates for t in trajectories)
print(f"48 skills visit {cells} places and end {distance:.1f} from the start on average, in units of 8 pixels.")
plot_trajectories(trajectories, path="ms_pacman.png", title=f"Ms. Pac-Man, {args.steps} steps")
