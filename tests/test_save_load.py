"""What is saved comes back, and what is not a METRA model or not this model's replay is refused."""

from __future__ import annotations

import copy
import errno
import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra
from sb3_metra import ALGORITHMS, METRA
from sb3_metra.common.loading import ATTRIBUTES, argument_names
from sb3_metra.common.saving import check_whole, find_whole
from sb3_metra.common.skills import GaussianPrior, OneHotPrior
from tests.toys import TINY, Scripted, scripted_envs, tiny_model

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def trained(env: Any = None, **kwargs: Any) -> METRA:
    return tiny_model(scripted_envs(2) if env is None else env, **kwargs).learn(48)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that has learnt, for tests that only read it."""
    path = tmp_path_factory.mktemp("saved") / "model.zip"
    trained().save(path)
    return path


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
        {"bfloat16": True, "learning_rate": LinearSchedule(1e-3, 1e-4, 0.5)},
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


def test_a_folder_beside_the_file_is_not_taken_for_it(tmp_path: Path) -> None:
    model = tiny_model()
    (tmp_path / "ant").mkdir()  # of a run's logs
    model.save(tmp_path / "ant")
    loaded = METRA.load(tmp_path / "ant", device="cpu")
    assert_same_tensors(loaded.get_parameters(), model.get_parameters())
    (tmp_path / "ant.zip").unlink()
    with pytest.raises(ValueError, match=r"ant is damaged: its skills.json is missing"):
        METRA.load(tmp_path / "ant")


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


def test_learning_goes_on_with_another_number_of_environments(saved: Path) -> None:
    loaded = METRA.load(saved, env=scripted_envs(4), device="cpu")
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


def test_environments_in_which_nothing_has_learnt_begin_anew(tmp_path: Path) -> None:
    """``force_reset=False`` and others: they are not where the saved model was."""
    model = trained(scripted_envs(1, lengths=(1_000,)))
    model.save(tmp_path / "model")
    other = scripted_envs(1, lengths=(1_000,))
    loaded = METRA.load(tmp_path / "model", env=other, device="cpu", force_reset=False)
    model.set_env(scripted_envs(1, lengths=(1_000,)), force_reset=False)
    for one in (loaded, model):
        one.learn(16, reset_num_timesteps=False)
        last = one.replay_buffer.pos - 1
        assert one.replay_buffer.observations[last, 0].tolist() == [0.0, 0.0, 15.0]


def test_a_copy_goes_its_own_way() -> None:
    model = tiny_model(scripted_envs(2)).learn(48)
    twin = copy.deepcopy(model)
    before = copy.deepcopy(model.get_parameters()["policy"])
    twin.learn(48, reset_num_timesteps=False)
    assert_same_tensors(model.get_parameters()["policy"], before)
    assert not th.equal(twin.get_parameters()["policy"]["actor.mu.weight"], before["actor.mu.weight"])
    assert (model.num_timesteps, twin.num_timesteps, model.replay_buffer.pos) == (48, 96, 24)
    assert twin._captured_step._step.__self__ is twin
    twin.get_env().reset()
    twin.learn(16, reset_num_timesteps=False)
    assert twin.replay_buffer.observations[48, :, 2].tolist() == [0.0, 0.0]


def test_a_missing_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    for given, named in (("none", "none.zip"), ("none.zip", "none.zip")):
        with pytest.raises(FileNotFoundError, match=rf"/{named}'$"):
            METRA.load(tmp_path / given)


def test_a_folder_of_models_is_no_model(tmp_path: Path) -> None:
    tiny_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"path must be a model's file .* which holds \['model.zip'\]"):
        METRA.load(tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"model"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    model = tiny_model()
    methods = (METRA.load, model.save, model.set_parameters, model.save_replay_buffer, model.load_replay_buffer)
    for method in (*methods, sb3_metra.load, model.policy.save):
        with pytest.raises(ValueError, match="path must be a path or an open file, got"):
            method(path)


def test_normalised_environments(tmp_path: Path) -> None:
    env = VecNormalize(scripted_envs(2))
    model = trained(env)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "statistics"))
    restored = VecNormalize.load(str(tmp_path / "statistics"), scripted_envs(2))
    loaded = METRA.load(tmp_path / "model", env=restored, device="cpu")
    assert loaded.get_vec_normalize_env() is restored
    loaded.learn(24)


def test_a_model_without_an_environment_predicts_and_takes_one_later(saved: Path) -> None:
    loaded = METRA.load(saved, device="cpu")
    assert loaded.predict(OBSERVATIONS[0])[0].shape == (2,)
    loaded.set_env(scripted_envs(2))
    loaded.learn(24)


def test_arguments_may_be_replaced_while_loading(saved: Path) -> None:
    loaded = METRA.load(saved, env=scripted_envs(2), device="cpu", gamma=0.5, learning_rate=0.25)
    assert loaded.gamma == 0.5
    loaded.learn(24)
    assert loaded.objective_optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("first", "second"), [(0.05, 0.3), ("auto_0.01", 0.2), (0.2, "auto_0.05"), ("auto_0.01", "auto_0.5")]
)
def test_another_entropy_coefficient_begins_anew(first: Any, second: Any, tmp_path: Path) -> None:
    model = trained(ent_coef=first)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", env=scripted_envs(2), device="cpu", ent_coef=second)
    value = float(str(second).removeprefix("auto_"))
    assert loaded.entropy_dual.value.item() == pytest.approx(value)
    assert loaded.entropy_dual.learnable == isinstance(second, str)
    assert not loaded.actor.optimizer.state.get(loaded.entropy_dual.log_value)
    weight, old = loaded.actor.mu.weight, model.actor.mu.weight
    assert th.equal(loaded.actor.optimizer.state[weight]["exp_avg"], model.actor.optimizer.state[old]["exp_avg"])
    loaded.learn(24)
    assert (loaded.entropy_dual.value.item() == pytest.approx(value)) == (not isinstance(second, str))


def test_another_dual_lambda_begins_anew_and_phi_goes_on(tmp_path: Path) -> None:
    model = trained(dual_lambda=30.0)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu", dual_lambda=5.0)
    assert loaded.objective.dual.value.item() == pytest.approx(5.0)
    assert not loaded.objective_optimizer.state.get(loaded.objective.dual.log_value)
    assert loaded.objective_optimizer.state[loaded.objective.phi.out.weight]["step"] > 0
    assert np.array_equal(loaded.encode(OBSERVATIONS), model.encode(OBSERVATIONS))
    same = METRA.load(tmp_path / "model", device="cpu", dual_lambda=30.0)  # what the file has, too
    assert same.objective.dual.value.item() == model.objective.dual.value.item() != 30.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 32),
        ("buffer_size", 500),
        ("learning_starts", 7),
        ("tau", 0.5),
        ("gradient_steps", 3),
        ("target_entropy", -7.0),
        ("dual_slack", 0.25),
        ("constraint_norm", "mean"),
        ("random_warmup", True),
        ("stats_window_size", 3),
        ("objective_batch_size", 20),
        ("verbose", 1),
        ("replay_buffer_kwargs", {"handle_timeout_termination": False}),
    ],
)
def test_every_argument_takes_effect(name: str, value: Any, saved: Path) -> None:
    loaded = METRA.load(saved, env=scripted_envs(2), device="cpu", **{name: value})
    fresh = tiny_model(scripted_envs(2), **{name: value})
    for attribute in (name, "_target_entropy", "_stats_window_size", "replay_buffer_kwargs"):
        assert getattr(loaded, attribute, None) == getattr(fresh, attribute, None)
    assert loaded.replay_buffer.buffer_size == fresh.replay_buffer.buffer_size
    assert loaded.replay_buffer.handle_timeout_termination == fresh.replay_buffer.handle_timeout_termination
    assert (loaded.objective.dual.slack, loaded.objective.dual.norm) == (
        fresh.objective.dual.slack,
        fresh.objective.dual.norm,
    )
    loaded.learn(32)


def test_rounds_may_become_others(saved: Path) -> None:
    loaded = METRA.load(saved, env=scripted_envs(1), device="cpu", train_freq=(2, "episode"))
    assert (loaded.train_freq.frequency, loaded.train_freq.unit.value) == (2, "episode")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"skill_dim": 4}, "skill_dim must be 2 as in .*model.zip, got 4: load"),
        ({"discrete": True}, "discrete must be False"),
        ({"unit_skills": False}, "unit_skills must be True"),
        ({"policy_kwargs": {"net_arch": [9]}}, r"policy_kwargs must be \{'net_arch': \[8\]\}"),
        ({"phi_kwargs": {"net_arch": [9]}}, "phi_kwargs must be"),
        ({"policy": "CnnPolicy"}, "policy must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"ent_coef": "much"}, "ent_coef must be"),
        ({"dual_lambda": -1.0}, "dual_lambda must be"),
    ],
)
def test_what_cannot_change_is_refused(kwargs: dict[str, Any], message: str, saved: Path) -> None:
    with pytest.raises(ValueError, match=message):
        METRA.load(saved, device="cpu", **kwargs)


def test_misspelt_arguments_are_refused(saved: Path) -> None:
    with pytest.raises(TypeError, match="unknown argument 'batchsize'; did you mean 'batch_size'"):
        METRA.load(saved, device="cpu", batchsize=64)
    with pytest.raises(TypeError, match="unknown argument 'zzz'; it has policy, skill_dim"):
        METRA.load(saved, device="cpu", zzz=64)


def test_arguments_that_the_file_has_are_accepted(tmp_path: Path) -> None:
    model = trained(unit_skills=False)
    model.save(tmp_path / "model")
    same = {"skill_dim": 2, "discrete": False, "unit_skills": False, "policy": "MlpPolicy", "ent_coef": "auto_0.01"}
    kinds = [
        {"policy_kwargs": {"net_arch": [8]}},
        {"policy_kwargs": model.policy_kwargs},
        {"phi_kwargs": {"net_arch": [8]}},
    ]
    for kwargs in (same, *kinds):
        loaded = METRA.load(tmp_path / "model", device="cpu", **kwargs)
        assert_same_tensors(loaded.get_parameters(), model.get_parameters())


@pytest.mark.parametrize("algorithm", ALGORITHMS.values())
def test_every_method_comes_back_with_arguments_that_change_or_are_refused(algorithm: Any, tmp_path: Path) -> None:
    names = argument_names(algorithm)
    arguments = {name: value for name, value in TINY.items() if name in [*names, "device"]}
    model = algorithm("MlpPolicy", scripted_envs(2), **arguments).learn(48)
    model.save(tmp_path / "model")
    own = {ATTRIBUTES.get(name, name): name for name in names}
    same = {name: getattr(model, attribute) for attribute, name in own.items() if hasattr(model, attribute)}
    same |= {"policy": "MlpPolicy", "skill_dim": model.skill_prior.dim, "discrete": model.skill_prior.discrete}
    loaded = sb3_metra.load(tmp_path / "model", env=scripted_envs(2), device="cpu", **same)
    assert type(loaded) is algorithm
    assert_same_tensors(loaded.get_parameters(), model.get_parameters())
    skills = model.skill_prior.sample(5)
    actions = [one.predict(OBSERVATIONS, state=skills, deterministic=True)[0] for one in (model, loaded)]
    assert np.array_equal(*actions)
    loaded.learn(24, reset_num_timesteps=False)
    assert not th.equal(loaded.actor.mu.weight, model.actor.mu.weight)
    for name in names:
        if name not in same and name != "unit_skills":  # it left no attribute, so its change would have no effect
            with pytest.raises(ValueError, match=f"{name} must be False as in .*, got True"):
                algorithm.load(tmp_path / "model", device="cpu", **{name: True})
    for name in [name for name in names if name.endswith("_kwargs") and name != "replay_buffer_kwargs"]:
        with pytest.raises(ValueError, match=f"{name} must be "):
            algorithm.load(tmp_path / "model", device="cpu", **{name: {"net_arch": [9]}})


# Generators


def test_loading_leaves_the_generators_of_others_alone(saved: Path) -> None:
    drawn = []
    for load in (False, True):
        random.seed(1)
        np.random.seed(1)
        th.manual_seed(1)
        if load:
            METRA.load(saved, env=scripted_envs(2), device="cpu")
        drawn.append((random.random(), np.random.rand(), th.rand(1).item()))
    assert drawn[0] == drawn[1]


def test_a_loaded_model_draws_on_where_the_saved_one_does(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu")
    assert loaded.seed == model.seed == 0
    for rng, other in (
        (loaded.skill_rng, model.skill_rng),
        (loaded.skill_prior.rng, model.skill_prior.rng),
        (loaded.replay_buffer.rng, model.replay_buffer.rng),
        (loaded.action_space.np_random, model.action_space.np_random),
    ):
        assert rng is not other
        assert rng.random(3).tolist() == other.random(3).tolist()


class Dice(Scripted):
    """Its first observation is random."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        return self.np_random.normal(size=3).astype(np.float32), {}


def test_sessions_differ_and_can_be_repeated(tmp_path: Path) -> None:
    """Skills and the environments' starts go on from session to session; the same file gives the same session."""
    trained(DummyVecEnv([Dice]), learning_starts=10_000).save(tmp_path / "0")
    seen = []
    for session in (0, 0, 1, 2):
        model = METRA.load(tmp_path / str(session), env=DummyVecEnv([Dice]), device="cpu")
        model.learn(8)
        model.save(tmp_path / str(session + 1))
        seen.append((model.replay_buffer.skills[0, 0].tolist(), model.replay_buffer.observations[0, 0].tolist()))
    assert seen[0] == seen[1]
    assert len({str(skill) for skill, _ in seen}) == len({str(start) for _, start in seen}) == 3


def test_another_seed_seeds_anew(saved: Path) -> None:
    loaded = METRA.load(saved, device="cpu", seed=5)
    fresh = tiny_model(scripted_envs(2), seed=5)
    assert loaded.seed == 5
    assert loaded.skill_rng.random() == fresh.skill_rng.random()


# Parameters


def test_parameters_are_all_taken_or_none() -> None:
    model, other = trained(), trained(seed=1)
    before = copy.deepcopy(model.get_parameters())
    spoiled = copy.deepcopy(other.get_parameters())
    spoiled["objective"]["phi.out.weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in objective/phi.out.weight"):
        model.set_parameters(spoiled)
    missing = copy.deepcopy(other.get_parameters())
    del missing["objective"]["phi.out.bias"]
    with pytest.raises(RuntimeError, match=r"phi.out.bias"):
        model.set_parameters(missing)
    misshapen = copy.deepcopy(other.get_parameters())
    misshapen["objective_optimizer"]["state"][0]["exp_avg"] = th.zeros(2, 2)
    with pytest.raises(ValueError, match=r"objective_optimizer must have exp_avg of shape \(8, 3\), got \(2, 2\)"):
        model.set_parameters(misshapen)
    with pytest.raises(ValueError, match="Names of parameters do not match"):
        model.set_parameters({"policy": other.policy.state_dict()})
    assert_same_tensors(model.get_parameters(), before)
    model.learn(24)


def test_parameters_are_the_models_own_after_they_were_set() -> None:
    model, other = trained(), trained(seed=1)
    given = other.get_parameters()
    model.set_parameters(given)
    before = copy.deepcopy(given)
    model.learn(24)
    assert_same_tensors(other.get_parameters(), before)


def test_parameters_of_a_file(tmp_path: Path) -> None:
    model, other = trained(), trained(seed=1)
    other.save(tmp_path / "other")
    model.set_parameters(tmp_path / "other")
    assert_same_tensors(model.get_parameters(), other.get_parameters())


def test_a_file_with_weights_that_are_not_numbers_is_refused(tmp_path: Path) -> None:
    model = trained()
    with th.no_grad():
        model.actor.mu.weight[0, 0] = np.nan
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model.zip must hold finite .* NaN or infinity in policy/actor.mu.weight"):
        METRA.load(tmp_path / "model", device="cpu")


def test_moments_lie_in_memory_as_their_filters_do(tmp_path: Path) -> None:
    """Fused steps walk through both side by side; filters may lie channels last."""
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"depth": 2}}
    model = tiny_model(scripted_envs(1, kind="image"), "CnnPolicy", policy_kwargs=kwargs).learn(24)
    model.save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", device="cpu")
    filters = loaded.actor.features_extractor.extractor.cnn[0].weight
    assert not filters.is_contiguous()
    assert loaded.actor.optimizer.state[filters]["exp_avg"].stride() == filters.stride()
    loaded.replay_buffer = model.replay_buffer
    for each in (model, loaded):
        each.set_logger(model.logger)
        model.replay_buffer.seed(1)
        th.manual_seed(1)
        each.train(3, batch_size=16)
    assert_same_tensors(loaded.get_parameters(), model.get_parameters())


def test_an_actor_on_images_can_be_saved_by_pytorch() -> None:
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"depth": 2}}
    model = tiny_model(scripted_envs(1, kind="image"), "CnnPolicy", policy_kwargs=kwargs)
    file = io.BytesIO()
    th.save(model.actor, file)
    file.seek(0)
    loaded = th.load(file, weights_only=False)
    assert_same_tensors(dict(loaded.state_dict()), dict(model.actor.state_dict()))


def test_noise_of_another_number_of_environments(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    model = trained(action_noise=noise)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    model.save(tmp_path / "model")
    for n in (1, 2, 3):
        loaded = METRA.load(tmp_path / "model", env=scripted_envs(n), device="cpu").learn(24)
        assert loaded.action_noise().shape == ((n, 2) if n > 1 else (2,))
        assert loaded.action_noise.noises[0]._sigma.tolist() == [0.1, 0.1] if n > 1 else True


def test_what_the_zoo_gives_for_files_of_older_pythons_is_taken(saved: Path) -> None:
    nothing = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    loaded = METRA.load(saved, device="cpu", custom_objects=nothing)
    assert loaded.lr_schedule(1.0) == 0.0


def test_attributes_can_be_left_out(tmp_path: Path) -> None:
    model = tiny_model(scripted_envs(1), verbose=1)
    model.save(tmp_path / "model")
    assert METRA.load(tmp_path / "model", device="cpu").verbose == 1
    model.save(tmp_path / "model", exclude=["verbose"])
    assert METRA.load(tmp_path / "model", device="cpu").verbose == 0
    model.save(tmp_path / "model", exclude=["verbose"], include=["verbose"])
    assert METRA.load(tmp_path / "model", device="cpu").verbose == 1


def test_sb3_reads_the_file(tmp_path: Path) -> None:
    model = trained()
    model.save(tmp_path / "model")
    data, parameters, _ = load_from_zip_file(tmp_path / "model", device="cpu")
    assert data["dual_lambda"] == model.dual_lambda
    assert data["observation_space"] == model.observation_space
    assert_same_tensors(parameters, model.get_parameters())


def test_the_versions_of_a_file_are_printed(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    METRA.load(saved, device="cpu", print_system_info=True)
    out = capsys.readouterr().out
    assert "== CURRENT SYSTEM INFO ==" in out
    assert "== SAVED MODEL SYSTEM INFO ==" in out


# What is refused


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_models_of_other_algorithms_are_refused(algorithm: Any, tmp_path: Path) -> None:
    algorithm("MlpPolicy", DummyVecEnv([Scripted]), device="cpu").save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other.zip is not a saved model of METRA"):
        METRA.load(tmp_path / "other", device="cpu")
    with pytest.raises(ValueError, match=r"must hold a model of one of .*'METRA'.*, got one of another package"):
        sb3_metra.load(tmp_path / "other", device="cpu")
    with pytest.raises(ValueError, match="must be a SkillPolicy"):
        METRA(algorithm("MlpPolicy", DummyVecEnv([Scripted])).policy_class, scripted_envs(1))


class LSD(METRA):
    """Another method."""


def test_models_of_other_methods_are_refused(tmp_path: Path) -> None:
    model = LSD("MlpPolicy", scripted_envs(1), **TINY)
    model.save(tmp_path / "lsd")
    with pytest.raises(ValueError, match=r"lsd.zip holds a LSD model, not one of METRA: load it with LSD.load or sb3_"):
        METRA.load(tmp_path / "lsd", device="cpu")
    assert isinstance(LSD.load(tmp_path / "lsd", device="cpu"), LSD)
    trained().save(tmp_path / "metra")
    loaded = LSD.load(tmp_path / "metra", device="cpu")  # a METRA model is one of its subclasses', too
    assert loaded.algorithm == "LSD"
    assert type(sb3_metra.load(tmp_path / "metra", device="cpu")) is METRA


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip archive")
    (tmp_path / "nothing.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("something", "else")
    with zipfile.ZipFile(tmp_path / "list.zip", "w") as archive:
        archive.writestr("data", "[1]")
    messages = {"text": "is not a saved model: it is no zip", "nothing": "is damaged", "empty": "it holds no data"}
    for name, message in (messages | {"list": "it holds no data"}).items():
        for load in (METRA.load, sb3_metra.load, trained().set_parameters):
            with pytest.raises(ValueError, match=rf"{name}.zip .*{message}"):
                load(tmp_path / f"{name}.zip")
    with pytest.raises(FileNotFoundError, match="missing"):
        METRA.load(tmp_path / "missing")


def test_a_torn_file_is_refused_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    trained().save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in [0, 1, 4, len(content) - 1, *rng.integers(len(content), size=40)]:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"model.zip is (damaged|not a saved model)"):
            METRA.load(path, device="cpu")
        with pytest.raises(ValueError, match=r"model.zip is (damaged|not a saved model)"):
            check_whole(path)


def test_a_damaged_byte_is_found(tmp_path: Path) -> None:
    """A file in which one byte is another is refused, or the byte means nothing to what is read."""
    path = tmp_path / "model.zip"
    model = trained()
    model.save(path)
    content = path.read_bytes()
    refused, rng = 0, np.random.default_rng(0)
    for place in rng.integers(len(content), size=40):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            loaded = METRA.load(path, device="cpu")
        except ValueError as error:
            assert "model.zip" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert_same_tensors(loaded.get_parameters(), model.get_parameters())
    assert refused > 13


def test_a_file_mixed_from_two_is_refused(tmp_path: Path) -> None:
    trained().save(tmp_path / "one.zip")
    trained(seed=1).save(tmp_path / "other.zip")
    for name in ("model.safetensors", "policy.pth", "data"):
        with (
            zipfile.ZipFile(tmp_path / "one.zip") as one,
            zipfile.ZipFile(tmp_path / "other.zip") as other,
            zipfile.ZipFile(tmp_path / "mixed.zip", "w") as mixed,
        ):
            for entry in one.namelist():
                mixed.writestr(entry, (other if entry == name else one).read(entry))
        with pytest.raises(ValueError, match=rf"mixed.zip is damaged: {name} inside it is not the one"):
            METRA.load(tmp_path / "mixed.zip", device="cpu")


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay.pkl")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model.learn(24)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    for save in (model.save, model.save_replay_buffer):
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path / ("model.zip" if save == model.save else "replay.pkl"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_last_whole_file_is_found(tmp_path: Path) -> None:
    model = trained()
    for name in ("a", "b"):
        model.save(tmp_path / name)
    content = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"b.zip is damaged"):
        assert find_whole([tmp_path / "b.zip", tmp_path / "a.zip"]) == tmp_path / "a.zip"
    with pytest.raises(ValueError, match=r"b.zip is damaged"):
        find_whole([tmp_path / "b.zip"])


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


def test_replay_is_as_large_as_what_it_holds(tmp_path: Path) -> None:
    model = trained(buffer_size=1_000_000)
    model.save_replay_buffer(tmp_path / "replay")
    assert (tmp_path / "replay.pkl").stat().st_size < 20_000  # 48 transitions
    loaded = tiny_model(scripted_envs(2))
    own = loaded.replay_buffer
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.replay_buffer is own
    for name, array in model.replay_buffer.to_arrays().items():
        assert np.array_equal(own.to_arrays()[name], array)
    assert own.buffer_size == model.replay_buffer.buffer_size
    assert own.rng.random() == model.replay_buffer.rng.random()


def test_replay_comes_back_where_there_was_none() -> None:
    """Also through a file in memory."""
    model, file = trained(), io.BytesIO()
    kept = model.replay_buffer
    model.save_replay_buffer(file)
    file.seek(0)
    model.replay_buffer = None
    model.load_replay_buffer(file)
    assert np.array_equal(model.replay_buffer.observations, kept.observations)
    model.learn(24)


def other_model(**kwargs: Any) -> METRA:
    return trained(kwargs.pop("env", None), **kwargs)


class Bounded(Scripted):
    """Another space of observations."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-100.0, 100.0, (3,), np.float32)


OTHER_REPLAY: list[tuple[Any, str]] = [
    (lambda: other_model(env=scripted_envs(3)), "must have n_envs 2, got 3"),
    (lambda: other_model(skill_dim=5), "must hold skills of dimension 2, got 5"),
    (lambda: other_model(env=DummyVecEnv([Bounded] * 2)), "must have observation_space"),
    (lambda: other_model(env=DummyVecEnv([Stronger] * 2)), "must have action_space"),
    (lambda: other_model(discrete=True), r"must hold skills of SpherePrior\(dim=2\), got discrete ones"),
    (lambda: other_model(unit_skills=False), "must hold skills of .*must have norm 1"),
]


@pytest.mark.parametrize(
    ("pickled", "content", "message"),
    [
        *((False, *other) for other in OTHER_REPLAY),
        (True, *OTHER_REPLAY[0]),
        *(pytest.param(True, *other, marks=pytest.mark.slow) for other in OTHER_REPLAY[1:-1]),
        (True, *OTHER_REPLAY[-1]),
    ],
)
def test_other_replay_is_refused_and_the_models_own_stays(
    pickled: bool, content: Any, message: str, tmp_path: Path
) -> None:
    model, other = trained(), content()
    own, stored = model.replay_buffer, model.replay_buffer.observations.copy()
    if pickled:
        (tmp_path / "replay.pkl").write_bytes(pickle.dumps(other.replay_buffer))
    else:
        other.save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(ValueError, match=f"replay.pkl .*{message}"):
        model.load_replay_buffer(tmp_path / "replay.pkl", trusted=pickled)
    assert model.replay_buffer is own
    assert np.array_equal(own.observations, stored)
    model.learn(24)


def test_skills_that_no_rollout_has_are_refused(tmp_path: Path) -> None:
    model = trained()
    model.replay_buffer.skills[3, 0] = [7.0, 0.0]
    model.save_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError, match=r"replay.pkl must hold skills of SpherePrior.* must have norm 1"):
        trained().load_replay_buffer(tmp_path / "replay")


def test_what_is_no_replay_is_refused(tmp_path: Path) -> None:
    model = trained()
    own = model.replay_buffer
    model.save(tmp_path / "model")
    (tmp_path / "text.pkl").write_text("no archive")
    for path, message in ((tmp_path / "model.zip", "no replay.json"), (tmp_path / "text.pkl", "no zip archive")):
        with pytest.raises(ValueError, match=f"is not a saved replay buffer.*{message}"):
            model.load_replay_buffer(path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"no": "buffer"}))
    with pytest.raises((ValueError, AssertionError), match=r"[Rr]eplay"):
        model.load_replay_buffer(tmp_path / "other.pkl", trusted=True)
    with pytest.raises(FileNotFoundError, match="missing"):
        model.load_replay_buffer(tmp_path / "missing")
    assert model.replay_buffer is own


@pytest.mark.parametrize("pickled", [False, True])
def test_torn_replay_is_refused_and_the_models_own_stays(pickled: bool, tmp_path: Path) -> None:
    model, path = trained(), tmp_path / "replay.pkl"
    own = model.replay_buffer
    if pickled:
        path.write_bytes(pickle.dumps(own))
    else:
        model.save_replay_buffer(path)
    content = path.read_bytes()
    for cut in np.random.default_rng(0).integers(1, len(content), size=20):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"replay.pkl is damaged"):
            model.load_replay_buffer(path, trusted=pickled)
    assert model.replay_buffer is own


def test_replay_of_an_earlier_version_needs_trust(tmp_path: Path) -> None:
    model = trained()
    (tmp_path / "replay.pkl").write_bytes(pickle.dumps(model.replay_buffer))
    loaded = tiny_model(scripted_envs(2))
    with pytest.raises(ValueError, match=r"replay.pkl must be trusted .* is a pickle"):
        loaded.load_replay_buffer(tmp_path / "replay.pkl")
    loaded.load_replay_buffer(tmp_path / "replay.pkl", trusted=True)
    assert np.array_equal(loaded.replay_buffer.observations, model.replay_buffer.observations)


def test_a_replay_buffer_of_another_size_is_taken(tmp_path: Path) -> None:
    trained(buffer_size=64).save_replay_buffer(tmp_path / "replay")
    model = trained()
    model.load_replay_buffer(tmp_path / "replay")
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
