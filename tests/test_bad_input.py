"""Bad input is refused with a sentence that names it, and leaves the model as it was."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_metra import METRA
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from tests.toys import TINY, Scripted, same, state_of, tiny_model


class OnlySpaces(gym.Env):
    """An environment that is only its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 64, 64), np.uint8)


# Arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"skill_dim": 0}, "skill_dim must be an integer of at least 1, got 0"),
        ({"skill_dim": 2.5}, "skill_dim must be an integer of at least 1, got 2.5"),
        ({"skill_dim": 1, "discrete": True}, "skill_dim must be at least 2 with discrete skills, got 1"),
        ({"constraint_norm": "max"}, 'constraint_norm must be "sum" or "mean", got \'max\''),
        ({"dual_lambda": 0.0}, "dual_lambda must be a finite number greater than 0, got 0.0"),
        ({"dual_lambda": -1.0}, "dual_lambda must be .* got -1.0"),
        ({"dual_slack": -0.1}, "dual_slack must be a finite number of at least 0, got -0.1"),
        ({"dual_slack": math.nan}, "dual_slack must be .* got nan"),
        ({"ent_coef": "automatic"}, 'ent_coef must be a number, "auto" or "auto_0.01", got \'automatic\''),
        ({"ent_coef": -1.0}, "ent_coef must be .* got -1.0"),
        ({"ent_coef": "auto_0"}, "ent_coef must be a finite number greater than 0, got 0.0"),
        ({"ent_coef": math.inf}, "ent_coef must be .* got inf"),
        ({"target_entropy": "low"}, "target_entropy must be a number or \"auto\", got 'low'"),
        ({"batch_size": 0}, "batch_size must be between 1 and inf, got 0"),
        ({"learning_starts": -1}, "learning_starts must be between 0 and inf, got -1"),
        ({"tau": 1.5}, "tau must be between 0 and 1, got 1.5"),
        ({"gamma": math.nan}, "gamma must be between 0 and 1, got nan"),
        ({"batch_size": 33, "buffer_size": 32}, "buffer_size must hold at least one batch of 33 transitions, got 32"),
        ({"objective_batch_size": 64, "buffer_size": 32}, "buffer_size must hold at least one batch of 64"),
        ({"objective_batch_size": 8}, "objective_batch_size must be at least batch_size=16, got 8"),
        ({"objective_batch_size": 0}, "objective_batch_size must be at least batch_size=16, got 0"),
        ({"replay_buffer_class": ReplayBuffer}, "must be a subclass of SkillReplayBuffer, got ReplayBuffer"),
        ({"replay_buffer_class": HerReplayBuffer}, "must be a subclass of SkillReplayBuffer, got HerReplayBuffer"),
        ({"replay_buffer_kwargs": {"optimize_memory_usage": True}}, "optimize_memory_usage"),
    ],
)
def test_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tiny_model(**kwargs)


@pytest.mark.parametrize("name", ["batchsize", "lamda", "target_update_intervall"])
def test_unknown_arguments(name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        tiny_model(**{name: 1})


# Spaces


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Dict({"a": UNIT})]
)
def test_other_action_spaces(space: spaces.Space) -> None:
    with pytest.raises(
        (ValueError, AssertionError), match=r"only supports .*Box.* as action spaces but .* was provided"
    ):
        METRA("MlpPolicy", OnlySpaces(VECTOR, space), **TINY)


def test_unbounded_actions() -> None:
    with pytest.raises((ValueError, AssertionError), match="finite lower and upper bound"):
        METRA("MlpPolicy", OnlySpaces(VECTOR, spaces.Box(-np.inf, np.inf, (2,), np.float32)), **TINY)


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        ("CnnPolicy", VECTOR, "CnnPolicy needs uint8 images in .* use MlpPolicy for vectors"),
        ("CnnPolicy", spaces.Box(0, 255, (3, 40, 64), np.uint8), "observation must be an image of at least 46x46"),
        ("MlpPolicy", spaces.Dict({"a": VECTOR}), "MultiInputPolicy"),
        ("CnnPolicy", spaces.Dict({"a": IMAGE}), "MultiInputPolicy"),
        ("LstmPolicy", VECTOR, "Policy LstmPolicy unknown"),
    ],
)
def test_policies_for_other_observations(policy: str, space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METRA(policy, OnlySpaces(space, UNIT), **TINY)


def test_policies_of_other_algorithms() -> None:
    from stable_baselines3.sac.policies import SACPolicy

    with pytest.raises(ValueError, match="policy must be a SkillPolicy, got SACPolicy"):
        METRA(SACPolicy, OnlySpaces(VECTOR, UNIT), **TINY)


# Skills and observations from outside


@pytest.mark.parametrize(
    ("kwargs", "skill", "message"),
    [
        ({}, [1.0, 0.0, 0.0], r"skill must have shape \(2,\) or \(n, 2\), got \(3,\)"),
        ({}, [3.0, 4.0], r"skill must have norm 1, got \[\[3.0, 4.0\]\]"),
        ({}, [math.nan, 1.0], "skill must be finite"),
        ({"skill_dim": 3, "discrete": True}, [0.5, 0.5, 0.0], "skill must be one-hot"),
        ({}, np.eye(2), "state must hold one skill for each of the 3 observations, got 2"),
    ],
)
def test_skills(kwargs: dict[str, Any], skill: Any, message: str) -> None:
    model = tiny_model(**kwargs)
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((3, 3), np.float32), state=np.array(skill))


@pytest.mark.parametrize("call", ["predict", "encode"])
@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.array([0.0, np.nan, 0.0], np.float32), "observation must be finite, got NaN or infinity"),
        (np.full((2, 3), np.inf, np.float32), "observation must be finite"),
        (np.zeros(7, np.float32), "shape"),
        ((np.zeros(3, np.float32), {}), r"got a tuple: `env.reset\(\)` returns \(obs, info\)"),
    ],
)
def test_observations(call: str, observation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(tiny_model(), call)(observation)


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


# Losses that are not finite


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


WAYS = ["observations", "next_observations", "actions", "skills", "dones"]
WAYS += ["weight of phi", "weight of the actor", "lambda", "reward"]


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
    with pytest.raises(ValueError, match=r"must be finite, got (nan|-?inf) in one of the last 1 gradient steps"):
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
