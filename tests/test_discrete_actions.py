"""Actions that can be counted: probabilities, values and losses by hand, and every method and use of a policy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise

import sb3_metra
from sb3_metra import ALGORITHMS, CSF, METRA
from sb3_metra.common.counted_actions import MAX_ACTIONS, CountedActions
from sb3_metra.common.spaces import UnsupportedSpaceError
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from sb3_metra.downstream import SkillActionVecWrapper, SkillActionWrapper, sac_from_skill
from sb3_metra.evaluation import evaluate_goals, rollout_skills
from tests.test_algorithms import NETWORKS, arguments_of
from tests.toys import COUNTED, TINY, Grid, grids, same, state_of, tiny_model

kinds = pytest.mark.parametrize("kind", COUNTED)
OBSERVATION = np.zeros(2, np.float32)


def set_outputs(layer: Any, outputs: list[float]) -> None:
    """Let a last layer give the same whatever comes."""
    with th.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(th.tensor(outputs))


def two_actions(algorithm: Any = METRA, **kwargs: Any) -> Any:
    """A model of two actions with probabilities 1/4 and 3/4, gamma 1/2 and alpha 1/10."""
    arguments = TINY | {"gamma": 0.5, "ent_coef": 0.1} | kwargs
    if "phi_kwargs" not in arguments_of(algorithm):
        del arguments["phi_kwargs"]
    model = algorithm("MlpPolicy", Grid(spaces.Discrete(2)), 2, **arguments)
    set_outputs(model.actor.logits, [math.log(0.25), math.log(0.75)])
    return model


def one_transition(action: int, reward: Any) -> SkillReplayBufferSamples:
    """A transition that does not end an episode, with the skill (0.6, 0.8)."""
    state, skill = th.zeros(1, 2), th.tensor([[0.6, 0.8]])
    return SkillReplayBufferSamples(state, th.tensor([[action]]), state, th.zeros(1, 1), th.tensor([reward]), skill)


# Counting


def test_numbers_by_hand() -> None:
    table = CountedActions(spaces.MultiDiscrete([2, 3], start=[0, 1]))
    assert len(table) == 6
    assert table.numbers(th.tensor([[0, 1], [0, 3], [1, 1], [1, 2]])).tolist() == [0, 2, 3, 4]
    assert table.actions(th.tensor([0, 2, 3, 4])).tolist() == [[0, 1], [0, 3], [1, 1], [1, 2]]
    assert table.actions(th.tensor([-1])).tolist() == [[-1, 0]]
    assert CountedActions(spaces.Discrete(3, start=-1)).numbers(th.tensor([[-1], [1]])).tolist() == [0, 2]
    assert CountedActions(spaces.MultiBinary(3)).numbers(th.tensor([[1, 0, 1]], dtype=th.int8)).tolist() == [5]


@kinds
def test_every_number_is_an_action(kind: str) -> None:
    space: Any = COUNTED[kind]
    table = CountedActions(space)
    numbers = th.arange(len(table))
    actions = table.actions(numbers)
    assert all(space.contains(x.numpy().astype(space.dtype).reshape(space.shape)[()]) for x in actions)
    assert th.equal(table.numbers(actions), numbers)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(1), "nothing to choose from"),
        (spaces.Discrete(MAX_ACTIONS + 1), f"each of its {MAX_ACTIONS + 1} combinations"),
        (spaces.MultiBinary(11), "each of its 2048 combinations: let the environment take fewer"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), "one axis"),
        (spaces.MultiBinary([2, 2]), "one axis"),
    ],
)
def test_what_cannot_be_counted(space: spaces.Space, message: str) -> None:
    with pytest.raises(
        UnsupportedSpaceError, match=f"(?s)^action_space must have from 2 to 1024 actions, got .*{message}"
    ):
        tiny_model(Grid(space))


# Probabilities


def test_sampled_and_deterministic_actions() -> None:
    policy = two_actions().policy
    obs, skills = th.zeros(4_000, 2), np.tile(np.float32([0.6, 0.8]), (4_000, 1))
    assert (policy.act(obs, skills, deterministic=True) == 1).all()
    assert policy.act(obs, skills).mean() == pytest.approx(0.75, abs=0.03)  # four deviations


@kinds
def test_predict_gives_actions_of_the_space(kind: str) -> None:
    model = tiny_model(grids(kind))
    space, seen = model.action_space, set()
    for _ in range(60):
        action, _ = model.predict(OBSERVATION, state=np.float32([1, 0]))
        assert space.contains(action)
        assert action.dtype == space.dtype
        seen.add(tuple(np.ravel(action).tolist()))
    assert len(seen) == len(CountedActions(space))
    actions, skills = model.predict(np.zeros((3, 2), np.float32), deterministic=True)
    assert actions.shape == (3, *space.shape)  # type: ignore[misc]
    assert skills.shape == (3, 2)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_actions_of_a_network_that_is_not_finite(value: float, deterministic: bool) -> None:
    model = two_actions()
    set_outputs(model.actor.logits, [0.0, value])
    with pytest.raises(ValueError, match=r"^actions must be finite, got NaN or infinity from the actor"):
        model.predict(OBSERVATION, state=np.float32([1, 0]), deterministic=deterministic)


# Losses


def test_losses_by_hand() -> None:
    model = two_actions()
    for critic in (model.critic, model.critic_target):
        set_outputs(critic.q_networks[0][-1], [1.0, 2.0])
        set_outputs(critic.q_networks[1][-1], [3.0, -4.0])
    batch = one_transition(action=1, reward=[2.0])
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    value = 0.25 * 1.0 + 0.75 * -4.0 + 0.1 * entropy
    assert model.next_value(batch).item() == pytest.approx(value)
    loss, info = model.critic_loss(batch)
    target = 2.0 + 0.5 * value
    assert info["critic_loss"].tolist() == pytest.approx([0.5 * (2.0 - target) ** 2, 0.5 * (-4.0 - target) ** 2])
    assert loss.item() == pytest.approx(info["critic_loss"].sum().item())
    loss, info = model.actor_loss(batch)
    assert loss.item() == info["actor_loss"].item() == pytest.approx(-value)
    assert info["entropy"].item() == pytest.approx(entropy)


def test_gradient_of_the_actor_by_hand() -> None:
    model = two_actions()
    for q_network, values in zip(model.critic.q_networks, ([1.0, 2.0], [3.0, -4.0]), strict=True):
        set_outputs(q_network[-1], values)
    loss, _ = model.actor_loss(one_transition(action=0, reward=[0.0]))
    loss.backward()
    # d/dlogit_a sum_b p_b (alpha log p_b - q_b) = p_a (f_a - sum_b p_b f_b), where f = alpha log p - q
    f = [0.1 * math.log(0.25) - 1.0, 0.1 * math.log(0.75) + 4.0]
    mean = 0.25 * f[0] + 0.75 * f[1]
    assert model.actor.logits.bias.grad.tolist() == pytest.approx([0.25 * (f[0] - mean), 0.75 * (f[1] - mean)])


def test_successor_features_by_hand() -> None:
    model = two_actions(CSF)
    # psi of action 0, then of action 1; with z = (0.6, 0.8), psi . z is 1.4 and 0, and -1 and 3
    for critic in (model.critic, model.critic_target):
        set_outputs(critic.q_networks[0][-1], [1.0, 1.0, 0.8, -0.6])
        set_outputs(critic.q_networks[1][-1], [-1.0, -0.5, 1.0, 3.0])
    batch = one_transition(action=1, reward=[2.0, 0.0])
    expected = 0.25 * np.array([-1.0, -0.5]) + 0.75 * np.array([0.8, -0.6])
    assert model.next_value(batch)[0].tolist() == pytest.approx(expected.tolist())
    _, info = model.critic_loss(batch)
    assert info["sf_target"][0].tolist() == pytest.approx((np.array([2.0, 0.0]) + 0.5 * expected).tolist())
    loss, _ = model.actor_loss(batch)
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert loss.item() == pytest.approx(-(0.25 * -1.0 + 0.75 * 0.0 + 0.1 * entropy), abs=1e-6)


def test_target_entropy() -> None:
    assert tiny_model(grids("MultiDiscrete"), target_entropy="auto_0.3")._target_entropy == pytest.approx(
        0.3 * math.log(9)
    )
    assert tiny_model(grids(), target_entropy=0.2)._target_entropy == 0.2
    assert tiny_model(grids(), target_entropy="auto")._target_entropy == pytest.approx(0.5 * math.log(4))
    assert tiny_model(target_entropy="auto_0.25")._target_entropy == -0.5  # two continuous components


def test_action_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^action_noise must be None for actions in Discrete\(4\), got NormalAction"):
        tiny_model(grids(), action_noise=NormalActionNoise(np.zeros(1), np.ones(1)))


# Every method


def make(name: str, env: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    """A model of a method with hidden layers of 8 units."""
    own = {argument: {"net_arch": [8]} for argument in NETWORKS if argument in arguments_of(ALGORITHMS[name])}
    arguments = {key: value for key, value in TINY.items() if key != "phi_kwargs"} | own
    return ALGORITHMS[name](policy, env, 2, **(arguments | kwargs))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_learns(name: str) -> None:
    model = make(name, grids("MultiDiscrete"))
    before = state_of(model)
    after = state_of(model.learn(24))
    assert all(x.isfinite().all() for x in after.values())
    for part in ("policy/actor", "policy/critic.", "policy/critic_target", "objective"):
        assert any(not th.equal(before[key], x) for key, x in after.items() if key.startswith(f"/{part}")), part


@pytest.mark.parametrize(("name", "kwargs"), [("METRA", {}), ("CSF", {}), ("METRA", {"overlap": True})])
def test_a_run_goes_on_to_the_bit(name: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    model = make(name, grids("MultiDiscrete"), **kwargs).learn(32)
    model.save_checkpoint(tmp_path)
    after = state_of(model)
    model.learn(32, reset_num_timesteps=False)
    resumed = type(model).resume(tmp_path, grids("MultiDiscrete"))
    assert same(after, state_of(resumed))
    resumed.learn(32)
    assert same(state_of(model), state_of(resumed))


@kinds
def test_what_is_stored_is_what_the_environment_took(kind: str, tmp_path: Path) -> None:
    model = tiny_model(grids(kind, n=1), random_warmup=True).learn(40)
    buffer: Any = model.replay_buffer
    assert buffer.actions.dtype == model.action_space.dtype
    taken = buffer.actions[:40, 0].reshape(40, *model.action_space.shape)  # type: ignore[misc]
    assert all(model.action_space.contains(action) for action in taken)
    env = Grid(COUNTED[kind])
    for i, action in enumerate(taken):
        if i % 8 == 0:
            env.reset()
        assert np.array_equal(env.step(action)[0], buffer.next_observations[i, 0])
    model.save(tmp_path / "model")
    loaded = sb3_metra.load(tmp_path / "model", grids(kind, n=1))
    assert same(state_of(model), state_of(loaded))


# Every use


@kinds
def test_evaluation_goals_and_hierarchy(kind: str) -> None:
    model, env = tiny_model(grids(kind)), Grid(COUNTED[kind])
    trajectories = rollout_skills(model, grids(kind), np.eye(2, dtype=np.float32), deterministic=False)
    assert [len(t) for t in trajectories] == [8, 8]
    assert len(evaluate_goals(model, env, np.array([[1.0, 2.0], [0.0, -3.0]])).coordinates) == 2
    assert evaluate_policy(model, grids(kind), n_eval_episodes=2, deterministic=False)[0] == 0.0
    wrapped = SkillActionWrapper(env, model, skill_length=3)
    wrapped.reset()
    assert wrapped.step(np.array([0.0, 1.0], np.float32))[4]["skill_steps"] == 3
    many = SkillActionVecWrapper(grids(kind), model, skill_length=5)
    many.reset()
    many.step(np.zeros((2, 2), np.float32))
    assert [info["skill_steps"] for info in many.step(np.zeros((2, 2), np.float32))[3]] == [3, 3]
    with pytest.raises(ValueError, match="model must have continuous actions, which SB3's SAC learns, got"):
        sac_from_skill(model, env, np.float32([1, 0]))


@pytest.mark.slow
def test_skills_learn_to_go_apart() -> None:
    """Skills of a grid end in different corners; chance leaves them within a step or two of the middle."""
    model = METRA(
        "MlpPolicy",
        grids(n=4),
        2,
        seed=0,
        device="cpu",
        train_freq=8,
        gradient_steps=8,
        learning_starts=64,
        learning_rate=1e-3,
        dual_lambda=1.0,
        policy_kwargs={"net_arch": [64, 64]},
        phi_kwargs={"net_arch": [64, 64]},
    ).learn(6_000)
    angles = np.arange(8) / 8 * 2 * np.pi
    skills = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    trajectories = rollout_skills(model, gym.wrappers.TimeLimit(Grid(), 8), skills)
    ends = np.array([t.coordinates[-1] for t in trajectories])
    assert len({tuple(end) for end in ends}) >= 4
    assert np.abs(ends).sum(axis=1).mean() > 4
