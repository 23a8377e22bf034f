"""Gradient steps beside the next round: the same whatever the timing, and a whole model for whoever looks."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_metra import METRA, GenDa
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.sac import SkillSAC
from tests.toys import TINY, same, scripted_envs, state_of, tiny_model

POINT = "sb3_metra/PointMass-v0"
ROUND = 24  # transitions of a round of 8 steps of 3 environments
Rows = dict[str, np.ndarray]


class See(BaseCallback):
    """Keeps rewards, and what ``look`` gives at a step of each round."""

    def __init__(self, look: Any = lambda model: None, at: int = 3) -> None:
        super().__init__()
        self.look, self.at = look, at
        self.rewards: list[float] = []
        self.seen: list[Any] = []

    def _on_step(self) -> bool:
        self.rewards.append(float(self.locals["rewards"].sum()))
        if self.n_calls % 8 == self.at:
            self.seen.append(self.look(self.model))
        return True


def rows_of(model: METRA) -> Rows:
    assert model.replay_buffer is not None
    return {name: x.copy() for name, x in model.replay_buffer.to_arrays().items()}


def assert_same_run(one: METRA, other: METRA) -> None:
    assert same(state_of(one), state_of(other))
    assert (one.num_timesteps, one._n_updates) == (other.num_timesteps, other._n_updates)
    rows, others = rows_of(one), rows_of(other)
    assert all(np.array_equal(rows[name], others[name]) for name in others)
    logged, others = one.logger.name_to_value, other.logger.name_to_value
    assert {n: x for n, x in logged.items() if "time" not in n} == {n: x for n, x in others.items() if "time" not in n}


def overlapped(steps: int = 168, callback: Any = None, make: Any = METRA, **kwargs: Any) -> METRA:
    env = make_vec_env(POINT, 3, seed=5)
    return make("MlpPolicy", env, **(TINY | {"overlap": True} | kwargs)).learn(steps, callback, log_interval=2)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the halves of a round take their time, now one, now the other."""

    def install(seed: int, steps: float, learning: float) -> None:
        rng = random.Random(seed)
        gradient_step, step = SkillSAC.gradient_step, gym.wrappers.TimeLimit.step

        def slow_gradient_step(self: Any, *args: Any) -> Any:
            time.sleep(learning * rng.random())
            result = gradient_step(self, *args)
            time.sleep(learning * rng.random())
            return result

        def slow_step(self: Any, action: Any) -> Any:
            time.sleep(steps * rng.random())
            return step(self, action)

        monkeypatch.setattr(SkillSAC, "gradient_step", slow_gradient_step)
        monkeypatch.setattr(gym.wrappers.TimeLimit, "step", slow_step)

    return install


def normalised(algorithm: Any, env: Any, **kwargs: Any) -> METRA:
    return METRA(algorithm, VecNormalize(env), **kwargs)


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (
            METRA,
            {
                "gradient_steps": -1,
                "train_freq": 2,
                "batch_size": 4,
                "learning_rate": lambda remaining: 1e-3 * remaining,
            },
        ),
        (GenDa, {}),
        (normalised, {}),
    ],
)
def test_timing_changes_nothing(make: Any, kwargs: dict[str, Any], sleeps: Any) -> None:
    plain = overlapped(72, make=make, **kwargs)
    sleeps(1, 0.002, 0.0)
    slow_environments = overlapped(72, make=make, **kwargs)
    sleeps(2, 0.0, 0.01)
    slow_learner = overlapped(72, make=make, **kwargs)
    assert_same_run(slow_environments, plain)
    assert_same_run(slow_learner, plain)
    assert plain._n_updates > 0


def test_a_round_acts_by_the_weights_that_it_began_with_and_learns_from_the_rounds_before() -> None:
    sizes, acted, began = [], [], []

    class Watched(METRA):
        def sample(self, size: int) -> Any:
            sizes.append((self.replay_buffer.size() * 3, threading.current_thread() is threading.main_thread()))
            return super().sample(size)

        def _act(self, *args: Any) -> Any:
            acted.append({name: x.clone() for name, x in self._acting_weights.items()})
            return super()._act(*args)

    class Rounds(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            began.append({name: x.clone() for name, x in self.model.policy.actor.state_dict().items()})

    model = overlapped(7 * ROUND, Rounds(), Watched)
    plain = overlapped(7 * ROUND, overlap=False)
    assert model._n_updates == plain._n_updates == 14
    assert sizes == [(ROUND * (k // 2 + 1), False) for k in range(14)]
    assert len(began) == 7
    for k, weights in enumerate(began):  # those after the gradient steps of round k - 2
        assert all(same(weights, acting) for acting in acted[8 * k : 8 * k + 8])
        assert same(weights, began[0]) is (k < 2)


def test_both_halves_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for the other: one after the other they would never meet."""
    meeting = threading.Barrier(2, timeout=20)
    gradient_step, step = SkillSAC.gradient_step, gym.wrappers.TimeLimit.step
    met = []

    def learn(self: Any, *args: Any) -> Any:
        if not met:
            meeting.wait()
            met.append(self._n_updates)
        return gradient_step(self, *args)

    def act(self: Any, action: Any) -> Any:
        steps.append(action)
        if len(steps) == ROUND + 5:
            meeting.wait()
        return step(self, action)

    steps: list[Any] = []
    monkeypatch.setattr(SkillSAC, "gradient_step", learn)
    monkeypatch.setattr(gym.wrappers.TimeLimit, "step", act)
    assert overlapped(3 * ROUND)._n_updates == 6
    assert met == [0]


LOOKS: list[Any] = [  # one in each round
    lambda model: model.policy.actor.mu.weight.detach().clone().numpy(),
    lambda model: model.encode(np.zeros(2, np.float32)),
    lambda model: model.predict(np.zeros(2, np.float32), deterministic=True)[0],
    lambda model: model.objective.dual.value.numpy(),
    lambda model: model.replay_buffer.size(),
    lambda model: (model.policy, model._n_updates)[1],
]


def test_who_looks_at_the_model_waits_for_the_learner_and_changes_nothing(sleeps: Any) -> None:
    def see() -> See:
        return See(lambda model: LOOKS[model.num_timesteps // ROUND](model))

    slow_learner, slow_environments = see(), see()
    quiet = overlapped(6 * ROUND)
    sleeps(0, 0.0, 0.01)
    assert_same_run(overlapped(6 * ROUND, slow_learner), quiet)
    sleeps(0, 0.002, 0.0)
    overlapped(6 * ROUND, slow_environments)
    for first, second in zip(slow_learner.seen, slow_environments.seen, strict=True):
        assert np.array_equal(first, second)
    assert slow_learner.seen[4:] == [4 * 8 + 3, 2 * 5]  # the step that was just taken included


def test_files_that_are_written_in_a_round_are_whole(tmp_path: Path, sleeps: Any) -> None:
    """A model saved in the middle of a round has taken the steps of the rounds before."""
    saver = CheckpointCallback(20, str(tmp_path), save_replay_buffer=True)
    evaluation = EvalCallback(make_vec_env(POINT, 1, seed=1), eval_freq=13, n_eval_episodes=1, verbose=0)
    sleeps(0, 0.0, 0.01)
    assert_same_run(overlapped(callback=[saver, evaluation]), overlapped())
    model = METRA.load(tmp_path / "rl_model_60_steps.zip", device="cpu")
    model.load_replay_buffer(tmp_path / "rl_model_replay_buffer_60_steps.pkl")
    assert (model._n_updates, model.replay_buffer.size(), model.overlap) == (4, 20, True)
    whole = See(lambda model: state_of(model), at=4)
    overlapped(callback=whole)
    assert same(state_of(model), whole.seen[2])


def test_learning_goes_on_after_a_callback_and_in_a_further_call() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 93

    whole = overlapped(168)
    model = overlapped(168, Stop())
    assert (model.num_timesteps, model._n_updates, model._round) == (93, 6, (7, 0))
    model.learn(168 - 93, reset_num_timesteps=False)
    assert same(state_of(model), state_of(whole))
    for one in (model, whole):
        th.manual_seed(0)
        one.learn(48, reset_num_timesteps=False)
    assert same(state_of(model), state_of(whole))
    assert whole._n_updates == 18
    model.train(3)  # outside of a run at once
    assert model._n_updates == 21


class Failing(gym.Wrapper):
    """Fails at a step."""

    at, steps = 0, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.at:
            raise self.error
        return super().step(action)


def failing(error: BaseException, at: int, **kwargs: Any) -> METRA:
    env = make_vec_env(POINT, 1, seed=5, wrapper_class=Failing)
    env.envs[0].at, env.envs[0].error = at, error
    return tiny_model(env, overlap=True, **kwargs)


def test_an_error_of_the_environments_loses_nothing(sleeps: Any) -> None:
    sleeps(0, 0.0, 0.02)
    model = failing(OSError("no more"), 30)
    with pytest.raises(OSError, match="no more"):
        model.learn(80)
    assert (model.num_timesteps, model.replay_buffer.size(), model._n_updates) == (29, 29, 2 * 1)
    model.learn(80 - 29, reset_num_timesteps=False)
    assert (model.num_timesteps, model.replay_buffer.size(), model._n_updates) == (80, 80, 2 * 8)


@pytest.mark.filterwarnings("ignore:.*failed, too")
def test_an_error_of_the_learner_is_raised_with_the_round_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SkillSAC, "gradient_step", lambda self, batch, size: {"x_loss": th.tensor(float("nan"))})
    model = failing(OSError("no more"), 1000)
    with pytest.raises(ValueError, match="x_loss must be finite, got nan"):
        model.learn(80)
    assert (model.num_timesteps, model.replay_buffer.size()) == (32, 32)
    model = failing(OSError("no more"), 30)
    with pytest.warns(UserWarning, match="failed, too: x_loss"), pytest.raises(OSError, match="no more"):
        model.learn(80)
    monkeypatch.undo()
    assert model.learn(40, reset_num_timesteps=False)._n_updates > 2


def test_an_interrupt_ends_the_gradient_steps_early(sleeps: Any) -> None:
    sleeps(0, 0.0, 0.1)
    model = failing(KeyboardInterrupt(), 28, gradient_steps=200)
    with pytest.raises(KeyboardInterrupt):
        model.learn(80)
    assert model._n_updates < 100
    assert model.replay_buffer.size() == 27
    model.gradient_steps = 1
    assert model.learn(5, reset_num_timesteps=False).num_timesteps == 32


def test_the_learner_may_ask_the_model_itself() -> None:
    class Asking(METRA):
        def sample(self, size: int) -> Any:
            assert owner[-1].replay_buffer is self.replay_buffer
            assert owner[-1] is not self
            return super().sample(size)

        def _setup_model(self) -> None:
            super()._setup_model()
            owner.append(self)

    owner: list[METRA] = []
    assert overlapped(3 * ROUND, make=Asking)._n_updates == 6


def test_bad_observations_are_refused_at_their_step() -> None:
    env = scripted_envs(1)
    env.envs[0].bad = (9, 2)
    model = tiny_model(env, overlap=True)
    with pytest.raises(ValueError, match="must be finite"):
        model.learn(300)
    assert model.num_timesteps == model.replay_buffer.size() == 2 * (3 + 5 + 1 + 4) + 3 + 1


@pytest.mark.parametrize("kind", ["dict", "image"])
def test_every_kind_of_observation_and_of_round(kind: str) -> None:
    policy = "CnnPolicy" if kind == "image" else "MultiInputPolicy"
    kwargs: dict[str, Any] = {"gradient_steps": 1, "train_freq": (2, "episode"), "overlap": True, "buffer_size": 40}
    if kind == "image":
        kwargs["policy_kwargs"] = {"net_arch": [8], "features_extractor_kwargs": {"depth": 1}}
    models = [tiny_model(scripted_envs(1, kind=kind), policy, **kwargs).learn(40) for _ in range(2)]
    assert_same_run(*models)
    assert models[0]._n_updates > 3


def test_steps_are_recorded_and_replayed_in_the_learners_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def recorder(function: Any) -> Any:
        def replay() -> th.Tensor:
            threads.append(threading.current_thread())
            return function()

        threads.append(threading.current_thread())
        return replay

    monkeypatch.setattr(METRA, "_captures", property(lambda self: self.cuda_graph))
    monkeypatch.setattr(CapturedStep.__init__, "__defaults__", (recorder, 3))
    kwargs = {"learning_rate": 2**-7}
    assert_same_run(overlapped(**kwargs), overlapped(cuda_graph=False, **kwargs))
    assert len(threads) == 1 + 14 - 3
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


def test_the_learner_computes_on_as_many_threads_as_the_process() -> None:
    seen = []
    before = th.get_num_threads()
    th.set_num_threads(1)
    try:

        class Counting(METRA):
            def sample(self, size: int) -> Any:
                seen.append(th.get_num_threads())
                return super().sample(size)

        overlapped(3 * ROUND, make=Counting)
    finally:
        th.set_num_threads(before)
    assert set(seen) == {1}


def test_overlap_can_be_turned_on_and_off_for_a_loaded_model(tmp_path: Path) -> None:
    overlapped(3 * ROUND).save(tmp_path / "model")
    for overlap in (True, False):
        models = []
        for _ in range(2):
            th.manual_seed(0)
            model = METRA.load(tmp_path / "model", make_vec_env(POINT, 3), device="cpu", overlap=overlap)
            models.append(model.learn(3 * ROUND, reset_num_timesteps=False))
        assert_same_run(*models)
        assert (model.overlap, model._n_updates) == (overlap, 6 + 6)
