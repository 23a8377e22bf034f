"""
Write files of recorded gradient steps with plain PyTorch; form: tests/data/README.md. Imports nothing of the package.

The arithmetic is laid out as in the authors' code: one pass of phi over s and another over s', one backward pass and
one plain Adam for each of phi, lambda, both critics, actor and entropy coefficient, and targets averaged one by one.

    python tests/make_oracle.py pixels.npz --pixels 64 64 9 --skill-dim 4
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F

Arrays = dict[str, np.ndarray]
Net = dict[str, th.Tensor]  # parameters of a network by name, such as "hidden0.weight"

HEADS = {"actor": ("mean", "log_std"), "phi": ("out",), "q1": ("out",), "q2": ("out",)}
LOG_STD_BOUNDS = (math.log(1e-6), 2.0)
INSIDE_LOG = 1e-6


def forward(net: Net, observations: th.Tensor, *extra: th.Tensor, heads: tuple[str, ...] = ("out",)) -> Any:
    """A network's outputs: convolutions where it has any, hidden layers over features and what is appended, heads."""
    x = observations
    if "conv0.weight" in net:
        x = x / 255.0
        for i in range(4):
            x = F.elu(F.conv2d(x, net[f"conv{i}.weight"], net[f"conv{i}.bias"], stride=2))
        x = x.flatten(1)
    x = th.cat([x, *extra], dim=1)
    i = 0
    while f"hidden{i}.weight" in net:
        x = F.linear(x, net[f"hidden{i}.weight"], net[f"hidden{i}.bias"])
        x = th.tanh(x) if "mean" in heads else F.relu(x)
        i += 1
    outputs = [F.linear(x, net[f"{head}.weight"], net[f"{head}.bias"]) for head in heads]
    return outputs[0] if len(outputs) == 1 else outputs


def sample_action(actor: Net, observations: th.Tensor, skills: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, ...]:
    """A squashed Gaussian action made from given noise, (batch, action_dim), and its log-probability, (batch,)."""
    mean, log_std = forward(actor, observations, skills, heads=("mean", "log_std"))
    std = log_std.clamp(*LOG_STD_BOUNDS).exp()
    gaussian = th.distributions.Normal(mean, std)
    before = mean + noise * std
    action = th.tanh(before)
    correction = th.log(1.0 - action**2 + INSIDE_LOG).sum(dim=1)
    return action, gaussian.log_prob(before).sum(dim=1) - correction


class Learner:
    """
    The networks, multipliers and optimisers of a file, ready to replay its steps.

    :param data: a file's arrays, of which ``meta/`` and ``init/`` are read
    :param dtype: precision of the arithmetic: ``th.float64`` tells rounding errors from mistakes
    :param norm: ``"mean"`` or ``"sum"`` of squares in the constraint
    :param stale_reward: reward the critics with phi from before its step (the wrong order, to see that it is noticed)
    """

    def __init__(
        self, data: Mapping[str, Any], dtype: th.dtype = th.float32, norm: str = "mean", stale_reward: bool = False
    ) -> None:
        self.meta = {name.removeprefix("meta/"): x for name, x in data.items() if name.startswith("meta/")}
        self.dtype, self.norm, self.stale_reward = dtype, norm, stale_reward
        self.nets: dict[str, Net] = {}
        for name in ("actor", "phi", "q1", "q2"):
            self.nets[name] = self._read(data, name, learnt=True)
        for name in ("q1", "q2"):
            self.nets[f"target_{name}"] = self._read(data, name, learnt=False)
        self.log_lambda, self.log_alpha = (
            self._tensor(data[f"init/{name}"]).reshape(1).requires_grad_()
            for name in ("log_dual_lambda", "log_ent_coef")
        )
        groups = {
            "phi": [*self.nets["phi"].values()],
            "lambda": [self.log_lambda],
            "critics": [*self.nets["q1"].values(), *self.nets["q2"].values()],
            "actor": [*self.nets["actor"].values()],
            "alpha": [self.log_alpha],
        }
        lr = float(self.meta["lr"])
        self.optimizers = {name: th.optim.Adam(params, lr=lr, foreach=False) for name, params in groups.items()}

    def _read(self, data: Mapping[str, Any], name: str, learnt: bool) -> Net:
        prefix = f"init/{name}/"
        names = [key for key in data if key.startswith(prefix)]
        return {key.removeprefix(prefix): self._tensor(data[key]).requires_grad_(learnt) for key in names}

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.tensor(array, dtype=self.dtype)

    def _observations(self, array: np.ndarray) -> th.Tensor:
        if "pixel_shape" not in self.meta:
            return self._tensor(array)
        images = self._tensor(array).reshape(len(array), *(int(size) for size in self.meta["pixel_shape"]))
        return images.permute(0, 3, 1, 2).contiguous()

    def _minimise(self, loss: th.Tensor, *names: str) -> float:
        for name in names:
            self.optimizers[name].zero_grad()
        loss.backward()
        for name in names:
            self.optimizers[name].step()
        return float(loss.detach())

    def _displacement(self, s: th.Tensor, s_next: th.Tensor) -> th.Tensor:
        here = forward(self.nets["phi"], s)
        there = forward(self.nets["phi"], s_next)
        return there - here

    def step(self, batch: Mapping[str, np.ndarray]) -> Arrays:
        """
        Take one gradient step.

        :param batch: observations, next_observations, actions, dones, skills and both noises
        :return: every quantity that a file records of a step
        """
        s, s_next = self._observations(batch["observations"]), self._observations(batch["next_observations"])
        actions, dones, z = (self._tensor(batch[name]) for name in ("actions", "dones", "skills"))
        noise_next, noise_new = (self._tensor(batch[f"noise_{name}_action"]) for name in ("next", "new"))
        out: dict[str, Any] = {"dual_lambda_before": float(self.log_lambda.detach().exp())}

        dim = z.shape[1]
        direction = (z - z.mean(dim=1, keepdim=True)) * dim / (dim - 1) if bool(self.meta["discrete"]) else z
        displacement = self._displacement(s, s_next)
        alignment = (displacement * direction).sum(dim=1)
        square = displacement.square().mean(dim=1) if self.norm == "mean" else displacement.square().sum(dim=1)
        slack = (1.0 - square).clamp(max=float(self.meta["dual_slack"]))
        out["alignment_before_phi_step"], out["slack"] = alignment, slack
        multiplier = self.log_lambda.detach().exp()
        out["phi_loss"] = self._minimise(-(alignment + multiplier * slack).mean(), "phi")
        out["dual_loss"] = self._minimise((self.log_lambda * slack.detach().mean()).sum(), "lambda")
        out["dual_lambda_after"] = self.log_lambda.detach().exp()

        with th.no_grad():
            rewards = (self._displacement(s, s_next) * direction).sum(dim=1)
        out["rewards"] = rewards
        out |= self._critics(
            alignment.detach() if self.stale_reward else rewards, s, s_next, actions, dones, z, noise_next
        )
        out |= self._actor(s, z, noise_new)
        with th.no_grad():
            tau = float(self.meta["tau"])
            for name in ("q1", "q2"):
                for key, target in self.nets[f"target_{name}"].items():
                    target.copy_(target * (1.0 - tau) + self.nets[name][key] * tau)
        return {key: _array(value) for key, value in out.items()}

    def _critics(self, rewards: th.Tensor, s: th.Tensor, s_next: th.Tensor, *batch: th.Tensor) -> dict[str, Any]:
        actions, dones, z, noise = batch
        alpha = self.log_alpha.detach().exp()
        with th.no_grad():
            next_action, log_prob = sample_action(self.nets["actor"], s_next, z, noise)
            q1, q2 = (forward(self.nets[f"target_q{i}"], s_next, z, next_action).flatten() for i in (1, 2))
            value = th.min(q1, q2) - alpha * log_prob
            target = rewards + value * float(self.meta["gamma"]) * (1.0 - dones)
        losses = [0.5 * F.mse_loss(forward(self.nets[f"q{i}"], s, z, actions).flatten(), target) for i in (1, 2)]
        self._minimise(losses[0] + losses[1], "critics")
        return {
            "next_action": next_action,
            "log_prob_next_action": log_prob,
            "q_target": target,
            "q1_loss": float(losses[0].detach()),
            "q2_loss": float(losses[1].detach()),
        }

    def _actor(self, s: th.Tensor, z: th.Tensor, noise: th.Tensor) -> dict[str, Any]:
        alpha = self.log_alpha.detach().exp()
        new_action, log_prob = sample_action(self.nets["actor"], s, z, noise)
        q1, q2 = (forward(self.nets[f"q{i}"], s, z, new_action).flatten() for i in (1, 2))
        actor_loss = self._minimise((alpha * log_prob - th.min(q1, q2)).mean(), "actor")
        out: dict[str, Any] = {"new_action": new_action, "log_prob_new_action": log_prob, "actor_loss": actor_loss}
        out["ent_coef_before"] = float(alpha)
        entropy_slack = -(log_prob.detach() + float(self.meta["target_entropy"]))
        loss = (self.log_alpha * entropy_slack).mean()
        out["ent_coef_loss"] = float(loss.detach())
        if not bool(self.meta.get("ent_coef_fixed", False)):
            self._minimise(loss, "alpha")
        out["ent_coef_after"] = self.log_alpha.detach().exp()
        return out

    def final(self) -> Arrays:
        """All weights and multipliers as they are now."""
        weights = {f"final/{net}/{key}": _array(x) for net, layers in self.nets.items() for key, x in layers.items()}
        return weights | {
            "final/log_dual_lambda": _array(self.log_lambda),
            "final/log_ent_coef": _array(self.log_alpha),
        }


def replay(data: Mapping[str, np.ndarray], **kwargs: Any) -> Arrays:
    """
    Compute what a file records from what it starts with.

    :param data: a file's arrays: ``meta/``, ``init/`` and the batches
    :param kwargs: see :class:`Learner`
    :return: the same arrays with all results computed afresh
    """
    learner = Learner(data, **kwargs)
    results: Arrays = {}
    for i in range(int(data["meta/n_steps"])):
        batch = {key.removeprefix(f"step{i}/"): x for key, x in data.items() if key.startswith(f"step{i}/")}
        results |= {f"step{i}/{key}": x for key, x in learner.step(batch).items()}
    return {**data, **results, **learner.final()}


def draw(
    *,
    skill_dim: int = 2,
    discrete: bool = False,
    saturated: bool = False,
    pixels: tuple[int, int, int] | None = None,
    cnn_depth: int = 4,
    fixed_ent_coef: float | None = None,
    obs_dim: int = 29,
    action_dim: int = 8,
    hidden: tuple[int, ...] = (64, 64),
    batch: int = 256,
    n_steps: int = 3,
    seed: int = 0,
) -> Arrays:
    """
    Random initial weights and batches.

    :param skill_dim: components of a skill
    :param discrete: one-hot skills
    :param saturated: an actor whose tanh is saturated and whose log standard deviation passes both bounds, and stored
        actions at -1 and 1
    :param pixels: height, width and channels of image observations
    :param cnn_depth: channels of the first convolution
    :param fixed_ent_coef: an entropy coefficient that is not learnt
    :param obs_dim: size of observations that are not images
    :param action_dim: size of actions
    :param hidden: units of each hidden layer
    :param batch: transitions in a batch
    :param n_steps: gradient steps
    :param seed: seed of all draws
    :return: ``meta/``, ``init/`` and the batches of a file
    """
    rng = np.random.default_rng(seed)
    sizes = {"hidden": hidden[0] if hidden else 0, "batch": batch, "obs_dim": obs_dim, "action_dim": action_dim}
    data: dict[str, Any] = {f"meta/{key}": x for key, x in sizes.items()}
    data |= {"meta/skill_dim": skill_dim, "meta/discrete": int(discrete), "meta/n_steps": n_steps, "meta/lr": 1e-4}
    data |= {"meta/tau": 0.005, "meta/gamma": 0.99, "meta/target_entropy": -action_dim / 2, "meta/dual_slack": 1e-3}
    if pixels:
        data |= {"meta/obs_dim": math.prod(pixels), "meta/pixel_shape": np.array(pixels), "meta/cnn_depth": cnn_depth}
    if fixed_ent_coef is not None:
        data["meta/ent_coef_fixed"] = 1
    features = obs_dim
    if pixels:
        sizes_after = list(pixels[:2])
        for _ in range(4):
            sizes_after = [(size - 4) // 2 + 1 for size in sizes_after]
        features = 8 * cnn_depth * math.prod(sizes_after)
    extra = {"actor": skill_dim, "phi": 0, "q1": skill_dim + action_dim, "q2": skill_dim + action_dim}
    outputs = {"actor": action_dim, "phi": skill_dim, "q1": 1, "q2": 1}
    for net, heads in HEADS.items():
        convolutions = [(pixels[2], *(cnn_depth << i for i in range(4)))] if pixels else []
        for channels in convolutions:
            for i in range(4):
                bound = math.sqrt(1.0 / (16 * channels[i]))
                data[f"init/{net}/conv{i}.weight"] = rng.uniform(-bound, bound, (channels[i + 1], channels[i], 4, 4))
                data[f"init/{net}/conv{i}.bias"] = rng.uniform(-bound, bound, channels[i + 1])
        widths = (features + extra[net], *hidden)
        layers = {f"hidden{i}": widths[i : i + 2] for i in range(len(hidden))}
        layers |= dict.fromkeys(heads, (widths[-1], outputs[net]))
        for layer, (fan_in, fan_out) in layers.items():
            data[f"init/{net}/{layer}.weight"] = rng.normal(size=(fan_out, fan_in)) * math.sqrt(
                2.0 / (fan_in + fan_out)
            )
            data[f"init/{net}/{layer}.bias"] = np.zeros(fan_out)
    data["init/log_dual_lambda"] = np.log([30.0])
    data["init/log_ent_coef"] = np.log([0.01 if fixed_ent_coef is None else fixed_ent_coef])
    for i in range(n_steps):
        data |= {f"step{i}/{key}": x for key, x in _draw_batch(rng, data, saturated).items()}
    _scale(data, saturated)
    return {key: x if np.ndim(x) == 0 else _single(np.asarray(x)) for key, x in data.items()}


def _draw_batch(rng: np.random.Generator, data: Mapping[str, Any], saturated: bool) -> Arrays:
    batch, obs_dim, action_dim, dim = (data[f"meta/{key}"] for key in ("batch", "obs_dim", "action_dim", "skill_dim"))
    if "meta/pixel_shape" in data:
        observations = rng.integers(0, 256, (batch, obs_dim), dtype=np.uint8)
        change = rng.integers(-40, 41, (batch, obs_dim))
        next_observations = np.clip(observations + change, 0, 255).astype(np.uint8)
    else:
        observations = rng.normal(size=(batch, obs_dim))
        next_observations = observations + 0.3 * rng.normal(size=(batch, obs_dim))
    skills = rng.normal(size=(batch, dim))
    skills /= np.linalg.norm(skills, axis=1, keepdims=True)
    if data["meta/discrete"]:
        skills = np.eye(dim)[rng.integers(dim, size=batch)]
    actions = np.tanh(rng.normal(size=(batch, action_dim)))
    if saturated:
        actions = np.where(rng.random(actions.shape) < 0.8, np.sign(actions), actions)
    return {
        "observations": observations,
        "next_observations": next_observations,
        "actions": actions,
        "dones": (rng.random(batch) < 0.1).astype(np.float32),
        "skills": skills,
        "noise_next_action": rng.normal(size=(batch, action_dim)),
        "noise_new_action": rng.normal(size=(batch, action_dim)),
    }


def _scale(data: dict[str, Any], saturated: bool) -> None:
    """Scale phi's last layer so that about half of the pairs violate the constraint, and saturate the actor."""
    learner = Learner(data, dtype=th.float64)
    s, s_next = (learner._observations(data[f"step0/{key}"]) for key in ("observations", "next_observations"))
    with th.no_grad():
        squares = learner._displacement(s, s_next).square().mean(dim=1)
    data["init/phi/out.weight"] = data["init/phi/out.weight"] / math.sqrt(float(squares.median()))
    if saturated:
        action_dim = data["meta/action_dim"]
        data["init/actor/mean.weight"] = data["init/actor/mean.weight"] * 20.0
        data["init/actor/mean.bias"] = np.linspace(-3.0, 3.0, action_dim)
        data["init/actor/log_std.weight"] = data["init/actor/log_std.weight"] * 5.0
        data["init/actor/log_std.bias"] = np.linspace(-16.0, 6.0, action_dim)


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().numpy() if isinstance(value, th.Tensor) else value)


def make_oracle(path: str | Path, **kwargs: Any) -> Arrays:
    """
    Draw, replay and write a file.

    :param path: where to write it
    :param kwargs: see :func:`draw`
    :return: its arrays
    """
    data = {key: np.asarray(x).copy() for key, x in replay(draw(**kwargs)).items()}
    np.savez(path, **data)
    return data


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="write a file of recorded gradient steps")
    parser.add_argument("path", type=Path)
    parser.add_argument("--pixels", type=int, nargs=3, metavar=("HEIGHT", "WIDTH", "CHANNELS"))
    parser.add_argument("--cnn-depth", type=int, default=4)
    parser.add_argument("--skill-dim", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed-ent-coef", type=float)
    parser.add_argument("--discrete", action="store_true")
    parser.add_argument("--saturated", action="store_true")
    make_oracle(**vars(parser.parse_args()))


if __name__ == "__main__":
    th.set_num_threads(1)
    main()
