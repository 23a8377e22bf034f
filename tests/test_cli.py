"""The command line, run for real in temporary folders: train, enjoy, evaluate, a search, and the demonstration."""

import json
import pickle
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import SAC

import sb3_metra
from sb3_metra import METRA, demo, headless
from sb3_metra.cli import main
from sb3_metra.commands.loading import parse_keyword_arguments
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation.rollout import SkillTrajectory
from tests.programs import run_python

pytest.importorskip("rl_zoo3")
import optuna

POINT = "sb3_metra/PointMass-v0"
TINY = [
    "-params",
    "n_envs:2",
    "train_freq:50",
    "learning_starts:100",
    "gradient_steps:2",
    "batch_size:32",
    "objective_batch_size:64",
    "policy_kwargs:dict(net_arch=[16])",
    "phi_kwargs:dict(net_arch=[16])",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``train`` wrote to: 400 steps, evaluated twice, with normalised observations."""
    folder = tmp_path_factory.mktemp("logs")
    arguments = ["--env", POINT, "-n", "400", "--eval-freq", "200", "--seed", "1", "-f", str(folder)]
    short = ["--env-kwargs", "max_episode_steps:20"]  # it is evaluated with 48 skills, each time
    assert main(["train", *arguments, *short, *TINY, "normalize:dict(norm_reward=False)"]) == 0
    return folder


def run_of(folder: Path, number: int = 1) -> Path:
    """Where rl_zoo3 puts a run on the point mass."""
    return folder / "metra" / f"sb3_metra-PointMass-v0_{number}"


def read_json(capsys: pytest.CaptureFixture[str]) -> dict:
    """What was printed on the standard output, which must be nothing but JSON."""
    return json.loads(capsys.readouterr().out)


# train


def test_train_keeps_the_model_and_the_best_by_coverage(trained: Path) -> None:
    run = run_of(trained)
    assert METRA.load(run / "sb3_metra-PointMass-v0.zip").num_timesteps == 400
    log = np.load(run / "evaluations.npz")
    assert log["timesteps"].tolist() == [200, 400]
    best = METRA.load(run / "best_model.zip").num_timesteps
    assert best == log["timesteps"][log["results"][:, 0].argmax()]


def test_train_reads_the_shipped_settings(trained: Path) -> None:
    config = yaml.unsafe_load((run_of(trained) / "sb3_metra-PointMass-v0" / "config.yml").read_text())
    assert config["learning_rate"] == 0.001  # metra.yml
    assert config["learning_starts"] == 100  # the command line


def test_train_paper_reads_the_authors_settings(tmp_path: Path) -> None:
    assert main(["train", "--paper", "-n", "8", "--eval-freq", "-1", "-f", str(tmp_path), "--env", POINT]) == 0
    config = yaml.unsafe_load((run_of(tmp_path) / "sb3_metra-PointMass-v0" / "config.yml").read_text())
    assert (config["dual_lambda"], config["learning_rate"], config["constraint_norm"]) == (30.0, 0.0001, "mean")


def test_train_paper_and_a_file_contradict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--paper", "--conf-file", "mine.yml"]) == 2
    assert "--conf-file mine.yml contradicts: leave one of them out" in capsys.readouterr().err


def test_train_in_subprocesses_finds_our_environments(tmp_path: Path) -> None:
    arguments = ["--vec-env", "subproc", "-n", "200", "--eval-freq", "-1", "-f", str(tmp_path), "-P"]
    assert main(["train", *arguments, *TINY]) == 0
    assert METRA.load(run_of(tmp_path) / "sb3_metra-PointMass-v0.zip").num_timesteps == 200


def test_train_goes_on_from_a_saved_model(trained: Path, tmp_path: Path) -> None:
    agent = str(run_of(trained) / "sb3_metra-PointMass-v0.zip")
    arguments = ["-i", agent, "-n", "200", "--eval-freq", "-1", "-f", str(tmp_path)]
    assert main(["train", *arguments, *TINY, "normalize:dict(norm_reward=False)"]) == 0
    before, after = METRA.load(agent), METRA.load(run_of(tmp_path) / "sb3_metra-PointMass-v0.zip")
    assert after._n_updates > before._n_updates > 0


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, optuna.Study]:
    """A folder that a search of two trials wrote to, without a gradient step, and its study."""
    folder = tmp_path_factory.mktemp("search")
    arguments = ["--optimize", "--n-trials", "2", "--n-evaluations", "2", "-n", "400", "--eval-episodes", "5"]
    outputs = ["--optimization-log-path", str(folder / "trials"), "-f", str(folder), "--no-optim-plots"]
    settings = ["-params", "n_envs:2", "learning_starts:100000"]
    storage = ["--storage", str(folder / "study.log"), "--study-name", "point"]
    assert main(["train", "--env", POINT, "--seed", "0", *arguments, *outputs, *storage, *settings]) == 0
    (report,) = (folder / "metra").glob("report_*.pkl")
    return folder, pickle.loads(report.read_bytes())


def test_search_maximises_coverage(searched: tuple[Path, optuna.Study], capsys: pytest.CaptureFixture[str]) -> None:
    folder, study = searched
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    assert study.best_value == max(trial.value for trial in study.trials)
    for trial in study.trials:
        model = folder / "trials" / f"trial_{trial.number}" / "best_model.zip"
        assert main(["evaluate", str(model), "--env", POINT, "--n-skills", "5"]) == 0
        assert read_json(capsys)["policy_state_coverage"] == max(trial.intermediate_values.values())


def test_train_takes_the_settings_of_a_trial(searched: tuple[Path, optuna.Study], tmp_path: Path) -> None:
    folder, study = searched
    storage = ["--storage", str(folder / "study.log"), "--study-name", "point", "--trial-id", "1"]
    assert main(["train", "--env", POINT, "-n", "8", "--eval-freq", "-1", "-f", str(tmp_path), *storage]) == 0
    model = METRA.load(run_of(tmp_path) / "sb3_metra-PointMass-v0.zip")
    params = study.trials[1].params
    assert model.lr_schedule(1.0) == params["learning_rate"]
    assert model.gamma == 1.0 - params["one_minus_gamma"]
    assert model.phi_kwargs == {"net_arch": [params["phi_width"]] * 2}


# enjoy


@pytest.mark.parametrize("which", [[], ["--load-best"]])
def test_enjoy_follows_what_train_wrote(trained: Path, which: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enjoy", "--env", POINT, "-f", str(trained), "--no-render", "-n", "40", *which]) == 0
    assert capsys.readouterr().out.count("Episode Length 20") == 2


def test_enjoy_says_in_a_sentence_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enjoy", "-f", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("sb3-metra enjoy: The ")


# evaluate


def test_evaluate_agrees_with_the_evaluation_while_training(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = run_of(trained) / "best_model.zip"
    statistics = run_of(trained) / "sb3_metra-PointMass-v0" / "vecnormalize.pkl"
    log = np.load(run_of(trained) / "evaluations.npz")
    assert statistics.is_file()
    assert main(["evaluate", str(best), "--env", POINT, "--max-episode-steps", "20"]) == 0
    result = read_json(capsys)
    expected = {
        "policy_state_coverage": log["results"].max(),
        "n_skills": 48,
        "seed": 0,
        "env": POINT,
        "env_kwargs": {},
        "model": str(best),
        "cell_size": 1.0,
    }
    assert {name: result[name] for name in expected} == expected
    # a folder stands for its best model
    assert main(["evaluate", str(run_of(trained)), "--env", POINT, "--max-episode-steps", "20"]) == 0
    assert read_json(capsys) == result


def test_evaluate_passes_its_arguments_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = run_of(trained) / "best_model.zip"
    arguments = ["evaluate", str(model), "--env", POINT, "--n-skills", "3", "--seed", "7"]
    assert main([*arguments, "--env-kwargs", "arena:0.5", "reset_noise_scale:0.0"]) == 0
    result = read_json(capsys)
    assert (result["n_skills"], result["seed"]) == (3, 7)
    assert result["env_kwargs"] == {"arena": 0.5, "reset_noise_scale": 0.0}
    assert 1 <= result["policy_state_coverage"] <= 4  # [-0.5, 0.5]^2 touches four cells of side 1
    assert main([*arguments, "--env-kwargs", "arena:0.5", "--cell-size", "0.01"]) == 0
    assert read_json(capsys)["policy_state_coverage"] > 4


@pytest.fixture
def bad_models(tmp_path: Path) -> dict[str, str]:
    """Files that are no METRA model for the point mass."""
    (tmp_path / "text.zip").write_text("no zip file")
    SAC("MlpPolicy", POINT, buffer_size=10, device="cpu").save(tmp_path / "sac.zip")
    return {name: str(tmp_path / name) for name in ("missing.zip", "text.zip", "sac.zip")}


@pytest.mark.parametrize("name", ["missing.zip", "text.zip", "sac.zip"])
def test_evaluate_refuses_what_is_no_model(
    name: str, bad_models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", bad_models[name], "--env", POINT]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("sb3-metra evaluate: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--env", "sb3_metra/Nowhere-v0"],
            "--env must be the id of a registered environment, got 'sb3_metra/Nowhere-v0'",
        ),
        (["--env", "nowhere:Nowhere-v0"], "--env must be the id of a registered environment, got 'nowhere:Nowhere-v0'"),
        (["--env", "Pendulum-v1"], "model must act in this environment's action space"),
        (["--env", POINT, "--env-kwargs", "arena"], "--env-kwargs must be KEY:VALUE with a Python literal"),
        (["--env", POINT, "--env-kwargs", "arena:big"], "--env-kwargs must be KEY:VALUE with a Python literal"),
        (["--env", POINT, "--env-kwargs", "arena:-1"], "arena must be None or a finite number above 0"),
        (["--env", POINT, "--n-skills", "0"], "--n-skills must be an integer of at least 1, got 0"),
        (
            ["--env", POINT, "--n-skills", "1", "--cell-size", "0"],
            "--cell-size must be a finite number greater than 0, got 0.0",
        ),
    ],
)
def test_evaluate_refuses_bad_arguments(
    trained: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_of(trained) / "sb3_metra-PointMass-v0.zip"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_keyword_arguments_are_literals() -> None:
    words = ["a:1", "b:'x:y'", "c:[1, 2]", "d:None"]
    assert parse_keyword_arguments(words) == {"a": 1, "b": "x:y", "c": [1, 2], "d": None}
    with pytest.raises(ValueError, match="KEY:VALUE"):
        parse_keyword_arguments(["a:__import__('os')"])


# The program itself


def test_traceback_shows_where_an_error_came_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MODEL must be a file"):
        main(["--traceback", "evaluate", str(tmp_path / "missing.zip"), "--env", POINT])


@pytest.mark.parametrize("command", ["demo", "train", "enjoy", "evaluate", "compare", "report"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"sb3-metra {command}" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_mistake() -> None:
    program = """
import os, runpy, sys
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.argv = ["sb3-metra", "goals", "--pretrained", "point_mass", "--n-goals", "1"]
runpy.run_module("sb3_metra.cli", run_name="__main__")
"""
    done = run_python("-c", program)
    assert (done.stderr, done.returncode) == ("", 141)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sb3-metra {sb3_metra.__version__}\n"


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    for module in ("sb3_metra.zoo", "sb3_metra.commands.train"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delattr(sb3_metra, "zoo", raising=False)
    assert main(["train"]) == 2
    error = capsys.readouterr().err
    assert 'pip install "sb3-metra[zoo]"' in error
    assert error.count("\n") == 1


# demo


def test_demo_leaves_a_model_a_picture_a_video_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "N_SKILLS", 8)
    monkeypatch.setattr(demo, "_N_EXPLORED", 2)
    out = tmp_path / "out"
    assert main(["demo", "--env", POINT, "--minutes", "0.02", "--out", str(out), "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {"model.zip", "skills.png", "result.json", "skills.html"}
    assert any(path.stat().st_size > 1000 for path in out.glob("skills.[mg][pi][4f]"))
    result = json.loads((out / "result.json").read_text())
    assert f"8 skills visit {result['policy_state_coverage']} cells" in printed
    assert f"{result['timesteps']} steps" in printed
    assert "sb3-metra train --env sb3_metra/Ant-v0" in printed
    assert f"open {out / 'skills.html'} in a browser" in printed
    assert 0 < result["training_seconds"] < 15
    # evaluate, with the same seed, measures what the demonstration measured
    assert main(["evaluate", str(out / "model.zip"), "--env", POINT, "--seed", "3", "--n-skills", "8"]) == 0
    assert read_json(capsys)["policy_state_coverage"] == result["policy_state_coverage"]


@pytest.mark.slow
def test_demo_runs_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    started = time.monotonic()
    result = demo.run_demo(out=tmp_path, minutes=10.0)  # time enough for all its steps on a busy machine
    assert time.monotonic() - started < 600
    assert result.displacements.min() < -5 < 5 < result.displacements.max()


def test_demo_describes_displacements() -> None:
    line = np.array([[-12.34], [30.06]])
    result = demo.DemoResult("sb3_metra/HalfCheetah-v0", 0, 1000, 61.6, 43, line, "m")
    assert result.describe() == (
        "Within one episode the skills end between -12.3 and +30.1 m from where they start.\n"
        "2 skills visit 43 cells of side 1: their policy state coverage.\n"
        "Learnt from 1000 steps in 62 seconds, without a reward."
    )
    # at 53, 37, 127, -37 and 0 degrees, in octants 1, 0, 2, 7 and 0; the last is too near to count
    plane = np.array([[3.0, 4.0], [4.0, 3.0], [-3.0, 4.0], [4.0, -3.0], [10.0, 0.0], [-0.3, -0.4]])
    result = demo.DemoResult(POINT, 0, 1, 1.0, 1, plane)
    assert result.octants() == 4
    assert "5.1 units from where they start on average, 10.0 units at most, in 4 of 8 octants" in result.describe()


def test_demo_films_the_skills_that_get_farthest() -> None:
    ends = [[0.0, 1.0], [5.0, 0.0], [-4.0, -2.0], [1.0, 3.0]]
    trajectories = [
        SkillTrajectory(np.array([float(i)]), np.array([[0.0, 0.0], end]), np.zeros((2, 2)))
        for i, end in enumerate(ends)
    ]
    assert demo._choose_skills(trajectories).tolist() == [[2.0], [1.0], [3.0]]  # 2 is leftmost and lowest


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_demo_refuses_no_time(minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--minutes={minutes}", "--out", str(tmp_path)]) == 2
    assert "minutes must be a finite number greater than 0" in capsys.readouterr().err


def test_demo_says_in_a_sentence_why_there_is_no_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: PointMassEnv) -> None:
        raise RuntimeError("no OpenGL")

    monkeypatch.setattr(PointMassEnv, "render", fail)
    model = METRA("MlpPolicy", POINT, device="cpu", buffer_size=256)
    demo._film(model, POINT, 0, model.skill_prior.sample(1), tmp_path / "skills")
    printed = capsys.readouterr().out
    assert printed.startswith("No video, because drawing failed (no OpenGL): on Debian or Ubuntu, `apt-get install lib")
    assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_demo_writes_a_gif_where_no_encoder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = METRA("MlpPolicy", POINT, device="cpu", buffer_size=256)
    film_skills = demo.film_skills

    def without_encoder(trajectories: list[SkillTrajectory], path: Path, fps: float) -> Path:
        if path.suffix == ".mp4":
            raise ImportError("no encoder")
        for trajectory in trajectories:
            del trajectory.frames[3:]
        return film_skills(trajectories, path, fps)

    monkeypatch.setattr(demo, "film_skills", without_encoder)
    demo._film(model, POINT, 0, model.skill_prior.sample(1), tmp_path / "skills")
    assert [path.name for path in tmp_path.iterdir()] == ["skills.gif"]


def test_demo_films_a_body_that_runs_away() -> None:
    """The body's colours, more red than blue, fill as much of the picture 40 m away as at the start."""
    pytest.importorskip("mujoco")
    env = gym.make("sb3_metra/HalfCheetah-v0", **headless.drawing_kwargs("sb3_metra/HalfCheetah-v0", 320, 240))
    headless.follow_body(env)
    env.reset(seed=0)
    counts = []
    for x in (0.0, 40.0):
        qpos = env.unwrapped.data.qpos.copy()
        qpos[0] = x
        env.unwrapped.set_state(qpos, env.unwrapped.data.qvel)
        picture = env.render().astype(int)
        counts.append(int((picture[..., 0] - picture[..., 2] > 40).sum()))
    env.close()
    assert counts[0] > 100
    assert counts[1] > counts[0] / 2  # the light stays where it is
