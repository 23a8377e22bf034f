"""Every option of the command line answers bad input with one sentence and the status 2, and shows no traceback."""

from __future__ import annotations

import contextlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import SAC

from sb3_metra.cli import main
from sb3_metra.envs.point import PointMassEnv
from tests.toys import goal_points, tiny_model

POINT = "sb3_metra/PointMass-v0"
COUNTS, SEEDS = ("0", "-1", "1.5", "x", ""), ("-1", "1.5", "x", "99999999999")
UNWRITABLE = ("/proc/1/out", "a_file/out", "a_file")
MODELS = ("nowhere.zip", "nowhere", "empty", "a_file", "torn.zip", "strange.zip", "sac.zip", "")
ENVS = ("Nowhere-v0", "nowhere:Ant-v0", "Pendulum-v1", "", ":", "sb3_metra/Ant")
KEYWORDS = ("arena", "arena:-1", "arena:big", "aren:5.0", "render_mode:'paper'", ":", "step_size:None")
DEVICES = ("tpu", "cuda:x", "", "xla")

COMMANDS: dict[str, tuple[list[str], dict[str, tuple[str, ...]]]] = {
    "evaluate": (
        ["model.zip", "--env", POINT, "--n-skills", "1"],
        {
            "--n-skills": COUNTS,
            "--seed": SEEDS,
            "--cell-size": ("0", "-1", "nan", "inf", "x", "1 1 1"),
            "--columns": ("-1", "9", "x", "1.5", "0 9"),
            "--n-envs": COUNTS,
            "--max-episode-steps": COUNTS,
            "--env-kwargs": KEYWORDS,
            "--out": UNWRITABLE,
            "--video": ("-1", "x", "2"),
            "--theme": ("blue", ""),
            "--device": DEVICES,
            "--env": ENVS,
            "--sed": ("1",),
        },
    ),
    "goals": (
        ["model.zip", "--env", POINT, "--n-goals", "1", "--n-envs", "1"],
        {
            "--n-goals": COUNTS,
            "--seed": SEEDS,
            "--range": ("0", "-1", "nan", "inf", "x", "1 1 1"),
            "--n-envs": COUNTS,
            "--max-episode-steps": COUNTS,
            "--env-kwargs": KEYWORDS,
            "--plot": ("goals", "goals.docx", "/proc/1/goals.png", "a_file/goals.png"),
            "--device": DEVICES,
            "--env": ENVS,
        },
    ),
    "doctor": (
        ["model.zip", "--env", POINT, "--n-episodes", "2"],
        {
            "--n-episodes": (*COUNTS, "1"),
            "--seed": SEEDS,
            "--n-envs": COUNTS,
            "--max-episode-steps": COUNTS,
            "--env-kwargs": KEYWORDS,
            "--log": ("nowhere", "empty", "torn.zip", "a_file", ""),
            "--device": DEVICES,
            "--env": ENVS,
        },
    ),
    "report": (
        ["model.zip", "--env", POINT, "--no-video", "--n-skills", "1"],
        {
            "--n-skills": COUNTS,
            "--seed": SEEDS,
            "--max-episode-steps": COUNTS,
            "--max-megabytes": ("0", "-1", "nan", "inf", "x"),
            "--env-kwargs": KEYWORDS,
            "--out": ("/proc/1/page.html", "a_file/page.html", "empty"),
            "--device": DEVICES,
            "--env": ENVS,
        },
    ),
    "compare": (
        ["log.csv"],
        {
            "--metric": ("lenght", "", "name"),
            "--x": ("stps", ""),
            "--statistic": ("best",),
            "--out": UNWRITABLE,
            "--theme": ("blue",),
        },
    ),
    "demo": (
        ["--env", POINT, "--minutes", "0.01"],
        {
            "--env": ("Nowhere-v0", "nowhere:Ant-v0", "", ":"),
            "--seed": SEEDS,
            "--out": UNWRITABLE,
            "--minutes": ("0", "-1", "nan", "inf", "x"),
        },
    ),
    "train": (
        ["--env", POINT, "-n", "8", "-f", "logs", "--eval-freq", "-1"],
        {
            "-n": ("0", "-5", "1.5", "x"),
            "--seed": ("-2", "1.5", "x"),
            "--eval-episodes": COUNTS[:4],
            "--n-eval-envs": COUNTS[:4],
            "--n-trials": COUNTS[:4],
            "--env": ("Nowhere-v0", "", ":"),
            "--algo": ("metr", ""),
            "--conf-file": (
                "nowhere.yml",
                "empty.yml",
                "list.yml",
                "broken.yml",
                "no_entry.yml",
                "no_settings.yml",
                "no_envs.yml",
                "half_envs.yml",
                "no_steps.yml",
                "no_policy.yml",
                "misspelt.yml",
                "empty",
            ),
            "-f": ("/proc/1/logs", "a_file/logs"),
            "-i": ("nowhere.zip", "a_file", "torn.zip", "strange.zip"),
            "-params": (
                "n_envs:0",
                "n_envs:-1",
                "n_envs:2.5",
                "n_timesteps:0",
                "batchsize:3",
                "n_envs",
                "policy:Mlp",
                ":3",
            ),
            "--env-kwargs": ("arena:-1.0", "aren:5.0", "arena"),
            "--skills": ("model.zip",),
            "--skill-length": ("3", "x"),
            "--vec-env": ("threads",),
            "--device": ("tpu",),
        },
    ),
    "enjoy": (
        ["--env", POINT, "-f", "logs", "--no-render"],
        {
            "--env": ("Nowhere-v0", "", ":"),
            "-f": ("nowhere",),
            "--n-envs": COUNTS[:4],
            "--seed": ("-2", "x"),
            "--algo": ("metr",),
        },
    ),
    "": ([], {"": ("measure", "--sed")}),
}

SETTINGS = {
    "empty": "",
    "list": "- 3\n",
    "broken": "default: [",
    "no_entry": "Other-v0:\n  n_envs: 1\n",
    "no_settings": "default:\n",
    "no_envs": "default:\n  policy: MlpPolicy\n  n_timesteps: 8\n  n_envs: 0\n",
    "half_envs": "default:\n  policy: MlpPolicy\n  n_timesteps: 8\n  n_envs: 1.5\n",
    "no_steps": "default:\n  policy: MlpPolicy\n  n_timesteps: many\n",
    "no_policy": "default:\n  n_timesteps: 8\n",
    "misspelt": "default:\n  policy: MlpPolicy\n  n_timesteps: 8\n  lamda: 3\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a log, and files that are neither."""
    folder = tmp_path_factory.mktemp("bad")
    tiny_model(goal_points(1)).save(folder / "model.zip")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10).save(folder / "sac.zip")
    whole = (folder / "model.zip").read_bytes()
    (folder / "torn.zip").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "strange.zip", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    (folder / "a_file").write_text("Dear reader")
    (folder / "empty").mkdir()
    (folder / "log.csv").write_text("time/total_timesteps,eval/policy_state_coverage,name\n1,2,x\n")
    for name, text in SETTINGS.items():
        (folder / f"{name}.yml").write_text(text)
    return folder


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with the answer to words; ``None`` if it is a sentence on the standard error and the status 2."""
    capsys.readouterr()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status: object = main(words)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    error_lines = capsys.readouterr().err.strip().splitlines()
    last = error_lines[-1] if error_lines else ""
    if status != 2:
        return f"status {status}: {last}"
    by_argparse = "usage:" in "".join(error_lines) and "error:" in last
    told = last.startswith("sb3-metra ") and ": " in last
    return None if by_argparse or told else f"unclear: {last}"


@pytest.mark.parametrize(("command", "option"), [(name, key) for name, (_, keys) in COMMANDS.items() for key in keys])
def test_bad_options(
    command: str, option: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in ("train", "enjoy"):
        pytest.importorskip("rl_zoo3")
    monkeypatch.chdir(folder)
    common, options = COMMANDS[command]
    wrong = {}
    for value in options[option]:
        words = [word for word in (command, *common, option) if word] + (value.split(" ") if value else [""])
        if (fault := answer(words, capsys)) is not None:
            wrong[value] = fault
    assert wrong == {}
    assert not Path("compare").exists()


@pytest.mark.parametrize("command", ["evaluate", "goals", "doctor", "report"])
def test_bad_models(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    wrong = {}
    for model in MODELS:
        env = "Pendulum-v1" if model == "sac.zip" else POINT
        if (fault := answer([command, model, "--env", env], capsys)) is not None:
            wrong[model] = fault
    assert wrong == {}


@pytest.mark.parametrize("run", ["nowhere", "empty", "a_file", "torn.npz", "=log.csv", "a=nowhere", ""])
def test_bad_logs(run: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    np.savez("torn.npz", timesteps=[1], results=[[2.0]])
    Path("torn.npz").write_bytes(Path("torn.npz").read_bytes()[:60])
    if run != "=log.csv":
        assert answer(["compare", run, "--out", "out"], capsys) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((f"{command} MODEL --env {POINT}", "must be a path, got ''") for command in ("evaluate", "goals", "doctor")),
        (f"report MODEL --env {POINT}", "must be a path, got ''"),
        (f"prompt MODEL --env {POINT} --reward vx", "must be a path, got ''"),
        ("export MODEL --out out", "must be a path, got ''"),
        ("export model.zip --out MODEL", "argument --out: must be a path, got ''"),
        ("study study.yml --draw --out empty", "--out must be a study's folder that holds results.csv, got 'empty'"),
    ],
)
def test_what_is_missing(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unset variable of the shell does not mean this folder."""
    monkeypatch.chdir(folder)
    study = f"methods: [metra]\nenvironments: [{POINT}]\nseeds: [0]\nsettings: {{n_timesteps: 9}}\n"
    Path("study.yml").write_text(study)
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        assert main(["" if word == "MODEL" else word for word in words.split()]) == 2
    assert message in capsys.readouterr().err


def test_numbers_that_yaml_takes_for_strings_are_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo_input = pytest.importorskip("sb3_metra.zoo_input")
    settings = {"dual_lambda": "1e-3", "policy": "MlpPolicy", "a": {"b": ["-2E+4", "e3", "1e", "0x1", ".5e1"]}, "n": 3}
    assert zoo_input.read_numbers(settings) == {
        "dual_lambda": 1e-3,
        "policy": "MlpPolicy",
        "a": {"b": [-2e4, "e3", "1e", "0x1", 5.0]},
        "n": 3,
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": 5}, "normalize must be True, False, or arguments of VecNormalize such as .*, got 5"),
        ({"normalize": "maybe"}, "normalize must be True, False, .* got 'maybe'"),
        ({"normalize": {"norm": True}}, "normalize must be True, False, .* got {'norm': True}"),
        ({"learning_rate": "fast"}, "learning_rate must be a number, or a string such as \"lin_1e-3\", got 'fast'"),
        ({"learning_rate": "sin_3"}, "learning_rate must be .*, got 'sin_3'"),
        ({"frame_stack": 0}, "frame_stack must be an integer of at least 1, or None, got 0"),
        ({"noise_type": "pink", "noise_std": 1}, 'noise_type must be "normal" or "ornstein-uhlenbeck", or None, got'),
        ({"noise_type": "normal"}, "noise_std must be given with noise_type, got none"),
        ({"env_wrapper": "nowhere.Nowhere"}, "env_wrapper must be the full name of what can be imported, .* got 'now"),
        ({"vec_env_wrapper": 3}, "vec_env_wrapper must be the full name .* got 3"),
        ({"callback": ["json.nothing"]}, r"callback must be the full name .* got \['json.nothing'\]"),
        ({"policy": 3}, "policy must be a name such as MlpPolicy, got 3"),
        ({"seed": 3}, "seed must be given as an option of the command, got 3 as a setting"),
    ],
)
def test_settings_that_rl_zoo3_would_stumble_over(settings: dict[str, Any], message: str) -> None:
    zoo_input = pytest.importorskip("sb3_metra.zoo_input")
    with pytest.raises(ValueError, match=message):
        zoo_input.check_settings(settings, 100)


def test_settings_that_are_sound() -> None:
    zoo_input = pytest.importorskip("sb3_metra.zoo_input")
    settings: dict[str, Any] = {
        "normalize": "dict(norm_obs=True, norm_reward=False)",
        "learning_rate": "lin_1e-3",
        "noise_type": "normal",
        "noise_std": 0.1,
        "env_wrapper": [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 9}}, "gymnasium.wrappers.ClipAction"],
        "n_timesteps": 100,
    }
    assert zoo_input.check_settings(settings, 100) == settings


class Failing(PointMassEnv):
    """A point mass that cannot be made, or changes the shape of what it observes."""

    def __init__(self, how: str) -> None:
        if how == "make":
            raise OSError("the licence has expired")
        super().__init__()

    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return np.append(observation, 0.0), *rest


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("make", "--env test/Failing-v0 cannot be made with --env-kwargs {'how': 'make'}: the licence has expired"),
        ("step", r"observation must have shape (2,), got (3,) from the environment with index 0"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "goals", "doctor", "report"])
def test_environments_that_fail(
    command: str, how: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setitem(gym.registry, "test/Failing-v0", gym.envs.registration.EnvSpec("test/Failing-v0", Failing))
    common = [word for word in COMMANDS[command][0] if word != POINT]
    common[common.index("--env") + 1 : common.index("--env") + 1] = ["test/Failing-v0"]
    assert main([command, *common, "--env-kwargs", f"how:{how!r}", "--max-episode-steps", "5"]) == 2
    assert message in capsys.readouterr().err
