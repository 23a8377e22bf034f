"""Episodes that collectors ran elsewhere, played back to the loop step by step, as if it acted in them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_metra.common.arguments import shorten
from sb3_metra.common.arrays import map_arrays
from sb3_metra.common.collectors import MOST_LOSSES, Answer, Episode, Kit, Lost, Order, Weights, join
from sb3_metra.common.overlap import ActingPolicy
from sb3_metra.common.plain import NotPlain, encode

if TYPE_CHECKING:
    from sb3_metra.common.collecting import CollectingSAC

#: Attributes that a checkpoint holds as they are.
_STATE = ("round", "skills", "_losses", "_number", "_columns", "_steps", "_counts", "_seeds", "_replaced")


class Playback:
    """
    What a run steps through instead of its environments: episodes of collectors, side by side in as many columns.

    A collector has one order at a time: it is being run, or its episodes wait to be played.

    :param model: the model, which draws the skills
    """

    def __init__(self, model: CollectingSAC) -> None:
        assert model.collectors is not None
        self.model, self.collectors = model, model.collectors
        self.round = 0
        self._kit: Kit | None = None
        self._synchronous = self.collectors.max_staleness == 0
        self._weights: Weights | None = None
        self._served = False  # whether an order was sent
        self._number = self._first_number = 0
        self._orders: dict[int, Order] = {}  # that are being run, by collector
        self._unplayed = [0] * self.collectors.n  # episodes of each collector's order that wait
        self._arrived: list[tuple[int, Order, Episode]] = []  # with the collector
        self.skills: list[np.ndarray] = []  # that were drawn, and no order asks for yet
        self._losses: list[int] = []  # of the lost orders whose skills are the first ones of these
        self._begin: dict[int, dict[str, list[Any]]] = {}  # what collectors' next orders begin with
        self._columns: list[Episode | None] = [None] * self.num_envs
        self._steps = [0] * self.num_envs  # of the episodes in the columns
        self._counts = {"staleness": 0, "played": 0, "dropped_episodes": 0, "lost_collectors": 0}
        self.restart()

    @property
    def num_envs(self) -> int:
        """Number of columns."""
        return self.model.n_envs

    @property
    def observation_space(self) -> spaces.Space:
        """The model's."""
        return self.model.observation_space

    # What the loop asks for

    def open(self) -> None:
        """Make the collectors, unless they are there."""
        if self._kit is None:
            model = self.model
            policy = ActingPolicy(model.policy).policy.to("cpu")
            spaces_ = (model.observation_space, model.action_space)
            self._kit = Kit(self.collectors.env, self.num_envs, *spaces_, policy, self.collectors.max_episode_steps)
        if self.collectors.open(self._kit) and self._served:  # what they had is lost
            self._orders = {}
            self.model.begin_new_episodes()

    def restart(self) -> None:
        """Forget the episodes; all collectors begin new ones, by seeds that the training environments hold."""
        assert self.model.env is not None
        self._seeds = list(getattr(self.model.env.unwrapped, "_seeds", [None] * self.num_envs))
        self._first_number = self._number
        self._columns = [None] * self.num_envs
        self._arrived, self.skills, self._losses = [], [], []
        self._unplayed = [0] * self.collectors.n
        self._replaced = [0] * self.collectors.n
        self._begin = {index: {"seeds": self._draw_seeds(index)} for index in range(self.collectors.n)}

    def reset(self) -> Any:
        """As a VecEnv's: begin new episodes, here and elsewhere."""
        assert self.model.env is not None
        self.restart()
        return self.model.env.reset()

    def begin_round(self) -> None:
        """Act by the model's weights of now, and drop episodes that have become too old."""
        played = self._counts["played"]
        record = self.model.logger.record
        record("rollout/staleness", self._counts["staleness"] / max(1, played))
        for name in ("dropped_episodes", "lost_collectors"):
            record(f"rollout/{name}", self._counts[name])
        self._counts["staleness"] = self._counts["played"] = 0
        self.round += 1
        self._weights = None
        fresh = [x for x in self._arrived if self._is_fresh(x[1])]
        for index, _, _ in (x for x in self._arrived if not self._is_fresh(x[1])):
            self._unplayed[index] -= 1
        self._counts["dropped_episodes"] += len(self._arrived) - len(fresh)
        self._arrived = fresh

    def look(self) -> tuple[Any, np.ndarray, np.ndarray]:
        """
        Where the episodes are.

        :return: observations, (n_envs, \\*obs_shape); skills, (n_envs, skill_dim); and the actions that follow, in
            [-1, 1], or discrete ones, (n_envs, \\*action_shape)
        """
        for column, episode in enumerate(self._columns):
            if episode is None:
                self._columns[column], self._steps[column] = self._take(), 0
        playing = self._playing()
        observations = join(episode.observation(step) for episode, step in playing)
        skills = np.stack([episode.skill for episode, _ in playing])
        return observations, skills, np.stack([episode.actions[step] for episode, step in playing])

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """
        As a VecEnv's; an episode that ended is followed by itself until :meth:`look` begins the next one.

        :param actions: those that followed, in the action space, (n_envs, \\*action_shape)
        """
        playing = self._playing()
        infos = [episode.infos.at(step) for episode, step in playing]
        dones = np.array([step + 1 == len(episode) for episode, step in playing])
        rewards = np.array([episode.rewards[step] for episode, step in playing], dtype=np.float32)
        observations = join(episode.observation(step + 1) for episode, step in playing)
        for column, (episode, step) in enumerate(playing):
            self._steps[column] = step + 1
            if dones[column]:
                infos[column]["terminal_observation"] = map_arrays(lambda x: x[-1], episode.observations)
                self._columns[column] = None
        return observations, rewards, dones, infos

    def get_state(self) -> dict[str, Any] | None:
        """
        What the rest of a run needs. Waits for the orders that are being run.

        :return: ``None`` if new episodes have to begin, because the collectors are closed, or an environment keeps its
            state to itself, or told what no file can hold
        """
        if self._served and not self.collectors.is_open:
            return None
        while self._orders:
            self._receive(wait=True)
        begin = [self._begin.get(index) or self._state_of(index) for index in range(self.collectors.n)]
        state = {name: getattr(self, name) for name in _STATE} | {
            "collectors": begin,
            "arrived": [(index, order.number, order.round, episode) for index, order, episode in self._arrived],
        }
        try:
            encode([self._columns, state["arrived"]], {}, "episodes")
        except NotPlain:
            return None
        return None if None in begin else state

    def _state_of(self, index: int) -> dict[str, Any] | None:
        """What a collector would have to begin its next order with, if it could not go on."""
        states = self.collectors.states(index) if index in self.collectors.ready() else None
        return None if states is None else {"states": states}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on from a state.

        :param state: what :meth:`get_state` gave
        :raises ValueError: if it is that of other collectors
        """
        begin = state.get("collectors")
        if begin is None or len(begin) != self.collectors.n:
            expected = "None" if begin is None else len(begin)
            raise ValueError(f"collectors must be {expected} as in the checkpoint, got {self.collectors.n}")
        vars(self).update({name: state[name] for name in _STATE})
        self._begin = dict(enumerate(begin))
        self._first_number = self._number
        for index, number, round_, episode in state["arrived"]:
            self._arrived.append((index, Order(number, round_, episode.skill, np.empty(0), None), episode))
            self._unplayed[index] += 1

    # Orders

    def _playing(self) -> list[tuple[Episode, int]]:
        return [(x, step) for x, step in zip(self._columns, self._steps, strict=True) if x is not None]

    def _take(self) -> Episode:
        """The next episode; waits if there is none."""
        if not self._synchronous:
            self._receive(wait=False)
        while not self._arrived:
            self._send_orders()
            self._receive(wait=True)
            while self._synchronous and self._orders:
                self._receive(wait=True)
        if self._synchronous:
            self._arrived.sort(key=lambda x: x[1].number)
        index, order, episode = self._arrived.pop(0)
        self._unplayed[index] -= 1
        self._counts["staleness"] += self.round - order.round
        self._counts["played"] += 1
        if not self._synchronous:
            self._send_orders()
        return episode

    def _send_orders(self) -> None:
        for index in self.collectors.ready():
            if index not in self._orders and not self._unplayed[index]:
                self._orders[index], self._served = (order := self._make_order(index)), True
                self.collectors.send(index, order, self._weights_of_round())

    def _make_order(self, index: int) -> Order:
        self._number += 1
        model = self.model
        missing = max(0, self.num_envs - len(self.skills))
        drawn = [*self.skills, *model.skill_prior.sample(missing, model.skill_rng)] if missing else self.skills
        skills, self.skills = np.stack(drawn[: self.num_envs]), drawn[self.num_envs :]
        if self._follows_generator:
            random_state = th.get_rng_state()
        else:
            random_state = th.Generator().manual_seed(int(model.acting_rng.integers(2**62))).get_state()
        losses = self._losses.pop(0) if self._losses else 0
        return Order(self._number, self.round, skills, random_state.numpy(), self._begin.pop(index, None), losses)

    def _weights_of_round(self) -> Weights:
        if self._weights is None:
            actor = self.model.policy.actor
            self._weights = {name: x.detach().cpu().numpy().copy() for name, x in actor.state_dict().items()}
        return self._weights

    @property
    def _follows_generator(self) -> bool:
        """Whether actions are drawn with this process's generator, as without collectors."""
        return self._synchronous and self.collectors.n == 1

    def _receive(self, wait: bool) -> None:
        try:
            for index, answer in self.collectors.receive(wait):
                order = self._orders.pop(index, None)
                if order is not None and order.number <= self._first_number:
                    order = None  # of episodes that were forgotten
                if isinstance(answer, Lost):
                    self._lose(index, order, answer)
                elif order is not None:
                    self._keep(index, order, answer)
        except BaseException:
            self.collectors.close()
            raise

    def _lose(self, index: int, order: Order | None, lost: Lost) -> None:
        """The replacement begins new episodes, and whoever is free gets the order anew."""
        self._replaced[index] += 1
        self._counts["lost_collectors"] += 1
        self._begin[index] = {"seeds": self._draw_seeds(index)}
        if order is None:
            return
        if order.losses >= MOST_LOSSES:
            raise RuntimeError(
                f"collectors must answer, got an order of round {order.round} lost {order.losses + 1} times, by "
                f"whichever collector ran it, the last time because {lost.reason}; its skills are "
                f"{shorten(order.skills.astype(float).round(3).tolist())}"
            )
        self.skills[:0] = order.skills
        self._losses.insert(0, order.losses + 1)

    def _keep(self, index: int, order: Order, answer: Answer) -> None:
        if self._follows_generator:
            th.set_rng_state(th.from_numpy(answer.random_state.copy()))
        if self._is_fresh(order):
            self._arrived += [(index, order, episode) for episode in answer.episodes]
            self._unplayed[index] = len(answer.episodes)
        else:
            self._counts["dropped_episodes"] += len(answer.episodes)

    def _is_fresh(self, order: Order) -> bool:
        return self.round - order.round <= self.collectors.max_staleness

    def _draw_seeds(self, index: int) -> list[int | None]:
        """Seeds of a collector's environments; the first one's are those of the training environments."""
        given, replaced = self._seeds, self._replaced[index]
        if None in given or (index, replaced) == (0, 0):
            return given
        return np.random.SeedSequence([*given, index, replaced]).generate_state(len(given)).tolist()
