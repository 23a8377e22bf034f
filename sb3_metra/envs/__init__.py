"""Registers the environments with Gymnasium; the environments themselves are imported when one is made, not here."""

import gymnasium as gym

MAX_EPISODE_STEPS: dict[str, int] = {
    "sb3_metra/PointMass-v0": 100,
    "sb3_metra/Ant-v0": 200,
    "sb3_metra/HalfCheetah-v0": 200,
}
"""Every environment of this package, and the number of steps after which its episodes are truncated."""

_ENTRY_POINTS = {
    "sb3_metra/PointMass-v0": "sb3_metra.envs.point:PointMassEnv",
    "sb3_metra/Ant-v0": "sb3_metra.envs.locomotion:AntEnv",
    "sb3_metra/HalfCheetah-v0": "sb3_metra.envs.locomotion:HalfCheetahEnv",
}


def _register() -> None:
    """Enter every environment into Gymnasium's registry, once: importing this module again changes nothing."""
    for env_id, entry_point in _ENTRY_POINTS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=entry_point,
                max_episode_steps=MAX_EPISODE_STEPS[env_id],
                disable_env_checker=True,  # it would check every step; the tests check the environments instead
            )


_register()

__all__ = ["MAX_EPISODE_STEPS"]
