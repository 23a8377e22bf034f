"""Downstream tasks inside rl_zoo3: skills as actions by one argument, their settings, and enjoy afterwards."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra.downstream import TASKS, SkillActionVecWrapper
from sb3_metra.hyperparams import load_settings, settings_path
from tests.toys import tiny_model

pytest.importorskip("rl_zoo3")
pytest.importorskip("sb3_contrib")
import rl_zoo3.train

from sb3_metra import cli, zoo

TASK = "sb3_metra/PointMassGoal-v0"
FILES = ("sac", "sac_skills", "ppo", "ppo_skills")
SHORT = "policy_kwargs:dict(net_arch=[8])"


@pytest.fixture(scope="session")
def skills(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """Saved models, of continuous and of discrete skills."""
    folder = tmp_path_factory.mktemp("skills")
    for discrete in (False, True):
        env = make_vec_env("sb3_metra/PointMass-v0")
        tiny_model(env, discrete=discrete, skill_dim=3).save(folder / f"{discrete}.zip")
    return {discrete: str(folder / f"{discrete}.zip") for discrete in (False, True)}


# The shipped settings


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_an_entry_for_each_state_task(file: str) -> None:
    entries = yaml.safe_load(settings_path(file).read_text(encoding="utf-8"))
    assert set(entries) - {"default"} <= set(TASKS)
    assert {env_id for env_id in TASKS if "Ant" in env_id or "Cheetah" in env_id or "Point" in env_id} <= set(entries)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("entry", ["default", TASK])
def test_algorithms_take_every_setting(file: str, entry: str) -> None:
    settings = load_settings(entry, file)
    env = make_vec_env(TASK, settings.pop("n_envs"))
    settings.pop("n_timesteps")
    algorithm: Any = SAC if "sac" in file else PPO
    model = algorithm(env=env, device="cpu", **settings | {"buffer_size": 100} if "sac" in file else settings)
    assert model.gamma == settings.get("gamma", 0.99)


@pytest.mark.parametrize("file", FILES)
def test_each_value_names_its_source(file: str) -> None:
    lines = settings_path(file).read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if re.match(r"^ +\w+: +\S", line)]
    assert len(values) >= 8
    assert [line for line in values if not re.search(r"# (paper|measured|ours)\b", line)] == []


# Training and watching


@pytest.mark.parametrize(
    ("algo", "discrete", "settings"),
    [
        ("sac", False, ["learning_starts:8", "batch_size:8"]),
        pytest.param("ppo", True, ["n_steps:8", "batch_size:8", "n_epochs:1"], marks=pytest.mark.slow),
    ],
)
def test_train_on_skills_and_enjoy(
    algo: str,
    discrete: bool,
    settings: list[str],
    skills: dict[bool, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--algo", algo, "--env", TASK, "-f", str(tmp_path)]
    train = ["train", *common, "--skills", skills[discrete], "--skill-length", "50", "-n", "64", "--eval-freq", "32"]
    assert cli.main([*train, "--eval-episodes", "2", "--device", "cpu", "-params", *settings, SHORT]) == 0
    run = tmp_path / algo / "sb3_metra-PointMassGoal-v0_1"
    assert (run / "best_model.zip").is_file()
    capsys.readouterr()
    watch = ["enjoy", *common, "--no-render", "-n", "8", "--load-best"]
    assert cli.main(watch) != 0
    assert f"--algo {algo} must be trusted, because its saved models are pickles" in capsys.readouterr().err
    assert cli.main([*watch, "--trust"]) == 0
    assert re.findall(r"Episode Length (\d+)", capsys.readouterr().out) == ["4", "4"]  # 4 skills of 50 steps


def test_train_without_skills_is_flat(tmp_path: Path) -> None:
    arguments = ["--algo", "sac", "--env", TASK, "-n", "64", "-f", str(tmp_path), "--eval-freq", "-1"]
    assert cli.main(["train", *arguments, "-params", "learning_starts:32", "buffer_size:1000", SHORT]) == 0
    model = SAC.load(tmp_path / "sac" / "sb3_metra-PointMassGoal-v0_1" / "sb3_metra-PointMassGoal-v0.zip")
    assert model.action_space.shape == (2,)


def test_skills_join_the_hyperparameters_that_are_given(
    skills: dict[bool, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(rl_zoo3.train, "train", lambda: commands.append(list(zoo.sys.argv)))
    zoo.train(["--algo", "tqc", "--skills", skills[False], "-params", "gamma:0.9", "tau:0.1", "--env", TASK])
    (command,) = commands
    assert command[command.index("--conf-file") + 1] == str(settings_path("sac_skills"))
    first, second, wrapper = command[command.index("--hyperparams") + 1 :]
    assert (first, second) == ("gamma:0.9", "tau:0.1")
    key, _, value = wrapper.partition(":")
    assert key == "vec_env_wrapper"
    assert eval(value) == {"sb3_metra.zoo.follow_skills": {"model": str(Path(skills[False]).resolve())}}


def test_an_own_file_of_settings_is_left_alone(skills: dict[bool, str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(rl_zoo3.train, "train", lambda: commands.append(list(zoo.sys.argv)))
    zoo.train(["--algo", "sac", "--skills", skills[False], "--env", TASK, "--conf-file", "mine.yml"])
    assert commands[0].count("--conf-file") == 1


def test_settings_can_name_the_skills_themselves(skills: dict[bool, str]) -> None:
    env = zoo.follow_skills(make_vec_env(TASK, 2), skills[True], skill_length=10)
    assert isinstance(env, SkillActionVecWrapper)
    assert (env.skill_length, env.action_space.n) == (10, 3)  # type: ignore[attr-defined]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--algo", "sac", "--env", TASK, "--skills", "none.zip"],
            "--skills must be a saved model, a zip file, got 'none.zip'",
        ),
        (
            ["--algo", "sac", "--env", TASK, "--skill-length", "5"],
            "--skill-length needs --skills, got --skill-length 5",
        ),
        (["--skills", "none.zip"], "--skills needs an --algo that chooses them, such as sac or ppo, got metra"),
        (["--paper", "--algo", "sac"], "--paper chooses the shipped settings of one of"),
    ],
)
def test_train_refuses_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_train_says_what_does_not_fit(
    skills: dict[bool, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", "--algo", "sac", "--env", TASK, "-f", str(tmp_path), "--eval-freq", "-1"]
    for more, message in (
        (["--skills", skills[True]], "only supports"),
        (["--skills", skills[False], "--skill-length", "0"], "skill_length must be an integer of at least 1, got 0"),
        (["--skills", skills[False], "--env", "Pendulum-v1"], "model must act in this environment's action space"),
    ):
        assert cli.main([*common, *more]) == 2
        assert message in capsys.readouterr().err


def test_skills_learnt_on_normalised_observations_are_refused(skills: dict[bool, str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vecnormalize.pkl").touch()
    model = tmp_path / "model.zip"
    model.write_bytes(Path(skills[False]).read_bytes())
    with pytest.raises(ValueError, match="--skills must carry the statistics of the observations that it learnt on"):
        zoo.follow_skills(make_vec_env(TASK), str(model))
