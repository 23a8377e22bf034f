"""What SB3 asks of its own algorithms: modes of networks, spaces, dictionaries, determinism, callbacks."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from torch import nn

from sb3_metra import METRA
from sb3_metra.common.policies import CnnPolicy
from tests.toys import TINY, scripted_envs, state_of, tiny_model

BOX32, BOX64 = (spaces.Box(-1.0, 1.0, (2,), dtype) for dtype in (np.float32, np.float64))
IMAGE, LAST = (spaces.Box(0, 255, shape, np.uint8) for shape in ((1, 36, 36), (36, 36, 1)))


class Samples(gym.Env):
    """Observations are samples of their space; an episode takes 10 steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space = BOX32) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(0 if seed is None else seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 0.0, False, self.t == 10, {}


# Modes of networks


class NoisyExtractor(BaseFeaturesExtractor):
    """Batch norm and dropout."""

    def __init__(self, observation_space: spaces.Space) -> None:
        dim = get_flattened_obs_dim(observation_space)
        super().__init__(observation_space, dim)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(dim), nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def noisy_model(**kwargs: Any) -> METRA:
    """A model whose every network, phi included, has batch norm and dropout."""
    return tiny_model(policy_kwargs={"net_arch": [8], "features_extractor_class": NoisyExtractor}, **kwargs)


def statistics(*networks: nn.Module) -> list[th.Tensor]:
    """Copies of the running averages of batch norm."""
    return [x.clone() for network in networks for x in network.buffers() if x.is_floating_point()]


def networks(model: METRA) -> list[nn.Module]:
    return [model.actor, model.critic, model.critic_target, model.objective]


def test_acting_and_encoding_change_nothing() -> None:
    model = noisy_model(gradient_steps=0)
    before = statistics(*networks(model))
    assert len(before) == 2 * (1 + 2 + 2 + 1)  # mean and variance: an actor, two critics, two targets, phi
    observation, skill = np.array([1.0, -2.0, 3.0], np.float32), [1.0, 0.0]
    model.learn(48)
    for mode in (False, True):  # also after training, or where a user has left a network in training mode
        model.policy.train(mode)
        model.objective.train(mode)
        actions = [model.predict(observation, state=skill, deterministic=True)[0] for _ in range(3)]
        latents = [model.encode(observation) for _ in range(3)]
        np.testing.assert_array_equal(actions[1:], actions[:-1])
        np.testing.assert_array_equal(latents[1:], latents[:-1])
        np.testing.assert_allclose(model.encode(np.stack([observation, 2 * observation]))[0], latents[0], rtol=1e-5)
    assert all(th.equal(x, y) for x, y in zip(before, statistics(*networks(model)), strict=True))


def test_training_changes_statistics_and_hands_them_to_the_targets() -> None:
    """With tau = 0 no weight of a target moves, yet its running averages are those of its critic."""
    model = noisy_model(tau=0.0)
    before = statistics(*networks(model))
    weights = [x.clone() for x in model.critic_target.parameters()]
    model.learn(48)
    assert not any(th.equal(x, y) for x, y in zip(before, statistics(*networks(model)), strict=True))
    pairs = zip(statistics(model.critic), statistics(model.critic_target), strict=True)
    assert all(th.equal(x, y) for x, y in pairs)
    assert all(th.equal(x, y) for x, y in zip(weights, model.critic_target.parameters(), strict=True))


def test_modes_while_training() -> None:
    """Losses see training mode, rewards and target critics evaluation mode."""
    model = noisy_model()
    seen: dict[str, set[bool]] = {"loss": set(), "reward": set(), "target": set(), "critic": set(), "actor": set()}

    def watch(name: str, network: nn.Module, owner: Any, method: str) -> None:
        function = getattr(owner, method)
        setattr(owner, method, lambda *args: (seen[name].add(network.training), function(*args))[1])

    watch("loss", model.objective, model.objective, "loss")
    watch("reward", model.objective, model.objective, "reward")
    watch("critic", model.critic, model, "critic_loss")
    watch("actor", model.actor, model, "actor_loss")
    watch("target", model.critic_target, model, "critic_loss")
    model.policy.train()  # as SB3's set_training_mode
    model.learn(48)
    assert seen == {"loss": {True}, "reward": {False}, "target": {False}, "critic": {True}, "actor": {True}}
    assert not model.objective.training


@pytest.mark.parametrize("name", ["actor", "critic", "policy", "objective"])
def test_networks_can_be_saved_whole(name: str, tmp_path: Path) -> None:
    space = spaces.Box(0, 255, (3, 46, 46), np.uint8)
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"depth": 1}}
    model = METRA("CnnPolicy", Samples(space), **(TINY | {"policy_kwargs": kwargs, "buffer_size": 64})).learn(24)
    network = getattr(model, name)
    file = io.BytesIO()
    th.save(network, file)
    file.seek(0)
    copies = [th.load(file, weights_only=False), pickle.loads(pickle.dumps(network)), copy.deepcopy(network)]
    for other in copies:
        assert all(th.equal(x, y) for x, y in zip(network.parameters(), other.parameters(), strict=True))
    observation = space.sample()
    expected = model.predict(observation, state=[1.0, 0.0], deterministic=True)[0]
    if name == "policy":
        model.policy.save(str(tmp_path / "policy"))
        for policy in (*copies, CnnPolicy.load(str(tmp_path / "policy"), device="cpu")):
            action = policy.predict(observation, state=[1.0, 0.0], deterministic=True)[0]
            np.testing.assert_array_equal(action, expected)


# Spaces

SPACES: list[spaces.Space] = [
    BOX32,
    BOX64,
    spaces.Box(-5, 5, (3,), np.int32),
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    spaces.Box(-1.0, 1.0, (), np.float32),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([4, 3]),
    spaces.MultiDiscrete([4, 3], start=[1, -7]),
    spaces.MultiBinary(8),
    spaces.MultiBinary((3, 2)),
    spaces.Dict({"a": BOX32, "b": BOX64, "c": spaces.Box(0.0, 9.0, (), np.float64)}),
    spaces.Dict({"img": IMAGE, "vec": BOX32, "discrete": spaces.Discrete(4)}),
    spaces.Dict({"img": LAST, "vec": BOX32, "multi": spaces.MultiDiscrete([2, 2]), "bits": spaces.MultiBinary(2)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observation_spaces(space: spaces.Space) -> None:
    policy, kwargs = "MlpPolicy", {"net_arch": [8]}
    if isinstance(space, spaces.Dict):
        policy, kwargs = "MultiInputPolicy", kwargs | {"features_extractor_kwargs": {"cnn_output_dim": 4}}
    env = Samples(space)
    model = METRA(policy, env, **(TINY | {"policy_kwargs": kwargs, "buffer_size": 64}))
    model.learn(24)
    evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    samples = [env.reset()[0] for _ in range(3)]
    batch = {k: np.stack([x[k] for x in samples]) for k in space} if policy == "MultiInputPolicy" else np.stack(samples)
    assert model.encode(batch).shape == (3, 2)
    np.testing.assert_allclose(model.encode(batch)[0], model.encode(samples[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("observations", [BOX32, BOX64])
@pytest.mark.parametrize("actions", [BOX32, BOX64, spaces.Box(-1.0, 1.0, (2, 2), np.float32)])
def test_types_of_actions(observations: spaces.Box, actions: spaces.Box) -> None:
    env = Samples(observations, actions)
    model = METRA("MlpPolicy", env, **(TINY | {"random_warmup": True})).learn(24)
    action, _ = model.predict(env.reset()[0])
    assert action.dtype == actions.dtype
    assert actions.contains(action)


def test_nested_dictionaries_and_dictionaries_of_actions_fail_as_in_sb3() -> None:
    with pytest.raises(NotImplementedError):
        METRA("MultiInputPolicy", Samples(spaces.Dict({"a": spaces.Dict({"b": BOX32})})), **TINY)
    with pytest.raises(AssertionError):
        METRA("MlpPolicy", Samples(BOX32, spaces.Dict({"a": BOX32})), **TINY)


def test_a_dictionary_of_one_vector_is_that_vector() -> None:
    """The networks are the same, and learn the same."""
    env = Samples(spaces.Dict({"vec": BOX32}))
    flat = gym.wrappers.FlattenObservation(Samples(spaces.Dict({"vec": BOX32})))
    models = [METRA("MultiInputPolicy", env, **TINY).learn(48), METRA("MlpPolicy", flat, **TINY).learn(48)]
    observation = np.array([0.5, -0.5], np.float32)
    actions = [
        model.predict(x, state=[1.0, 0.0], deterministic=True)[0]
        for model, x in zip(models, ({"vec": observation}, observation), strict=True)
    ]
    np.testing.assert_allclose(*actions, rtol=1e-5)
    np.testing.assert_allclose(models[0].encode({"vec": observation}), models[1].encode(observation), rtol=1e-5)


def test_wrappers_of_dictionaries() -> None:
    space = spaces.Dict({"img": IMAGE, "vec": BOX32})
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 4}}
    for venv in (
        VecNormalize(DummyVecEnv([lambda: Samples(space)] * 2), norm_obs_keys=["vec"]),
        VecFrameStack(DummyVecEnv([lambda: Samples(spaces.Dict({"vec": BOX32}))]), n_stack=3),
    ):
        model = METRA(
            "MultiInputPolicy", venv, **(TINY | {"buffer_size": 64} | {"policy_kwargs": _fitting(venv, kwargs)})
        )
        model.learn(32)
        assert model._n_updates > 0
        evaluate_policy(model, venv, n_eval_episodes=2, warn=False)


def _fitting(venv: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs if "img" in venv.observation_space.spaces else {"net_arch": [8]}


@pytest.mark.slow
def test_worker_processes() -> None:
    venv = SubprocVecEnv([lambda: Samples(spaces.Dict({"a": BOX32, "d": spaces.Discrete(4)}))] * 2)
    model = METRA("MultiInputPolicy", venv, **TINY).learn(48)
    venv.close()
    assert (model.num_timesteps, model._n_updates > 0) == (48, True)


# Determinism


def test_a_seed_decides_everything() -> None:
    """Training, and the actions, skills and noise after it."""
    runs = []
    for _ in range(2):
        noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
        model = tiny_model(scripted_envs(1), action_noise=noise, seed=3).learn(48)
        env = model.get_env()
        observation, skill, steps = env.reset(), None, []
        for _ in range(8):
            action, skill = model.predict(observation, state=skill)
            observation, *_ = env.step(action)
            steps.append(np.concatenate([action[0], skill[0], observation[0]]))
        runs.append((np.array(steps), state_of(model)))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert all(th.equal(x, runs[1][1][name]) for name, x in runs[0][1].items())


# Callbacks


def test_callbacks(tmp_path: Path) -> None:
    folder = str(tmp_path)
    checkpoint = CheckpointCallback(save_freq=8, save_path=folder, save_replay_buffer=True)
    evaluation = EvalCallback(scripted_envs(1), eval_freq=8, n_eval_episodes=1, best_model_save_path=folder, warn=False)
    every = EveryNTimesteps(n_steps=12, callback=CheckpointCallback(save_freq=1, save_path=folder, name_prefix="every"))
    model = tiny_model(verbose=0)
    model.learn(48, callback=CallbackList([checkpoint, evaluation, every]))
    assert (tmp_path / "best_model.zip").exists()
    assert (tmp_path / "rl_model_24_steps.zip").exists()
    assert list(tmp_path.glob("every_*.zip"))
    loaded = METRA.load(tmp_path / "rl_model_48_steps.zip", device="cpu")
    assert (loaded.num_timesteps, loaded._n_updates) == (48, 2)  # before the last round of gradient steps


@pytest.mark.parametrize("answer", [False, np.False_])
def test_a_callback_can_end_a_run(answer: Any) -> None:
    model = tiny_model()
    model.learn(100, callback=lambda local_variables, global_variables: answer)
    assert model.num_timesteps == 3
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=2))
    assert model.num_timesteps < 100
