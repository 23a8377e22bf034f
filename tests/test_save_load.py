"""What is saved comes back, and what is not a METRA model or not this model's replay is refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_metra import METRA
from sb3_metra.common.buffers import SkillReplayBuffer
from sb3_metra.common.skills import GaussianPrior, OneHotPrior
from tests.toys import TINY, Scripted, scripted_envs, tiny_model

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def trained(env: Any = None, **kwargs: Any) -> METRA:
    return tiny_model(scripted_envs(2) if env is None else env, **kwargs).learn(48)


def assert_same_tensors(first: Any, second: Any) -> None:
    """Compare nested parameters to the bit."""
    if isinstance(first, th.Tensor):
        assert th.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same_tensors(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same_tensors(one, other)
    else:
        assert first == second


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"skill_dim": 3, "discrete": True, "ent_coef": 0.2},
        {"unit_skills": False, "constraint_norm": "mean", "ent_coef": "auto"},
        {"bfloat16": True, "learning_rate": lambda remaining: 1e-3 * remaining},
        {"policy_kwargs": {"net_arch": {"pi": [6], "qf": [5]}, "share_critic_encoder": True, "n_critics": 3}},
        {"policy_kwargs": {"net_arch": [8], "optimizer_class": th.optim.RMSprop}},
    ],
)
def test_a_loaded_model_is_the_same(kwargs: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**kwargs)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu")
    assert_same_tensors(loaded.get_parameters(), model.get_parameters())
    skills = model.skill_prior.sample(5)
    actions, kept = model.predict(OBSERVATIONS, state=skills, deterministic=True)
    loaded_actions, loaded_kept = loaded.predict(OBSERVATIONS, state=skills, deterministic=True)
    assert np.array_equal(actions, loaded_actions)
    assert np.array_equal(kept, loaded_kept)
    assert np.array_equal(model.encode(OBSERVATIONS), loaded.encode(OBSERVATIONS))
    assert repr(loaded.skill_prior) == repr(model.skill_prior)
    assert loaded.num_timesteps == model.num_timesteps == 48
    names = ("dual_lambda", "dual_slack", "constraint_norm", "bfloat16", "ent_coef", "_target_entropy", "tau", "gamma")
    assert [getattr(loaded, name) for name in names] == [getattr(model, name) for name in names]
    assert loaded.objective.dual.norm == model.constraint_norm
    assert loaded.entropy_dual.value.item() == model.entropy_dual.value.item()


def test_a_model_saved_to_memory() -> None:
    model = trained()
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    assert_same_tensors(METRA.load(file, device="cpu").get_parameters(), model.get_parameters())


@pytest.mark.parametrize("kind", ["dict", "image"])
def test_dictionaries_and_images(kind: str, tmp_path: Path) -> None:
    policy, kwargs = (
        ("MultiInputPolicy", {}) if kind == "dict" else ("CnnPolicy", {"features_extractor_kwargs": {"depth": 2}})
    )
    model = tiny_model(scripted_envs(1, kind=kind), policy, policy_kwargs={"net_arch": [8], **kwargs})
    model.learn(24)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(2, kind=kind), device="cpu")
    observation = Scripted(kind=kind).reset()[0]
    assert np.array_equal(loaded.encode(observation), model.encode(observation))
    loaded.learn(24)


def test_learning_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """With the same replay and the same draws a loaded model takes the very steps that the first one takes."""
    model = trained()
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(2), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.replay_buffer.size() == model.replay_buffer.size() > 0
    assert np.array_equal(loaded.replay_buffer.skills, model.replay_buffer.skills)
    for each in (model, loaded):
        each.set_logger(model.logger)
        np.random.seed(1)
        th.manual_seed(1)
        each.train(5, batch_size=16)
    assert_same_tensors(loaded.get_parameters(), model.get_parameters())
    assert loaded._n_updates == model._n_updates


def test_learning_goes_on_with_another_number_of_environments(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(4), device="cpu")
    loaded.learn(48, reset_num_timesteps=False)
    assert loaded.num_timesteps == 48 + 64  # rounds of 8 steps of 4 environments
    assert loaded._last_skills.shape == (4, 2)
    assert loaded.replay_buffer.skills.shape[1] == 4


def test_learning_goes_on_without_a_reset(tmp_path: Path) -> None:
    """``force_reset=False`` and the same environment: the episode and its skill go on."""
    env = scripted_envs(1, lengths=(1_000,))
    model = trained(env)
    model.save(tmp_path / "model")
    skill = model._last_skills.copy()
    loaded = METRA.load(tmp_path / "model", env=env, device="cpu", force_reset=False)
    loaded.learn(16, reset_num_timesteps=False)
    assert np.array_equal(loaded._last_skills, skill)
    assert loaded.replay_buffer.observations[0, 0].tolist() == [0.0, 0.0, 48.0]


def test_normalised_environments(tmp_path: Path) -> None:
    env = VecNormalize(scripted_envs(2))
    model = trained(env)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics"))
    restored = VecNormalize.load(str(tmp_path / "statistics"), scripted_envs(2))
    loaded = METRA.load(tmp_path / "model", env=restored, device="cpu")
    assert loaded.get_vec_normalize_env() is restored
    loaded.learn(24)


def test_a_model_without_an_environment_predicts_and_takes_one_later(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu")
    assert loaded.predict(OBSERVATIONS[0])[0].shape == (2,)
    loaded.set_env(scripted_envs(2))
    loaded.learn(24)


def test_arguments_may_be_replaced_while_loading(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(2), device="cpu", gamma=0.5, learning_rate=0.25)
    assert loaded.gamma == 0.5
    loaded.learn(24)
    assert loaded.objective_optimizer.param_groups[0]["lr"] == 0.25
    with pytest.raises(ValueError, match="policy kwargs"):
        METRA.load(tmp_path / "model", device="cpu", policy_kwargs={"net_arch": [9]})


# What is refused


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_models_of_other_algorithms_are_refused(algorithm: Any, tmp_path: Path) -> None:
    algorithm("MlpPolicy", DummyVecEnv([Scripted]), device="cpu").save(tmp_path / "other")
    with pytest.raises(ValueError, match="not a saved model, of METRA"):
        METRA.load(tmp_path / "other", device="cpu")


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip archive")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        METRA.load(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises((ValueError, AssertionError), match="No data found"):
        METRA.load(tmp_path / "empty.zip")
    with pytest.raises(FileNotFoundError, match="missing"):
        METRA.load(tmp_path / "missing")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    path = tmp_path / "model.zip"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((ValueError, AssertionError), match=r"zip-file|No data found"):
        METRA.load(path)


class Wider(Scripted):
    """Another space of observations."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)


class Stronger(Scripted):
    """Another space of actions."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-2.0, 2.0, (2,), np.float32)


@pytest.mark.parametrize(("env", "message"), [(Wider, "Observation spaces do not match"), (Stronger, "Action spaces")])
def test_environments_with_other_spaces_are_refused(env: Any, message: str, tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        METRA.load(tmp_path / "model", env=DummyVecEnv([env]), device="cpu")
    with pytest.raises(ValueError, match=message):
        model.set_env(DummyVecEnv([env] * 2))
    model.learn(24)  # with the environment that it had


def other_buffer(**kwargs: Any) -> SkillReplayBuffer:
    vector = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    arguments = {"n_envs": 2, "skill_dim": 2, "observation_space": vector, "action_space": Scripted().action_space}
    arguments |= kwargs
    return SkillReplayBuffer(64, arguments.pop("observation_space"), arguments.pop("action_space"), "cpu", **arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: other_buffer(n_envs=3), "replay buffer must have n_envs 2, got 3"),
        (lambda: other_buffer(skill_dim=5), "replay buffer must hold skills of dimension 2"),
        (
            lambda: other_buffer(observation_space=spaces.Box(-1.0, 1.0, (3,), np.float32)),
            "replay buffer must have observation_space",
        ),
        (lambda: other_buffer(action_space=spaces.Box(-1.0, 1.0, (2,), np.float32)), "must have action_space"),
        (
            lambda: ReplayBuffer(
                64, spaces.Box(-np.inf, np.inf, (3,), np.float32), Scripted().action_space, "cpu", n_envs=2
            ),
            "must hold skills of dimension 2",
        ),
        (lambda: {"no": "buffer"}, "[Rr]eplay buffer"),
    ],
)
def test_other_replay_buffers_are_refused_and_the_models_own_stays(content: Any, message: str, tmp_path: Path) -> None:
    model = trained()
    own, stored = model.replay_buffer, model.replay_buffer.observations.copy()
    (tmp_path / "replay.pkl").write_bytes(pickle.dumps(content()))
    with pytest.raises((ValueError, AssertionError), match=message):
        model.load_replay_buffer(tmp_path / "replay.pkl")
    assert model.replay_buffer is own
    assert np.array_equal(own.observations, stored)
    model.learn(24)


def test_a_damaged_replay_buffer_is_refused_and_the_models_own_stays(tmp_path: Path) -> None:
    model = trained()
    own = model.replay_buffer
    model.save_replay_buffer(tmp_path / "replay.pkl")
    content = (tmp_path / "replay.pkl").read_bytes()
    (tmp_path / "replay.pkl").write_bytes(content[: len(content) // 2])
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        model.load_replay_buffer(tmp_path / "replay.pkl")
    assert model.replay_buffer is own


def test_a_replay_buffer_of_another_size_is_taken(tmp_path: Path) -> None:
    model = trained()
    (tmp_path / "replay.pkl").write_bytes(pickle.dumps(other_buffer()))
    model.load_replay_buffer(tmp_path / "replay.pkl")
    assert model.replay_buffer.buffer_size == 32
    model.learn(200, reset_num_timesteps=False)
    assert model.replay_buffer.full


@pytest.mark.parametrize("prior", [GaussianPrior(2), OneHotPrior(3)])
def test_priors_can_be_pickled(prior: Any) -> None:
    assert repr(pickle.loads(pickle.dumps(prior))) == repr(prior)


def test_the_defaults_of_the_tiny_model_are_arguments() -> None:
    """A misspelt argument would be refused, not ignored."""
    with pytest.raises(TypeError, match="batchsize"):
        METRA("MlpPolicy", scripted_envs(1), **(TINY | {"batchsize": 3}))
