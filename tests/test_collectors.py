"""Episodes of collectors: with one that is waited for, the run is the plain one; a transition comes once."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from sb3_metra import CSF, DIAYN, METRA
from sb3_metra.collectors import LocalCollectors, RayCollectors
from sb3_metra.collectors.collector import Collector
from sb3_metra.collectors.on_ray import _make_actor_class
from sb3_metra.common.checkpoint import RunCheckpointCallback
from sb3_metra.common.collectors import Infos, Lost
from sb3_metra.envs.point import PointMassEnv
from tests.test_overlap import rows_of
from tests.test_resume import Kill, Killed, Stateless, spoil_generators
from tests.toys import TINY, Scripted, same, state_of

LENGTH = 8  # steps of an episode, and of a round
ROUND = 24  # transitions of a round of three environments


def point() -> gym.Env:
    return gym.wrappers.TimeLimit(PointMassEnv(), LENGTH)


class Discrete(PointMassEnv):
    """A point mass with four moves."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = gym.spaces.Discrete(4)  # type: ignore[assignment]

    def step(self, action: Any) -> Any:
        self.action_space, moves = PointMassEnv().action_space, np.array([(1, 0), (0, 1), (-1, 0), (0, -1)], np.float32)
        try:
            return super().step(moves[action])
        finally:
            self.action_space = gym.spaces.Discrete(4)  # type: ignore[assignment]


class Telling(gym.Wrapper):
    """A point mass that tells something at each step."""

    def __init__(self, told: Any) -> None:
        super().__init__(point())
        self.told = told

    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, info | {"told": self.told}


def discrete() -> gym.Env:
    return gym.wrappers.TimeLimit(Discrete(), LENGTH)


def scripted(kind: str) -> Any:
    return lambda: Scripted(0, (LENGTH,), kind)


class Counting(gym.Env):
    """Observations are (number of the environment, of the episode, of the step), and no two environments are one."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    made = itertools.count()

    def __init__(self, lengths: tuple[int, ...] = (5, 2, 7, 1)) -> None:
        self.number, self.episode, self.lengths = next(self.made), -1, itertools.cycle(lengths)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.t, self.length = self.episode + 1, 0, next(self.lengths)
        return self.look(), {}

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        return self.look(), float(self.t), False, self.t == self.length, {}

    def look(self) -> np.ndarray:
        return np.array([self.number, self.episode, self.t], np.float32)


def make(env: Any = point, collectors: Any = None, n_envs: int = 3, **kwargs: Any) -> METRA:
    algorithm, policy = kwargs.pop("algorithm", METRA), kwargs.pop("policy", "MlpPolicy")
    settings = {name: x for name, x in TINY.items() if algorithm is not DIAYN or name != "phi_kwargs"}
    return algorithm(policy, make_vec_env(env, n_envs, seed=5), collectors=collectors, **(settings | kwargs))


def played(env: Any, n: int = 1, **kwargs: Any) -> METRA:
    return make(env, LocalCollectors(env, n, max_staleness=0), **kwargs)


def assert_same_run(one: METRA, other: METRA) -> None:
    assert same(state_of(one), state_of(other))
    for name in ("num_timesteps", "_n_updates", "_episode_num", "_round"):
        assert getattr(one, name) == getattr(other, name)
    rows, others = rows_of(one), rows_of(other)
    for name, x in others.items():
        assert np.array_equal(rows[name], x), name
    logged = one.logger.name_to_value
    assert all(logged[name] == x for name, x in other.logger.name_to_value.items() if "time" not in name)


def episodes_of(model: METRA) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Number of the environment and the episode, and the skill, of each whole episode of ``Counting`` in replay."""
    rows, episodes = rows_of(model), []
    for column in range(model.n_envs):
        before, after = (rows[name][:, column] for name in ("observations", "next_observations"))
        dones, skills = rows["dones"][:, column] > 0, rows["skills"][:, column]
        begins = np.flatnonzero(np.concatenate([[True], dones[:-1]]))
        for begin, end in itertools.pairwise([*begins, len(dones)]):
            assert np.array_equal(before[begin:end, 2], np.arange(end - begin))
            assert np.array_equal(after[begin:end, 2], np.arange(1, end - begin + 1))
            assert np.array_equal(rows["rewards"][begin:end, column], after[begin:end, 2])
            assert (before[begin:end, :2] == before[begin, :2]).all()
            assert (skills[begin:end] == skills[begin]).all()
            if dones[end - 1]:
                episodes.append((tuple(before[begin, :2].astype(int)), skills[begin]))
    names = [name for name, _ in episodes]
    assert len(set(names)) == len(names)
    return episodes


# The plain run


@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        (point, {}),
        pytest.param(point, {"algorithm": CSF}, marks=pytest.mark.slow),
        (discrete, {"algorithm": DIAYN, "discrete": True, "skill_dim": 4}),
        (point, {"n_envs": 1, "train_freq": (3, "episode")}),
        pytest.param(point, {"train_freq": 2 * LENGTH}, marks=pytest.mark.slow),
        (scripted("dict"), {"policy": "MultiInputPolicy", "gradient_steps": 1}),
        pytest.param(scripted("image"), {"policy": "CnnPolicy", "gradient_steps": 1}, marks=pytest.mark.slow),
        (Stateless, {"train_freq": 13}),
    ],
)
def test_one_collector_that_is_waited_for_changes_nothing(env: Any, kwargs: dict[str, Any]) -> None:
    def run(model: METRA) -> METRA:
        model.learn(2 * ROUND + 9, log_interval=3)
        return model.learn(ROUND, log_interval=3, reset_num_timesteps=False)  # goes on

    plain, model = run(make(env, **kwargs)), run(played(env, **kwargs))
    assert plain._n_updates > 0
    assert_same_run(model, plain)


def test_seeds_reach_collectors_through_wrappers_of_the_training_environments() -> None:
    def run(collectors: Any) -> Any:
        env = VecMonitor(make_vec_env(point, 3, seed=5))
        return rows_of(METRA("MlpPolicy", env, collectors=collectors, **TINY).learn(ROUND))

    plain, rows = run(None), run(LocalCollectors(point, max_staleness=0))
    assert np.array_equal(rows["observations"], plain["observations"])


def test_a_second_run_begins_new_episodes() -> None:
    plain, model = (make_one(point).learn(ROUND + 9).learn(2 * ROUND) for make_one in (make, played))
    assert_same_run(model, plain)


@pytest.mark.parametrize(("env", "train_freq"), [(point, LENGTH), (Stateless, 13)])
def test_a_checkpoint_goes_on_as_the_plain_run(env: Any, train_freq: int, tmp_path: Path) -> None:
    rows = 3 * train_freq

    def checkpoints(name: str) -> RunCheckpointCallback:
        return RunCheckpointCallback(2 * train_freq, tmp_path / name)

    plain = make(env, train_freq=train_freq).learn(6 * rows, checkpoints("plain"))
    with pytest.raises(Killed):
        played(env, train_freq=train_freq).learn(6 * rows, [checkpoints("played"), Kill(5 * rows)])
    spoil_generators()
    model = METRA.resume(
        tmp_path / "played", make_vec_env(env, 3, seed=9), collectors=LocalCollectors(env, max_staleness=0)
    )
    assert model.num_timesteps == 4 * rows
    model.learn(6 * rows - model.num_timesteps, checkpoints("played"))
    assert same(state_of(model), state_of(plain))
    others = rows_of(plain)
    assert all(np.array_equal(x, others[name]) for name, x in rows_of(model).items())


@pytest.mark.parametrize(("n", "max_staleness"), [(1, 0), pytest.param(2, 0, marks=pytest.mark.slow), (2, 3)])
def test_a_checkpoint_amid_episodes_holds_them_and_what_is_under_way(
    n: int, max_staleness: int, tmp_path: Path
) -> None:
    """The rounds end within episodes, some of which wait and some of which are being run."""

    def collectors() -> LocalCollectors:
        return LocalCollectors(point, n, max_staleness)

    def checkpoints(name: str) -> RunCheckpointCallback:
        return RunCheckpointCallback(10, tmp_path / name)

    def run(*callbacks: Any) -> METRA:
        return make(collectors=collectors(), train_freq=5, gradient_steps=1).learn(120, list(callbacks))

    whole = run(checkpoints("whole"))
    with pytest.raises(Killed):
        run(checkpoints("killed"), Kill(105))
    spoil_generators()
    model = METRA.resume(tmp_path / "killed", make_vec_env(point, 3, seed=9), collectors=collectors())
    playback: Any = model.stepped
    assert model.num_timesteps == 90
    assert playback._steps == [6] * 3  # 30 steps of 8
    assert (len(playback._arrived) > 0) is (max_staleness > 0)
    model.learn(30, checkpoints("killed"))
    assert same(state_of(model), state_of(whole))
    others = rows_of(whole)
    assert all(np.array_equal(x, others[name]) for name, x in rows_of(model).items())
    if max_staleness == 0:  # nor does a checkpoint change the run
        assert_same_run(run(), whole)


@pytest.mark.parametrize("env", [Stateless, lambda: Telling(object())])
def test_a_checkpoint_that_cannot_hold_the_episodes_begins_new_ones(env: Any, tmp_path: Path) -> None:
    model = make(env, LocalCollectors(env, 2), train_freq=5).learn(45)
    model.save_checkpoint(tmp_path)
    assert model._last_obs is None
    model.learn(45, reset_num_timesteps=False)
    resumed = METRA.resume(tmp_path, make_vec_env(env, 3, seed=9), collectors=LocalCollectors(env, 2)).learn(45)
    assert same(state_of(resumed), state_of(model))


@pytest.mark.parametrize(("before", "after"), [(None, 2), (1, None), (1, 2)])
def test_a_checkpoint_of_other_collectors(before: int | None, after: int | None, tmp_path: Path) -> None:
    first, second = (n and LocalCollectors(point, n, max_staleness=0) for n in (before, after))
    make(point, first).learn(2 * ROUND).save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=f"collectors must be {before} as in the checkpoint, got {after}"):
        METRA.resume(tmp_path, make_vec_env(point, 3), collectors=second)


def test_callbacks_see_each_step_and_what_the_environment_told() -> None:
    def told(local: dict[str, Any], _: Any) -> bool:
        seen.append([(info["coordinates"].tolist(), info["TimeLimit.truncated"]) for info in local["infos"]])
        return True

    seen: list[Any] = []
    make().learn(2 * ROUND, told)
    plain, seen = seen, []
    played(point).learn(2 * ROUND, told)
    assert seen == plain
    assert len(seen) == 2 * LENGTH


def test_infos_come_back_as_they_were() -> None:
    infos = [{"x": np.float32([t, 1]), "n": t, "flag": t > 1, "y": np.float64(t), "s": "a" * t} for t in range(3)]
    infos[1]["rare"] = {"k": 1}
    infos[2]["y"] = np.float32(2)
    packed = Infos(infos)
    for t, info in enumerate(infos):
        back = packed.at(t)
        assert back.keys() == info.keys()
        assert all(type(back[key]) is type(x) for key, x in info.items())
        assert np.array_equal(back.pop("x"), info.pop("x"))
        assert back == info


# Several collectors


class Mixed(LocalCollectors):
    """Answers come in another order, and some collectors are lost, each with its order."""

    def __init__(self, *args: Any, lose: tuple[int, ...] = (), seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lose, self.count, self.sent, self.rng = lose, 0, 0, np.random.default_rng(seed)
        self.skills: list[np.ndarray] = []

    def send(self, index: int, order: Any, weights: Any) -> None:
        assert index not in [x[0] for x in self._sent]
        self.sent += 1
        super().send(index, order, weights)

    def _receive(self, wait: bool) -> Any:
        self.rng.shuffle(self._sent)
        wait = wait or (len(self._sent) > 0 and self.rng.random() < 0.9)
        order = self._sent[0][1] if wait else None
        answers = super()._receive(wait)
        self.count += len(answers)
        if answers and self.count in self.lose:
            self.skills.append(order.skills)
            index = answers[0][0]
            self._collectors[index] = Collector(self.kit)
            return [(index, Lost("it was told to"))]
        return answers

    def _open(self, kit: Any) -> None:
        self.kit = kit
        super()._open(kit)


@pytest.mark.filterwarnings("ignore:collector . is replaced, because it was told to")
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("lose", [(), (1, 2, 5)])
def test_each_transition_comes_once(n: int, lose: tuple[int, ...]) -> None:
    collectors = Mixed(Counting, n, lose=lose)
    model = make(Counting, collectors).learn(10 * ROUND, log_interval=None)
    episodes = episodes_of(model)
    assert len(episodes) >= 3 * 18
    assert len({tuple(skill) for _, skill in episodes}) == len(episodes)  # each has a skill of its own
    assert 3 * (collectors.sent - len(lose)) - len(episodes) <= 3 * (n + 1)  # no one runs ahead of what is played
    assert len(collectors.skills) == len(lose)
    for skills in collectors.skills:  # the order was given anew
        assert all(any((skill == z).all() for _, z in episodes) for skill in skills)
    assert model.logger.name_to_value["rollout/lost_collectors"] == len(lose)
    assert model.logger.name_to_value["rollout/dropped_episodes"] == 0


def test_with_staleness_0_the_order_of_answers_changes_nothing() -> None:
    runs = [make(point, Mixed(point, 3, max_staleness=0, seed=seed), train_freq=24).learn(6 * 72) for seed in (0, 1)]
    assert runs[0]._n_updates > 0
    assert_same_run(*runs)
    starts = rows_of(runs[0])["observations"][::LENGTH].reshape(-1, 2)
    assert len(np.unique(starts, axis=0)) == len(starts)  # no two collectors run the same episodes


class Late(LocalCollectors):
    """The second collector's first answer comes once five rounds are over."""

    model: METRA

    def receive(self, wait: bool) -> Any:
        over = self.model.num_timesteps >= 5 * ROUND
        self._sent.sort(key=lambda x: (x[0] == 1) is not over)
        return super().receive(wait or (over and bool(self._sent)))


@pytest.mark.parametrize(("max_staleness", "dropped"), [(3, 3), (6, 0)])
def test_the_learner_does_not_wait_and_drops_what_is_too_old(max_staleness: int, dropped: int) -> None:
    def env() -> gym.Env:
        return Counting((LENGTH,))

    collectors, ages = Late(env, 2, max_staleness), []
    collectors.model = model = make(env, collectors)

    def note(local: dict[str, Any], _: Any) -> bool:
        ages.append(model.stepped._counts["staleness"] / 3)
        return True

    model.learn(9 * ROUND, note, log_interval=None)
    episodes = episodes_of(model)
    assert len(episodes) == 27
    assert len({name[0] for name, _ in episodes}) == 6
    assert model.logger.name_to_value["rollout/dropped_episodes"] == dropped
    assert max(ages) <= max_staleness
    assert (max(ages) > 3) is (dropped == 0)


def test_a_fault_ends_the_collectors_and_the_next_call_makes_new_ones() -> None:
    def run() -> METRA:
        def env() -> gym.Env:
            return gym.wrappers.TimeLimit(Faulty(spoilt), LENGTH)

        spoilt = [True]
        model = make(env, collectors := LocalCollectors(env, 2))
        with pytest.raises(ValueError, match=r"observation must be finite.* from an environment of a collector on "):
            model.learn(20 * ROUND)
        assert collectors.ready() == []
        spoilt.clear()
        known = model.num_timesteps
        model.learn(4 * ROUND, reset_num_timesteps=False)
        assert model.num_timesteps == known + 4 * ROUND
        return model

    assert_same_run(run(), run())


def test_a_collector_that_is_lost_again_and_again_ends_the_run_and_loses_nothing_learnt() -> None:
    lose = (1, 2, 3, 5, 6, 7, 9, 10, 11, 12)  # three times one after the other are not too often
    model = make(Counting, collectors := Mixed(Counting, 1, lose=lose), learning_starts=3)
    with (
        pytest.warns(UserWarning, match="collector 0 is replaced, because it was told to") as warned,
        pytest.raises(RuntimeError) as error,
    ):
        model.learn(100 * ROUND)
    assert str(error.value) == (
        "collectors must answer, got collector 0 lost 4 times in a row, the last time because it was told to"
    )
    assert sum("is replaced" in str(x.message) for x in warned) == 9
    assert collectors.sent == 12
    assert collectors.ready() == []
    known, updates = model.num_timesteps, model._n_updates
    assert known > 0
    assert updates > 0
    collectors.lose = ()
    model.learn(2 * ROUND, reset_num_timesteps=False)
    assert model.num_timesteps >= known + 2 * ROUND
    assert len(rows_of(model)["rewards"]) == model.num_timesteps // 3
    episodes_of(model)  # each once


class Wandering(LocalCollectors):
    """
    Whoever runs the seventh order's skills is lost once the other one has answered, and is back once that one has them:
    both answer in between. It is lost, too, if the other one has nothing to do.
    """

    poison: Any = None
    away: int | None = None
    tries = 0
    answered = idle = False

    def ready(self) -> list[int]:
        return [index for index in super().ready() if index != self.away]

    def send(self, index: int, order: Any, weights: Any) -> None:
        self.poison = order.skills if order.number == 7 else self.poison
        if np.array_equal(order.skills, self.poison):
            self.away, self.answered, self.tries = None, False, self.tries + 1
        super().send(index, order, weights)

    def _receive(self, wait: bool) -> Any:
        self._sent.sort(key=lambda x: np.array_equal(x[1].skills, self.poison))
        last = self._sent[-1] if self._sent else None
        if wait and last is not None and np.array_equal(last[1].skills, self.poison):
            if self.answered:
                self.away, self.answered = self._sent.pop()[0], False
                return [(self.away, Lost("the simulator fell over"))]
            if len(self._sent) == 1:
                self.answered = self.idle  # the other one is ready again, and may get an order now
                self.idle = True
                return []
        self.answered, self.idle = self.answered or wait, False
        return super()._receive(wait)


@pytest.mark.filterwarnings("ignore:collector . is replaced, because the simulator fell over")
def test_an_order_that_ends_whoever_runs_it_ends_the_run_and_loses_nothing_learnt(tmp_path: Path) -> None:
    model = make(Counting, collectors := Wandering(Counting, 2), learning_starts=3)
    with pytest.raises(RuntimeError) as error:
        model.learn(100 * ROUND)
    skills = collectors.poison.astype(float).round(3).tolist()
    message = (
        r"collectors must answer, got an order of round \d lost 4 times, by whichever collector ran it, the last time "
        r"because the simulator fell over; its skills are "
    )
    assert re.fullmatch(message + re.escape(str(skills)), str(error.value))
    assert collectors.tries == 4
    assert collectors.ready() == []
    assert model._n_updates > 0
    model.save_checkpoint(tmp_path)
    env = make_vec_env(Counting, 3, seed=9)
    resumed = METRA.resume(tmp_path, env, collectors=LocalCollectors(Counting, 2))
    for one in (model, resumed):
        known = one.num_timesteps
        one.learn(2 * ROUND, reset_num_timesteps=one is resumed)
        assert one.num_timesteps >= known + 2 * ROUND
        episodes_of(one)  # each once


@pytest.mark.filterwarnings("ignore:collector . is replaced, because the simulator fell over")
def test_a_checkpoint_remembers_how_often_an_order_was_lost(tmp_path: Path) -> None:
    """Two of four losses, the second of which comes while the checkpoint waits."""
    model = make(point, collectors := Wandering(point, 2))
    model.learn(100 * ROUND, lambda *_: collectors.tries < 2)
    model.save_checkpoint(tmp_path)
    assert model.stepped._losses == [2]
    again = Wandering(point, 2)
    again.poison = collectors.poison
    resumed = METRA.resume(tmp_path, make_vec_env(point, 3, seed=9), collectors=again)
    with pytest.raises(RuntimeError, match="lost 4 times"):
        resumed.learn(100 * ROUND)
    assert again.tries == 2


def test_a_checkpoint_after_the_collectors_were_closed_begins_new_episodes(tmp_path: Path) -> None:
    model = make(collectors=(collectors := LocalCollectors(point, 2))).learn(3 * ROUND)
    assert model.stepped._orders
    collectors.close()
    model.save_checkpoint(tmp_path)
    model.learn(3 * ROUND, reset_num_timesteps=False)
    resumed = METRA.resume(tmp_path, make_vec_env(point, 3, seed=9), collectors=LocalCollectors(point, 2))
    assert same(state_of(resumed.learn(3 * ROUND)), state_of(model))


class Faulty(PointMassEnv):
    """A point mass that is nowhere in its fifth episode, if something is spoilt."""

    def __init__(self, spoilt: list[bool]) -> None:
        super().__init__()
        self.spoilt, self.episode = spoilt, 0

    def reset(self, **kwargs: Any) -> Any:
        self.episode += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, *others = super().step(action)
        return observation * (np.nan if self.spoilt and self.episode == 5 else 1), *others


# What does not fit


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"collectors": 2}, "collectors must be Collectors such as RayCollectors, or None, got 2"),
        ({"overlap": True}, "overlap must be False with collectors, got True: they act beside"),
        ({"random_warmup": True}, "random_warmup must be False with collectors, got True"),
        (
            {"action_noise": NormalActionNoise(np.zeros(2), np.ones(2))},
            "action_noise must be None with collectors",
        ),
    ],
)
def test_arguments_that_do_not_go_with_collectors(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**({"collectors": LocalCollectors(point)} | kwargs))


def test_statistics_that_learn_do_not_go_with_collectors() -> None:
    env = VecNormalize(DummyVecEnv([point]))
    with pytest.raises(ValueError, match="env must not be in a VecNormalize with collectors"):
        METRA("MlpPolicy", env, collectors=LocalCollectors(point), **TINY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env": 3}, "env must be an environment's registered name, or a function that makes one, got 3"),
        ({"n": 0}, "n must be an integer of at least 1, got 0"),
        ({"max_staleness": -1}, "max_staleness must be an integer of at least 0, or None, got -1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer of at least 1, got 0"),
        ({"address": 1}, "address must be a string, or None, got 1"),
        ({"num_cpus": -1}, "num_cpus must be a finite number of at least 0, got -1"),
        ({"timeout": 0}, "timeout must be a finite number greater than 0, or None, got 0"),
    ],
)
def test_arguments_of_collectors(arguments: dict[str, Any], message: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=message):
        RayCollectors(**({"env": point} | arguments))


@pytest.mark.parametrize(
    ("env", "kwargs", "message"),
    [
        ("Nope-v0", {}, r"env must be an environment that collectors can build, got on .* NameNotFound: .*Nope"),
        (lambda: 1 / 0, {}, r"collectors can build, got on .* ZeroDivisionError: division by zero"),
        (discrete, {}, r"env must have the action_space of the model, Box\(.*\), got Discrete\(4\) on "),
        (lambda: DummyVecEnv([point] * 2), {}, "env must make one environment, got 2"),
        (point, {"max_episode_steps": 7}, "env must end its episodes within max_episode_steps=7, got one that goes on"),
    ],
)
def test_environments_that_collectors_cannot_use(env: Any, kwargs: dict[str, Any], message: str) -> None:
    model = make(collectors=LocalCollectors(env, **kwargs))
    with pytest.raises(ValueError, match=message) as error:
        model.learn(ROUND)
    assert "\n" not in str(error.value)


def test_collectors_serve_one_model() -> None:
    collectors = LocalCollectors(point)
    first, second = make(collectors=collectors).learn(ROUND), make(collectors=collectors)
    with pytest.raises(ValueError, match="collectors must serve one model, got another one"):
        second.learn(ROUND)
    collectors.close()
    second.learn(ROUND)
    collectors.close()
    assert first.learn(ROUND, reset_num_timesteps=False).num_timesteps == 2 * ROUND


def test_nodes_that_cannot_take_part_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = _make_actor_class()()
    with pytest.raises(RuntimeError, match=r"must have sb3_metra 0\.0, as the learner has, got "):
        remote.build(b"", "0.0", 1)
    monkeypatch.setitem(__import__("sys").modules, "sb3_metra.collectors.collector", None)
    with pytest.raises(RuntimeError, match="must have sb3_metra, as the learner has: "):
        remote.build(b"", "0.0", 1)


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "nonsense"):
        model = make(collectors=RayCollectors(point, address=address))
        with pytest.raises(
            ValueError, match=f"address must be the address of a running Ray cluster, got '{address}': "
        ):
            model.learn(ROUND)
