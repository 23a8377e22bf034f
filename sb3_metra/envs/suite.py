"""The dm_control suite's Quadruped and Humanoid with their state observed; MuJoCo alone runs their episodes."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_action, check_flag, check_integer
from sb3_metra.envs.locomotion import LocomotionEnv, check_body, check_names
from sb3_metra.envs.rendering import explained_imports

with explained_imports(
    "The bodies of the dm_control suite need dm_control: install it with "
    '`pip install "sb3-metra[dmc]"`, on Python 3.10 to 3.12.'
):
    import mujoco
    from dm_control import suite
    from dm_control.suite import common, humanoid, quadruped

    from sb3_metra.envs.poses import draw_tilt, stand_up

_UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])
_SKY = "./common/skybox.xml"
# A sky of 100 pixels instead of 800: a body takes 1 MB instead of 12, and 5 ms to make instead of 110.
_ASSETS = {**common.ASSETS, _SKY: common.ASSETS[_SKY].replace(b'"800"', b'"100"')}


class SuiteEnv(LocomotionEnv, gym.utils.EzPickle, ABC):
    """
    A body of the suite that floats, on a level floor.

    The observation is ``qpos`` (x, y, z, the torso's quaternion, joints), ``qvel`` and ``act``, the actuators'
    activations. Actions lie in [-1, 1] and are scaled to every actuator's bounds. ``info["coordinates"]`` is the
    torso's ``(x, y)`` in metres. An episode begins at the origin, at rest in the default pose, nearly upright, as low
    as nothing touches. The reward is the growth of the distance to the origin, so that an episode's return is how far
    away it ended. It never terminates, unless asked to.

    :param normalize: whether to normalise observations by their fixed mean and standard deviation
    :param terminate_on_back: whether an episode terminates once the torso's upward axis points below the horizon. For
        training only: measure coverage without it
    :param action_repeat: number of the suite's steps for which an action is kept
    :param kwargs: passed to Gymnasium's ``MujocoEnv``: ``render_mode``, ``width``, ``height``, ``camera_name``, ...
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012  (as Gymnasium)
    n_coordinates = 2
    substeps: ClassVar[int]

    def __init__(self, normalize: bool = True, terminate_on_back: bool = False, action_repeat: int = 2, **kwargs: Any):
        gym.utils.EzPickle.__init__(self, normalize, terminate_on_back, action_repeat, **kwargs)
        check_body(normalize, kwargs, {"model_path", "frame_skip", "observation_space", "reset_noise_scale"})
        check_flag("terminate_on_back", terminate_on_back)
        check_integer("action_repeat", action_repeat, 1)
        if kwargs.get("camera_id") is None and kwargs.get("camera_name") is None:
            kwargs["camera_name"] = self.camera
        name = self.env_id.removeprefix("sb3_metra/").removesuffix("-v0").lower()
        super().__init__(
            str(Path(suite.__file__).with_name(f"{name}.xml")), self.substeps * action_repeat, None, **kwargs
        )
        self.terminate_on_back, self.action_repeat = terminate_on_back, action_repeat
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.dt)}
        check_names(self, kwargs.get("camera_id"), kwargs.get("camera_name"))
        self._set_observation(normalize)
        self.init_qpos = stand_up(self.model, self.data, 0, _UPRIGHT)

    @staticmethod
    @abstractmethod
    def load_model() -> mujoco.MjModel:
        """
        Compile the suite's model.

        :return: the model, whose root floats freely and comes first
        """

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = self.load_model()
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_SENSOR)  # nothing reads them
        size = model.vis.global_
        size.offwidth, size.offheight = max(size.offwidth, self.width), max(size.offheight, self.height)
        return model, mujoco.MjData(model)

    def _set_action_space(self) -> spaces.Box:
        self._low, self._range = self.model.actuator_ctrlrange[:, 0], np.ptp(self.model.actuator_ctrlrange, axis=1)
        self.action_space = spaces.Box(-1.0, 1.0, shape=(self.model.nu,), dtype=np.float32)
        return self.action_space

    def controls(self, action: np.ndarray) -> np.ndarray:
        return self._low + (np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) + 1.0) / 2.0 * self._range

    def _step_mujoco_simulation(self, ctrl: np.ndarray, n_frames: int) -> None:
        self.data.ctrl[:] = self.controls(ctrl)
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def reset_model(self) -> np.ndarray:
        qpos = stand_up(self.model, self.data, 0, draw_tilt(self.np_random))
        self.set_state(qpos, np.zeros(self.model.nv))
        return self._get_obs()

    def _get_distance(self) -> Any:
        return np.hypot(self.data.qpos[0], self.data.qpos[1])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Keep an action, in [-1, 1], for ``action_repeat`` of the suite's steps; as Gymnasium's ``step`` otherwise."""
        check_action(action, (self.model.nu,))
        before = self._get_distance()
        self.do_simulation(action, self.frame_skip)
        terminated = self.terminate_on_back and self.is_on_back
        if self.render_mode == "human":
            self.render()
        reward = float(self._get_distance() - before)
        return self._get_obs(), reward, terminated, False, {"coordinates": self._get_coordinates()}


class QuadrupedEnv(SuiteEnv):
    """
    The suite's Quadruped: 23 positions, 22 velocities and 12 activations; an action lasts two steps of 0.02 s.

    See :class:`SuiteEnv`, whose options it takes.
    """

    env_id = "sb3_metra/Quadruped-v0"
    goal_range = 15.0
    camera = "y"
    substeps = 4

    @staticmethod
    def load_model() -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(quadruped.make_model(floor_size=100.0), _ASSETS)


class HumanoidEnv(SuiteEnv):
    """
    The suite's Humanoid: 28 positions and 27 velocities; an action lasts two steps of 0.025 s.

    See :class:`SuiteEnv`, whose options it takes.
    """

    env_id = "sb3_metra/Humanoid-v0"
    goal_range = 10.0
    camera = "back"
    substeps = 5

    @staticmethod
    def load_model() -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(humanoid.get_model_and_assets()[0], _ASSETS)
