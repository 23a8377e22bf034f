"""Trials on Ray: a cluster, or this machine. The only module that imports it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

try:
    import ray
    from ray import tune
    from ray.tune.experiment import Trial as TuneTrial
    from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
except ImportError as error:
    raise ImportError(
        f'a study on Ray needs it ({error}): pip install "sb3-metra[distributed]", or run it without, by --jobs 2'
    ) from error

from sb3_metra.cluster import check_room, connect, live_nodes
from sb3_metra.common.arguments import check_names
from sb3_metra.study.folder import end_trial, fail_trial, read_error, read_result, to_run
from sb3_metra.study.local import Show
from sb3_metra.study.plan import Study
from sb3_metra.study.trial import Trial

_SCHEDULERS = {"asha": AsyncHyperBandScheduler, "median": MedianStoppingRule}


def run_ray(study: Study, out: Path, mark: str, address: str | None, show: Show) -> None:
    """
    Run a study's trials as trials of Ray Tune, as many at once as there are CPUs and GPUs for them.

    :param study: the study
    :param out: its folder, which all nodes see under this path
    :param mark: of the study
    :param address: of a cluster, ``auto`` for the one that this machine belongs to; ``None``: one on this machine
    :param show: called from time to time
    :raises ValueError: if the cluster cannot be reached or the scheduler not made
    """
    names = to_run(study, out)
    scheduler = _PerEnvironment(study) if study.scheduler is not None else FIFOScheduler()
    if not names:
        return
    if address is not None and address.startswith("ray://"):  # whose callbacks would run elsewhere
        raise ValueError(f"--address must be HOST:PORT, or auto, on a machine of the cluster, got {address!r}")
    started = connect("--address", address)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # each trial writes its own log
    try:
        _check_room(study, names)
        needs = {name: _needs(study, study.trials[name]) for name in names}
        configs = [
            {"trial": name, "env": study.trials[name].env, "out": str(out.resolve()), "mark": mark} for name in names
        ]
        tuner = tune.Tuner(
            tune.with_resources(_make_trainable(), _asking_for(needs)),
            param_space={"run": tune.grid_search(configs)},
            tune_config=tune.TuneConfig(scheduler=scheduler, reuse_actors=False),  # a process for each
            run_config=tune.RunConfig(
                name=mark,
                storage_path=str(out.resolve() / "ray"),
                failure_config=tune.FailureConfig(max_failures=study.retries),
                callbacks=[_Watch(out, show)],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        if started:
            ray.shutdown()


def _check_room(study: Study, names: Iterable[str]) -> None:
    """Refuse trials that there is no room for, with all of their collectors: they would wait forever."""
    nodes = live_nodes()
    for named in map(_collectors, (study.trials[name] for name in names)):
        check_room(nodes, "collectors", named["n"], named["num_cpus"], {"CPU": study.cpus, "GPU": study.gpus})


def _collectors(trial: Trial) -> dict[str, Any]:
    return trial.settings.get("collectors") or {"n": 0, "num_cpus": 0.0}


def _needs(study: Study, trial: Trial) -> list[dict[str, float]]:
    """What a trial takes, its own first; each of its collectors may be on another node. It begins once all is free."""
    named = _collectors(trial)
    return [{"CPU": study.cpus, "GPU": study.gpus}, *({"CPU": named["num_cpus"]} for _ in range(named["n"]))]


def _asking_for(needs: dict[str, list[dict[str, float]]]) -> Callable[[dict[str, Any]], tune.PlacementGroupFactory]:
    """A function inside a function, as in :func:`_make_trainable`."""
    return lambda config: tune.PlacementGroupFactory(
        [bundle for bundle in needs[config["run"]["trial"]] if any(bundle.values())]
    )


def _make_trainable() -> Callable[[dict[str, Any]], None]:
    """A function inside a function is sent whole: a node that lacks this package can still say so."""

    def run_trial(config: dict[str, Any]) -> None:
        """Run one trial on the node that Ray chose."""
        import platform

        from ray import tune

        run = config["run"]
        try:
            from sb3_metra.study.attempt import attempt
        except ImportError as error:
            raise RuntimeError(f"{platform.node()} must have sb3_metra, as the study has: {error}") from None
        result = attempt(run["out"], run["trial"], run["mark"], tune.report)
        if result["status"] != "failed":
            tune.report({name: result[name] for name in ("steps", "coverage", "cpu_seconds")})

    return run_trial


class _Watch(tune.Callback):
    """
    Shows how far the study is, and writes down how trials end.

    :param out: the study's folder
    :param show: called with the names of running trials
    """

    def __init__(self, out: Path, show: Show) -> None:
        self.out, self.show = out, show

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune writes its callbacks down, to restore them; a study restores itself from its folder."""
        return tune.Callback, ()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Called in each turn of Tune's loop."""
        self.show({trial.config["run"]["trial"] for trial in trials if trial.status == "RUNNING"})

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Called if a trial has ended, by itself or by the scheduler; not if the study is interrupted."""
        place = self.out / trial.config["run"]["trial"]
        if not read_result(place):
            end_trial(place, "stopped")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Called if a trial has failed, and is not tried again."""
        place = self.out / trial.config["run"]["trial"]
        if not read_result(place):
            text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
            fail_trial(place, read_error(place, (text.strip().splitlines() or ["Ray does not say why"])[-1]))


class _PerEnvironment(FIFOScheduler):
    """
    One of Tune's schedulers for each environment, because coverage can be compared within one only.

    :param study: names the scheduler and its arguments
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        own = dict(study.scheduler or {})
        kind = _SCHEDULERS[own.pop("name")]
        check_names("scheduler", own, kind, {"time_attr", "metric", "mode"})
        self.own: dict[str, TrialScheduler] = {}
        for env in {trial.env: None for trial in study.trials.values()}:
            trials = [trial for trial in study.trials.values() if trial.env == env]
            arguments: dict[str, Any] = {"grace_period": trials[0].eval_freq}
            if kind is AsyncHyperBandScheduler:
                arguments["max_t"] = max(trial.steps for trial in trials)
            try:
                self.own[env] = kind(time_attr="steps", metric="coverage", mode="max", **arguments | own)
            except (AssertionError, TypeError, ValueError) as error:
                raise ValueError(f"scheduler must be one that Tune can make, got {study.scheduler}: {error}") from error

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The schedulers know the metric; Tune does not, because it would end the study if a trial reports none."""
        return True

    def _of(self, trial: TuneTrial) -> TrialScheduler:
        return self.own[trial.config["run"]["env"]]

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Called when a trial is added."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Called when a trial has failed."""
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Called with each evaluation; says whether to go on."""
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict) -> None:
        """Called when a trial has ended."""
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Called when a trial is taken out."""
        self._of(trial).on_trial_remove(tune_controller, trial)
