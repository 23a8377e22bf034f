"""Time METRA's gradient step against one that spares nothing, in turn within one process; CPU milliseconds, medians."""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from torch import nn
from torch.distributions import Independent, Normal

from sb3_metra import METRA
from sb3_metra.common.type_aliases import SkillReplayBufferSamples


class WastefulStep:
    """
    The same mathematics with everything done that has no effect, as in the authors' code: graphs behind targets and
    rewards, gradients of the critics in the actor's step, a variance network beside phi that nothing reads, an Adam
    loop for each network and multiplier, and losses read at every step.
    """

    def __init__(self, obs_dim: int, action_dim: int, skill_dim: int, width: int) -> None:
        def mlp(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
            hidden = [nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation()]
            return nn.Sequential(*hidden, nn.Linear(width, outputs))

        self.phi = mlp(obs_dim, skill_dim, nn.ReLU)
        self.phi_variance = mlp(obs_dim, skill_dim, nn.ReLU)
        self.actor = mlp(obs_dim + skill_dim, 2 * action_dim, nn.Tanh)
        self.critics = nn.ModuleList(mlp(obs_dim + skill_dim + action_dim, 1, nn.ReLU) for _ in range(2))
        self.targets = copy.deepcopy(self.critics)
        self.log_lambda = nn.Parameter(th.tensor([math.log(30.0)]))
        self.log_alpha = nn.Parameter(th.tensor([math.log(0.01)]))
        self.target_entropy = -0.5 * action_dim
        groups: dict[str, Any] = {"phi": self.phi.parameters(), "lambda": [self.log_lambda]}
        groups |= {"critics": self.critics.parameters(), "actor": self.actor.parameters(), "alpha": [self.log_alpha]}
        self.optimizers = {name: th.optim.Adam(group, lr=1e-4, foreach=False) for name, group in groups.items()}

    def _descend(self, name: str, loss: th.Tensor) -> float:
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()
        return loss.item()

    def _act(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        mean, log_std = self.actor(inputs).chunk(2, dim=1)
        distribution = Independent(Normal(mean, log_std.clamp(math.log(1e-6), 2.0).exp()), 1)
        gaussian = distribution.rsample()
        actions = th.tanh(gaussian)
        return actions, distribution.log_prob(gaussian) - th.log(1 - actions**2 + 1e-6).sum(dim=1)

    def _displacement(self, batch: SkillReplayBufferSamples) -> th.Tensor:
        for observations in (batch.observations, batch.next_observations):
            self.phi_variance(observations)
        return self.phi(batch.next_observations) - self.phi(batch.observations)

    def __call__(self, batch: SkillReplayBufferSamples) -> None:
        obs, following, skills = batch.observations, batch.next_observations, batch.skills
        displacement = self._displacement(batch)
        slack = th.clamp(1 - displacement.square().mean(dim=1), max=1e-3)
        alignment = (displacement * skills).sum(dim=1)
        self._descend("phi", -(alignment + self.log_lambda.detach().exp() * slack).mean())
        self._descend("lambda", (self.log_lambda * slack.detach().mean()).sum())
        rewards = (self._displacement(batch) * skills).sum(dim=1).detach()
        here, there = th.cat([obs, skills], dim=1), th.cat([following, skills], dim=1)
        next_actions, next_log_prob = self._act(there)
        next_q = th.cat([target(th.cat([there, next_actions], dim=1)) for target in self.targets], dim=1).amin(dim=1)
        value = next_q - self.log_alpha.exp() * next_log_prob
        target = (rewards + (1 - batch.dones.flatten()) * 0.99 * value).detach()
        pairs = th.cat([here, batch.actions], dim=1)
        self._descend("critics", sum(0.5 * F.mse_loss(critic(pairs).flatten(), target) for critic in self.critics))
        actions, log_prob = self._act(here)
        q_value = th.cat([critic(th.cat([here, actions], dim=1)) for critic in self.critics], dim=1).amin(dim=1)
        self._descend("actor", (self.log_alpha.exp().detach() * log_prob - q_value).mean())
        self._descend("alpha", (-self.log_alpha * (log_prob.detach() + self.target_entropy)).mean())
        with th.no_grad():
            for average, parameter in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                average.mul_(0.995).add_(0.005 * parameter)


class _Spaces(gym.Env):
    """An environment that is only its spaces, those of Ant."""

    observation_space = spaces.Box(-np.inf, np.inf, (29,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (8,), np.float32)


def make_step(width: int, bfloat16: bool) -> Callable[[SkillReplayBufferSamples], Any]:
    """METRA's own gradient step at a width."""
    model = METRA(
        "MlpPolicy",
        _Spaces(),
        constraint_norm="mean",
        policy_kwargs={"net_arch": [width, width]},
        phi_kwargs={"net_arch": [width, width]},
        buffer_size=256,
        bfloat16=bfloat16,
        device="cpu",
    )
    return model.gradient_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    th.manual_seed(0)
    skills = F.normalize(th.randn(256, 2))
    batch = SkillReplayBufferSamples(
        th.randn(256, 29), th.rand(256, 8) * 2 - 1, th.randn(256, 29), th.zeros(256, 1), th.zeros(256, 1), skills
    )
    print(f"torch {th.__version__}, {args.threads} thread(s), batch 256, 29-d observations, 8 actions")
    print("| hidden layers | step | CPU ms, median | times as fast as the wasteful step |\n|---|---|---|---|")
    for width in args.widths:
        steps: dict[str, Callable[[SkillReplayBufferSamples], Any]] = {
            "wasteful": WastefulStep(29, 8, 2, width),
            "sb3_metra": make_step(width, False),
            "sb3_metra, bfloat16": make_step(width, True),
        }
        times: dict[str, list[float]] = {name: [] for name in steps}
        for i in range(args.steps + 3):
            for name, step in steps.items():
                start = time.process_time()
                step(batch)
                if i >= 3:  # warmed up
                    times[name].append(1e3 * (time.process_time() - start))
        for name, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(times["wasteful"], values, strict=True))
            print(f"| 2x{width} | {name} | {statistics.median(values):.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
