"""Reach goals without any training for them: phi tells the skill that leads to a goal. A minute on a laptop."""

import argparse

from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.evaluation import evaluate_goals, sample_goals
from sb3_metra.evaluation.plotting import plot_goals

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=100_000)
parser.add_argument("--out", default="goals.png")
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

# The environment's method `goal_observation` gives what would be seen at a place; phi of that is where to go. The skill
# is chosen anew at every step, so that the point turns back where it has run past the goal.
goals = sample_goals((7.5, 7.5), n=50)
trajectories = evaluate_goals(model, env, goals, model.encode, model.skill_prior)
metrics = trajectories.metrics(radii=(1.0, 0.3))
near, nearer = metrics["goal_success_1"], metrics["goal_success_0.3"]
print(f"skills come within 1 of {near:.0%} of the goals, and within 0.3 of {nearer:.0%}")
print(f"they end {metrics['goal_distance']:.2f} away from them on average")
plot_goals(trajectories.coordinates, goals, args.out, radius=1.0)
