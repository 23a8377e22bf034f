"""Registers the environments with Gymnasium. They are imported when one is made."""

import importlib
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

MAX_EPISODE_STEPS: dict[str, int] = {
    "sb3_metra/PointMass-v0": 100,
    "sb3_metra/Ant-v0": 200,
    "sb3_metra/HalfCheetah-v0": 200,
    "sb3_metra/Quadruped-v0": 200,
    "sb3_metra/Humanoid-v0": 200,
    "sb3_metra/PixelPointMass-v0": 100,
    "sb3_metra/CheetahPixels-v0": 200,
    "sb3_metra/QuadrupedPixels-v0": 200,
    "sb3_metra/HumanoidPixels-v0": 200,
    "sb3_metra/KitchenPixels-v0": 50,
    "sb3_metra/FourRooms-v0": 100,
}
"""Every environment of this package, and the number of steps after which its episodes are truncated."""

_ENTRY_POINTS = {
    "sb3_metra/PointMass-v0": "sb3_metra.envs.point:PointMassEnv",
    "sb3_metra/Ant-v0": "sb3_metra.envs.locomotion:AntEnv",
    "sb3_metra/HalfCheetah-v0": "sb3_metra.envs.locomotion:HalfCheetahEnv",
    "sb3_metra/Quadruped-v0": "sb3_metra.envs.suite:QuadrupedEnv",
    "sb3_metra/Humanoid-v0": "sb3_metra.envs.suite:HumanoidEnv",
    "sb3_metra/PixelPointMass-v0": "sb3_metra.envs.pixel_point:PixelPointMassEnv",
    "sb3_metra/CheetahPixels-v0": "sb3_metra.envs.dmc:DMCPixelEnv",
    "sb3_metra/QuadrupedPixels-v0": "sb3_metra.envs.dmc:DMCPixelEnv",
    "sb3_metra/HumanoidPixels-v0": "sb3_metra.envs.dmc:DMCPixelEnv",
    "sb3_metra/KitchenPixels-v0": "sb3_metra.envs.kitchen:KitchenPixelEnv",
    "sb3_metra/FourRooms-v0": "sb3_metra.envs.four_rooms:FourRoomsEnv",
}

# As in the authors' code, but for Cheetah, which is ours and small enough for a CPU. Camera 2 looks at the quadruped
# along y, 0 follows the humanoid from behind; floors are 30 m wide (the suite's: 200 m), so that a step shows; the
# quadruped begins on its feet (the suite's: any way up).
_KWARGS: dict[str, dict[str, Any]] = {
    "sb3_metra/CheetahPixels-v0": {
        "domain": "cheetah",
        "task": "run",
        "camera": 1,
        "floor_size": 20.0,
        "action_repeat": 4,
        "frame_size": 46,
        "frame_stack": 2,
    },
    "sb3_metra/QuadrupedPixels-v0": {
        "domain": "quadruped",
        "task": "run",
        "camera": 2,
        "floor_size": 15.0,
        "upright": True,
    },
    "sb3_metra/HumanoidPixels-v0": {"domain": "humanoid", "task": "run", "camera": 0, "floor_size": 15.0},
}


def _register() -> None:
    """Enter every environment into Gymnasium's registry, once: importing this module again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=entry_point,
                max_episode_steps=MAX_EPISODE_STEPS[env_id],
                kwargs=_KWARGS.get(env_id, {}),
                disable_env_checker=True,  # it would check every step; the tests check the environments instead
            )


def find_spec(env_id: str) -> EnvSpec:
    """
    Find a registered environment without making it, by any name that ``gymnasium.make`` takes.

    :param env_id: its name; ``module:name`` imports the module first, which Gymnasium's own ``spec`` does not
    :return: what is registered under the name
    :raises gymnasium.error.Error: if nothing is registered
    :raises ValueError: if it is not a string
    :raises ModuleNotFoundError: if there is no such module
    """
    if not isinstance(env_id, str):
        raise ValueError(f"env_id must be a registered name, got {env_id!r}.")
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gym.spec(name)


_register()

__all__ = ["MAX_EPISODE_STEPS", "find_spec"]
