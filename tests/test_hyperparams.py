"""The shipped settings of every method: METRA's values whole, the others' as what differs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.hyperparams
from sb3_metra import ALGORITHMS
from sb3_metra.hyperparams import load_settings, settings_path

yaml = pytest.importorskip("yaml")

CHEAP = ("sb3_metra/PointMass-v0", "sb3_metra/HalfCheetah-v0", "sb3_metra/Ant-v0")
OTHERS = sorted(name.lower() for name in set(ALGORITHMS) - {"METRA"})
NOT_THE_MODELS = ("n_timesteps", "n_envs", "env_kwargs")


def shipped(algorithm: str) -> Path:
    """The file as it is shipped."""
    return Path(sb3_metra.hyperparams.__file__).with_name(f"{algorithm}.yml")


@pytest.mark.parametrize("env_id", CHEAP)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_method_takes_its_settings(name: str, env_id: str) -> None:
    """Networks are made small here; everything else is as shipped."""
    if env_id != CHEAP[0]:
        pytest.importorskip("mujoco")
    settings: dict[str, Any] = load_settings(env_id, algorithm=name)
    env = make_vec_env(env_id, env_kwargs=settings.get("env_kwargs"))
    arguments = {key: value for key, value in settings.items() if key not in NOT_THE_MODELS}
    small = {key: value | {"net_arch": [4]} for key, value in arguments.items() if key.endswith("_kwargs")}
    model = ALGORITHMS[name](env=env, device="cpu", **(arguments | small))
    assert model.skill_prior.dim == settings["skill_dim"]
    env.close()


@pytest.mark.parametrize("env_id", [*CHEAP, "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", OTHERS)
def test_sacs_values_are_those_of_metra(algorithm: str, env_id: str) -> None:
    """Methods are compared in the same steps, with the same networks for actor and critics."""
    metra, settings = load_settings(env_id), load_settings(env_id, algorithm)
    for name in (
        "n_timesteps",
        "n_envs",
        "train_freq",
        "gradient_steps",
        "learning_rate",
        "batch_size",
        "policy_kwargs",
    ):
        assert settings.get(name) == metra.get(name), name
    assert None not in settings.values()


def test_what_differs_wins() -> None:
    cheetah = load_settings("sb3_metra/HalfCheetah-v0", "csf")
    assert (cheetah["skill_dim"], cheetah["contrast_coef"]) == (2, 5.0)
    assert "dual_lambda" not in cheetah
    assert load_settings("sb3_metra/Ant-v0", "csd")["dual_lambda"] == 3000.0
    assert load_settings("Unknown-v0", "diayn")["discriminator_kwargs"] == {"net_arch": [1024, 1024]}


@pytest.mark.parametrize(
    "algorithm", [pytest.param(name, marks=[pytest.mark.slow] if i > 1 else []) for i, name in enumerate(OTHERS)]
)
def test_rl_zoo3_gets_whole_files(algorithm: str) -> None:
    path = settings_path(algorithm)
    entries = yaml.safe_load(path.read_text())
    assert set(entries) == set(yaml.safe_load(settings_path("metra").read_text()))
    assert all(entries[env_id] == load_settings(env_id, algorithm) for env_id in entries)
    assert path == settings_path(algorithm.upper())


@pytest.mark.parametrize("algorithm", OTHERS)
def test_each_value_names_its_source(algorithm: str) -> None:
    lines = [line for line in shipped(algorithm).read_text().splitlines() if re.match(r"^ +\w+: +\S", line)]
    assert lines
    assert [line for line in lines if not re.search(r"# (authors' code|paper|quick trial|measured|ours)\b", line)] == []
    assert len(lines) <= 20  # a few lines a method


def test_the_authors_settings_are_metras_alone() -> None:
    with pytest.raises(
        ValueError, match=r"algorithm must name shipped settings, one of .*'metra_paper'.*, got 'lsd_paper'"
    ):
        load_settings("sb3_metra/Ant-v0", "lsd", paper=True)
