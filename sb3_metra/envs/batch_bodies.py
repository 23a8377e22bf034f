"""Steps of many bodies at once: MuJoCo's batch moves them, and arrays hold what Gymnasium's bodies would return."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from mujoco.batch import Batch

from sb3_metra.envs.states import get_simulation


class Outcome(NamedTuple):
    """The result of a step of every body; all arrays are copies."""

    observations: np.ndarray
    """(n_bodies, n_dims) float32"""
    rewards: np.ndarray
    """(n_bodies,) float64"""
    terminated: list[bool]
    infos: list[dict[str, Any]]


class Bodies(ABC):
    """
    Simulations of one model, each beside the environment that it steps for.

    An environment resets itself, and :meth:`load` copies its simulation into the batch. :meth:`store` copies it back to
    be read or drawn. Options are those of the first environment at construction.

    :param envs: the environments, unwrapped and alike
    :param n_threads: number of threads that share the simulations
    """

    names: ClassVar[tuple[str, ...]]

    def __init__(self, envs: Sequence[Any], n_threads: int):
        self.envs, self.options = envs, envs[0]
        self.batch = Batch(self.options.model, len(envs), n_threads, persistent=True)
        self._qpos, self._qvel, self._act, self._ctrl = map(self.batch.bind, ("qpos", "qvel", "act", "ctrl"))
        self._is_stored = [True] * len(envs)
        for index in range(len(envs)):
            self.load(index)

    def load(self, index: int) -> None:
        """
        Copy an environment's simulation into the batch, as after its reset.

        :param index: the environment's number
        """
        env = self.envs[index]
        self.batch.state[index] = get_simulation(env.model, env.data)
        self._is_stored[index] = True

    def store(self, index: int) -> None:
        """
        Copy a simulation back to its environment, with everything that MuJoCo derived from it.

        :param index: the environment's number
        """
        if not self._is_stored[index]:
            env = self.envs[index]
            self.batch.get_data(index, env.data)
            mujoco.mj_rnePostConstraint(env.model, env.data)  # as Gymnasium's step ends
            self._is_stored[index] = True

    def step(self, actions: np.ndarray) -> Outcome:
        """
        Step every body.

        :param actions: ``(n_bodies, n_actions)``
        :return: the results of the environments' ``step``
        """
        before = self._get_places()
        self._ctrl[:] = self.options.controls(actions)
        self.batch.step(nstep=self.options.frame_skip)
        self._is_stored = [False] * len(self.envs)
        state = np.concatenate((self._qpos, self._qvel, self._act), axis=1)
        rewards, values = self._reward(before, actions, state)
        coordinates = state[:, : self.options.n_coordinates].copy()
        infos = [dict(zip(self.names, row, strict=True)) for row in values.tolist()]
        for info, place in zip(infos, coordinates, strict=True):
            info["coordinates"] = place
        return Outcome(self.options.observe(state), rewards, self._find_terminated(state), infos)

    def _find_terminated(self, state: np.ndarray) -> list[bool]:
        if not self.options.terminate_on_back:
            return [False] * len(self.envs)
        terminated: list[bool] = self.options.find_on_back(state).tolist()
        return terminated

    @abstractmethod
    def _get_places(self) -> np.ndarray:
        """
        Return what a reward compares.

        :return: where the bodies are, ``(n_bodies, ...)``; a copy
        """

    @abstractmethod
    def _reward(self, before: np.ndarray, actions: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute rewards as the environments do, in the same order of operations.

        :param before: where the bodies were before the step
        :param actions: ``(n_bodies, n_actions)``
        :param state: positions, velocities and activations after the step, ``(n_bodies, n_dims)``
        :return: ``(n_bodies,)``, and what the infos hold, ``(n_bodies, len(names))``
        """


class AntBodies(Bodies):
    """Many Ants. The cost of contacts is computed for one after the other, unless ``contact_cost_weight`` is 0."""

    names = (
        "x_position",
        "y_position",
        "distance_from_origin",
        "x_velocity",
        "y_velocity",
        "reward_forward",
        "reward_ctrl",
        "reward_contact",
        "reward_survive",
    )

    def __init__(self, envs: Sequence[Any], n_threads: int):
        self._torso = envs[0].data.body(envs[0]._main_body).id
        self._places = np.empty((len(envs), 2))
        self._is_pushed = np.zeros(len(envs), dtype=bool)
        super().__init__(envs, n_threads)
        self._xpos, self._ncon = self.batch.bind("xpos"), self.batch.bind("ncon")
        self._scratch = mujoco.MjData(self.batch.model)

    def load(self, index: int) -> None:
        super().load(index)
        env = self.envs[index]
        self._places[index] = env.data.xpos[self._torso, :2]
        self._is_pushed[index] = env.model.neq > 0 or env.data.xfrc_applied.any()

    def _get_places(self) -> np.ndarray:
        return self._places

    def _reward(self, before: np.ndarray, actions: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ant, (lowest, highest) = self.options, self.options._healthy_z_range
        self._places = self._xpos[:, self._torso, :2].copy()
        velocity = (self._places - before) / ant.dt
        forward = velocity[:, 0] * ant._forward_reward_weight
        is_healthy = np.isfinite(state).all(axis=1) & (lowest <= state[:, 2]) & (state[:, 2] <= highest)
        survive = is_healthy * ant._healthy_reward
        ctrl_cost = ant._ctrl_cost_weight * np.square(actions).sum(axis=1)
        contact_cost = self._contact_costs()
        values = np.empty((len(state), len(self.names)))
        values[:, :2] = place = state[:, :2]
        values[:, 2] = [math.sqrt(xy.dot(xy)) for xy in place]
        values[:, 3:5] = velocity
        values[:, 5], values[:, 6], values[:, 7], values[:, 8] = forward, -ctrl_cost, -contact_cost, survive
        return (forward + survive) - (ctrl_cost + contact_cost), values

    def _contact_costs(self) -> np.ndarray:
        ant, model, scratch = self.options, self.batch.model, self._scratch
        if ant._contact_cost_weight == 0:
            return np.zeros(len(self.envs))
        lowest, highest = ant._contact_force_range
        forces, contact_forces = np.zeros((len(self.envs), scratch.cfrc_ext.size)), scratch.cfrc_ext.reshape(-1)
        for index in np.flatnonzero((self._ncon.reshape(-1) > 0) | self._is_pushed).tolist():
            self.batch.get_data(index, scratch)
            mujoco.mj_rnePostConstraint(model, scratch)
            forces[index] = contact_forces
        np.minimum(np.maximum(forces, lowest, out=forces), highest, out=forces)
        costs: np.ndarray = ant._contact_cost_weight * np.square(forces).sum(axis=1)
        return costs


class HalfCheetahBodies(Bodies):
    """Many HalfCheetahs."""

    names = ("x_position", "x_velocity", "reward_forward", "reward_ctrl")

    def _get_places(self) -> np.ndarray:
        return self._qpos[:, 0].copy()

    def _reward(self, before: np.ndarray, actions: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cheetah = self.options
        values = np.empty((len(state), len(self.names)))
        values[:, 0] = after = state[:, 0]
        values[:, 1] = velocity = (after - before) / cheetah.dt
        values[:, 2] = forward = cheetah._forward_reward_weight * velocity
        ctrl_cost = cheetah._ctrl_cost_weight * np.square(actions).sum(axis=1)
        values[:, 3] = -ctrl_cost
        return forward - ctrl_cost, values


class SuiteBodies(Bodies):
    """Many Quadrupeds, or Humanoids, of the dm_control suite."""

    names = ()

    def _get_places(self) -> np.ndarray:
        return self._qpos[:, :2].copy()

    def _reward(self, before: np.ndarray, actions: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        growth = np.hypot(state[:, 0], state[:, 1]) - np.hypot(before[:, 0], before[:, 1])
        return growth, np.empty((len(state), 0))
