"""The doctor as a callback, during training."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_metra.common.inputs import check_count, check_seed
from sb3_metra.common.skill_model import SkillModel, as_vec_env
from sb3_metra.doctor.diagnosis import examine
from sb3_metra.doctor.examination import N_EPISODES
from sb3_metra.doctor.findings import Diagnosis
from sb3_metra.evaluation.callbacks import TENSORBOARD_ONLY, share_environment
from sb3_metra.evaluation.episodes import StepLimit
from sb3_metra.evaluation.runs import STEPS

_N_ROUNDS = 200  # of gradient steps whose log is kept: trends are read from the newest quarter


class DoctorCallback(BaseCallback):
    """
    Every ``eval_freq`` environment steps and at the end, examine the model as
    :func:`~sb3_metra.doctor.examine` does, with the log of the newest rounds.

    The numbers of findings and errors are logged as ``doctor/findings`` and ``doctor/errors``, the diagnosis as
    TensorBoard's text ``doctor/diagnosis``, in the next line of the log. Training gives the same weights with it and
    without.

    :param eval_env: an environment, or a vectorised one; not the training one
    :param eval_freq: environment steps, over all training environments, between two examinations
    :param n_episodes: as for :func:`~sb3_metra.doctor.examine`
    :param seed: as there, the same at every examination
    :param max_episode_steps: as there
    :param verbose: 1 to print each verdict, 2 to print each diagnosis
    :raises ValueError: if an argument is wrong; the message names it
    """

    def __init__(
        self,
        eval_env: VecEnv | gym.Env,
        eval_freq: int = 100_000,
        n_episodes: int = N_EPISODES,
        seed: int = 0,
        max_episode_steps: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self.eval_env = as_vec_env(eval_env)
        self.eval_freq = check_count("eval_freq", eval_freq)
        self.n_episodes = check_count("n_episodes", n_episodes, low=2)
        self.seed = check_seed("seed", seed)
        self.max_episode_steps = StepLimit(self.eval_env, max_episode_steps).cut
        self.last_diagnosis: Diagnosis | None = None
        self._rounds: deque[dict[str, float]] = deque(maxlen=_N_ROUNDS)
        self._next_eval = eval_freq
        self._goes_on = False

    def get_state(self) -> dict[str, Any]:
        """The state of the callback, as plain values: when the next visit is due, and the log of the newest rounds."""
        return {"next_eval": self._next_eval, "rounds": list(self._rounds)}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state in the middle of a run.

        :param state: what :meth:`get_state` returned
        """
        self._next_eval, self._goes_on = state["next_eval"], True
        self._rounds = deque(state["rounds"], maxlen=_N_ROUNDS)

    def _on_training_start(self) -> None:
        if share_environment(self.training_env, self.eval_env):
            raise ValueError(
                "eval_env must be an environment of its own, got the one that the model is trained on: every "
                "examination would end its episodes"
            )
        if not self._goes_on:
            self._next_eval = self._after(self.num_timesteps)
        self._goes_on = False

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        """Between two rounds, when the last gradient steps are done."""
        logged = {k: float(v) for k, v in self.logger.name_to_value.items() if k.startswith("train/")}
        if logged:
            self._rounds.append({STEPS: float(self.num_timesteps), **logged})
        if self.num_timesteps >= self._next_eval:
            self._next_eval = self._after(self.num_timesteps)
            self.examine()

    def _on_training_end(self) -> None:
        self.examine()
        self.logger.dump(self.num_timesteps)

    def _after(self, steps: int) -> int:
        """When the next visit is due after some steps."""
        return (steps // self.eval_freq + 1) * self.eval_freq

    def examine(self) -> Diagnosis:
        """
        Examine the model now, and log.

        :return: the diagnosis, also kept as ``last_diagnosis``
        """
        model: SkillModel = self.model  # type: ignore[assignment]
        names = dict.fromkeys(name for line in self._rounds for name in line)
        log = {name: np.array([line.get(name, np.nan) for line in self._rounds]) for name in names}
        self.last_diagnosis = diagnosis = examine(
            model,
            self.eval_env,
            log or None,
            n_episodes=self.n_episodes,
            seed=self.seed or 0,
            max_episode_steps=self.max_episode_steps,
        )
        self.logger.record("doctor/findings", len(diagnosis.findings))
        self.logger.record("doctor/errors", len(diagnosis.errors))
        text = str(diagnosis)
        preformatted = "\n".join(f"    {line}" for line in text.splitlines())  # TensorBoard reads Markdown
        self.logger.record("doctor/diagnosis", preformatted, exclude=TENSORBOARD_ONLY)
        if self.verbose:
            print(f"{self.num_timesteps} steps: {text if self.verbose > 1 else diagnosis.verdict}")
        return diagnosis
