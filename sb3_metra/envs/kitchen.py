"""Gymnasium-Robotics' FrankaKitchen seen through the paper's camera: six tasks, pixels alone."""

import contextlib
import io
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.pixels import MujocoPixelEnv
from sb3_metra.envs.rendering import Quality, explained_imports
from sb3_metra.envs.states import State, get_generator, set_generator

with explained_imports(
    'The Kitchen needs MuJoCo and Gymnasium-Robotics: install them with `pip install "sb3-metra[kitchen]"`.'
):
    import mujoco

    with contextlib.redirect_stderr(io.StringIO()):  # it prints news of other environments
        from gymnasium_robotics.envs.franka_kitchen import franka_env
        from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
            OBS_ELEMENT_GOALS,
            OBS_ELEMENT_INDICES,
            KitchenEnv,
        )

TASKS = ("bottom burner", "light switch", "slide cabinet", "hinge cabinet", "microwave", "kettle")
"""The paper's six tasks; Gymnasium-Robotics has a seventh, the top burner."""

_LOOK_AT, _DISTANCE, _AZIMUTH, _ELEVATION = (-0.3, 0.5, 2.0), 1.86, 90.0, -60.0  # the paper's camera


def robot_joints(model: mujoco.MjModel, data: mujoco.MjData, names: Any) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the robot's joints, each of which has one coordinate, as ``robot_get_obs`` of Gymnasium-Robotics does.

    :param model: the model
    :param data: its state
    :param names: names of joints; the robot's begin with ``"robot"``
    :return: positions and velocities, each ``(n_robot_joints,)``; a copy
    """
    joints = [model.joint(name) for name in names if name.startswith("robot")]
    positions = data.qpos[[int(joint.qposadr[0]) for joint in joints]]
    return positions, data.qvel[[int(joint.dofadr[0]) for joint in joints]]


def repair_robot_joints() -> bool:
    """
    Let Gymnasium-Robotics read joints with MuJoCo 3.12 and newer, which its own function cannot.

    It compares a joint's type, a NumPy integer, with MuJoCo's enum; since 3.12 the two are never equal. If they still
    are, nothing is changed.

    :return: whether its function had to be replaced
    """
    hinge = mujoco.mjtJoint.mjJNT_HINGE
    if np.int32(int(hinge)) in (hinge,):
        return False
    franka_env.robot_get_obs = robot_joints
    return True


class KitchenPixelEnv(MujocoPixelEnv, gym.utils.EzPickle):
    """
    A Franka arm in a kitchen with six things to do, seen through the paper's camera.

    The observation is a stack of the latest frames, ``(3 * frame_stack, frame_size, frame_size)`` uint8, the oldest
    first; the first of an episode is repeated. Actions lie in [-1, 1], one for each of the arm's seven joints and two
    fingers: wanted velocities. ``info["tasks"]`` says of every task whether it has been achieved in this episode, at
    reset and at every step. The reward is the number of tasks that are achieved for the first time in the episode.
    It never terminates.

    :param frame_size: height and width of a frame in pixels, at least 46
    :param frame_stack: number of frames in an observation
    :param quality: ``"full"`` draws all; ``"fast"`` leaves out reflections, smooth edges and every shadow except
        the hood's, which keeps its lamp from the hob until it is switched on
    :param render_mode: ``"rgb_array"`` or ``None``
    :param width: width of the pictures that ``render`` draws, in pixels; the observation's frames have their own size
    :param height: height of the pictures that ``render`` draws, in pixels
    """

    _shadows = True

    def __init__(
        self,
        frame_size: int = 64,
        frame_stack: int = 3,
        quality: Quality = "fast",
        render_mode: str | None = None,
        width: int = 240,
        height: int = 240,
    ):
        gym.utils.EzPickle.__init__(self, frame_size, frame_stack, quality, render_mode, width, height)
        super().__init__(frame_size, frame_stack, quality, render_mode, width, height)
        repair_robot_joints()
        self._kitchen = KitchenEnv(tasks_to_complete=list(TASKS), terminate_on_tasks_completed=False)
        self.metadata = {
            **self.metadata,
            "render_fps": self._kitchen.metadata["render_fps"],
            "goal_range": None,
            "camera": None,
        }
        self.action_space = spaces.Box(-1.0, 1.0, shape=self._kitchen.action_space.shape, dtype=np.float32)
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = _LOOK_AT
        self._camera.distance, self._camera.azimuth, self._camera.elevation = _DISTANCE, _AZIMUTH, _ELEVATION
        if quality == "fast":
            self.model.light_castshadow[self.model.light("ovenlight").id != np.arange(self.model.nlight)] = False
        self._renderer(frame_size, frame_size)  # here, so that a machine that cannot draw says so at once

    @property
    def model(self) -> mujoco.MjModel:
        """MuJoCo's model of the kitchen."""
        return self._kitchen.model

    @property
    def data(self) -> mujoco.MjData:
        """MuJoCo's state of the kitchen."""
        return self._kitchen.data

    def _info(self, kitchen_info: dict[str, Any]) -> dict[str, Any]:
        return {"tasks": {task: task in kitchen_info["episode_task_completions"] for task in TASKS}}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        _, info = self._kitchen.reset(seed=seed)
        return self._frames.reset(self._draw()), self._info(info)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Ask the joints for velocities, in [-1, 1]; as Gymnasium's ``step`` otherwise."""
        _, reward, _, _, info = self._kitchen.step(self._check_action(action))
        return self._frames.push(self._draw()), float(reward), False, False, self._info(info)

    def goal_observation(self, goal: str) -> np.ndarray:
        """
        Observe the kitchen at the start of an episode, but with one task achieved; the running episode does not change.

        :param goal: the task, one of ``TASKS``
        :return: an observation: the frame of that kitchen, repeated over the stack
        :raises ValueError: if there is no such task
        """
        if not isinstance(goal, str) or goal not in TASKS:
            raise ValueError(f"goal must name a task, one of {list(TASKS)}, got {goal!r}.")
        data = mujoco.MjData(self.model)
        data.qpos[:] = self._kitchen.robot_env.init_qpos
        data.qpos[OBS_ELEMENT_INDICES[goal]] = OBS_ELEMENT_GOALS[goal]
        mujoco.mj_forward(self.model, data)
        return self._frames.repeat(self._draw_state(data))

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on.

        :return: NumPy arrays and JSON values
        """
        robot = self._kitchen.robot_env
        return {
            **super().get_state(),
            "robot_random": get_generator(robot),
            "robot_qpos": robot._last_robot_qpos.copy(),
            "achieved": list(self._kitchen.episode_task_completions),
        }

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of another environment
        """
        super().set_state(state)
        robot, achieved = self._kitchen.robot_env, state["achieved"]
        set_generator(robot, state["robot_random"])
        robot._last_robot_qpos = np.array(state["robot_qpos"])
        self._kitchen.episode_task_completions[:] = achieved
        self._kitchen.tasks_to_complete = set(TASKS) - set(achieved)
