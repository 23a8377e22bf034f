"""What several commands share: a saved model with its environment, and arguments given as words."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_metra.algorithms import load
from sb3_metra.common.inputs import check_count
from sb3_metra.common.saving import find_whole
from sb3_metra.common.skill_model import check_fit
from sb3_metra.common.training_env import own_observations
from sb3_metra.envs import find_spec
from sb3_metra.envs.batch import make_fast_vec_env


def load_model(
    path: Path,
    env_id: str,
    n_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    trusted: bool = False,
) -> tuple[Any, VecEnv]:
    """
    A saved model and the environments to run it in, which the caller closes.

    In a run's folder, :func:`find_model` chooses the model. A model that learnt on normalised observations stores their
    statistics. For a model of an earlier version, which does not, rl_zoo3's file beside it is used and kept constant;
    it is a pickle, so it must be trusted.

    :param path: the saved model, a zip file, or the folder of a run
    :param env_id: id of the environment
    :param n_envs: number of environments
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :param trusted: unpickle what the files hold, which can run any code that they bring
    :return: the model, and the environments
    :raises ValueError: if there is no such model or environment, or they do not fit
    """
    path = find_model(path)
    model = load_algorithm(path, device, trusted)
    env = make_env(env_id, n_envs, env_kwargs)
    try:
        statistics = find_statistics(path)
        if statistics is not None and getattr(model, "normalization", None) is None:
            if not trusted:
                raise ValueError(
                    f"MODEL must be trusted with {str(statistics)!r}, the pickled statistics of its observations, "
                    "which can run any code: add --trust if you trust whoever made it."
                )
            env = VecNormalize.load(str(statistics), env)
            env.training = env.norm_reward = False
        check_fit(model, env.observation_space, env.action_space)
    except BaseException:
        env.close()
        raise
    return model, env


def load_algorithm(path: Path, device: str = "auto", trusted: bool = False) -> Any:
    """
    A saved model of any algorithm of this package.

    :param path: its zip file
    :param device: PyTorch device
    :param trusted: unpickle what the file holds, which can run any code that it brings
    :raises ValueError: if the file holds none, or the device does not exist
    """
    check_device(device)
    try:
        return load(path, device=device, trusted=trusted)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a torn or strange file fails in many ways
        reason = (str(error) or type(error).__name__).replace("load it with trusted=True", "add --trust")
        raise ValueError(f"MODEL must be a saved model, got {str(path)!r}, which cannot be loaded: {reason}") from error


def check_device(device: str) -> None:
    """
    Refuse a device that PyTorch does not have here.

    :param device: name of a PyTorch device, or ``"auto"``
    :raises ValueError: if nothing can be put on it
    """
    try:
        th.empty(0, device=get_device(device))
    except Exception as error:  # of PyTorch, one kind for each backend
        raise ValueError(f'--device must be "auto" or a device of PyTorch, such as cpu, got {device!r}') from error


def make_env(env_id: str, n_envs: int = 1, env_kwargs: dict[str, Any] | None = None) -> VecEnv:
    """
    Make environments, or raise one sentence that says why not.

    :param env_id: id of the environment
    :param n_envs: number of environments
    :param env_kwargs: arguments of the environment
    :raises ValueError: if they cannot be made
    """
    registered(env_id)
    check_count("--n-envs", n_envs)
    try:
        return own_observations(make_fast_vec_env(env_id, n_envs, env_kwargs=env_kwargs))
    except ImportError:
        raise
    except Exception as error:  # an environment may fail in any way
        given = f" with --env-kwargs {env_kwargs}" if env_kwargs else ""
        raise ValueError(f"--env {env_id} cannot be made{given}: {error}") from error


def find_statistics(path: Path) -> Path | None:
    """
    The statistics of normalised observations that lie beside a model, as rl_zoo3 leaves them.

    :param path: the saved model
    :return: ``vecnormalize.pkl``; ``None`` if there is none
    :raises ValueError: if there are several
    """
    found = sorted({*path.parent.glob("vecnormalize.pkl"), *path.parent.glob("*/vecnormalize.pkl")})
    if len(found) > 1:
        raise ValueError(
            f"MODEL must lie beside one vecnormalize.pkl at most, got {', '.join(map(str, found))}: keep the "
            "one that it learnt with"
        )
    return found[0] if found else None


def find_model(path: Path) -> Path:
    """
    Find the saved model at a path: the file itself, or the folder of an export. In the folder of a run it is
    ``best_model.zip``, or else the newest zip file. A damaged file is skipped with a warning.

    :param path: a zip file, or a folder
    :raises ValueError: if there is none
    """
    if path.is_file() or (path / "skills.json").is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"MODEL must be a file or a run's folder, got {str(path)!r}, which does not exist.")
    best = path / "best_model.zip"
    files = [file for file in path.glob("*.zip") if not file.name.startswith(".")]
    if not files:
        raise ValueError(
            f"MODEL must be a saved model or a folder that holds one, got {str(path)!r}, which holds no .zip file: "
            "name the folder of one run, such as logs/metra/sb3_metra-Ant-v0_1."
        )
    return find_whole(sorted(files, key=lambda file: (file == best, file.stat().st_mtime, file.name), reverse=True))


def registered(env_id: str) -> str:
    """
    Check an environment's id.

    :param env_id: id of the environment; ``module:ID`` imports the module first, as in Gymnasium
    :return: the same id
    :raises ValueError: if no such environment is registered
    """
    try:
        find_spec(env_id)
    except (gym.error.Error, ImportError, ValueError) as error:
        raise ValueError(f"--env must be the id of a registered environment, got {env_id!r}: {error}") from error
    return env_id


def parse_keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """
    Read ``key:value`` words as rl_zoo3 does, but evaluate literals only.

    :param words: for example ``["arena:5.0", "render_mode:'rgb_array'"]``
    :return: for example ``{"arena": 5.0, "render_mode": "rgb_array"}``
    """
    arguments = {}
    for word in words:
        key, separator, value = word.partition(":")
        try:
            if not (separator and key.isidentifier()):
                raise ValueError(word)
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(
                f"--env-kwargs must be KEY:VALUE with a Python literal, such as arena:5.0, got {word!r}."
            ) from None
    return arguments
