"""A study's file: what it means, and one sentence for each mistake in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_metra.cli import main
from sb3_metra.hyperparams import load_settings
from sb3_metra.study.plan import SHIPPED, Study, find_study, make_study, read_study
from sb3_metra.study.trial import METHODS

POINT, CHEETAH = "sb3_metra/PointMass-v0", "sb3_metra/HalfCheetah-v0"
SMALL: dict[str, Any] = {
    "methods": ["metra", "csf"],
    "environments": {POINT: {"n_timesteps": 5000, "eval_freq": 1000}, CHEETAH: {}},
    "seeds": [0, 7],
    "changes": {"shipped": {}, "wide": {"policy_kwargs": "dict(net_arch=[512, 512])", "gamma": "9e-1"}},
    "eval_freq": 20000,
    "retries": 3,
}
ONE = SMALL | {"methods": ["metra"], "environments": [POINT], "changes": {"shipped": {}}}


def test_a_study_is_a_product() -> None:
    study = make_study("x", SMALL)
    assert len(study.trials) == 2 * 2 * 2 * 2
    trial = study.trials["csf_sb3_metra-PointMass-v0_wide_s7"]
    assert (trial.method, trial.env, trial.seed, trial.change) == ("csf", POINT, 7, "wide")
    assert (trial.steps, trial.eval_freq, trial.eval_episodes) == (5000, 1000, 48)
    assert trial.settings["policy_kwargs"] == {"net_arch": [512, 512]}
    assert trial.settings["gamma"] == 0.9
    assert trial.settings["contrast_coef"] == 5.0
    shipped = load_settings(CHEETAH)
    steps = shipped.pop("n_timesteps")
    plain = study.trials["metra_sb3_metra-HalfCheetah-v0_shipped_s0"]
    assert (plain.settings, plain.steps, plain.eval_freq) == (shipped, steps, 20000)
    assert (study.retries, study.cpus, study.device) == (3, 1.0, "cpu")
    assert Study.from_json(json.loads(json.dumps(study.as_json()))) == study


def test_later_blocks_win_and_null_takes_away() -> None:
    content = {
        "methods": {"metra": {"gamma": 0.3, "tau": 0.1}},
        "environments": {POINT: {"gamma": 0.2, "n_envs": 3}},
        "seeds": [0],
        "settings": {"gamma": 0.1, "n_envs": 2, "batch_size": 64},
        "changes": {"a": {"tau": 0.2, "objective_batch_size": None}},
        "gpus": 0.5,
    }
    study = make_study("x", content)
    (trial,) = study.trials.values()
    values = [trial.settings[name] for name in ("gamma", "tau", "n_envs", "batch_size")]
    assert values == [0.3, 0.2, 3, 64]
    assert "objective_batch_size" not in trial.settings
    assert study.device == "cuda"


def test_the_authors_settings_can_be_asked_for() -> None:
    content = {"methods": ["metra"], "environments": ["sb3_metra/Ant-v0"], "seeds": [0], "paper": True}
    (trial,) = make_study("x", content).trials.values()
    assert trial.settings["dual_lambda"] == load_settings("sb3_metra/Ant-v0", paper=True)["dual_lambda"]


def test_the_documented_file_is_read() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "guide" / "scale.md").read_text(encoding="utf-8")
    block = page.partition("```yaml\n")[2].partition("```")[0]
    study = make_study("study", yaml.safe_load(block))
    assert len(study.trials) == 3 * 2 * 4 * 2
    trial = study.trials["genda_sb3_metra-Ant-v0_wide_s3"]
    assert (trial.steps, trial.eval_freq, trial.settings["learning_rate"]) == (1_000_000, 50_000, "lin_1e-3")


def test_collectors_are_a_number_or_arguments_and_can_be_taken_away() -> None:
    changes = {
        "some": {"collectors": 2},
        "named": {"collectors": "dict(n=3, max_staleness=0, timeout=60)"},
        "none": {"collectors": None},
    }
    study = make_study("x", ONE | {"settings": {"collectors": {"num_cpus": 0.5}}, "changes": changes})
    named = {trial.change: trial.settings.get("collectors") for trial in study.trials.values()}
    assert named == {
        "some": {"n": 2, "num_cpus": 1},
        "named": {"n": 3, "num_cpus": 1, "max_staleness": 0, "timeout": 60.0},
        "none": None,
    }
    assert Study.from_json(json.loads(json.dumps(study.as_json()))) == study
    for option in ("--jobs", "--slurm"):
        sentence = f"collectors must run on Ray: leave out {option}, or take collectors out of the study"
        with pytest.raises(ValueError, match=sentence):
            study.check_without_ray(option)


def test_the_arena_has_every_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study("arena")
    assert {trial.method for trial in study.trials.values()} == set(METHODS)
    assert {trial.env for trial in study.trials.values()} == {POINT, CHEETAH}
    monkeypatch.chdir(tmp_path)
    assert find_study("arena.yml") == SHIPPED / "arena.yml"
    (tmp_path / "arena.yml").write_text("{}")
    assert find_study("arena.yml") == Path("arena.yml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metods": ["metra"]}, "a study must hold known keys only, got 'metods': did you mean 'methods'?"),
        ({"zzz": 1}, "got 'zzz': it has cell_size, "),
        ({"methods": None}, "a study must name its methods, got None"),
        ({"methods": ["metr"]}, "methods must be of .*visr, got 'metr': did you mean 'metra'?"),
        ({"methods": "metra"}, "methods must be a list of names, or settings by name, got 'metra'"),
        ({"methods": ["csf", "csf"]}, "methods must name each once"),
        ({"environments": ["sb3_metra/Pointmass-v0"]}, "environments must be registered, got 'sb3_metra/Pointmass-v0'"),
        ({"environments": ["no_such_module:X-v0"]}, "environments must be registered, got 'no_such_module:X-v0': No"),
        ({"environments": ["dmc/cheetah"]}, "as dmc/DOMAIN-TASK, got 'dmc/cheetah'"),
        ({"seeds": 3}, r"seeds must be a list of different integers, such as \[0, 1, 2\], got 3"),
        ({"seeds": [0, 0]}, "seeds must be a list of different integers"),
        ({"seeds": [-1]}, "a seed must be an integer between 0 and 4294967295, got -1"),
        ({"changes": {"a/b": {}}}, "changes must have names of letters, digits .*, got 'a/b'"),
        ({"changes": {"a": 3}}, "changes: a must be a dictionary by name, got 3"),
        ({"settings": {"gama": 0.9}}, "settings must hold arguments of METRA, got 'gama': did you mean 'gamma'"),
        ({"settings": {"contrast_coef": 1.0}}, "settings must hold arguments of METRA, got 'contrast_coef'"),
        ({"settings": {"gamma": 2}}, "gamma must be a number between 0 and 1, got 2 in .* / metra / shipped"),
        ({"settings": {"seed": 2}}, "settings must not hold 'seed'"),
        ({"settings": {"n_envs": 0}}, "n_envs must be an integer of at least 1, got 0"),
        ({"settings": {"n_timesteps": None}}, "settings must hold n_timesteps"),
        ({"settings": {"policy_kwargs": "dict(f=print())"}}, "policy_kwargs must be a dictionary, or words such as"),
        ({"settings": {"collectors": 0}}, "collectors must be an integer of at least 1, or a dictionary .*, got 0 in "),
        ({"settings": {"collectors": "two"}}, "collectors must be a dictionary, or words such as .*, got 'two'"),
        (
            {"settings": {"collectors": {"n": 2, "time_out": 3}}},
            "collectors must hold arguments of RayCollectors, got 'time_out': did you mean 'timeout'.* / shipped",
        ),
        (
            {"settings": {"collectors": {"timeout": 0}}},
            "timeout must be a finite number greater than 0, or None, got 0 in collectors in .* / metra / shipped",
        ),
        ({"settings": {"collectors": {"address": "auto"}}}, "collectors must not hold 'address'"),
        ({"settings": {"collectors": 2, "overlap": True}}, "overlap must be False with collectors, got True in "),
        ({"settings": {"collectors": {"env": POINT}}}, "collectors must not hold 'env'"),
        ({"cpus": 0}, "cpus must be a finite number greater than 0, got 0"),
        ({"gpus": -1}, "gpus must be a number between 0 and 1, or a whole number of at least 2, got -1"),
        ({"gpus": 1.5}, "gpus must be a number between 0 and 1, or a whole number of at least 2, got 1.5"),
        ({"device": "gpu"}, "device must be a device of PyTorch, such as cuda, got 'gpu'"),
        ({"retries": 1.5}, "retries must be an integer of at least 0, got 1.5"),
        ({"eval_freq": 0}, "eval_freq must be an integer of at least 1, got 0"),
        ({"scheduler": "pbt"}, "scheduler must be of asha, median, got 'pbt'"),
    ],
)
def test_a_mistake_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make_study("x", ONE | change)
    assert "\n" not in str(raised.value)


def test_what_is_no_study_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.yml").write_text("[1, 2]")
    (tmp_path / "torn.yml").write_text("a: [")
    for name, message in (
        ("missing.yml", "STUDY must be a YAML file or a shipped study (arena), got"),
        ("list.yml", "a study must be a dictionary by name, got [1, 2]"),
        ("torn.yml", "which cannot be read"),
    ):
        assert main(["study", str(tmp_path / name), "--jobs", "1", "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
