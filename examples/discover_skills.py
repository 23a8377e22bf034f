"""Discover skills of a point mass, draw them, and send one to a goal. Less than a minute on a laptop."""

import argparse

import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.evaluation import policy_state_coverage, rollout_skills
from sb3_metra.evaluation.plotting import plot_trajectories

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=50_000)
parser.add_argument("--out", default="point_mass.png")
args = parser.parse_args()

env = make_vec_env("sb3_metra/PointMass-v0", n_envs=8, seed=0)
arch = {"net_arch": [64, 64]}  # small networks and a high learning rate: the task is small
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
print("policy state coverage:", policy_state_coverage(model, env, model.skill_prior))

skills = model.skill_prior.evaluation_skills(48)
plot_trajectories(rollout_skills(model, env, skills), args.out)

# a goal is a state: phi tells the skill that leads there
start, goal = np.zeros(2, np.float32), np.array([4.0, -3.0], np.float32)
skill = model.skill_prior.toward(model.encode(goal) - model.encode(start))
(trajectory,) = rollout_skills(model, env, skill[None])
distances = np.linalg.norm(trajectory.coordinates - goal, axis=1)
print(f"on the way of skill {skill.round(2)} the goal is {distances.min():.2f} away at the nearest")
