"""Runs of strangers: enjoy and train -i open their files, and run nothing that those hold unless they are trusted."""

from __future__ import annotations

import io
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml

from sb3_metra import METRA
from sb3_metra.cli import main
from tests.test_strangers_files import Payload, mark, poison_data, poison_tensors  # noqa: F401

pytest.importorskip("rl_zoo3")

from sb3_metra.zoo_files import check_own_words, read_settings

POINT = "sb3_metra/PointMass-v0"
TINY = ["n_envs:1", "train_freq:50", "learning_starts:60", "gradient_steps:1", "batch_size:16", "buffer_size:500"]
TINY += ["objective_batch_size:None", "policy_kwargs:dict(net_arch=[8])", "phi_kwargs:dict(net_arch=[8])"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``train`` leaves behind: a model on normalised observations, its replay, settings and statistics."""
    folder = tmp_path_factory.mktemp("logs")
    arguments = ["--env", POINT, "-n", "100", "--eval-freq", "-1", "-f", str(folder), "--save-replay-buffer"]
    assert main(["train", *arguments, "-params", *TINY, "normalize:dict(norm_reward=False)"]) == 0
    return folder / "metra" / "sb3_metra-PointMass-v0_1"


@pytest.fixture
def stranger(run: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(run, tmp_path / "metra" / run.name))


def enjoy(run: Path, *words: str) -> int:
    return main(["enjoy", "--env", POINT, "-f", str(run.parents[1]), "--no-render", "-n", "100", *words])


def go_on(run: Path, out: Path, *words: str) -> int:
    arguments = ["--env", POINT, "-n", "50", "--eval-freq", "-1", "-f", str(out), "-i", str(model_of(run))]
    return main(["train", *arguments, *words, "-params", *TINY, "normalize:True"])


def model_of(run: Path) -> Path:
    return run / "sb3_metra-PointMass-v0.zip"


def settings_of(run: Path) -> Path:
    return run / "sb3_metra-PointMass-v0"


def poison_statistics(run: Path, mark: Path) -> None:  # noqa: F811
    assert (settings_of(run) / "vecnormalize.pkl").is_file()
    (settings_of(run) / "vecnormalize.pkl").write_bytes(pickle.dumps(Payload(mark)))


def test_statistics_come_from_the_model(
    stranger: Path,
    mark: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poison_statistics(stranger, mark)
    seen: list[Any] = []
    predict = METRA.predict
    monkeypatch.setattr(
        METRA, "predict", lambda self, *args, **kwargs: seen.append(args[0]) or predict(self, *args, **kwargs)
    )
    assert enjoy(stranger) == 0
    assert "Episode Length 100" in capsys.readouterr().out
    carried = METRA.load(model_of(stranger), device="cpu").normalization
    assert seen[0] == pytest.approx(carried.normalize(0.0 * seen[0]), abs=0.5)  # an episode begins about the origin
    assert go_on(stranger, tmp_path / "out") == 0
    assert "with replay" in capsys.readouterr().out
    went_on = METRA.load(
        tmp_path / "out" / "metra" / "sb3_metra-PointMass-v0_1" / model_of(stranger).name, device="cpu"
    )
    assert went_on.normalization.count == pytest.approx(carried.count + 51)
    assert not mark.exists()
    assert enjoy(stranger, "--trust") != 0  # now it is opened
    assert mark.exists()


def test_a_model_of_an_earlier_version_needs_trust(
    stranger: Path,
    mark: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from stable_baselines3.common.base_class import BaseAlgorithm

    model = METRA.load(model_of(stranger), device="cpu")
    vars(model).pop("_normalization")
    BaseAlgorithm.save(model, model_of(stranger))
    (stranger / "replay_buffer.pkl").write_bytes(pickle.dumps(model.replay_buffer))
    for command in (lambda *words: enjoy(stranger, *words), lambda *words: go_on(stranger, tmp_path / "out", *words)):
        assert command() != 0
        assert "must be trusted" in capsys.readouterr().err
        assert command("--trust") == 0
    model.save(model_of(stranger))  # plain, but without the statistics
    assert enjoy(stranger) != 0
    assert "vecnormalize.pkl must be trusted" in capsys.readouterr().err


def test_replay_of_strangers_is_not_unpickled(
    stranger: Path,
    mark: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (stranger / "replay_buffer.pkl").write_bytes(pickle.dumps(Payload(mark)))
    assert go_on(stranger, tmp_path / "out") != 0
    assert "replay_buffer.pkl must be trusted" in capsys.readouterr().err
    assert not mark.exists()
    (stranger / "replay_buffer.pkl").unlink()
    assert go_on(stranger, tmp_path / "out") == 0
    assert "without replay" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["config.yml", "args.yml"])
def test_settings_of_strangers_do_not_run(
    name: str,
    stranger: Path,
    mark: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = settings_of(stranger) / name
    calls = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]"
    path.write_text(path.read_text() + f"- - - evil\n    - {calls}\n")
    assert enjoy(stranger) != 0
    assert f"{name} must hold plain settings, got others: could not determine a constructor" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normalize", "__import__('pathlib').Path({mark!r}).touch()", "must hold keywords as normalize, got"),
        ("normalize", "dict(a=__import__('pathlib').Path({mark!r}).touch())", "must hold keywords as normalize, got"),
        ("env_wrapper", "os.system", "must name wrappers of known packages as env_wrapper, got 'os.system'"),
        ("env_wrapper", [{"subprocess.Popen": {}}], "as env_wrapper, got 'subprocess.Popen'"),
        ("vec_env_wrapper", "sb3_metra.common.saving.write_model", "as vec_env_wrapper, got 'sb3_metra.common"),
        ("env_wrapper", {"gymnasium.wrappers.RecordVideo": {"video_folder": "a"}}, "got 'gymnasium.wrappers.RecordV"),
    ],
)
def test_settings_that_rl_zoo3_would_evaluate_are_refused(
    key: str,
    value: Any,
    message: str,
    stranger: Path,
    mark: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = settings_of(stranger) / "config.yml"
    with path.open() as file:
        settings = read_settings(file)
    settings[key] = value.format(mark=str(mark)) if isinstance(value, str) else value
    path.write_text(yaml.dump(settings))
    assert enjoy(stranger) != 0
    assert message in capsys.readouterr().err
    assert not mark.exists()


def test_what_rl_zoo3_writes_is_read() -> None:
    wrappers: list[Any] = ["gymnasium.wrappers.TimeAwareObservation", {"sb3_metra.zoo.follow_skills": {"model": "a"}}]
    settings = OrderedDict(
        a=(1, (2,)), b=dict, c=None, d=1e-3, env_wrapper=wrappers, normalize="{'norm_obs': True}", e=OrderedDict(f=[1])
    )
    read = read_settings(io.StringIO(yaml.dump(settings)))
    assert read == settings | {"b": "builtins.dict", "normalize": {"norm_obs": True}}
    assert type(read) is OrderedDict
    assert read_settings(io.StringIO("normalize: dict(norm_obs=True, clip_obs=5.0)")) == {
        "normalize": {"norm_obs": True, "clip_obs": 5.0}
    }


def test_models_of_strangers_do_not_run(stranger: Path, mark: Path) -> None:  # noqa: F811
    poison_data(model_of(stranger), mark)
    poison_tensors(model_of(stranger), mark)
    assert enjoy(stranger) == 0
    assert not mark.exists()


def test_models_of_other_packages_need_trust(
    stranger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["enjoy", "--algo", "sac"], ["train", "--algo", "sac", "-i", str(model_of(stranger))]):
        assert main([*command, "--env", POINT, "-f", str(tmp_path)]) != 0
        assert "--algo sac must be trusted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--gym-packages", "evil"],
        ["--gym-pack", "evil"],
        ["--conf-file", "evil.yml"],
        ["--conf-file=evil.yml"],
        ["--trust"],
        ["-ievil.zip"],
        ["--env", "evil:Evil-v0"],
        ["-params", "gamma:__import__('os').system('true')"],
        ["-params", "policy_kwargs:dict(a=print(1))"],
        ["-params", "policy_kwargs:'dict(a=print(1))'"],
        ["-params", "gamma:0.9", "env_wrapper:'os.system'"],
        ["--env-kwargs", "a:open('b')"],
        ["-params", "callback:'evil.Evil'"],
        ["-params", "replay_buffer_class:'evil.Evil'"],
        ["-n", 3],
    ],
)
def test_words_of_a_strangers_run_that_could_run_code_are_refused(words: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"runs/a must be trusted, because .* could run code; add --trust"):
        check_own_words("runs/a", words)


def test_words_of_ones_own_run_are_taken() -> None:
    words = ["--paper", "--env", POINT, "-n", "100", "--eval-freq", "-1", "-f", "logs", "-params", *TINY]
    words += ["ent_coef:'auto_0.01'", "learning_rate:'lin_1e-3'", "normalize:dict(norm_obs=True)", "tau:(1, [2e-3])"]
    check_own_words("run", [*words, "env_wrapper:'gymnasium.wrappers.TimeAwareObservation'", "--seed", "3"])
