"""Fine-tune a skill: SB3's SAC on a sparse task, started from the skill that leads there, beside SAC from scratch."""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_metra import METRA
from sb3_metra.downstream import sac_from_skill

SPOT = np.array([5.0, 3.0], np.float32)


class StayAtSpot(gym.Wrapper):
    """Rewards being within 1 of a spot, and nothing else."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = self.env.step(action)
        return obs, float(np.linalg.norm(obs - SPOT) < 1.0), terminated, truncated, info


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000)
args = parser.parse_args()

arch = {"net_arch": [64, 64]}
settings = {"learning_rate": 1e-3, "train_freq": 100, "gradient_steps": 100, "seed": 0, "device": "cpu"}
env = make_vec_env("sb3_metra/PointMass-v0", n_envs=8, seed=0)
skills = METRA("MlpPolicy", env, dual_lambda=3.0, learning_starts=800, policy_kwargs=arch, phi_kwargs=arch, **settings)
skills.learn(args.steps, progress_bar=True)


def task() -> gym.Env:
    """A point that is to stay at the spot, seen as in training."""
    return StayAtSpot(gym.make("sb3_metra/PointMass-v0"))


task_env = make_vec_env(task, n_envs=8, seed=1)
skill = skills.skill_prior.toward(skills.encode(SPOT) - skills.encode(np.zeros(2, np.float32)))
# SAC's usual entropy coefficient of 1 would drown what the skill does in noise, and a sparse reward needs many updates
settings |= {"ent_coef": "auto_0.01", "gradient_steps": 400}
tuned = sac_from_skill(skills, task_env, skill, **settings)
scratch = SAC("MlpPolicy", task_env, policy_kwargs=arch, **settings)
for steps in [0] + [args.steps // 25] * 5:
    for name, model in (("from the skill", tuned), ("from scratch", scratch)):
        if steps > 0:
            model.learn(steps, reset_num_timesteps=False)
        mean, _ = evaluate_policy(model, task_env, n_eval_episodes=8)
        print(f"{name}, after {model.num_timesteps} steps: at the spot for {mean:.0f} of 100 steps")
