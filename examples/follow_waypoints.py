"""Compose skills: blend one into another, and follow waypoints by sending phi from one to the next."""

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.evaluation import GoalReacher, rollout_skills
from sb3_metra.evaluation.plotting import plot_goals, plot_trajectories

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000)
args = parser.parse_args()

env = make_vec_env("sb3_metra/PointMass-v0", n_envs=8, seed=0)
arch = {"net_arch": [64, 64]}
model = METRA(
    "MlpPolicy",
    env,
    learning_rate=1e-3,
    dual_lambda=3.0,
    learning_starts=800,
    train_freq=100,
    policy_kwargs=arch,
    phi_kwargs=arch,
    seed=0,
    device="cpu",
)
model.learn(args.steps, progress_bar=True)

# Between two skills lie others: the mixtures of both, brought back to the unit sphere.
first, last = np.array([1.0, 0.0]), np.array([0.0, 1.0])
blends = model.skill_prior.toward(np.stack([(1 - w) * first + w * last for w in np.linspace(0, 1, 9)]))
plot_trajectories(rollout_skills(model, env, blends), "blended_skills.png", "From one skill to another")

# A waypoint is a goal; once it is reached, the next one is.
waypoints = np.array([[4, 0], [4, 4], [0, 4], [-4, 4], [-4, -2], [0, 0]], np.float32)
body = gym.make("sb3_metra/PointMass-v0", max_episode_steps=600)
obs, info = body.reset(seed=0)
reacher = GoalReacher(model, model.encode, model.skill_prior, waypoints[0])
places, passed, truncated = [info["coordinates"]], 0, False
while passed < len(waypoints) and not truncated:
    action, _ = reacher.predict(obs, deterministic=True)
    obs, _, _, truncated, info = body.step(action)
    places.append(info["coordinates"])
    if np.linalg.norm(info["coordinates"] - waypoints[passed]) < 0.5:
        passed += 1
        reacher.goals = waypoints[min(passed, len(waypoints) - 1)]
plot_goals([np.array(places)] * len(waypoints), waypoints, "waypoints.png", radius=0.5)
print(f"skills passed {passed} of {len(waypoints)} waypoints in {len(places) - 1} steps")
