"""Collectors on Ray: the plain run to the bit, and nothing is lost or comes twice when a collector or a node dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.collectors import RayCollectors
from sb3_metra.common.checkpoint import RunCheckpointCallback
from tests.test_collectors import ROUND, Counting, assert_same_run, episodes_of, make, point
from tests.test_overlap import rows_of
from tests.test_resume import Kill, Killed, spoil_generators
from tests.toys import same, state_of

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


def end() -> None:
    os._exit(1)


def freeze() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stick() -> None:
    time.sleep(10_000)


class Fatal(Counting):
    """Counts from a random number on; a step ends the process if a file is there, and takes the file away."""

    def __init__(self, file: Path, end: Any = end) -> None:
        super().__init__()
        self.number, self.file, self.end = int.from_bytes(os.urandom(3), "big"), file, end

    def step(self, action: Any) -> Any:
        if self.t == 1 and self.file.exists():
            self.file.unlink()
            self.end()
        time.sleep(0.005)
        return super().step(action)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[RayCollectors] = []

    def open_(*args: Any, kind: Any = RayCollectors, **kwargs: Any) -> RayCollectors:
        made.append(kind(*args, **kwargs))
        return made[-1]

    yield open_
    for one in made:
        one.close()


def test_one_collector_that_is_waited_for_changes_nothing(cluster: None, opened: Any, tmp_path: Path) -> None:
    def checkpoints(name: str) -> RunCheckpointCallback:
        return RunCheckpointCallback(16, tmp_path / name)

    plain = make().learn(6 * ROUND, checkpoints("plain"))
    whole = make(collectors=opened(point, max_staleness=0)).learn(6 * ROUND, checkpoints("whole"))
    assert_same_run(whole, plain)
    with pytest.raises(Killed):
        make(collectors=opened(point, max_staleness=0)).learn(6 * ROUND, [checkpoints("killed"), Kill(5 * ROUND)])
    spoil_generators()
    env = make_vec_env(point, 3, seed=9)
    model = METRA.resume(tmp_path / "killed", env, collectors=opened(point, max_staleness=0))
    assert model.num_timesteps == 4 * ROUND
    model.learn(2 * ROUND, checkpoints("killed"))
    assert same(state_of(model), state_of(plain))
    others = rows_of(plain)
    assert all((x == others[name]).all() for name, x in rows_of(model).items())


class Until(BaseCallback):
    """
    Calls ``kill`` at certain steps, and ends the run once episodes of so many environments have come.

    :param kill: takes nothing
    :param at: the steps
    :param n_envs: number of environments
    """

    def __init__(self, kill: Any, at: tuple[int, ...], n_envs: int) -> None:
        super().__init__()
        self.kill, self.at, self.n_envs = kill, at, n_envs
        self.seen: set[float] = set()

    def _on_step(self) -> bool:
        if self.num_timesteps in self.at:
            self.kill()
        self.seen |= set(self.locals["new_obs"][:, 0].tolist())
        return len(self.seen) < self.n_envs


class Noted(RayCollectors):
    """Notes the skills that it is asked for."""

    def send(self, index: int, order: Any, weights: Any) -> None:
        vars(self).setdefault("asked", []).extend(map(tuple, order.skills))
        super().send(index, order, weights)


def check_nothing_is_lost(model: METRA, lost: int) -> None:
    collectors: Any = model.collectors
    assert not model.replay_buffer.full  # or the oldest transitions are gone
    episodes, counts = episodes_of(model), model.stepped._counts  # the log has those of when the round began
    assert counts["lost_collectors"] >= lost  # Ray may put a replacement where it does not know the node is dead
    assert counts["dropped_episodes"] == 0
    came, asked = [tuple(skill) for _, skill in episodes], collectors.asked
    assert len(set(came)) == len(came)
    assert len(asked) - len(set(asked)) == 3 * lost  # each lost order was given anew
    assert len(set(asked) - set(came)) <= 3 * (collectors.n + 1)  # under way, waiting or being played in the end


@pytest.mark.parametrize(
    ("ending", "timeout", "words"),
    [
        (end, 300, r"process \d+ on .+ died: .*its worker process has died"),
        (freeze, 15, r"process \d+ on .+ gave no episodes within timeout=15 s"),
        (stick, 15, r"process \d+ on .+ gave no episodes within timeout=15 s"),
    ],
)
def test_a_collector_that_dies_or_hangs_is_replaced_and_loses_nothing(
    cluster: None, opened: Any, tmp_path: Path, ending: Any, timeout: float, words: str
) -> None:
    file = tmp_path / "kill"
    collectors = opened(lambda: Fatal(file, ending), 2, kind=Noted, timeout=timeout)
    until = Until(file.touch, (5 * ROUND, 20 * ROUND), 3 * 4)
    model = make(lambda: Fatal(file), collectors, buffer_size=100_000)
    with pytest.warns(UserWarning, match=f"collector . is replaced, because {words}"):
        model.learn(2000 * ROUND, until, log_interval=None)
    assert len(until.seen) == 3 * 4  # environments of two collectors, and of two more
    check_nothing_is_lost(model, 2)


def test_a_slow_collector_keeps_no_one_waiting(cluster: None, opened: Any, tmp_path: Path) -> None:
    class Slow(Counting):
        slow: bool | None = None

        def __init__(self) -> None:
            super().__init__((8,))
            self.number = int.from_bytes(os.urandom(3), "big")

        def step(self, action: Any) -> Any:
            if Slow.slow is None:  # the collector that steps first is the slow one
                with contextlib.suppress(FileExistsError):
                    (tmp_path / "slow").touch(exist_ok=False)
                    Slow.slow = True
                Slow.slow = Slow.slow is True
            time.sleep(2.0 if Slow.slow else 0.001)
            return super().step(action)

    model = make(Slow, opened(Slow, 2, 1), learning_starts=10**6)
    model.learn(ROUND)
    begin = time.perf_counter()
    model.learn(20 * ROUND, reset_num_timesteps=False)
    assert time.perf_counter() - begin < 40  # an order of the slow one takes 48 s
    assert len({number for (number, _), _ in episodes_of(model)}) == 3


def test_a_collector_that_cannot_be_replaced_leaves_the_others(cluster: None, opened: Any, tmp_path: Path) -> None:
    file, gone = tmp_path / "kill", tmp_path / "gone"

    def env() -> gym.Env:
        if gone.exists():
            raise OSError("no such simulator")
        return Fatal(file)

    def kill(local: dict[str, Any], _: Any) -> bool:
        if local["self"].num_timesteps == 5 * ROUND:
            gone.touch()
            file.touch()
        return True

    model = make(env, collectors := opened(env, 2), learning_starts=10**6)
    sentence = "collector . cannot be replaced, 1 continue: env must be an environment that collectors can build"
    with pytest.warns(UserWarning, match=sentence):
        model.learn(200 * ROUND, kill)
    assert len(collectors.ready()) == 1


def test_what_cannot_work_is_one_sentence(
    cluster: None, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(Counting):
        def step(self, action: Any) -> Any:
            os._exit(1)

    class Stuck(Counting):
        def step(self, action: Any) -> Any:
            time.sleep(10_000)

    def broken() -> gym.Env:
        if "ray._private.workers.default_worker" in sys.modules or Path(sys.argv[0]).name == "default_worker.py":
            raise OSError("no such simulator")
        return Counting()

    monkeypatch.setattr("sb3_metra.common.collectors.MOST_LOSSES", 1)
    again = "collectors must answer, got collector 0 lost 2 times one after the other, the last time because"
    for env, kwargs, message in (
        (broken, {}, "env must be an environment that collectors can build, got on .* OSError: no such simulator"),
        (Counting, {"max_episode_steps": 3}, "env must end its episodes within max_episode_steps=3, got one"),
        (Counting, {"n": 64}, r"n must be at most 3, with 1 CPUs each, to fit on .* \(1 x 3 CPUs\), got 64"),
        (Deadly, {}, rf"{again} process \d+ on .+ died: .*worker process has died"),
        (Stuck, {"timeout": 1}, rf"{again} process \d+ on .+ gave no episodes within timeout=1 s$"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message) as error:
            make(env, opened(env, **kwargs)).learn(ROUND)
        assert "\n" not in str(error.value)


def test_a_node_that_dies_loses_nothing(opened: Any, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = nodes.add_node(num_cpus=2)
    until = Until(lambda: nodes.remove_node(second, allow_graceful=False), (10 * ROUND,), 3 * 3)
    collectors = opened(lambda: Fatal(tmp_path / "no"), 2, address=nodes.address, kind=Noted)
    try:
        model = make(lambda: Fatal(tmp_path / "no"), collectors, buffer_size=100_000)
        model.learn(2000 * ROUND, until, log_interval=None)
    finally:
        collectors.close()
        nodes.shutdown()
    assert len(until.seen) == 3 * 3
    check_nothing_is_lost(model, 1)
