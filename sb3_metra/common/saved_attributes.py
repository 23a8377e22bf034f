"""What the attributes that a file holds must be, so that no absurd one is met deep inside training."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_metra.common import arguments as args
from sb3_metra.common.arguments import FLAG, Check, instance, integer, number, optional
from sb3_metra.common.constructor import ALGORITHM, SEED
from sb3_metra.common.normalization import ObservationNormalization
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.skills import SkillPrior


def _arrays(value: Any) -> Any:
    parts = value.values() if isinstance(value, dict) else [value]
    if not all(isinstance(x, np.ndarray) and x.ndim > 0 for x in parts):
        raise TypeError
    return value


def _pair(value: Any) -> tuple[int, int]:
    steps, episodes = value
    return integer(0).read(steps), integer(0).read(episodes)


def _episodes(value: Any) -> Any:
    if not isinstance(value, deque) or value.maxlen is None:
        raise TypeError
    for info in value:
        if isinstance(info, Mapping):
            number().read(info.get("r")), number().read(info.get("l"))
        else:
            number().read(float(info))
    return value


def _normalization(value: Any) -> ObservationNormalization:
    if not isinstance(value, ObservationNormalization):
        raise TypeError
    return ObservationNormalization(**vars(value))


def _prior(value: Any) -> SkillPrior:
    if not isinstance(value, SkillPrior) or not isinstance(vars(value).get("rng"), np.random.Generator):
        raise TypeError
    type(value)(vars(value).get("dim"))  # type: ignore[arg-type]
    return value


def _due(value: Any) -> tuple[int, int]:
    steps, size = value
    return integer(0).read(steps), integer(1).read(size)


_COUNT, _SPACE = integer(0), instance("a space of Gymnasium", spaces.Space)
_GENERATOR = instance("a generator of NumPy", np.random.Generator)
_ROWS = optional(Check("an array with a row for each environment, or such arrays by key", _arrays))
_EPISODES = optional(Check("a deque of what Monitor says of episodes", _episodes))

#: Beside the arguments of the constructor; others are a subclass's own.
STATE: dict[str, Check] = {
    "policy_class": args.subclass("a class of policies", SkillPolicy),
    "observation_space": _SPACE,
    "action_space": _SPACE,
    "_skill_prior": Check("a prior whose dimension is a positive integer", _prior),
    "_normalization": optional(Check("finite statistics of observations", _normalization)),
    "n_envs": integer(1),
    "seed": SEED,
    "verbose": _COUNT,
    "start_time": _COUNT,
    "num_timesteps": _COUNT,
    "_total_timesteps": _COUNT,
    "_num_timesteps_at_start": _COUNT,
    "_n_updates": _COUNT,
    "_episode_num": _COUNT,
    "_current_progress_remaining": number(),
    "_stats_window_size": integer(1),
    "_round": Check("steps and episodes of a round", _pair),
    "_due": optional(Check("gradient steps that are due, and their batch size", _due)),
    "_last_obs": _ROWS,
    "_last_original_obs": _ROWS,
    "_last_skills": _ROWS,
    "_last_episode_starts": _ROWS,
    "_episode_steps": _ROWS,
    "_warned_of_endless": FLAG,
    "ep_info_buffer": _EPISODES,
    "ep_success_buffer": _EPISODES,
    "skill_rng": _GENERATOR,
    "_replay_rng": _GENERATOR,
    "acting_rng": _GENERATOR,
    "policy_kwargs": optional(args.ARGUMENTS),
    "phi_kwargs": optional(args.ARGUMENTS),
    "replay_buffer_kwargs": optional(args.ARGUMENTS),
    # of SB3's other algorithms
    "n_steps": args.choice(1),
    "use_sde": args.choice(False),
    "use_sde_at_warmup": args.choice(False),
    "optimize_memory_usage": args.choice(False),
}


def unreadable(label: str, what: str, error: Exception) -> ValueError:
    """
    The error to raise for a file whose content fails deep inside.

    :param label: its name
    :param what: what it must hold
    :param error: the failure, whose first line is told
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{label} must hold {what}, got what fails: {reason}")


def check_attributes(label: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read attributes from a file.

    :param label: its name, to end an error with
    :param data: attributes by name
    :return: the same, as they are to be used
    :raises ValueError: for the first that does not fit, in a sentence
    """
    read = args.check_table(ALGORITHM | STATE, data, f"in {label}")
    if read.get("ep_success_buffer") is None:
        read["ep_info_buffer"] = None  # SB3 makes both anew
    return read
