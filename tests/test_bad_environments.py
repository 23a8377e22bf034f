"""Environments, observations, losses and gradients that are not what they should be: refused, and nothing is spoilt."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from torch import nn

from sb3_metra import METRA
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from tests.toys import Scripted, same, state_of, tiny_model

NAN, INF = math.nan, math.inf
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
LAST = spaces.Box(0, 255, (46, 46, 3), np.uint8)


# What environments return


class Returns(gym.Env):
    """Returns what is asked of it once, at step 9 or at the first reset, and else sound things."""

    def __init__(self, space: spaces.Box = VECTOR, at: str = "step", **bad: Any) -> None:
        self.observation_space, self.action_space = space, UNIT
        self.at, self.bad = at, bad

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        sound = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        return self.bad.get("observation", sound) if self.at == "reset" else sound, {}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        sound = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        bad = self.bad if self.at == "step" and self.t == 9 else {}
        names = {"observation": sound, "reward": 0.0, "terminated": False, "truncated": False, "info": {}}
        return tuple((names | bad).values())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"reward": NAN}, "reward must be a finite number, got nan"),
        ({"reward": INF}, "reward must be a finite number, got inf"),
        ({"reward": "x"}, "reward must be a finite number, got 'x'"),
        ({"reward": None}, "reward must be a finite number, got None"),
        ({"reward": np.zeros(2)}, "reward must be a finite number, got array"),
        ({"terminated": "no"}, "terminated must be True or False, got 'no'"),
        ({"truncated": "no"}, "truncated must be True or False, got 'no'"),
        ({"terminated": None}, "terminated must be True or False, got None"),
        ({"terminated": 0.5}, "terminated must be True or False, got 0.5"),
        ({"info": 7}, "info must be a dict, got 7"),
        ({"observation": np.ones(1, np.float32)}, r"observation must have shape \(3,\), got \(1,\)"),
        ({"observation": 1.0}, r"observation must have shape \(3,\), got \(\)"),
        ({"observation": ["a", "b", "c"]}, "observation must hold numbers"),
        ({"observation": np.full(3, 1e300)}, "observation must lie within .* got 1e\\+300"),
        ({"observation": np.full(3, NAN)}, "observation must be finite, got NaN"),
        ({"space": LAST, "observation": np.full((46, 46, 3), 0.5)}, "must hold integers that fit into uint8"),
        ({"at": "reset", "observation": np.ones(1)}, r"observation must have shape \(3,\), got \(1,\)"),
    ],
)
@pytest.mark.parametrize("vectorised", [False, True])
def test_what_an_environment_returns(bad: dict[str, Any], message: str, vectorised: bool) -> None:
    """Eight steps are sound; nothing of the ninth is stored, and the error says which environment it was."""
    sound = {"space": bad["space"]} if "space" in bad else {}
    env = DummyVecEnv([lambda: Returns(**sound), lambda: Returns(**bad)]) if vectorised else Returns(**bad)
    model = tiny_model(env, learning_starts=1_000)
    with pytest.raises(ValueError, match=f"{message}.* from the environment with index {int(vectorised)}"):
        model.learn(40)
    steps = 0 if "at" in bad else 8
    assert model.replay_buffer.size() == steps
    assert np.isfinite(model.replay_buffer.rewards[:steps]).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"observation": np.ones(4, np.float32)}, r"observation must have shape \(3,\), got \(4,\)"),
        ({"observation": np.array(["a", "b", "c"])}, "observation must hold numbers, got <U1"),
        ({"reward": np.zeros(2)}, "reward must be a finite number, got array"),
    ],
)
def test_what_an_environment_in_a_worker_returns(bad: dict[str, Any], message: str) -> None:
    """The other workers' answers do not stand for those to the next question."""
    env = SubprocVecEnv([lambda: Returns(), lambda: Returns(**bad), lambda: Returns()], start_method="fork")
    model = tiny_model(env, learning_starts=1_000)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"{message}.* from the environment with index 1"):
            model.learn(60, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 16
    env.close()


@pytest.mark.parametrize("cls", [DummyVecEnv, partial(SubprocVecEnv, start_method="fork")])
def test_environments_with_other_spaces_than_the_first(cls: Any) -> None:
    wide, deep = spaces.Box(-np.inf, np.inf, (4,), np.float32), spaces.Box(-2.0, 2.0, (2,), np.float32)
    for name, space in (("observation_space", wide), ("action_space", deep)):

        def other(name: str = name, space: spaces.Box = space) -> gym.Env:
            setattr(env := Returns(), name, space)
            return env

        env = cls([Returns, other])
        with pytest.raises(ValueError, match=f"env must have the same {name} in each .* with index 1"):
            tiny_model(env)
        env.close()


class Batched(VecEnv):
    """Three environments with episodes of four steps; ``spoil`` changes what a step returns."""

    def __init__(self, spoil: Any) -> None:
        self.spoil, self.t = spoil, 0
        super().__init__(3, VECTOR, UNIT)

    def reset(self) -> np.ndarray:
        return np.zeros((3, 3), np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        self.t += 1

    def step_wait(self) -> Any:
        over, observations = self.t % 4 == 0, np.full((3, 3), self.t % 4, np.float32)
        infos: list[dict[str, Any]] = [{"terminal_observation": np.full(3, 4.0)} if over else {} for _ in range(3)]
        return self.spoil(observations, np.zeros(3), np.full(3, over), infos)

    def close(self) -> None:
        pass

    def get_attr(self, *args: Any, **kwargs: Any) -> Any:
        return [None] * 3

    set_attr = env_method = env_is_wrapped = get_attr


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda o, r, d, i: (th.as_tensor(o), r, d, i), "observation must be a NumPy array .* got a Tensor"),
        (lambda o, r, d, i: (o.tolist(), r, d, i), "observation must be a NumPy array .* got a list"),
        (lambda o, r, d, i: (o, r, d, None), "infos must be 3 dictionaries, .* got None"),
        (lambda o, r, d, i: (o, r, d, i[:1]), "infos must be 3 dictionaries"),
        (lambda o, r, d, i: (o, r, d, d, i), r"step of a VecEnv must return .* got 5 values"),
        (lambda o, r, d, i: (o, r, d, [{}] * 3), "last observation as .* got none from the environment with index 0"),
        (
            lambda o, r, d, i: (o, r, d, [*i[:2], {"terminal_observation": np.zeros(2)}]),
            r"observation must have shape \(3,\), got \(2,\) from the environment with index 2",
        ),
    ],
)
def test_what_a_vectorised_environment_returns(spoil: Any, message: str) -> None:
    model = tiny_model(Batched(spoil), learning_starts=1_000)
    with pytest.raises(ValueError, match=message):
        model.learn(24)
    assert model.replay_buffer.size() <= 3  # nothing spans an episode's end
    tiny_model(Batched(lambda *sound: sound), learning_starts=1_000).learn(24)


def test_an_environment_may_tell_of_its_episode() -> None:
    model = tiny_model(Returns(info={"episode": 7}), learning_starts=1_000).learn(40, log_interval=1)
    assert model.replay_buffer.size() == 40


class Old(Returns):
    """An environment of before Gymnasium: ``reset`` returns an observation, ``step`` four things."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = super().reset()
        return (observation, info) if self.at == "step" else observation

    def step(self, action: np.ndarray) -> Any:
        return super().step(action)[:4]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("step", r"step must return \(observation, reward, terminated, truncated, info\), got 4 things"),
        ("reset", r"reset must return \(observation, info\), got a ndarray"),
    ],
)
def test_environments_of_the_old_kind(at: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} from the environment with index 0"):
        tiny_model(Old(at=at)).learn(10)


@pytest.mark.parametrize(
    "sound",
    [{"reward": 1}, {"reward": np.float32(1)}, {"reward": np.array(1.0)}, {"terminated": 1}, {"truncated": np.True_}],
)
def test_what_is_as_good(sound: dict[str, Any]) -> None:
    model = tiny_model(Returns(**sound), learning_starts=1_000)
    model.learn(16)
    assert model.replay_buffer.size() == 16


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["vector", "dict"])
@pytest.mark.parametrize(
    ("bad", "stored"),
    [
        ((0, 0), 0),  # at the very first reset
        ((1, 2), 3 + 1),  # within an episode
        ((1, 5), 3 + 4),  # an episode's last observation, which only replay sees
        ((2, 0), 3 + 5),  # at a reset
    ],
)
def test_observations_from_an_environment(value: float, kind: str, bad: tuple[int, int], stored: int) -> None:
    """Episodes take 3, 5, 1 and 4 steps. Nothing from the bad observation on is stored."""
    env = DummyVecEnv([lambda: Scripted(kind=kind, bad=bad, value=value)])
    model = tiny_model(env, "MultiInputPolicy" if kind == "dict" else "MlpPolicy", train_freq=1, learning_starts=100)
    name = "place" if kind == "dict" else "observation"
    with pytest.raises(ValueError, match=f"{name} must be finite, got NaN or infinity from the environment"):
        model.learn(30)
    assert model.replay_buffer.size() == stored
    places = model.replay_buffer.observations
    places = places["place"] if kind == "dict" else places
    assert np.isfinite(places).all()
    model.learn(5)  # the next episodes are sound
    assert model.replay_buffer.size() == stored + 5


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_normalisation_does_not_hide_what_is_not_finite() -> None:
    env = VecNormalize(DummyVecEnv([lambda: Scripted(bad=(1, 2), value=np.inf)]))
    model = tiny_model(env, train_freq=1, learning_starts=100)
    with pytest.raises(ValueError, match="observation must be finite"):
        model.learn(30)
    assert model.replay_buffer.size() == 4


# Losses and gradients that are not finite


def batch_of(model: METRA) -> SkillReplayBufferSamples:
    skills = th.as_tensor(model.skill_prior.sample(16))
    arrays = (th.randn(16, 3), th.rand(16, 2) * 2 - 1, th.randn(16, 3), th.zeros(16, 1), th.zeros(16, 1))
    return SkillReplayBufferSamples(*arrays, skills)


def spoil(model: METRA, batch: SkillReplayBufferSamples, what: str) -> SkillReplayBufferSamples:
    """Make a loss infinite or NaN by a number in the batch, in a weight, or in the reward."""
    if what == "weight of phi":
        with th.no_grad():
            model.objective.phi.out.weight[0, 0] = math.nan
        return batch
    if what == "weight of the actor":
        with th.no_grad():
            model.actor.mu.weight[0, 0] = math.inf
        return batch
    if what == "lambda":
        with th.no_grad():
            model.objective.dual.log_value.fill_(1_000.0)
        return batch
    if what == "reward":
        model.objective.reward = lambda batch: th.full((16, 1), math.inf)
        return batch
    bad = getattr(batch, what).clone()
    bad[0, 0] = math.nan
    return batch._replace(**{what: bad})


#: What is spoiled, and the number that is not finite first.
WAYS = {
    "observations": "phi_loss",
    "next_observations": "phi_loss",
    "actions": "critic_loss",
    "skills": "phi_loss",
    "dones": "critic_loss",
    "weight of phi": "phi_loss",
    "weight of the actor": "critic_loss",
    "lambda": "phi_loss",
    "reward": "intrinsic_reward",
}


@pytest.mark.parametrize("optimizer_kwargs", [{}, {"fused": False}])
@pytest.mark.parametrize("what", WAYS)
def test_nothing_moves_from_a_bad_loss_on(what: str, optimizer_kwargs: dict[str, Any]) -> None:
    """
    Weights, targets, multipliers and all that the optimisers remember stay to the bit. Only phi, which comes first and
    does not see actions, ends of episodes, rewards and the actor, takes its sound step where the fault is in those.
    """
    model = tiny_model(policy_kwargs={"net_arch": [8], "optimizer_kwargs": optimizer_kwargs})
    model.learn(48)
    batch = spoil(model, batch_of(model), what)
    model.replay_buffer.sample = lambda size, env=None: batch
    before = state_of(model)
    name = WAYS[what]
    with pytest.raises(
        ValueError, match=rf"^{name} must be finite, got (nan|-?inf) in one of the last 1 gradient steps"
    ):
        model.train(1, batch_size=16)
    after = state_of(model)
    moved = {name.split("/")[1] for name, x in before.items() if not same_or_nan(x, after[name])}
    phi_is_sound = what in ("actions", "dones", "reward", "weight of the actor")
    assert moved == ({"objective", "objective_optimizer"} if phi_is_sound else set())
    assert before.keys() == after.keys()


def same_or_nan(x: th.Tensor, y: th.Tensor) -> bool:
    """Whether two tensors agree to the bit, where NaN agrees with NaN."""
    return bool(((x == y) | (x.isnan() & y.isnan())).all())


def test_training_goes_on_after_a_bad_batch() -> None:
    model = tiny_model()
    model.learn(48)
    good = model.replay_buffer.sample
    bad = spoil(model, batch_of(model), "observations")
    model.replay_buffer.sample = lambda size, env=None: bad
    with pytest.raises(ValueError, match="phi_loss must be finite, got nan"):
        model.train(3, batch_size=16)
    model.replay_buffer.sample = good
    before = state_of(model)
    model.learn(48, reset_num_timesteps=False)
    after = state_of(model)
    assert all(x.isfinite().all() for x in after.values())
    assert not same(before, after)


class RootExtractor(BaseFeaturesExtractor):
    """o + sqrt(|w batch_norm(o)|) with w = 0: the features are finite, and their gradient is not."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 3)
        self.weight, self.norm = nn.Parameter(th.zeros(3)), nn.BatchNorm1d(3)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations + (self.weight * self.norm(observations)).abs().sqrt()


class HugeExtractor(RootExtractor):
    """Infinite features, and the averages of batch norm with them."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.norm((observations + 1.0) * 1e30 * 1e30) + self.weight


PLAIN = {"features_extractor_class": FlattenExtractor}


@pytest.mark.parametrize(
    ("kwargs", "phi_kwargs", "message"),
    [
        ({}, {}, "the gradient of the objective must be finite"),
        ({}, PLAIN, "the gradient of the critic must be finite"),
        ({"optimizer_class": th.optim.SGD}, PLAIN, "the gradient of the critic must be finite"),
        ({"optimizer_class": th.optim.RMSprop}, {}, "the gradient of the objective must be finite"),
        ({"optimizer_kwargs": {"fused": False}}, {}, "the gradient of the objective must be finite"),
        ({"bfloat16": True}, {}, "the gradient of the objective must be finite"),
        ({**PLAIN}, {"features_extractor_class": HugeExtractor}, "phi_loss must be finite, got nan"),
        (
            {"features_extractor_class": HugeExtractor},
            PLAIN,
            "actions must be finite, got NaN or infinity from the actor",
        ),
    ],
)
def test_networks_that_are_not_finite(
    tmp_path: Any, kwargs: dict[str, Any], phi_kwargs: dict[str, Any], message: str
) -> None:
    """The culprit is named; weights, moments and averages stay finite, and the model can be saved and loaded."""
    bfloat16 = kwargs.pop("bfloat16", False)
    policy_kwargs = {"net_arch": [8], "features_extractor_class": RootExtractor} | kwargs
    model = tiny_model(policy_kwargs=policy_kwargs, phi_kwargs={"net_arch": [8]} | phi_kwargs, bfloat16=bfloat16)
    with pytest.raises(ValueError, match=message):
        model.learn(48)
    assert all(x.isfinite().all() for x in state_of(model).values())
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu", trusted=True)
    assert same(state_of(model), state_of(loaded))


def spiked(value: float, normalize: bool = False) -> METRA:
    env = DummyVecEnv([lambda: Scripted(bad=(1, 2), value=value)])
    return tiny_model(VecNormalize(env) if normalize else env, batch_size=64)


def test_an_observation_too_large_to_learn_from_is_refused_at_once() -> None:
    """Single precision holds 1e10 and its square, but not the squares of gradients."""
    with pytest.raises(ValueError, match=r"observation must lie within -1e\+09 and 1e\+09, .* got 1e\+10"):
        spiked(1e10).learn(100)
    assert all(x.isfinite().all() for x in state_of(spiked(9e8).learn(100)).values())


def test_normalization_makes_larger_observations_fit() -> None:
    assert all(x.isfinite().all() for x in state_of(spiked(1e10, normalize=True).learn(100)).values())
