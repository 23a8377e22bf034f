"""Where the bodies of the dm_control suite stand: at a place, and upright on the floor."""

from bisect import bisect_left
from typing import Any

import mujoco
import numpy as np

from sb3_metra.envs.goals import check_place

_HIGHEST_START = 5.0  # metres
_TILT = 0.02


def floats(model: mujoco.MjModel, body: int) -> bool:
    """
    Whether a body floats freely in the world.

    :param model: the model
    :param body: the body's number
    """
    joint = int(model.body(model.body_rootid[body]).jntadr[0])
    return joint >= 0 and bool(model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE)


def find_float(model: mujoco.MjModel, body: int) -> int:
    """
    Find the free joint by which a body floats in the world.

    :param model: the model
    :param body: the body's number
    :return: the first of the joint's seven places in ``qpos``
    :raises ValueError: if the body does not float
    """
    root = model.body(model.body_rootid[body])
    if not floats(model, body):
        raise ValueError(f"upright=True needs a body that floats freely, and {root.name!r} is held by its joints.")
    return int(model.jnt_qposadr[int(root.jntadr[0])])


def draw_tilt(rng: np.random.Generator) -> np.ndarray:
    """
    Draw how a body stands at the begin of an episode: nearly upright, as the METRA authors' Quadruped does.

    :param rng: generator of the environment
    :return: a unit quaternion ``(w, x, y, z)``
    """
    orientation = np.array([1.0, 0.0, 0.0, 0.0]) + _TILT * rng.standard_normal(4)
    return orientation / np.linalg.norm(orientation)


def stand_up(model: mujoco.MjModel, data: mujoco.MjData, start: int, orientation: np.ndarray) -> np.ndarray:
    """
    Let a body stand at the origin in its default pose, just above contact.

    What touches at one height is taken to touch at every lower one, as on a floor.

    :param model: the model
    :param data: a state, whose positions and contacts are changed
    :param start: the first place of the root's free joint in ``qpos``
    :param orientation: the root's quaternion, ``(4,)``
    :return: the body's positions, ``(nq,)``; a copy
    :raises ValueError: if something touches at any height, such as a body's own parts in that pose
    """
    qpos = model.qpos0.copy()
    qpos[start : start + 2], qpos[start + 3 : start + 7] = 0.0, orientation

    def is_free(height: float) -> bool:
        qpos[start + 2] = height
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        return bool(data.ncon == 0)

    heights = np.arange(0.0, _HIGHEST_START, 0.01)
    lowest = heights[min(bisect_left(heights, True, key=is_free), len(heights) - 1)]
    if not is_free(lowest):
        raise ValueError(
            "upright=True needs a body that touches nothing in its default pose, got one with "
            f"{data.ncon} contacts up to a height of {_HIGHEST_START:g} m."
        )
    return qpos


def stand_at(model: mujoco.MjModel, body: int, goal: Any) -> mujoco.MjData:
    """
    Let a body stand at a place: the model in its default pose and at rest, shifted along its root's joints.

    :param model: the model, left as it is
    :param body: the body's number
    :param goal: the body's ``(x, y)``, metres; its height and its heading are those of the default pose
    :return: a state of its own, so that no running episode is touched
    :raises ValueError: if the goal is no place, or the model's joints do not let the body go there
    """
    place = check_place(goal, 2)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    shift = place - data.xpos[body, :2]
    root = model.body(model.body_rootid[body])
    for index in range(int(root.jntadr[0]), int(root.jntadr[0] + root.jntnum[0])):
        start = int(model.jnt_qposadr[index])
        if model.jnt_type[index] == mujoco.mjtJoint.mjJNT_FREE:
            data.qpos[start : start + 2] += shift
        elif model.jnt_type[index] == mujoco.mjtJoint.mjJNT_SLIDE:
            data.qpos[start] += data.xaxis[index, :2] @ shift
    mujoco.mj_forward(model, data)
    if not np.allclose(data.xpos[body, :2], place, rtol=1e-9, atol=1e-9):
        name = model.body(body).name
        raise ValueError(
            f"goal must be a place that the body {name!r} can be moved to by its root's joints, got {goal!r}."
        )
    return data
