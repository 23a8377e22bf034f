"""Studies on Ray: the results of a study without it, early stopping, nodes that cannot take part, no cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sb3_metra.cli import main
from sb3_metra.study.attempt import attempt
from sb3_metra.study.folder import opened, read_result, to_run
from sb3_metra.study.plan import make_study
from sb3_metra.study.results import collect
from tests.test_study import FIRST, POINT, SECOND, TINY, results

pytestmark = pytest.mark.slow
ray: Any
on_ray: Any


@pytest.fixture(scope="module", autouse=True)
def _imports() -> None:
    """Ray's tuner, which takes a second to import: not while tests are collected that leave these out."""
    global ray, on_ray
    ray = pytest.importorskip("ray")
    on_ray = pytest.importorskip("sb3_metra.study.on_ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def test_ray_gives_what_one_process_gives(cluster: None, file: Path, tmp_path: Path) -> None:
    assert main(["study", str(file), "--out", str(tmp_path / "ray")]) == 0
    study = make_study("tiny", TINY)
    with opened(study, tmp_path / "here") as mark:
        for name in study.trials:
            attempt(str(tmp_path / "here"), name, mark)
    assert main(["study", str(file), "--out", str(tmp_path / "here")]) == 0  # nothing is left to run
    assert results(tmp_path / "ray") == results(tmp_path / "here")
    longer = tmp_path / "longer.yml"
    longer.write_text(yaml.safe_dump(TINY | {"seeds": [0, 1, 2]}))
    assert main(["study", str(longer), "--out", str(tmp_path / "ray")]) == 0
    assert {row["seed"] for row in results(tmp_path / "ray")} == {"0", "1", "2"}


def test_a_trial_that_cannot_work_fails_and_the_others_go_on(cluster: None, tmp_path: Path) -> None:
    """One environment cannot be built, and one trial's folder is what a full disk makes of it."""
    environments = {**TINY["environments"], "sb3_metra/HalfCheetah-v0": {"n_timesteps": 600, "env_kwargs": {"x": 1}}}
    study = make_study("tiny", TINY | {"environments": environments, "retries": 0})
    with opened(study, tmp_path / "out") as mark:
        (tmp_path / "out" / SECOND).mkdir()
        (tmp_path / "out" / SECOND / "progress.csv").mkdir()  # cannot be written
        on_ray.run_ray(study, tmp_path / "out", mark, None, lambda names: None)
    assert read_result(tmp_path / "out" / FIRST)["status"] == "finished"
    second = read_result(tmp_path / "out" / SECOND)
    assert second["status"] == "failed"
    assert "Error" in second["error"]
    for seed in (0, 1):
        cheetah = read_result(tmp_path / "out" / f"diayn_sb3_metra-HalfCheetah-v0_s{seed}")
        assert cheetah["status"] == "failed"
        assert "'x'" in cheetah["error"]


def test_a_trial_that_cannot_begin_fails(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dies(ray.tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            os._exit(1)

    monkeypatch.setattr(on_ray, "_make_trainable", lambda: Dies)
    study = make_study("tiny", TINY | {"seeds": [0], "retries": 0})
    with opened(study, tmp_path / "out") as mark:
        on_ray.run_ray(study, tmp_path / "out", mark, None, lambda names: None)
    result = read_result(tmp_path / "out" / FIRST)
    assert result["status"] == "failed"
    assert len(result["error"]) > 10


def test_an_interrupted_study_keeps_its_checkpoints(cluster: None, tmp_path: Path) -> None:
    """Tune ends its trials if it is interrupted, but they have not ended."""
    environments = {POINT: {"n_timesteps": 1_000_000, "eval_freq": 1000}}
    study = make_study("tiny", TINY | {"seeds": [0], "checkpoint_minutes": 1e-9, "environments": environments})
    out, sent = tmp_path / "out", []

    def show(running: set[str]) -> None:
        if not sent and (out / FIRST / "progress.csv").is_file():
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)

    with opened(study, out) as mark:
        on_ray.run_ray(study, out, mark, None, show)
    assert to_run(study, out) == [FIRST]
    assert list((out / FIRST / "checkpoints").glob("step_*"))


def test_what_does_not_fit_on_a_node_is_refused(cluster: None, tmp_path: Path) -> None:
    for need in ({"cpus": 64}, {"gpus": 0.5, "device": "cpu"}):
        study = make_study("tiny", TINY | need)
        with (
            opened(study, tmp_path / str(need)) as mark,
            pytest.raises(ValueError, match=r"pus.* must fit on one node of the cluster \(1 x 2 CPUs\), got "),
        ):
            on_ray.run_ray(study, tmp_path / str(need), mark, None, lambda names: None)


def test_a_trial_begins_once_there_is_room_for_its_collectors(cluster: None, tmp_path: Path) -> None:
    """Two CPUs hold one trial and its collector, while another waits. One that is waited for changes nothing."""
    apart = {"collectors": {"n": 1, "max_staleness": 0}}
    content = TINY | {"seeds": [0], "changes": {"plain": {}, "apart": apart}}
    study, out = make_study("tiny", content), tmp_path / "out"
    with opened(study, out) as mark:
        on_ray.run_ray(study, out, mark, None, lambda names: None)
    assert {name: read_result(out / name)["status"] for name in study.trials} == dict.fromkeys(study.trials, "finished")
    rows: dict[str, list[Any]] = {"plain": [], "apart": []}
    others = {
        "cpu_seconds",
        "queue_state_coverage",
        "total_state_coverage",
    }  # where an episode begins is not played back
    for row in collect([out / name for name in study.trials]):
        rows[row.pop("change")].append({name: x for name, x in row.items() if name not in others})
    assert rows["apart"] == rows["plain"]
    assert len(rows["plain"]) == 3
    study = make_study("tiny", TINY | {"settings": TINY["settings"] | {"collectors": 2}})
    sentence = r"collectors must be at most 1, with 1 CPUs each beside the trial's own 1, .* \(1 x 2 CPUs\), got 2"
    with opened(study, tmp_path / "large") as mark, pytest.raises(ValueError, match=sentence):
        on_ray.run_ray(study, tmp_path / "large", mark, None, lambda names: None)


def test_a_cluster_that_is_not_there_is_one_sentence(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray.ray, "is_initialized", lambda: False)
    for address, message in (
        ("127.0.0.1:1", "the address of a running Ray cluster, got '127.0.0.1:1': "),
        ("nonsense", "the address of a running Ray cluster, got 'nonsense': "),
        ("ray://127.0.0.1:1", "HOST:PORT, or auto, on a machine of the cluster, got 'ray://127.0.0.1:1'"),
    ):
        assert main(["study", str(file), "--out", str(tmp_path / "out"), "--address", address]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"--address must be {message}" in last


def test_a_node_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sb3_metra.study.attempt", None)
    with pytest.raises(RuntimeError, match="must have sb3_metra, as the study has"):
        on_ray._make_trainable()({"run": {}})


def test_poor_trials_are_stopped_within_their_environment() -> None:
    content = TINY | {
        "environments": {POINT: {"n_timesteps": 6000}, "sb3_metra/HalfCheetah-v0": {"n_timesteps": 600}},
        "eval_freq": 100,
        "scheduler": {"name": "asha", "grace_period": 100, "reduction_factor": 2},
    }
    scheduler = on_ray._PerEnvironment(make_study("tiny", content))

    def decision(name: str, env: str, coverage: float) -> str:
        trial: Any = SimpleNamespace(trial_id=name, config={"run": {"env": env}})
        if name not in seen:
            scheduler.on_trial_add(None, trial)
        seen.add(name)
        return scheduler.on_trial_result(None, trial, {"steps": 100, "coverage": coverage, "training_iteration": 1})

    seen: set[str] = set()
    assert decision("a", POINT, 100) == "CONTINUE"
    assert decision("b", POINT, 200) == "CONTINUE"
    assert decision("c", POINT, 10) == "STOP"
    assert decision("d", "sb3_metra/HalfCheetah-v0", 5) == "CONTINUE"
    for wrong in ({"name": "asha", "grace": 1}, {"name": "asha", "reduction_factor": 0.5}, {"name": "median", "x": 2}):
        with pytest.raises(ValueError, match="scheduler must"):
            on_ray._PerEnvironment(make_study("tiny", content | {"scheduler": wrong}))


def test_a_scheduler_stops_trials(cluster: None, tmp_path: Path) -> None:
    """ASHA ends every trial at its ``max_t``, long before its own end; what it logged until then stays."""
    content = TINY | {
        "environments": {POINT: {"n_timesteps": 1_000_000}},
        "eval_freq": 200,
        "scheduler": {"name": "asha", "grace_period": 200, "max_t": 400},
    }
    study, out = make_study("tiny", content), tmp_path / "out"
    with opened(study, out) as mark:
        on_ray.run_ray(study, out, mark, None, lambda names: None)
    for name in study.trials:
        result = read_result(out / name)
        assert result["status"] == "stopped"
        assert 400 <= result["steps"] < 1_000_000
        assert not (out / name / "checkpoints").exists()
    assert {row["seed"] for row in collect([out / name for name in study.trials])} == {0, 1}
    assert to_run(study, out) == []


def test_a_node_that_dies_costs_no_trial(tmp_path: Path) -> None:
    """One of two nodes is killed while its trial runs: the trial goes on from its checkpoint on the other one."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    content = TINY | {"checkpoint_minutes": 1e-9, "environments": {POINT: {"n_timesteps": 6000, "eval_freq": 1000}}}
    study, out, begun = make_study("tiny", content), tmp_path / "out", []
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)

    def show(running: set[str]) -> None:
        if not begun and all(list((out / name / "checkpoints").glob("step_*")) for name in (FIRST, SECOND)):
            begun.append(True)
            nodes.remove_node(second, allow_graceful=False)

    try:
        with opened(study, out) as mark:
            on_ray.run_ray(study, out, mark, nodes.address, show)
            assert begun
            assert [read_result(out / name)["status"] for name in study.trials] == ["finished"] * 2
        with opened(study, tmp_path / "here") as mark:
            for name in study.trials:
                attempt(str(tmp_path / "here"), name, mark)
    finally:
        ray.shutdown()
        nodes.shutdown()
    kept, expected = (collect([folder / name for name in study.trials]) for folder in (out, tmp_path / "here"))
    for row in kept + expected:
        del row["cpu_seconds"]
    assert kept == expected
