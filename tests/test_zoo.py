"""METRA inside rl_zoo3: the shipped settings, the search space, and coverage in the place of reward."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack

import sb3_metra.envs
import sb3_metra.envs.batch
from sb3_metra import METRA
from sb3_metra.envs.batch import BatchVecEnv
from sb3_metra.hyperparams import load_settings, settings_path

pytest.importorskip("rl_zoo3")
import optuna
import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt

from sb3_metra import zoo, zoo_runs
from sb3_metra.collectors import LocalCollectors
from sb3_metra.evaluation.coverage import policy_state_coverage
from sb3_metra.zoo_runs import RunManager
from tests.toys import same, state_of

POINT = "sb3_metra/PointMass-v0"
FILES = ("metra", "metra_paper")
KITCHEN, QUADRUPED, HUMANOID, CHEETAH = (
    f"sb3_metra/{name}Pixels-v0" for name in ("Kitchen", "Quadruped", "Humanoid", "Cheetah")
)
PIXEL_POINT, FOUR_ROOMS = "sb3_metra/PixelPointMass-v0", "sb3_metra/FourRooms-v0"
SHARED = ("sb3_metra/Ant-v0", "sb3_metra/HalfCheetah-v0", POINT, KITCHEN, QUADRUPED, HUMANOID, "default")
ENTRIES = {"metra": (*SHARED, PIXEL_POINT, FOUR_ROOMS, CHEETAH), "metra_paper": SHARED}
#: On pixels these entries stand for the others, whose environments are slow to make.
USUAL_PIXELS = {
    ("metra", "sb3_metra/QuadrupedPixels-v0"),
    ("metra", "sb3_metra/KitchenPixels-v0"),
    ("metra", PIXEL_POINT),
}
every_entry = pytest.mark.parametrize(
    ("file", "env_id"),
    [
        pytest.param(
            file, name, marks=[pytest.mark.slow] if "Pixel" in name and (file, name) not in USUAL_PIXELS else []
        )
        for file in FILES
        for name in ENTRIES[file]
    ],
)
NEEDS = {
    POINT: "numpy",
    QUADRUPED: "dm_control",
    CHEETAH: "dm_control",
    HUMANOID: "dm_control",
    KITCHEN: "gymnasium_robotics",
} | {FOUR_ROOMS: "minigrid"}
ZOO_KEYS = {"n_timesteps", "n_envs", "env_kwargs"}
TINY = {
    "learning_starts": 20,
    "train_freq": 10,
    "gradient_steps": 1,
    "batch_size": 8,
    "policy_kwargs": {"net_arch": [8]},
    "phi_kwargs": {"net_arch": [8]},
    "buffer_size": 1000,
    "seed": 0,
}


# The shipped settings


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_an_entry_for_each_environment(file: str) -> None:
    entries = yaml.safe_load(settings_path("metra", paper=file == "metra_paper").read_text())
    assert set(entries) == set(ENTRIES[file])


@every_entry
def test_metra_takes_every_setting(file: str, env_id: str) -> None:
    settings = load_settings(env_id, paper=file == "metra_paper")
    make_id = POINT if env_id == "default" else env_id
    pytest.importorskip(NEEDS.get(make_id, "mujoco"))
    env = make_vec_env(make_id, n_envs=1, env_kwargs=settings.get("env_kwargs"))
    arguments = {key: value for key, value in settings.items() if key not in ZOO_KEYS}
    model = METRA(env=env, device="cpu", **arguments)
    assert model.skill_prior.dim == settings.get("skill_dim", 2)
    assert model.skill_prior.discrete is settings.get("discrete", False)
    env.close()


def test_paper_settings_are_the_authors() -> None:
    """Against the figures of the paper and of the authors' code, written down here a second time."""
    authors = {
        "n_timesteps": 10_000_000,
        "policy": "MlpPolicy",
        "n_envs": 8,
        "train_freq": 200,
        "gradient_steps": 50,
        "learning_starts": 10_000,
        "buffer_size": 1_000_000,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "gamma": 0.99,
        "tau": 0.005,
        "ent_coef": "auto_0.01",
        "target_entropy": "auto",
        "skill_dim": 2,
        "discrete": False,
        "unit_skills": True,
        "dual_lambda": 30.0,
        "dual_slack": 1e-3,
        "constraint_norm": "mean",
        "policy_kwargs": {"net_arch": [1024, 1024], "hard_bounds": True},
        "phi_kwargs": {"net_arch": [1024, 1024]},
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    }
    assert load_settings("sb3_metra/Ant-v0", paper=True) == authors
    assert load_settings("sb3_metra/HalfCheetah-v0", paper=True) == {**authors, "skill_dim": 16, "discrete": True}
    assert load_settings("Unknown-v0", paper=True) == authors
    pixels = {**authors, "policy": "CnnPolicy", "gradient_steps": 200, "buffer_size": 300_000}
    assert load_settings(QUADRUPED, paper=True) == {**pixels, "n_timesteps": 6_000_000, "skill_dim": 4}
    assert load_settings(HUMANOID, paper=True) == pixels
    kitchen = {"n_timesteps": 1_000_000, "train_freq": 50, "gradient_steps": 100, "buffer_size": 100_000}
    skills = {"ent_coef": 0.01, "skill_dim": 24, "discrete": True}
    assert load_settings(KITCHEN, paper=True) == {**pixels, **kitchen, **skills}


def test_kitchen_is_trained_as_the_authors_did_where_nothing_was_measured() -> None:
    paper = load_settings(KITCHEN, paper=True)
    paper["policy_kwargs"].pop("hard_bounds")  # a fault that needs no measurement
    assert {**paper, **load_settings(KITCHEN)} == paper
    assert set(paper) - set(load_settings(KITCHEN)) == {"target_entropy", "unit_skills"}  # of no effect there


def test_a_round_is_one_episode_of_each_environment() -> None:
    lengths = sb3_metra.envs.MAX_EPISODE_STEPS
    for file in FILES:
        for env_id in set(ENTRIES[file]) - {"default"}:
            settings = load_settings(env_id, paper=file == "metra_paper")
            assert (settings["train_freq"], settings["n_envs"]) == (lengths[env_id], 8), (file, env_id)


@pytest.mark.parametrize("file", FILES)
def test_each_value_names_its_source(file: str) -> None:
    lines = settings_path("metra", paper=file == "metra_paper").read_text().splitlines()
    values = [line for line in lines if re.match(r"^ +\w+: +\S", line)]
    assert len(values) >= 25
    sources = r"# (authors' code|paper|figure reading|measured|quick trial|ours)\b"
    assert [line for line in values if not re.search(sources, line)] == []


def test_settings_fall_back_to_the_default_entry() -> None:
    assert load_settings("Pendulum-v1") == {"n_timesteps": 1_000_000, "policy": "MlpPolicy", "n_envs": 8}


def test_settings_of_an_unknown_algorithm_are_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm must name shipped settings, one of .*'metra'.*, got 'dqn'"):
        settings_path("dqn")


# What rl_zoo3 is told


def test_register_extends_the_dictionaries_that_rl_zoo3_reads() -> None:
    for _ in range(2):
        zoo.register()
        assert rl_zoo3.ALGOS["metra"] is rl_zoo3.exp_manager.ALGOS["metra"] is METRA
        assert rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["metra"] is zoo.sample_metra_params
        assert rl_zoo3.exp_manager.HYPERPARAMS_CONVERTER["metra"] is zoo.convert_metra_params
    assert {"sac", "ppo"} < set(rl_zoo3.ALGOS)


def test_search_space_converts_to_arguments() -> None:
    sampled = {
        "learning_rate": 0.001,
        "dual_lambda": 3.0,
        "dual_slack": 0.001,
        "objective_batch_size_pow": 10,
        "gradient_steps": 20,
        "one_minus_gamma": 0.01,
        "policy_width": 128,
        "phi_width": 64,
    }
    arguments = {
        "learning_rate": 0.001,
        "dual_lambda": 3.0,
        "dual_slack": 0.001,
        "objective_batch_size": 1024,
        "gradient_steps": 20,
        "gamma": 0.99,
        "policy_kwargs": {"net_arch": [128, 128]},
        "phi_kwargs": {"net_arch": [64, 64]},
    }
    trial = optuna.trial.FixedTrial(sampled)
    assert zoo.sample_metra_params(trial, 2, 1, {}) == zoo.convert_metra_params(sampled) == arguments
    assert trial.user_attrs == {"gamma": 0.99, "objective_batch_size": 1024}
    assert sampled["phi_width"] == 64  # the trial's own parameters stay as they are
    assert METRA("MlpPolicy", POINT, device="cpu", **arguments).gamma == 0.99


def test_every_drawn_trial_makes_a_model() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        arguments = zoo.sample_metra_params(study.ask(), 2, 1, {})
        model = METRA("MlpPolicy", POINT, device="cpu", **arguments)
        assert {name: getattr(model, name) for name in arguments if name != "policy_kwargs"} == {
            name: value for name, value in arguments.items() if name != "policy_kwargs"
        }


# Coverage in the place of reward


def test_judged_by_coverage_gives_rl_zoo3_its_callbacks_back() -> None:
    module = rl_zoo3.exp_manager
    theirs = module.EvalCallback, module.TrialEvalCallback
    with zoo.judged_by_coverage():
        assert module.EvalCallback is zoo.CoverageEvalCallback
        assert module.TrialEvalCallback is zoo.TrialCoverageEvalCallback
    assert (module.EvalCallback, module.TrialEvalCallback) == theirs
    with pytest.raises(RuntimeError, match="inside"), zoo.judged_by_coverage():
        raise RuntimeError("inside")
    assert (module.EvalCallback, module.TrialEvalCallback) == theirs


def test_callback_reports_the_coverage_of_its_skills(tmp_path: Path) -> None:
    callback = zoo.CoverageEvalCallback(
        make_vec_env(POINT, n_envs=1), n_eval_episodes=6, eval_freq=40, log_path=str(tmp_path), verbose=0
    )
    model = METRA("MlpPolicy", POINT, device="cpu", **TINY)
    model.learn(40, callback=callback)
    # it was evaluated before the last round's gradient step: those are the weights after 30 steps
    twin = METRA("MlpPolicy", POINT, device="cpu", **TINY).learn(30)
    expected = policy_state_coverage(twin, make_vec_env(POINT, n_envs=1), twin.skill_prior, n_skills=6, seed=0)
    assert callback.last_mean_reward == callback.best_mean_reward == expected > 0
    log = np.load(tmp_path / "evaluations.npz")
    assert log["timesteps"].tolist() == [40]
    assert log["results"].tolist() == [[expected]]


def test_best_model_is_the_one_that_covers_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coverages = iter([5, 9, 7])
    measured = "sb3_metra.evaluation.callbacks.skill_metrics"
    monkeypatch.setattr(measured, lambda *args, **kwargs: {"policy_state_coverage": next(coverages)})
    callback = zoo.CoverageEvalCallback(
        make_vec_env(POINT, n_envs=1), n_eval_episodes=2, eval_freq=20, best_model_save_path=str(tmp_path), verbose=0
    )
    METRA("MlpPolicy", POINT, device="cpu", **TINY).learn(60, callback=callback)
    assert (callback.last_mean_reward, callback.best_mean_reward) == (7.0, 9.0)
    assert METRA.load(tmp_path / "best_model").num_timesteps == 40


def test_trials_are_told_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    coverages = iter([5, 9, 7])
    measured = "sb3_metra.evaluation.callbacks.skill_metrics"
    monkeypatch.setattr(measured, lambda *args, **kwargs: {"policy_state_coverage": next(coverages)})
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    callback = zoo.TrialCoverageEvalCallback(make_vec_env(POINT, n_envs=1), trial, n_eval_episodes=2, eval_freq=20)
    METRA("MlpPolicy", POINT, device="cpu", **TINY).learn(60, callback=callback)
    assert study.trials[0].intermediate_values == {1: 5.0, 2: 9.0, 3: 7.0}
    assert callback.last_mean_reward == 7.0


def test_environment_without_coordinates_is_judged_by_its_reward(capsys: pytest.CaptureFixture[str]) -> None:
    callback = zoo.CoverageEvalCallback(
        make_vec_env("Pendulum-v1", n_envs=1), n_eval_episodes=1, eval_freq=20, verbose=0
    )
    METRA("MlpPolicy", "Pendulum-v1", device="cpu", **TINY).learn(20, callback=callback)
    assert callback.last_mean_reward < 0  # Pendulum's reward is a cost
    assert 'no info["coordinates"]' in capsys.readouterr().out


def test_unknown_environment_is_trained_with_the_default_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.train(["--env", "Pendulum-v1", "-n", "16", "--eval-freq", "-1", "-f", str(tmp_path)])
    assert "Using 'default' hyperparameters" in capsys.readouterr().out
    assert (tmp_path / "metra" / "Pendulum-v1_1" / "Pendulum-v1.zip").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("paper", [[], ["--paper"]])
def test_kitchen_is_trained_end_to_end(tmp_path: Path, paper: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium_robotics")
    tiny = [
        *("n_envs:2", "train_freq:5", "learning_starts:10", "gradient_steps:1", "batch_size:4", "buffer_size:100"),
        "policy_kwargs:dict(net_arch=[8],features_extractor_kwargs=dict(depth=2))",
        "phi_kwargs:dict(net_arch=[8])",
    ]
    arguments = ["--env", KITCHEN, "-n", "20", "-f", str(tmp_path), "-params", *tiny]
    zoo.train([*paper, *arguments, "--eval-freq", "10", "--eval-episodes", "1", "--n-eval-envs", "1"])
    assert "Eval num_timesteps=10, task_coverage=0" in capsys.readouterr().out
    folder = tmp_path / "metra" / "sb3_metra-KitchenPixels-v0_1"
    assert (folder / "best_model.zip").is_file()
    model = METRA.load(folder / "sb3_metra-KitchenPixels-v0.zip")
    assert (model.skill_prior.dim, model.skill_prior.discrete, model.ent_coef) == (24, True, 0.01)


def test_only_training_ends_episodes_on_the_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    seen = {}
    create_envs = rl_zoo3.exp_manager.ExperimentManager.create_envs

    def spy(self, n_envs, eval_env=False, no_log=False):
        env = create_envs(self, n_envs, eval_env, no_log)
        seen[eval_env] = [unwrapped.terminate_on_back for unwrapped in env.get_attr("unwrapped")]
        assert isinstance(env, BatchVecEnv)
        return env

    monkeypatch.setattr(rl_zoo3.exp_manager.ExperimentManager, "create_envs", spy)
    small = ["n_envs:2", "policy_kwargs:dict(net_arch=[8])", "phi_kwargs:dict(net_arch=[8])"]
    zoo.train(["--env", "sb3_metra/Ant-v0", "-n", "2", "-f", str(tmp_path), "-params", *small])
    assert seen == {False: [True] * 2, True: [False]}


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        ({}, BatchVecEnv),
        ({"vec_env_class": SubprocVecEnv}, SubprocVecEnv),
        ({"env_wrapper": RescaleAction}, DummyVecEnv),
        ({"vec_env_wrapper": VecFrameStack}, DummyVecEnv),
        ({"env_name": SimpleNamespace(gym_id=POINT)}, DummyVecEnv),
        ({"env_kwargs": {"render_mode": "human"}}, DummyVecEnv),
    ],
)
def test_what_the_user_chose_comes_before_batches(
    chosen: dict[str, Any], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco.batch")
    theirs = rl_zoo3.exp_manager.ExperimentManager
    monkeypatch.setattr(theirs, "create_envs", lambda self, n_envs, *args: (self.vec_env_class, self.vec_env_kwargs))
    monkeypatch.setattr(sb3_metra.envs.batch, "count_cores", lambda: 5)
    manager = RunManager.__new__(RunManager)
    defaults = {"env_name": SimpleNamespace(gym_id="sb3_metra/Ant-v0"), "vec_env_class": DummyVecEnv}
    vars(manager).update(defaults | {"env_wrapper": None, "vec_env_wrapper": None, "env_kwargs": {}} | chosen)
    vars(manager).update({"vec_env_kwargs": {}, "_overlap": True})
    before = manager.vec_env_class
    threads = {"n_threads": 4} if kind is BatchVecEnv else {}  # the fifth core learns
    assert manager.create_envs(2) == (kind, threads)
    assert (manager.vec_env_class, manager.vec_env_kwargs) == (before, {})


def test_algorithms_of_rl_zoo3_run_as_they_do_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(rl_zoo3.train, "train", lambda: commands.append(list(zoo.sys.argv)))
    zoo.train(["--algo", "sac", "--env", "Pendulum-v1"])
    assert commands == [["sb3-metra train", "--algo", "sac", "--env", "Pendulum-v1"]]
    assert zoo.sys.argv != commands[0]


@pytest.mark.parametrize(
    "collectors", [(), pytest.param(("collectors:dict(n=2, max_staleness=1)",), marks=pytest.mark.slow)]
)
def test_a_run_goes_on(collectors: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the words that it was begun with, from its newest checkpoint, to the bit."""
    monkeypatch.setattr(zoo_runs, "RayCollectors", lambda env, n, num_cpus, **named: LocalCollectors(env, n, **named))
    settings = [
        "learning_starts:40",
        "train_freq:20",
        "gradient_steps:2",
        "batch_size:8",
        "n_envs:2",
        "objective_batch_size:8",
        *collectors,
    ]
    settings += [f"{name}_kwargs:dict(net_arch=[8])" for name in ("policy", "phi")]
    words = ["--env", POINT, "--seed", "3", "--eval-freq", "120", "--eval-episodes", "2", "--save-freq", "100"]

    def train(folder: str, *further: str) -> METRA:
        zoo.train([*words, "-f", str(tmp_path / folder), *further, "-params", *settings])
        return METRA.load(run(folder) / f"{POINT.replace('/', '-')}.zip", device="cpu")

    def run(folder: str) -> Path:
        return tmp_path / folder / "metra" / f"{POINT.replace('/', '-')}_1"

    whole = train("whole", "-n", "480")
    train("stopped", "-n", "240")
    np.random.seed(5)
    zoo.train(["--resume", str(run("stopped")), "-n", "480"])
    assert not (run("stopped").parent / f"{run('stopped').name[:-1]}2").exists()
    again = METRA.load(run("stopped") / f"{POINT.replace('/', '-')}.zip", device="cpu")
    assert (again.num_timesteps, again._n_updates) == (whole.num_timesteps, whole._n_updates)
    assert same(state_of(again), state_of(whole))
    evaluations = [dict(np.load(run(folder) / "evaluations.npz")) for folder in ("whole", "stopped")]
    assert np.array_equal(evaluations[0]["timesteps"], evaluations[1]["timesteps"])
    with pytest.raises(ValueError, match="-n must be more than the 480 steps"):
        zoo.train(["--resume", str(run("stopped")), "-n", "480"])
    with pytest.raises(ValueError, match="--resume must be the folder of a run"):
        zoo.train(["--resume", str(tmp_path)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collectors:0"], "collectors must be an integer of at least 1, or a dictionary of arguments by name, got 0"),
        (["collectors:dict(k=2)"], "collectors must hold arguments of RayCollectors, got 'k'"),
        (
            ["collectors:2", "vec_env_wrapper:'stable_baselines3.common.vec_env.VecMonitor'"],
            "collectors must be left out with a vec_env_wrapper, got 2",
        ),
    ],
)
def test_collectors_that_cannot_be(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.train(["--env", POINT, "-n", "100", "-f", str(tmp_path), "-params", *words])
    with pytest.raises(ValueError, match="collectors must be left out with --optimize, got 2"):
        zoo.train(["--env", POINT, "-f", str(tmp_path), "--optimize", "-params", "collectors:2"])
