"""The one loop: skills and episodes, gradient steps, and everything that SB3 offers around them."""

from __future__ import annotations

import copy
import pickle
import types
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_metra import METRA
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.type_aliases import SkillReplayBufferSamples
from sb3_metra.envs.point import PointMassEnv
from tests.toys import TINY, Scripted, same, scripted_envs, state_of, tiny_model

LENGTHS = (3, 5, 1, 4)


def lengths_of(index: int) -> tuple[int, ...]:
    """Lengths of the episodes of one of ``scripted_envs``."""
    return LENGTHS[index % len(LENGTHS) :] + LENGTHS[: index % len(LENGTHS)]


def rows(model: METRA) -> list[list[dict[str, Any]]]:
    """For each environment the stored transitions, oldest first, each with (index, episode, step) of s and s'."""
    buffer = model.replay_buffer
    assert buffer is not None
    assert not buffer.full
    stored, next_stored = buffer.observations, buffer.next_observations
    if isinstance(stored, dict):
        stored, next_stored = stored["place"], next_stored["place"]
    return [
        [
            {
                "here": tuple(stored[i, env].astype(int)),
                "there": tuple(next_stored[i, env].astype(int)),
                "skill": buffer.skills[i, env],
                "done": bool(buffer.dones[i, env]),
                "truncated": bool(buffer.timeouts[i, env]),
            }
            for i in range(buffer.pos)
        ]
        for env in range(buffer.n_envs)
    ]


def check_transitions(model: METRA, first_episode: int = 0) -> dict[tuple[int, int], np.ndarray]:
    """
    Check every stored transition against the script, and that no pair spans a reset.

    :return: the skill of each (environment, episode)
    """
    skills = {}
    for env, transitions in enumerate(rows(model)):
        expected = (env, first_episode, 0)
        for row in transitions:
            assert row["here"] == expected
            index, episode, step = expected
            over = step + 1 == lengths_of(env)[episode % len(LENGTHS)]
            assert row["there"] == (index, episode, step + 1)
            assert row["done"] == over
            assert row["truncated"] == (over and episode % 2 == 1)
            assert np.array_equal(row["skill"], skills.setdefault((env, episode), row["skill"]))
            expected = (index, episode + 1, 0) if over else (index, episode, step + 1)
    return skills


def check_distinct(skills: dict[Any, np.ndarray]) -> None:
    """Every episode has a skill of its own, drawn from p(z)."""
    stacked = np.stack(list(skills.values()))
    assert len(np.unique(stacked, axis=0)) == len(stacked)
    assert np.allclose(np.linalg.norm(stacked, axis=1), 1.0, atol=1e-5)


# Collection


@pytest.mark.parametrize("kind", ["vector", "double", "dict"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_one_skill_for_each_episode_and_no_pair_spans_a_reset(kind: str, n_envs: int) -> None:
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    model = tiny_model(scripted_envs(n_envs, kind=kind), policy, learning_starts=10_000)
    model.learn(60 * n_envs)
    skills = check_transitions(model)
    assert len(skills) >= n_envs * (60 // sum(LENGTHS)) * len(LENGTHS)
    check_distinct(skills)


def test_subprocess_environments() -> None:
    env = SubprocVecEnv([lambda i=i: Scripted(i, lengths_of(i)) for i in range(2)], start_method="fork")
    try:
        model = tiny_model(env)
        model.learn(60)
        check_distinct(check_transitions(model))
    finally:
        env.close()


def test_normalised_environments_store_what_the_environment_gave() -> None:
    model = tiny_model(VecNormalize(scripted_envs(3)))
    model.learn(90)
    check_distinct(check_transitions(model))


def test_gradient_steps_see_normalised_observations() -> None:
    env = VecNormalize(scripted_envs(3))
    model = tiny_model(env).learn(90)
    seen: list[SkillReplayBufferSamples] = []

    def record(batch: SkillReplayBufferSamples, batch_size: int) -> dict[str, th.Tensor]:
        seen.append(batch)
        return {"nothing": th.zeros(1)}

    model.gradient_step = record
    model.replay_buffer.rng = np.random.default_rng(5)
    model.train(1, batch_size=16)
    model.replay_buffer.rng = np.random.default_rng(5)
    normalised = model.replay_buffer.sample(16, env=env)
    assert th.equal(seen[0].observations, normalised.observations)
    model.replay_buffer.rng = np.random.default_rng(5)
    assert not th.equal(seen[0].observations, model.replay_buffer.sample(16).observations)


def test_images() -> None:
    model = tiny_model(
        scripted_envs(2, kind="image"),
        "CnnPolicy",
        policy_kwargs={"net_arch": [8], "features_extractor_kwargs": {"depth": 2}},
        replay_buffer_class=SkillReplayBuffer,
    )
    model.learn(40)
    buffer = model.replay_buffer
    assert buffer.observations.shape[2:] == (3, 46, 48)
    here = buffer.observations[: buffer.pos, :, :, 0, 0].astype(int)
    there = buffer.next_observations[: buffer.pos, :, :, 0, 0].astype(int)
    assert np.array_equal(there[..., :2], here[..., :2])
    assert np.array_equal(there[..., 2], here[..., 2] + 1)
    assert model.encode(np.zeros((5, 46, 48, 3), np.uint8)).shape == (5, 2)


def test_discrete_skills() -> None:
    model = tiny_model(skill_dim=4, discrete=True)
    model.learn(120)
    skills = np.stack(list(check_transitions(model).values()))
    assert np.array_equal(np.sort(skills, axis=1)[:, -2:], np.tile([0.0, 1.0], (len(skills), 1)))
    assert (skills.sum(axis=0) > 0).all()


def test_the_agent_acts_with_the_skill_that_is_stored() -> None:
    """An almost deterministic actor whose mean is the skill: the stored action is its squashed first component."""
    model = tiny_model(learning_starts=10_000, policy_kwargs={"net_arch": []})
    with th.no_grad():
        model.actor.mu.weight.zero_()
        model.actor.mu.weight[:, 3:] = th.eye(2)
        model.actor.log_std.bias.fill_(-100.0)
    model.learn(60)
    buffer = model.replay_buffer
    stored, skills = buffer.actions[: buffer.pos], buffer.skills[: buffer.pos]
    assert np.allclose(stored, np.tanh(skills), atol=1e-4)


def test_actions_are_scaled_to_the_environments_box() -> None:
    env = scripted_envs(1)
    model = tiny_model(env, learning_starts=10_000, random_warmup=False)
    model.learn(20)
    done = np.array(env.envs[0].unwrapped.actions[:20])
    stored = model.replay_buffer.actions[:20, 0]
    assert np.allclose(done[:, 0], stored[:, 0], atol=1e-6)
    assert np.allclose(done[:, 1], 5.0 * (stored[:, 1] + 1.0), atol=1e-5)


def test_random_warmup_acts_uniformly_and_the_default_does_not() -> None:
    spreads = {}
    for warmup in (True, False):
        model = tiny_model(scripted_envs(1), learning_starts=400, random_warmup=warmup)
        with th.no_grad():
            model.actor.log_std.bias.fill_(-100.0)  # the policy itself hardly moves
        model.learn(400)
        spreads[warmup] = model.replay_buffer.actions[:400].std()
    assert spreads[True] == pytest.approx(1.0 / np.sqrt(3.0), abs=0.05)  # of U(-1, 1)
    assert spreads[False] < 0.3


def test_action_noise() -> None:
    noise = NormalActionNoise(np.zeros(2), np.full(2, 100.0))
    model = tiny_model(scripted_envs(3), action_noise=noise)
    model.learn(90)
    actions = model.replay_buffer.actions[: model.replay_buffer.pos]
    assert (np.abs(actions) == 1.0).mean() > 0.9
    check_transitions(model)


# Seams between calls


def test_continued_training_keeps_the_running_episode_and_its_skill() -> None:
    model = tiny_model(scripted_envs(3), train_freq=7)
    for _ in range(4):  # 7 steps each: the seams lie within episodes
        model.learn(21, reset_num_timesteps=False)
    assert model.num_timesteps == 84
    assert model._n_updates > 0
    check_distinct(check_transitions(model))


def test_training_afresh_begins_new_episodes_with_new_skills() -> None:
    model = tiny_model(scripted_envs(1), train_freq=2)
    model.learn(6)  # ends one step before the end of episode 1, of 5 steps
    before = model._last_skills
    model.learn(6)
    assert model.num_timesteps == 6
    by_episode = defaultdict(list)
    for row in rows(model)[0]:
        assert row["here"][1] == row["there"][1]
        by_episode[row["here"][1]].append(row)
    assert [row["here"][2] for row in by_episode[1]] == [0, 1, 2]
    assert not by_episode[1][-1]["done"]
    assert np.array_equal(by_episode[1][0]["skill"], before[0])
    assert by_episode[2][0]["here"] == (0, 2, 0)
    check_distinct({episode: found[0]["skill"] for episode, found in by_episode.items()})


def test_set_env_begins_new_episodes_with_new_skills() -> None:
    model = tiny_model(scripted_envs(2), train_freq=1)
    model.learn(8)
    before = model._last_skills.copy()
    model.set_env(scripted_envs(2))
    model.learn(8, reset_num_timesteps=False)
    for env, transitions in enumerate(rows(model)):
        assert transitions[4]["here"] == (env, 0, 0)
        assert not np.array_equal(transitions[4]["skill"], before[env])
        assert all(row["there"][1:] == (row["here"][1], row["here"][2] + 1) for row in transitions)
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(scripted_envs(3))


def test_an_interrupted_run_loses_nothing() -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 7:
                raise KeyboardInterrupt
            return True

    model = tiny_model(scripted_envs(1), train_freq=1)
    with pytest.raises(KeyboardInterrupt):
        model.learn(50, callback=Interrupt())
    model.learn(20, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 27
    check_distinct(check_transitions(model))


def test_a_step_that_was_not_stored_begins_new_episodes() -> None:
    """The environments are a step ahead of the model then."""
    model = tiny_model(scripted_envs(1), train_freq=1, learning_starts=10_000)
    add, calls = model.replay_buffer.add, []

    def fail_once(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 7:
            raise OSError("disk full")
        add(*args)

    model.replay_buffer.add = fail_once
    with pytest.raises(OSError, match="disk full"):
        model.learn(50)
    model.learn(20, reset_num_timesteps=False)
    found = rows(model)[0]
    assert len(found) == 26
    assert all(row["there"] == (0, row["here"][1], row["here"][2] + 1) for row in found)
    assert found[6]["here"][2] == 0
    assert not np.array_equal(found[6]["skill"], found[5]["skill"])


def test_a_round_that_a_callback_stops_is_finished_by_the_next_call() -> None:
    model = tiny_model(scripted_envs(1, (4,)), train_freq=4, learning_starts=8)
    for _ in range(6):
        model.learn(1_000, callback=StopTrainingOnMaxEpisodes(1), reset_num_timesteps=False)
    assert model.num_timesteps == model.replay_buffer.pos == 24
    assert model._n_updates == 2 * (24 - 8 - 4) // 4  # the last round's gradient steps come with the next call
    model = tiny_model(scripted_envs(1, (4,)), train_freq=6, learning_starts=0, gradient_steps=-1, batch_size=4)
    for _ in range(6):
        model.learn(1_000, callback=StopTrainingOnMaxEpisodes(1), reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (24, 18)


# Episodes that begin out of sight, memory that is not ours


@pytest.mark.parametrize("what", ["reset", "step"])
@pytest.mark.parametrize("who", ["env", "inner", "outer", "evaluation"])
def test_a_reset_or_a_step_by_somebody_else_begins_new_episodes(who: str, what: str) -> None:
    inner = Scripted(lengths=(1_000,))
    venv = VecNormalize(DummyVecEnv([lambda: gym.wrappers.TimeLimit(inner, 500)]), norm_obs=False)
    model = tiny_model(venv, train_freq=5, learning_starts=10_000)

    def interfere() -> None:
        if who == "evaluation":
            evaluate_policy(model, DummyVecEnv([lambda: gym.wrappers.TimeLimit(inner, 5)]), warn=False)
            return
        action = np.ones((1, 2) if who == "outer" else 2, np.float32)
        env: Any = {"env": venv.venv.envs[0], "inner": inner, "outer": venv}[who]
        env.reset() if what == "reset" else env.step(action)

    class BehindItsBack(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 8:
                interfere()
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps == 10:
                interfere()

    model.learn(20, callback=BehindItsBack())
    interfere()
    model.learn(10, reset_num_timesteps=False)
    found = rows(model)[0]
    assert all(row["there"][1:] == (row["here"][1], row["here"][2] + 1) for row in found)
    assert [i for i, row in enumerate(found) if row["here"][2] == 0] == [0, 8, 10, 20]
    check_distinct({i: found[i]["skill"] for i in (0, 8, 10, 20)})


def test_copies_of_a_watched_environment_are_whole() -> None:
    env = Scripted()
    model = tiny_model(env).learn(8)
    for copied in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        before = env.episode
        copied.reset()
        assert (copied.episode, env.episode) == (before + 1, before)
    assert not model._watch.take()
    model.set_env(Scripted())
    model.learn(8)
    for name in ("reset", "step"):
        assert vars(env).get(name, getattr(env, name)) == types.MethodType(getattr(Scripted, name), env)


class Batched(VecEnv):
    """A batched simulator that hands out its own array, and one dictionary for all environments."""

    def __init__(self, n: int = 4) -> None:
        self.x = np.zeros((n, 2), np.float32)
        super().__init__(n, spaces.Box(-9, 9, (2,), np.float32), spaces.Box(-1, 1, (2,), np.float32))

    def reset(self) -> np.ndarray:
        self.x[:] = 0
        return self.x

    def step_async(self, actions: np.ndarray) -> None:
        self.x += 0.1 * actions

    def step_wait(self) -> Any:
        self.infos = [{}] * self.num_envs
        return self.x, np.zeros(self.num_envs), np.zeros(self.num_envs, bool), self.infos

    def close(self) -> None:
        pass

    def has_attr(self, name: str) -> bool:
        return False

    def get_attr(self, *args: Any, **kwargs: Any) -> list[Any]:
        return [None] * self.num_envs

    set_attr = env_method = get_attr

    def env_is_wrapped(self, *args: Any, **kwargs: Any) -> list[bool]:
        return [False] * self.num_envs


def test_a_simulator_that_shares_its_memory() -> None:
    env = Batched()
    model = tiny_model(env, learning_starts=10_000).learn(80)
    buffer = model.replay_buffer
    moved = buffer.next_observations[:20] - buffer.observations[:20]
    assert np.allclose(moved, 0.1 * buffer.actions[:20], atol=1e-6)
    assert np.array_equal(buffer.observations[1:20], buffer.next_observations[:19])
    assert np.array_equal(buffer.skills[:20], np.tile(model._last_skills, (20, 1, 1)))
    assert env.infos[0] == {}


class InPlace(gym.Env):
    """Changes the array that it handed out, in ``reset``, too."""

    observation_space, action_space = spaces.Box(-9, 9, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        self.x = np.zeros(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x[:] = 0
        return self.x, {}

    def step(self, action: np.ndarray) -> Any:
        self.x += 1
        return self.x, 0.0, False, bool(self.x[0] == 4), {}


@pytest.mark.parametrize("make", [InPlace, lambda: DummyVecEnv([InPlace, InPlace])])
def test_an_environment_that_changes_its_observation_in_place(make: Any) -> None:
    buffer = tiny_model(make(), learning_starts=10_000).learn(40).replay_buffer
    moved = buffer.next_observations[: buffer.pos] - buffer.observations[: buffer.pos]
    assert (moved == 1).all()


# Random numbers


def test_skills_do_not_come_from_numpys_global_state() -> None:
    class Old(Scripted):
        def reset(self, **kwargs: Any) -> Any:
            np.random.seed(42)
            return super().reset(**kwargs)

    model = tiny_model(Old(), learning_starts=10_000).learn(60)
    check_distinct(check_transitions(model))


class RecordedNoise(NormalActionNoise):
    def __init__(self) -> None:
        super().__init__(np.zeros(2), np.full(2, 0.1))
        self.drawn: list[float] = []

    def __call__(self) -> np.ndarray:
        noise = super().__call__()
        self.drawn.append(float(noise[0]))
        return noise


def test_action_noise_neither_draws_from_numpys_global_state_nor_follows_it() -> None:
    class Old(Scripted):
        def reset(self, **kwargs: Any) -> Any:
            np.random.seed(42)
            return super().reset(**kwargs)

    drawn = []
    for world in (Old, Old, Scripted):
        np.random.seed(len(drawn))
        noise = RecordedNoise()
        tiny_model(world(), learning_starts=10_000, random_warmup=False, action_noise=noise).learn(40)
        drawn.append(noise.drawn)
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) == len(drawn[0]) == 40
    before = np.random.get_state(legacy=False)["state"]
    model = tiny_model(Scripted(), seed=None, learning_starts=10_000, action_noise=RecordedNoise()).learn(8)
    after = np.random.get_state(legacy=False)["state"]
    assert (after["key"].tolist(), after["pos"]) == (before["key"].tolist(), before["pos"])
    assert len(model.action_noise.drawn) == 8


def test_predict_and_evaluation_leave_training_as_it_is() -> None:
    class Look(BaseCallback):
        def _on_step(self) -> bool:
            self.model.predict(self.locals["new_obs"], deterministic=True)
            self.model.skill_prior.sample(3)
            return True

    evaluation = EvalCallback(scripted_envs(1), eval_freq=8, n_eval_episodes=2, verbose=0, warn=False)
    plain, watched = tiny_model().learn(96), tiny_model().learn(96, callback=[evaluation, Look()])
    assert np.array_equal(plain.replay_buffer.actions, watched.replay_buffer.actions)
    assert same(state_of(plain), state_of(watched))


def test_an_endless_episode_is_reported() -> None:
    model = tiny_model(Scripted(lengths=(10_000,)), learning_starts=10_000)
    with pytest.warns(UserWarning, match="one skill .*TimeLimit"):
        model.learn(1_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(10, reset_num_timesteps=False)


# Gradient steps


def test_a_seed_decides_everything() -> None:
    states = []
    for seed in (3, 3, 4):
        model = tiny_model(seed=seed)
        model.learn(96)
        assert model._n_updates == 8
        states.append((state_of(model), model.replay_buffer.actions[:10].copy()))
    assert same(states[0][0], states[1][0])
    assert np.array_equal(states[0][1], states[1][1])
    assert not same(states[0][0], states[2][0])


def test_everything_that_is_learnt_changes_and_all_that_is_saved_is_learnt() -> None:
    model = tiny_model()
    model.learn(24)
    before = state_of(model)
    model.train(1, batch_size=16)
    after = state_of(model)
    unchanged = {name for name, x in before.items() if th.equal(x, after[name])}
    # phi's displacement does not depend on its last bias
    assert {name for name in unchanged if not name.startswith("/objective_optimizer")} <= {"/objective/phi.out.bias"}


def batch_of(model: METRA, n: int = 16) -> SkillReplayBufferSamples:
    skills = th.as_tensor(model.skill_prior.sample(n))
    s, actions = th.randn(n, 3), th.rand(n, 2) * 2 - 1
    return SkillReplayBufferSamples(s, actions, th.randn(n, 3), th.zeros(n, 1), th.zeros(n, 1), skills)


def test_order_of_a_gradient_step() -> None:
    """phi first, with the multiplier from before; its new self gives the reward; targets move last by tau."""
    model = tiny_model(tau=0.25, learning_rate=0.1)
    batch = batch_of(model)
    alignment, reward_before = model.objective.loss(batch)[1]["alignment"], model.objective.reward(batch)
    assert th.equal(alignment, reward_before.squeeze(1))
    targets = [p.clone() for p in model.critic_target.parameters()]
    info = model.gradient_step(batch)
    assert th.equal(info["alignment"], alignment)
    assert th.equal(info["intrinsic_reward"], model.objective.reward(batch))
    assert not th.equal(info["intrinsic_reward"], reward_before)
    for old, new, critic in zip(targets, model.critic_target.parameters(), model.critic.parameters(), strict=True):
        assert th.allclose(new, 0.75 * old + 0.25 * critic.detach(), atol=1e-6)


def test_the_targets_of_the_critics_by_hand() -> None:
    model = tiny_model(gamma=0.5, ent_coef=0.2)
    batch = batch_of(model)._replace(rewards=th.randn(16, 1), dones=(th.arange(16.0)[:, None] % 2))
    noise = th.randn(16, 2)
    following = model.policy.condition(batch.next_observations, batch.skills)
    actions, log_prob = model.actor.action_log_prob(following, noise)
    q_next = th.min(*model.critic_target(following, actions))
    expected = batch.rewards + 0.5 * (1.0 - batch.dones) * (q_next - 0.2 * log_prob)
    original = model.actor.action_log_prob
    model.actor.action_log_prob = lambda obs: original(obs, noise)
    loss, info = model.critic_loss(batch)
    assert th.allclose(info["q_target"], expected, atol=1e-6)
    assert not info["q_target"].requires_grad
    q_values = model.critic(model.policy.condition(batch.observations, batch.skills), batch.actions)
    halves = [0.5 * (q_value - expected).square().mean() for q_value in q_values]
    assert info["critic_loss"].tolist() == pytest.approx([half.item() for half in halves], rel=1e-5)
    assert loss.item() == pytest.approx(sum(half.item() for half in halves), rel=1e-5)


def test_the_actors_step_leaves_no_gradient_in_the_critics() -> None:
    model = tiny_model()
    model.gradient_step(batch_of(model))
    for parameter in model.critic.parameters():
        parameter.grad = None
    model._step("actor", model.actor.optimizer, model.actor_loss, batch_of(model), th.zeros(()))
    assert all(parameter.grad is None for parameter in model.critic.parameters())


def test_actor_and_critics_learn_from_the_first_transitions_of_a_larger_batch() -> None:
    model = tiny_model(batch_size=8, objective_batch_size=32)
    model.learn(48)
    info = model.gradient_step(batch_of(model, 32))
    assert len(info["alignment"]) == 32
    assert len(info["intrinsic_reward"]) == len(info["q_target"]) == len(info["entropy"]) == 8
    assert len(model.gradient_step(batch_of(model, 32), batch_size=5)["q_target"]) == 5
    model.train(0)
    with pytest.raises(ValueError, match="objective_batch_size must be at least batch_size=8, got 4"):
        tiny_model(batch_size=8, objective_batch_size=4)


class NoSynchronisation(TorchDispatchMode):
    """Fails where a tensor's value is asked for, which would make a GPU's queue run dry."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert "_local_scalar_dense" not in name, f"{name} waits for the device"
        assert "nonzero" not in name, f"{name} waits for the device"
        assert "masked_select" not in name, f"{name} waits for the device"
        assert "lift_fresh" not in name, f"{name} copies a number of Python's to the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kwargs", [{}, {"bfloat16": True}, {"ent_coef": 0.1}, {"discrete": True, "skill_dim": 3}])
def test_a_gradient_step_never_waits_for_the_device(kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(**kwargs)
    batch = batch_of(model)
    with NoSynchronisation(), pytest.raises(AssertionError, match="waits"):
        batch.rewards.sum().item()  # the net has no hole

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tensor left the device")

    for name in ("numpy", "tolist", "cpu", "item", "__bool__", "__float__", "__array__"):
        monkeypatch.setattr(th.Tensor, name, refuse)
    with NoSynchronisation():
        info = model.gradient_step(batch)
    monkeypatch.undo()
    assert np.isfinite(info["q_target"].numpy()).all()


def test_bfloat16_is_near_and_not_equal() -> None:
    targets = {}
    for bfloat16 in (False, True):
        model = tiny_model(bfloat16=bfloat16, policy_kwargs={"net_arch": [64, 64]}, phi_kwargs={"net_arch": [64, 64]})
        model.learn(48)
        assert model._n_updates > 0
        assert all(x.isfinite().all() for x in state_of(model).values())
        assert {p.dtype for p in model.policy.parameters()} == {th.float32}
        model = tiny_model(bfloat16=bfloat16, policy_kwargs={"net_arch": [64, 64]}, phi_kwargs={"net_arch": [64, 64]})
        th.manual_seed(0)
        targets[bfloat16] = model.gradient_step(batch_of(model))["q_target"]
    assert not th.equal(targets[True], targets[False])
    assert th.allclose(targets[True], targets[False], atol=0.1)


def test_learning_rates_follow_their_schedule() -> None:
    model = tiny_model(learning_rate=lambda remaining: 1e-3 * remaining)
    model.learn(96)
    optimizers = (model.objective_optimizer, model.actor.optimizer, model.critic.optimizer)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert len(rates) == 4
    assert rates == [pytest.approx(1e-3 * model._current_progress_remaining, abs=1e-12)] * 4
    assert max(rates) < 2e-4


@pytest.mark.parametrize(
    ("ent_coef", "learnt", "value"), [("auto", True, 1.0), ("auto_0.5", True, 0.5), (0.3, False, 0.3)]
)
def test_entropy_coefficients(ent_coef: Any, learnt: bool, value: float) -> None:
    model = tiny_model(ent_coef=ent_coef)
    assert model.entropy_dual.value.item() == pytest.approx(value)
    model.learn(48)
    assert (model.entropy_dual.value.item() != pytest.approx(value, abs=1e-7)) == learnt


def test_the_target_entropy() -> None:
    assert tiny_model()._target_entropy == -1.0
    assert tiny_model(target_entropy=-3)._target_entropy == -3.0
    model = tiny_model(target_entropy=-1e6, learning_rate=0.1)
    model.learn(24)
    assert model.entropy_dual.value.item() < 0.01  # far more entropy than asked for


def test_other_optimisers() -> None:
    for kwargs in ({"optimizer_class": th.optim.SGD}, {"optimizer_kwargs": {"fused": False}}):
        model = tiny_model(policy_kwargs={"net_arch": [8], **kwargs})
        before = state_of(model)
        model.learn(24)
        assert not th.equal(state_of(model)["/policy/actor.mu.weight"], before["/policy/actor.mu.weight"])


def test_as_many_gradient_steps_as_environment_steps() -> None:
    model = tiny_model(scripted_envs(2), gradient_steps=-1, train_freq=8, learning_starts=15)
    model.learn(48)
    assert model._n_updates == 48
    model = tiny_model(scripted_envs(1), train_freq=(2, "episode"))
    model.learn(48)
    assert model._n_updates > 0


# What SB3 offers around it


def test_evaluate_policy_draws_a_skill_for_each_episode() -> None:
    model = tiny_model()
    seen: list[np.ndarray] = []
    predict = model.policy.predict

    def record(*args: Any, **kwargs: Any) -> Any:
        actions, skills = predict(*args, **kwargs)
        seen.append(skills.copy())
        return actions, skills

    model.policy.predict = record
    _, lengths = evaluate_policy(model, scripted_envs(1), n_eval_episodes=4, return_episode_rewards=True, warn=False)
    assert lengths == [3, 5, 1, 4]
    skills = np.concatenate(seen)
    episodes = np.split(skills, np.cumsum(lengths)[:-1])
    assert all((episode == episode[0]).all() for episode in episodes)
    check_distinct(dict(enumerate(episode[0] for episode in episodes)))


def test_callbacks(tmp_path: Path) -> None:
    env = VecNormalize(scripted_envs(2))
    evaluation = EvalCallback(
        VecNormalize(scripted_envs(1), training=False), eval_freq=8, n_eval_episodes=2, verbose=0, warn=False
    )
    checkpoint = CheckpointCallback(16, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model = tiny_model(env)
    model.learn(64, callback=[evaluation, checkpoint])
    assert evaluation.n_calls == 32
    assert np.isfinite(evaluation.last_mean_reward)
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "rl_model_32_steps.zip",
        "rl_model_replay_buffer_32_steps.pkl",
        "rl_model_vecnormalize_32_steps.pkl",
    } <= names
    assert METRA.load(tmp_path / "rl_model_64_steps").num_timesteps == 64

    model = tiny_model(scripted_envs(1), train_freq=1)
    model.learn(1_000, callback=StopTrainingOnMaxEpisodes(3))
    assert model.num_timesteps == 3 + 5 + 1


def test_a_callback_that_forgets_to_return_is_told_so() -> None:
    with pytest.warns(UserWarning, match="learning stops after 3 steps, because a callback returned None"):
        tiny_model().learn(48, callback=lambda *_: None)


def test_a_callback_may_stop_training() -> None:
    model = tiny_model()
    model.learn(1_000, callback=lambda local, _: local["self"].num_timesteps < 30)
    assert model.num_timesteps == 30
    model.learn(60, reset_num_timesteps=False)
    for transitions in rows(model):
        assert all(row["there"] == (*row["here"][:2], row["here"][2] + 1) for row in transitions)
        skills = {row["here"][:2]: row["skill"] for row in transitions}
        assert all(np.array_equal(row["skill"], skills[row["here"][:2]]) for row in transitions)
        check_distinct(skills)


def test_what_is_logged(tmp_path: Path) -> None:
    model = tiny_model()
    model.learn(96, log_interval=1)
    logged = model.logger.name_to_value
    model.train(2, batch_size=16)
    expected = {"phi_loss", "dual_lambda", "displacement_norm", "constraint_slack", "constraint_violation"}
    expected |= {"intrinsic_reward", "ent_coef", "entropy", "critic_loss", "actor_loss", "q_target", "n_updates"}
    assert {f"train/{name}" for name in expected} <= set(logged)
    assert logged["train/ent_coef"] == pytest.approx(model.entropy_dual.value.item(), rel=1e-3)
    assert all(np.isfinite(value) for value in logged.values())


def test_parameters_can_be_taken_and_put_back() -> None:
    model = tiny_model()
    before = state_of(model)
    parameters = model.get_parameters()
    assert {"policy", "objective", "entropy_dual", "objective_optimizer"} <= set(parameters)
    saved = {
        name: {k: v.clone() if isinstance(v, th.Tensor) else v for k, v in x.items()} for name, x in parameters.items()
    }
    model.learn(48)
    assert not same({k: v for k, v in state_of(model).items() if k in before}, before)
    model.set_parameters(saved)
    weights = {name for name in before if "optimizer" not in name}
    assert all(th.equal(state_of(model)[name], before[name]) for name in weights)
    other = tiny_model(seed=9)
    other.set_parameters(model.get_parameters())
    assert all(th.equal(state_of(other)[name], before[name]) for name in weights)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": saved["policy"]})


def test_encode() -> None:
    model = tiny_model(skill_dim=3)
    observations = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    latents = model.encode(observations)
    assert (latents.shape, latents.dtype) == ((6, 3), np.float32)
    single = model.encode(observations[2])
    assert single.shape == (3,)
    assert np.allclose(single, latents[2], atol=1e-6)
    with th.no_grad():
        assert np.allclose(latents, model.objective.phi(th.as_tensor(observations)).numpy())
    skill = model.skill_prior.toward(latents[1] - latents[0])
    model.predict(observations[0], state=skill, deterministic=True)
    dictionary = tiny_model(scripted_envs(1, kind="dict"), "MultiInputPolicy")
    sample = dictionary.observation_space.sample()
    assert dictionary.encode(sample).shape == (2,)


def test_the_toy_environment_is_sound() -> None:
    for kind in ("vector", "dict", "image"):
        check_env(Scripted(kind=kind), warn=False)


def test_environments_by_instance_and_as_vectors() -> None:
    for env in (Scripted(), DummyVecEnv([Scripted]), VecNormalize(DummyVecEnv([Scripted]))):
        model = tiny_model(env)
        model.learn(24)
        assert isinstance(model.get_env(), VecEnv)
        assert isinstance(model.action_space, spaces.Box)


def test_steps_are_measured_once_before_the_first_gradient_step(tmp_path: Path) -> None:
    env = DummyVecEnv([PointMassEnv] * 2)
    model = METRA("MlpPolicy", env, **TINY | {"phi_kwargs": {"net_arch": [8], "normalize_steps": True}})
    assert model.objective.phi.step_scale.tolist() == [1.0, 1.0]
    model.learn(16)
    assert model.objective.phi.step_scale.tolist() == [1.0, 1.0]  # nothing has been learnt yet
    model.learn(16, reset_num_timesteps=False)
    scale = model.objective.phi.step_scale.clone()
    assert scale.min().item() < scale.max().item() == 1.0  # the median of two is the lower one
    model.learn(32, reset_num_timesteps=False)
    assert th.equal(model.objective.phi.step_scale, scale)
    model.save(tmp_path / "model")
    assert th.equal(METRA.load(tmp_path / "model").objective.phi.step_scale, scale)
