"""Where the doctor can look: every method, kind of observation and of skill; the callback, the command and the page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import ALGORITHMS, CSF, METRA
from sb3_metra.cli import main
from sb3_metra.common.skills import SpherePrior
from sb3_metra.doctor import CHECKS, DoctorCallback, diagnose, examine
from sb3_metra.doctor.examination import Examination, scale_actions
from sb3_metra.doctor.findings import CannotTell
from sb3_metra.doctor.log import RunLog
from sb3_metra.evaluation import SkillEvalCallback
from sb3_metra.hyperparams import load_settings
from tests.patients import EPISODE, STEP, hand_made, healthy_log, set_actor, set_phi, worlds
from tests.toys import COUNTED, TINY, Follower, grids, same, scripted_envs, state_of

ROOT = Path(__file__).parents[1]
NAMES = {check.name for check in CHECKS}
POINT = "sb3_metra/PointMass-v0"


def examination(model: Any = None, env: Any = None, log: Any = None) -> Examination:
    """What the checks look at."""
    return Examination(hand_made() if model is None else model, worlds() if env is None else env, RunLog(log))


def finding(name: str, model: Any, env: Any = None, log: Any = None) -> Any:
    """The finding of a name."""
    return next(x for x in diagnose(model, worlds() if env is None else env, log) if x.name == name)


# What is measured


def test_the_numbers_of_a_hand_made_model() -> None:
    exam = examination()
    assert len(exam.trajectories) == 16
    assert {len(trajectory) for trajectory in exam.trajectories} == {EPISODE}
    east = exam.trajectories[0]
    np.testing.assert_allclose(east.skill, [1.0, 0.0], atol=1e-7)
    reach = EPISODE * STEP * np.tanh(4.0)
    np.testing.assert_allclose(exam.skill_distances[0], reach, rtol=1e-5)
    np.testing.assert_allclose(exam.moves[0], [0.9 / STEP * reach, 0.0], atol=1e-4)
    np.testing.assert_allclose(exam.rewards[0], 0.9 * np.tanh(4.0), rtol=1e-4)
    np.testing.assert_allclose(exam.skill_actions[:, 0], np.broadcast_to([np.tanh(4.0), 0.0], (32, 2)), atol=1e-6)
    steps = np.concatenate([record.coordinates for record in exam.random_records])
    assert np.abs(np.diff(steps, axis=0)).max() <= EPISODE * STEP
    assert 0.1 < np.median(exam.random_distances) < 1.0  # of a walk of 24 steps of up to 0.1


def test_a_line_in_phi_is_told_from_a_plane() -> None:
    model = hand_made()
    set_phi(model, 0.9 / STEP * th.tensor([[1.0, 0.0], [0.0, 0.3]]))  # a ratio of 1.18
    evidence = finding("phi_one_direction", model).evidence
    assert "participation ratio 1.18" in evidence
    assert "2/π" in evidence
    set_phi(model, 0.9 / STEP * th.tensor([[1.0, 0.0], [0.0, 0.4]]))  # 1.31
    assert diagnose(model, worlds()) == []


def test_actions_are_compared_in_one_unit() -> None:
    box = spaces.Box(np.array([0.0, -2.0], np.float32), np.array([10.0, 2.0], np.float32))
    np.testing.assert_allclose(scale_actions(box, np.array([[0.0, 2.0], [5.0, 1.0]])), [[-1.0, 1.0], [0.0, 0.5]])
    numbers = scale_actions(spaces.Discrete(3, start=4), np.array([4, 6]))
    np.testing.assert_allclose(numbers, math.sqrt(6.0) * np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert math.sqrt(np.square(numbers[0] - numbers[1]).mean()) == pytest.approx(2.0)  # as -1 and 1 are
    pairs = scale_actions(spaces.MultiDiscrete([40, 25]), np.array([[39, 24], [39, 24], [0, 1]]))
    assert np.square(pairs[0] - pairs[1]).mean() == 0.0
    assert np.square(pairs[0] - pairs[2]).mean() == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        *((kind, METRA) for kind in COUNTED),
        *(pytest.param(kind, CSF, marks=[] if kind == "MultiBinary" else [pytest.mark.slow]) for kind in COUNTED),
    ],
)
def test_discrete_actions_are_examined(kind: str, algorithm: Any) -> None:
    env = grids(kind)
    model = algorithm("MlpPolicy", env, **TINY).learn(100)
    diagnosis = examine(model, env, n_episodes=4)
    assert {"actor_ignores_skill", "critics_diverge", "reward_leaks", "skills_stand_still"} <= {
        *diagnosis.passed,
        *(finding.name for finding in diagnosis.findings),
    }


def test_a_trend_needs_lines() -> None:
    model = hand_made()
    short = {name: values[:3] for name, values in healthy_log().items()}
    assert "3 lines" in _reason(model, short, "dual_lambda")
    assert "no column" in _reason(model, {"time/total_timesteps": np.arange(9.0)}, "dual_lambda")
    assert _reason(model, None, "dual_lambda") == "no log was given"
    log = RunLog(healthy_log(40))
    assert len(log.tail("dual_lambda")) == 10
    assert log.in_words("entropy", "entropy {}") == "; entropy -1.5"
    assert RunLog(None).in_words("entropy", "entropy {}") == ""


def _reason(model: Any, log: Any, column: str) -> str:
    with pytest.raises(CannotTell) as reason:
        examination(model, log=log).log.tail(column)
    return str(reason.value)


def test_lambda_that_grows_is_engaged() -> None:
    """Nothing violates the constraint in the last lines, but λ has not stopped growing."""
    log = healthy_log(constraint_violation=0.0)
    assert diagnose(hand_made(), worlds(), log) == []


# Who can be examined


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_method_is_examined(name: str) -> None:
    networks = {"DIAYN": "discriminator_kwargs", "DADS": "dynamics_kwargs"}.get(name, "phi_kwargs")
    kwargs = {key: value for key, value in TINY.items() if key != "phi_kwargs"} | {networks: {"net_arch": [8]}}
    model = ALGORITHMS[name]("MlpPolicy", worlds(), **kwargs).learn(64)
    before = state_of(model)
    diagnosis = examine(model, worlds(), n_episodes=8)
    assert same(before, state_of(model))
    phi_checks = {"constraint_never_engaged", "constraint_violated", "phi_one_direction", "phi_tells_postures"}
    without = {
        "METRA": set(),
        "GenDa": set(),
        "CSF": {"constraint_never_engaged", "constraint_violated"},
        "LSD": {"constraint_never_engaged", "constraint_violated"},
        "CSD": {"constraint_never_engaged", "constraint_violated"},
    }.get(name, phi_checks | {"phi_ignores_places"})
    assert diagnosis.unchecked.keys() - {"absorbing_state"} == without
    names = [*diagnosis.passed, *diagnosis.unchecked, *(found.name for found in diagnosis.findings)]
    assert sorted(names) == sorted(NAMES)
    assert not {"never_trained", "reward_leaks", "critics_diverge"} & {found.name for found in diagnosis.findings}


@pytest.mark.parametrize(("kind", "policy"), [("image", "CnnPolicy"), ("dict", "MultiInputPolicy")])
def test_images_and_dictionaries_are_examined(kind: str, policy: str) -> None:
    env = scripted_envs(2, (6,), kind)
    small = {"net_arch": [8]} | ({"features_extractor_kwargs": {"depth": 2}} if kind == "image" else {})
    model = METRA(policy, env, **(TINY | {"policy_kwargs": small}))
    diagnosis = examine(model, scripted_envs(2, (6,), kind), n_episodes=4)
    assert "coordinates" in diagnosis.unchecked["skills_stand_still"]
    assert ("observations_unequal" in diagnosis.unchecked) == (kind == "image")
    assert {"never_trained", "episodes_too_short"} <= {found.name for found in diagnosis.findings}


def test_what_a_stranger_does_not_tell_is_not_checked() -> None:
    stranger = Follower(worlds(), SpherePrior(2))
    diagnosis = examine(stranger, worlds())
    assert diagnosis.findings == []
    assert diagnosis.unchecked["phi_one_direction"] == "the method learns no phi"
    assert diagnosis.unchecked["critics_diverge"] == "the model has no gamma"
    assert {"actor_ignores_skill", "skills_stand_still", "starts_repeat"} <= set(diagnosis.passed)
    shy = examine(stranger, worlds(shy=True))
    assert shy.unchecked["skills_stand_still"] == 'the environment reports no info["coordinates"]'


def test_a_strangers_phi_is_taken_for_metras() -> None:
    class Knowing(Follower):
        def encode(self, observation: np.ndarray) -> np.ndarray:
            return observation @ np.array([[9.0, 9.0], [0.0, 0.0]])  # one direction

    assert {x.name for x in diagnose(Knowing(worlds(), SpherePrior(2)), worlds())} == {"phi_one_direction"}


def test_the_pages_check_of_ones_own_works() -> None:
    page = (ROOT / "docs" / "modules" / "doctor.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"model": hand_made(), "env": worlds()}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S):
        exec(block.replace('log="run"', "log=None"), names)
    own = examine(hand_made(), worlds(), checks=[names["skills_are_short"]])
    assert (
        own.findings[0].evidence == f"the farthest skill ends {2**0.5 * EPISODE * STEP:.2g} from its start"
    )  # a diagonal


def test_nothing_is_changed_by_a_visit() -> None:
    model = hand_made()
    before, drawn = state_of(model), th.get_rng_state()
    rng = model.skill_prior.rng.bit_generator.state
    first, second = examine(model, worlds()), examine(model, worlds())
    assert first == second
    assert same(before, state_of(model))
    assert th.equal(drawn, th.get_rng_state())
    assert rng == model.skill_prior.rng.bit_generator.state


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_episodes": 1}, "n_episodes must be an integer of at least 2, got 1"),
        ({"seed": -1}, "seed must be "),
        ({"log": {}}, "log must be a dictionary with at least one entry"),
        ({"log": "nowhere"}, "log must be a file, or a folder"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer"),
        ({"model": object()}, "model must have predict and a skill_prior"),
        ({"env": 3}, "env must be a Gymnasium environment"),
    ],
)
def test_bad_input_is_answered_at_once(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        examine(**({"model": Follower(worlds(), SpherePrior(2)), "env": worlds()} | kwargs))


# While a run learns


def learnt(callback: Any, folder: Path | None = None, steps: int = 1_600) -> METRA:
    model = METRA("MlpPolicy", worlds(), **(TINY | {"learning_starts": 100}))
    if folder is not None:
        model.set_logger(configure(str(folder), ["csv", "tensorboard"]))
    return model.learn(steps, callback)


def test_the_callback_looks_in_and_leaves_training_as_it_is(tmp_path: Path) -> None:
    callback = DoctorCallback(worlds(), eval_freq=800, n_episodes=8)
    watched, alone = learnt(callback, tmp_path), learnt(None)
    assert same(state_of(watched), state_of(alone))
    assert callback.last_diagnosis is not None
    assert "constraint_never_engaged" not in callback.last_diagnosis.unchecked
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in board.Scalars("doctor/errors")][-1] == len(callback.last_diagnosis.errors)
    (*_, last) = board.Tensors("doctor/diagnosis/text_summary")
    text = last.tensor_proto.string_val[0].decode()
    assert callback.last_diagnosis.verdict in text
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert "doctor/findings" in lines[0]
    assert "doctor/diagnosis" not in lines[0]


def test_the_callback_names_a_constraint_that_waits() -> None:
    model = METRA("MlpPolicy", worlds(), **(TINY | {"learning_starts": 100, "dual_lambda": 1e5}))
    callback = DoctorCallback(worlds(), n_episodes=8)
    model.learn(1_600, callback)
    assert callback.last_diagnosis is not None
    evidence = next(x.evidence for x in callback.last_diagnosis.findings if x.name == "constraint_never_engaged")
    assert "0.00% of the transitions" in evidence


def test_figures_and_the_verdict_land_in_one_log(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    evaluation = SkillEvalCallback(worlds(), eval_freq=800, n_skills=2, figures=True)
    learnt([evaluation, DoctorCallback(worlds(), n_episodes=2)], tmp_path, steps=200)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path)).Reload()
    assert {"eval/skills", "eval/phi"} <= set(board.Tags()["images"])
    assert "doctor/diagnosis/text_summary" in board.Tags()["tensors"]


def test_the_callback_goes_on_where_it_stopped() -> None:
    callback, later = DoctorCallback(worlds(), eval_freq=300), DoctorCallback(worlds(), eval_freq=300)
    learnt(callback, steps=400)
    state = json.loads(json.dumps(callback.get_state()))
    assert state["next_eval"] == 600
    later.set_state(state)
    assert later.get_state() == callback.get_state()


def test_the_callback_refuses_the_training_environment() -> None:
    env = worlds()
    with pytest.raises(ValueError, match="eval_env must be an environment of its own"):
        METRA("MlpPolicy", env, **TINY).learn(8, DoctorCallback(env))


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a healthy run of the point mass."""
    folder = tmp_path_factory.mktemp("run")
    hand_made(env=make_vec_env(POINT, 2)).save(folder / "model.zip")
    columns = healthy_log()
    rows = [",".join(map(repr, map(float, row))) for row in zip(*columns.values(), strict=True)]
    (folder / "progress.csv").write_text("\n".join([",".join(columns), *rows]))
    return folder


def test_the_command_has_a_status_for_scripts(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--env", POINT, "--n-episodes", "4", "--n-envs", "4", "--max-episode-steps", "20"]
    assert main(["doctor", str(run), *quick]) == 0
    assert capsys.readouterr().out.startswith("Healthy: nothing was found in ")
    deaf = METRA.load(run / "model.zip")
    set_actor(deaf, skill=th.zeros(2, 2))
    deaf._n_updates = 1
    deaf.save(tmp_path / "deaf.zip")
    assert main(["doctor", str(tmp_path / "deaf.zip"), *quick, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is False
    names = {one["name"] for one in told["findings"]}
    assert {"actor_ignores_skill", "skills_stand_still"} <= names
    assert set(told["findings"][0]) == {"name", "severity", "evidence", "healthy", "remedy", "read"}
    assert told["unchecked"].keys() | set(told["passed"]) | names == NAMES


def test_a_log_may_lie_elsewhere(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "waiting.csv"
    lines = ["time/total_timesteps,train/dual_lambda,train/constraint_violation"]
    log.write_text("\n".join([*lines, *(f"{step},{30 / (step + 1)},0" for step in range(8))]))
    arguments = ["doctor", str(run / "model.zip"), "--env", POINT, "--n-episodes", "2", "--log", str(log)]
    assert main(arguments) == 3
    assert "constraint_never_engaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-episodes", "1"], "--n-episodes must be an integer of at least 2, got 1"),
        (["--log", "nowhere"], "--log must be a file, or a folder"),
        (["--env", "Nowhere-v0"], "--env must be the id of a registered environment"),
    ],
)
def test_the_commands_mistakes(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(run), "--env", POINT, *arguments]) == 2
    assert message in capsys.readouterr().err


# The page


def test_the_page_has_a_row_for_every_finding() -> None:
    page = (ROOT / "docs" / "guide" / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (error|warning) \|", page, flags=re.MULTILINE)
    assert dict(rows) == {check.name: check.severity for check in CHECKS}
    assert len(rows) == len(CHECKS)


def test_every_finding_says_what_to_do_and_where_to_read_on() -> None:
    for check in CHECKS:
        assert (ROOT / check.read).is_file(), check.name
        assert check.healthy, check.name
        assert check.remedy, check.name
        assert check.look.__doc__, check.name


def test_another_logger_gets_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's lines for trackio, with a stand-in for it."""
    page = (ROOT / "docs" / "guide" / "doctor.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S) if "trackio" in block]
    logged: list[tuple[dict[str, Any], int]] = []

    class Trackio:
        init = staticmethod(lambda **_: None)
        finish = staticmethod(lambda: None)
        log = staticmethod(lambda metrics, step: logged.append((metrics, step)))

    monkeypatch.setitem(__import__("sys").modules, "trackio", Trackio)
    model = METRA("MlpPolicy", worlds(), **TINY)
    exec(code, {"model": model, "callback": DoctorCallback(worlds(), n_episodes=2), "n_timesteps": 200})
    metrics, step = logged[-1]
    assert step == model.num_timesteps
    assert metrics["doctor/findings"] >= 0
    assert any("train/dual_lambda" in metrics for metrics, _ in logged)
    assert all(isinstance(value, int | float) for metrics, _ in logged for value in metrics.values())


# Trained ones


def train(name: str, steps: int, **kwargs: Any) -> tuple[Any, DoctorCallback]:
    settings = load_settings(POINT) | {"seed": 0, "device": "cpu"} | kwargs
    settings = {key: value for key, value in settings.items() if key not in ("n_envs", "n_timesteps")}
    if name not in ("METRA", "GenDa", "CSD"):
        settings = {key: value for key, value in settings.items() if not key.startswith("dual_")}
    callback = DoctorCallback(make_vec_env(POINT, 8), eval_freq=10**9)
    model = ALGORITHMS[name](env=make_vec_env(POINT, 8, seed=0), **settings)
    return model.learn(steps, callback), callback


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "steps", "kwargs"),
    [
        ("METRA", 24_000, {}),
        ("METRA", 24_000, {"seed": 1}),
        ("METRA", 40_000, {"discrete": True, "skill_dim": 8}),
        ("GenDa", 24_000, {}),
        ("CSF", 24_000, {}),
    ],
)
def test_a_trained_model_is_healthy(name: str, steps: int, kwargs: dict[str, Any]) -> None:
    _, callback = train(name, steps, **kwargs)
    assert callback.last_diagnosis is not None
    assert callback.last_diagnosis.findings == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"dual_lambda": 1e4}, "constraint_never_engaged"),
        ({"dual_lambda": 1e-6}, "constraint_violated"),
        ({"buffer_size": 800, "batch_size": 512, "objective_batch_size": 512}, "few_skills_in_memory"),
        ({"buffer_size": 800, "batch_size": 512, "objective_batch_size": 512}, "phi_one_direction"),
        ({"ent_coef": 100.0}, "entropy_exploding"),
    ],
)
def test_settings_that_cannot_work_are_named(kwargs: dict[str, Any], expected: str) -> None:
    _, callback = train("METRA", 12_000, **kwargs)
    assert callback.last_diagnosis is not None
    assert expected in {finding.name for finding in callback.last_diagnosis.findings}
