"""Solve a task with a sparse reward by choosing skills: SAC decides 8 times an episode instead of 200 times."""

import argparse

from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_metra import METRA
from sb3_metra.downstream import SkillActionVecWrapper  # registers the tasks, too

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000)
args = parser.parse_args()

arch = {"net_arch": [64, 64]}
skills = METRA(
    "MlpPolicy",
    make_vec_env("sb3_metra/PointMass-v0", n_envs=8, seed=0),
    learning_rate=1e-3,
    dual_lambda=3.0,
    learning_starts=800,
    train_freq=100,
    policy_kwargs=arch,
    phi_kwargs=arch,
    seed=0,
    device="cpu",
)
skills.learn(args.steps, progress_bar=True)

# The task tells a goal, anywhere in a square, and rewards every step within 1 of it. An action is a skill, which the
# frozen policy follows for 25 steps; it never sees the goal.
task = SkillActionVecWrapper(make_vec_env("sb3_metra/PointMassGoal-v0", n_envs=8, seed=1), skills, skill_length=25)
model = SAC(
    "MultiInputPolicy",
    task,
    learning_rate=1e-3,
    learning_starts=200,
    gradient_steps=8,
    ent_coef="auto_0.1",
    policy_kwargs=arch,
    seed=0,
    device="cpu",
)
before, _ = evaluate_policy(model, task, n_eval_episodes=48)
model.learn(args.steps // 25, progress_bar=True)
after, _ = evaluate_policy(model, task, n_eval_episodes=48)
print(f"steps at the goal, of 200: {before:.0f} with random weights, {after:.0f} after {model.num_timesteps} skills")
