"""Overlap: a round's gradient steps in a thread, while the environments step through the next round."""

from __future__ import annotations

import copy
import threading
import warnings
from abc import ABC
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from sb3_metra.common.archive import File
from sb3_metra.common.captured_step import CapturedStep
from sb3_metra.common.persistent import PersistentSAC
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.sac import SkillSAC

Self = TypeVar("Self", bound="OverlappingSAC")

#: What a gradient step reads and writes. While the learner works, the model lacks attributes of these kinds.
_LENT = (nn.Module, th.optim.Optimizer, ReplayBuffer, CapturedStep)
_MISSING = object()


class ActingPolicy:
    """
    The policy as a round began with it: an actor of its own, and on CUDA a stream of its own.

    :param policy: the policy, whose actor is copied; all else is shared
    """

    def __init__(self, policy: SkillPolicy) -> None:
        actor = copy.copy(policy.actor)
        vars(actor).pop("optimizer", None)
        self.policy = copy.copy(policy)
        self.policy._modules = {"actor": copy.deepcopy(actor).train(False).requires_grad_(False)}
        # of high priority: the environments wait for actions, nobody for a single gradient step
        self._stream = th.cuda.Stream(policy.device, priority=-1) if policy.device.type == "cuda" else None

    def weights(self) -> dict[str, th.Tensor]:
        """The actor's weights by name."""
        return self.policy.actor.state_dict()

    def follow(self, weights: dict[str, th.Tensor]) -> None:
        """
        Act by other weights from now on.

        :param weights: as :meth:`weights` gives them
        """
        if self._stream is not None:
            self._stream.wait_stream(th.cuda.current_stream(self._stream.device))
        with self._on_stream():
            self.policy.actor.load_state_dict(weights)
        if self._stream is not None:
            self._stream.synchronize()  # the learner is about to change where they come from

    def act(self, observation: Any, skills: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """
        Draw actions.

        :param observation: (n, \\*obs_shape)
        :param skills: (n, skill_dim)
        :param rng: generator to draw with: PyTorch's is the learner's
        :return: in [-1, 1], or discrete ones, (n, \\*action_shape)
        """
        noise = self.policy.actor.draw_noise(len(skills), rng)
        with self._on_stream():
            return self.policy.act(self.policy.obs_to_tensor(observation)[0], skills, noise=noise)

    def _on_stream(self) -> Any:
        return nullcontext() if self._stream is None else th.cuda.stream(self._stream)


class Learner:
    """
    Takes a model's gradient steps in a thread of its own.

    The thread works on a second look at the model: the same networks, optimisers and replay, the statistics of
    ``VecNormalize`` and all numbers as they are when the steps begin, and a log that is handed on afterwards. Meanwhile
    the model lacks what the thread changes, and transitions wait beside replay. :meth:`settle` ends that. As a context,
    it does so at the end, whatever happens.

    :param model: the model
    """

    def __init__(self, model: OverlappingSAC) -> None:
        self._model = model
        self._look: Any = object.__new__(type(model))
        self._recorded: tuple[Any, Any] = (None, None)  # the model's recording of the gradient step, and the thread's
        self._log = _Notes()
        self._thread = 0
        self._pool = ThreadPoolExecutor(1, "sb3_metra-learner", self._begin)
        self._steps: Future[None] | None = None
        self._lent: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._waiting = _Waiting()

    def _begin(self) -> None:
        self._thread = threading.get_ident()

    def start(self, gradient_steps: int, batch_size: int) -> None:
        """
        Begin to take gradient steps; this returns at once.

        :param gradient_steps: number of gradient steps
        :param batch_size: transitions in a gradient step of actor and critics
        """
        model, look = self._model, self._look
        if self._recorded[0] is not model._captured_step:  # new, or its weights were put in anew
            self._recorded = model._captured_step, CapturedStep(look._averaged_step)
        own = {
            "_learner": None,
            "_logger": self._log,
            "_captured_step": self._recorded[1],
            "_vec_normalize_env": copy.deepcopy(model._vec_normalize_env),
        }
        vars(look).clear()
        vars(look).update(vars(model) | own)
        self._given = dict(vars(look))
        self._lent = {name: x for name, x in vars(model).items() if isinstance(x, _LENT)}
        for name in self._lent:
            del vars(model)[name]
        self._waiting.buffer = look.replay_buffer
        index = th.cuda.current_device() if model.device.type == "cuda" else None
        self._steps = self._pool.submit(_learn, look, gradient_steps, batch_size, index)

    def has(self, name: str) -> bool:
        """
        Whether the model lacks an attribute because the learner works with it.

        :param name: of the attribute
        """
        return name in self._lent

    def get(self, name: str) -> Any:
        """
        What the model lacks: at once for the learner itself, once it is done for everybody else.

        :param name: of the attribute
        """
        if threading.get_ident() == self._thread:
            return self._lent[name]
        self.settle()
        return vars(self._model)[name]

    @property
    def place(self) -> Any:
        """Where transitions go now; ``None``: into replay."""
        return None if self._steps is None else self._waiting

    def settle(self) -> None:
        """
        Wait for the gradient steps, if there are any, and let the model be whole again: then it is as if it had taken
        them before the round.

        :raises Exception: what the gradient steps raised
        """
        if self._steps is None:
            return
        try:
            self._steps.result()
        except KeyboardInterrupt:
            self.interrupt()
            wait([self._steps])
            raise
        finally:
            self._give_back()

    def interrupt(self) -> None:
        """Let the gradient step that is being taken be the last."""
        self._look._interrupted = True

    def _give_back(self) -> None:
        model, look, given = self._model, vars(self._look), self._given
        vars(model).update(self._lent)
        vars(model).update({name: x for name, x in look.items() if x is not given.get(name, _MISSING)})
        vars(model).pop("_interrupted", None)
        self._steps, self._lent, self._given = None, {}, {}
        self._log.hand_on(model.logger)
        self._waiting.hand_on()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.settle()
            return
        if not issubclass(kind, Exception):
            self.interrupt()
        try:
            self.settle()
        except Exception as error:  # what ended the round is raised, not this
            warnings.warn(f"the overlapped gradient steps failed, too: {error}", stacklevel=2)


def _learn(look: Any, gradient_steps: int, batch_size: int, index: int | None) -> None:
    with nullcontext() if index is None else th.cuda.device(index):
        SkillSAC.train(look, gradient_steps, batch_size)


class _Notes(Logger):
    """A log that keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self._notes: list[tuple[str, tuple[Any, ...]]] = []

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        self._notes.append(("record", (key, value, exclude)))

    def record_mean(self, key: str, value: float | None, exclude: Any = None) -> None:
        self._notes.append(("record_mean", (key, value, exclude)))

    def hand_on(self, logger: Logger) -> None:
        notes, self._notes = self._notes, []
        for name, arguments in notes:
            getattr(logger, name)(*arguments)


class _Waiting:
    """Transitions that wait beside a replay buffer, which is being read. What it would refuse is refused at once."""

    def __init__(self) -> None:
        self.buffer: Any = None
        self._steps: list[tuple[Any, ...]] = []

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        self.buffer.check(obs, next_obs, action, reward, done, infos)
        self._steps.append((obs, next_obs, np.array(action), np.array(reward), np.array(done), infos))

    def hand_on(self) -> None:
        steps, self._steps = self._steps, []
        for step in steps:
            self.buffer.add(*step)


class OverlappingSAC(PersistentSAC, ABC):
    """
    :class:`~sb3_metra.common.persistent.PersistentSAC` whose gradient steps may overlap with the next round.

    The steps of round k are due when it ends, and taken beside round k + 1, which acts by the weights that it began
    with. Both are done when round k + 1 ends, so that a run depends on its seed alone. A call that reads
    what the learner changes waits for it: networks, optimisers, replay, ``predict``, ``save``.

    Parameters: see :class:`~sb3_metra.common.sac.SkillSAC`.
    """

    _learner: Learner | None = None  # while ``learn`` runs
    _due: tuple[int, int] | None = None  # gradient steps, and their batch size, that the next round takes along
    _acting: ActingPolicy | None = None

    if not TYPE_CHECKING:  # or every attribute would exist

        def __getattr__(self, name: str) -> Any:
            learner = vars(self).get("_learner")
            if learner is None or not learner.has(name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return learner.get(name)

    def learn(self: Self, *args: Any, **kwargs: Any) -> Self:
        """As SB3's."""
        self._learner = Learner(self) if self.overlap else None
        try:
            return super().learn(*args, **kwargs)
        finally:
            learner, self._learner = self._learner, None
            if learner is not None:
                learner.close()

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """As the parent's; in a run with ``overlap``, the next round takes them along, if there is one."""
        if self._learner is None:
            super().train(gradient_steps, batch_size)
            return
        self._due = gradient_steps, batch_size
        if self.num_timesteps >= self._total_timesteps:
            with self._learner:
                self._take_due()

    def save(self, path: File, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None) -> None:
        """
        As the parent's.

        :param path: the file, with or without ``.zip``, or an open one
        :param exclude: attributes to leave out, too
        :param include: attributes to save although they usually are not
        """
        if self._learner is not None:
            self._learner.settle()
        super().save(path, exclude, include)

    def _begin_step(self, begins: bool) -> None:
        """
        Before each step of a round: choose the weights that the round acts by, and take the gradient steps that are
        due beside it.

        :param begins: whether the round begins now; else it goes on
        """
        if not self.overlap:
            self._acting = None
        elif self._acting is None:
            self._acting = ActingPolicy(self.policy)
        elif begins:
            self._acting.follow(self.policy.actor.state_dict())
        self._take_due()

    def _take_due(self) -> None:
        if self._due is not None:
            due, self._due = self._due, None
            (self.train if self._learner is None else self._learner.start)(*due)

    def _act(self, observation: Any, skills: np.ndarray) -> tuple[SkillPolicy, np.ndarray]:
        """The policy that acts, and its actions in [-1, 1], (n_envs, \\*action_shape)."""
        if self._acting is not None:
            return self._acting.policy, self._acting.act(observation, skills, self.acting_rng)
        return self.policy, self.policy.act(obs_as_tensor(observation, self.policy.device), skills)

    def _store_transition(self, replay_buffer: ReplayBuffer, *args: Any) -> None:
        place = None if self._learner is None else self._learner.place
        super()._store_transition(replay_buffer if place is None else place, *args)

    @property
    def _acting_weights(self) -> dict[str, th.Tensor] | None:
        """What the round under way acts by, for a checkpoint in its middle."""
        return None if self._acting is None else self._acting.weights()

    @_acting_weights.setter
    def _acting_weights(self, weights: dict[str, th.Tensor] | None) -> None:
        self._acting = None
        if weights is not None and self.overlap:
            self._acting = ActingPolicy(self.policy)
            self._acting.follow(weights)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_learner", "_due", "_acting"]
