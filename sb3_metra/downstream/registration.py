"""Registers the tasks with Gymnasium; what they are made of is imported when one is made, not here."""

from typing import Any

import gymnasium as gym

_TASKS = "sb3_metra.downstream.tasks"

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sb3_metra/PointMassGoal-v0": (f"{_TASKS}:make_goal_task", {"body": "PointMass", "goal_range": 7.5, "radius": 1.0}),
    "sb3_metra/PointMassMultiGoals-v0": (
        f"{_TASKS}:make_goal_task",
        {"body": "PointMass", "goal_range": 3.0, "radius": 1.0, "new_goal_every": 50},
    ),
    "sb3_metra/AntMultiGoals-v0": (
        f"{_TASKS}:make_goal_task",
        {"body": "Ant", "goal_range": 7.5, "radius": 3.0, "new_goal_every": 50},
    ),
    "sb3_metra/HalfCheetahGoal-v0": (
        f"{_TASKS}:make_goal_task",
        {"body": "HalfCheetah", "goal_range": 100.0, "radius": 3.0},
    ),
    "sb3_metra/HalfCheetahHurdle-v0": (f"{_TASKS}:make_hurdle_task", {}),
    "sb3_metra/QuadrupedGoal-v0": (
        f"{_TASKS}:make_goal_task",
        {"body": "QuadrupedPixels", "goal_range": 7.5, "radius": 1.5},
    ),
    "sb3_metra/HumanoidGoal-v0": (
        f"{_TASKS}:make_goal_task",
        {"body": "HumanoidPixels", "goal_range": 5.0, "radius": 1.5},
    ),
    "sb3_metra/KitchenGoal-v0": (f"{_TASKS}:make_achieve_task", {"body": "KitchenPixels"}),
}
"""Every task: how it is made, and the arguments. Ranges and radii of MuJoCo's bodies are those of CSF's code."""

MAX_EPISODE_STEPS = 200
"""Steps after which an episode is truncated: 8 skills of 25 steps."""


def _register() -> None:
    """Enter every task into Gymnasium's registry, once: importing this module again changes nothing."""
    for env_id, (entry_point, kwargs) in TASKS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point=entry_point,
                max_episode_steps=MAX_EPISODE_STEPS,
                kwargs=kwargs,
                disable_env_checker=True,  # it would check every step; the tests check the tasks instead
            )


_register()
