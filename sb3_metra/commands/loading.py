"""What several commands share: a saved model with its environment, and arguments given as words."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_metra.algorithms.metra import METRA
from sb3_metra.envs import find_spec


def load_model(
    path: Path, env_id: str, n_envs: int = 1, env_kwargs: dict[str, Any] | None = None, device: str = "auto"
) -> tuple[METRA, VecEnv]:
    """
    A saved model and the environments to run it in, which the caller closes.

    Of a run's folder, the model is the one that :func:`find_model` finds. Statistics of a ``VecNormalize`` that rl_zoo3
    left beside the model are used, and stay as they are.

    :param path: the saved model, a zip file, or the folder of a run
    :param env_id: id of the environment
    :param n_envs: number of environments
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :return: the model, and the environments
    :raises ValueError: where there is no such model or environment
    """
    path = find_model(path)
    env: VecEnv = make_vec_env(registered(env_id), n_envs=n_envs, env_kwargs=env_kwargs)
    try:
        statistics = path.parent / env_id.replace("/", "-") / "vecnormalize.pkl"
        if statistics.is_file():
            env = VecNormalize.load(str(statistics), env)
            env.training = env.norm_reward = False
        return METRA.load(path, env=env, device=device), env
    except BaseException:
        env.close()
        raise


def find_model(path: Path) -> Path:
    """
    The saved model that a path stands for: the file itself, or of the folder that ``sb3-metra train`` or a script of
    this repository wrote, ``best_model.zip``, else the newest zip file.

    :param path: a zip file, or a folder
    :raises ValueError: where there is none
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"MODEL must be a file or a run's folder, got {str(path)!r}, which does not exist.")
    best = path / "best_model.zip"
    if best.is_file():
        return best
    models = sorted(path.glob("*.zip"), key=lambda file: (file.stat().st_mtime, file.name))
    if not models:
        raise ValueError(
            f"MODEL must be a saved model or a folder that holds one, got {str(path)!r}, which holds no .zip file: "
            "name the folder of one run, such as logs/metra/sb3_metra-Ant-v0_1."
        )
    return models[-1]


def registered(env_id: str) -> str:
    """
    Check an environment's id.

    :param env_id: id of the environment; ``module:ID`` imports the module first, as in Gymnasium
    :return: the same id
    :raises ValueError: where no such environment is registered
    """
    try:
        find_spec(env_id)
    except (gym.error.Error, ModuleNotFoundError) as error:
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
