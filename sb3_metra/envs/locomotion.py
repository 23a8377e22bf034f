"""What MuJoCo's bodies share, and Gymnasium's Ant and HalfCheetah, with positions observed, observations normalised.

The bodies, rewards and infos are Gymnasium's. What is added: a fixed normalisation of the observations (measured once
from random rollouts, so that distances between observations keep their meaning), and ``info["coordinates"]``.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_action, check_flag, check_integer, check_number, check_picture, check_range
from sb3_metra.envs.goals import check_place
from sb3_metra.envs.states import State, check_state, get_generator, get_simulation, set_generator, set_simulation

try:
    import mujoco
    from gymnasium.envs.mujoco import MujocoEnv
    from gymnasium.envs.mujoco.ant_v5 import AntEnv as GymnasiumAntEnv
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv as GymnasiumHalfCheetahEnv
except (ImportError, gym.error.DependencyNotInstalled) as error:
    raise ImportError(
        'The Ant and HalfCheetah environments need MuJoCo: install it with `pip install "sb3-metra[mujoco]"`.'
    ) from error

NORMALIZATION_PATH = Path(__file__).with_name("state_normalization.json")
"""The measured means and standard deviations; ``benchmarks/measure_normalization.py`` writes this file."""

_RENDER_MODES = ("human", "rgb_array", "depth_array", "rgbd_tuple")
_WEIGHTS = {"forward_reward_weight", "ctrl_cost_weight", "contact_cost_weight", "healthy_reward"}


def load_normalization(name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the fixed normalisation of one environment's observations.

    :param name: the environment's id, e.g. ``"sb3_metra/Ant-v0"``
    :return: the mean and the standard deviation of every dimension, each ``(n_dims,)`` in float64
    """
    measured = json.loads(NORMALIZATION_PATH.read_text(encoding="utf-8"))["environments"]
    if name not in measured:
        raise ValueError(f"name must be one of {sorted(measured)}, the measured environments, got {name!r}.")
    return np.array(measured[name]["mean"]), np.array(measured[name]["std"])


def check_body(normalize: Any, kwargs: dict[str, Any], fixed: set[str]) -> None:
    """
    Refuse arguments that Gymnasium's bodies ignore, or fail on later.

    :param normalize: whether to normalise observations
    :param kwargs: passed to Gymnasium's body, which refuses unknown names itself
    :param fixed: names of arguments that the environment sets
    :raises ValueError: for the first that is wrong
    """
    check_flag("normalize", normalize)
    if taken := fixed & kwargs.keys():
        raise ValueError(f"{min(taken)} must be left out, the environment sets it, got {kwargs[min(taken)]!r}.")
    picture = {"render_mode": None, "width": 1, "height": 1}
    check_picture(**{name: kwargs.get(name, value) for name, value in picture.items()}, modes=_RENDER_MODES)
    for name in kwargs.keys() & {"frame_skip", "max_geom"}:
        check_integer(name, kwargs[name], 1)
    for name in kwargs.keys() & _WEIGHTS:
        check_number(name, kwargs[name])
    for name in kwargs.keys() & {"healthy_z_range", "contact_force_range"}:
        check_range(name, kwargs[name])
    check_number("reset_noise_scale", kwargs.get("reset_noise_scale", 0.0), at_least=0)
    for name in ("xml_file", "camera_name"):
        if kwargs.get(name) is not None and not isinstance(kwargs[name], str):
            raise ValueError(f"{name} must be a string, got {kwargs[name]!r}.")


def check_names(env: MujocoEnv, camera_id: Any = None, camera_name: Any = None, main_body: Any = None) -> None:
    """
    Refuse names and numbers that a body's model does not have.

    :param env: the body
    :param camera_id: number of the camera that draws, or ``None``
    :param camera_name: its name, or ``None``
    :param main_body: name or number of the body whose place counts, or ``None``
    :raises ValueError: for the first that is unknown
    """
    model = env.model
    things = {"camera_id": camera_id, "camera_name": camera_name, "main_body": main_body}
    for argument, thing in things.items():
        kind, count = (model.body, model.nbody) if argument == "main_body" else (model.camera, model.ncam)
        names = [kind(index).name for index in range(count)]
        known = ([] if argument == "camera_id" else names) + ([] if argument == "camera_name" else list(range(count)))
        if thing is not None and (isinstance(thing, bool) or thing not in known):
            raise ValueError(f"{argument} must be one of {known}, got {thing!r}.")


def _warn_unless_deprecated_mass(message: str) -> None:
    """
    Pass MuJoCo's warnings on to Python, except the one that Gymnasium's ``half_cheetah.xml`` always gives.

    :param message: what MuJoCo warns of
    """
    if "settotalmass" not in message:
        warnings.warn(message, RuntimeWarning, stacklevel=2)


def name_components(model: mujoco.MjModel) -> tuple[str, ...]:
    """
    Name the components of ``(qpos, qvel, act)``: ``x``, ``vx``, the torso's quaternion ``qw`` and turning ``wx``,
    joints by their names in the model, and their velocities with a ``v`` before them.

    :param model: a body
    """
    places, velocities = [], []
    for index in range(model.njnt):
        joint = model.joint(index)
        if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE:
            places += ["x", "y", "z", "qw", "qx", "qy", "qz"]
            velocities += ["vx", "vy", "vz", "wx", "wy", "wz"]
        else:
            name = {"rootx": "x", "rootz": "z", "rooty": "pitch"}.get(joint.name, joint.name)
            places.append(name)
            velocities.append(f"v{name}" if len(name) == 1 else f"v_{name}")
    return (*places, *velocities, *(f"act_{index}" for index in range(model.na)))


class LocomotionEnv(MujocoEnv):
    """
    What all bodies share: the observation ``(qpos, qvel, act)``, normalised, the coordinates, and the whole state.

    It comes before Gymnasium's class among the bases, whose ``step`` and ``reset`` it extends. It also draws in its own
    OpenGL context: Gymnasium's renderer uses and frees names in the current one, which may be another environment's.
    """

    env_id: ClassVar[str]
    n_coordinates: ClassVar[int]
    goal_range: ClassVar[float]
    camera: ClassVar[str]
    terminate_on_back: bool
    _mean: np.ndarray | None
    _std: np.ndarray | None

    def _set_observation(self, normalize: bool) -> None:
        """
        Choose how observations are made, and declare their space.

        :param normalize: whether to normalise them
        """
        n_dims = self.model.nq + self.model.nv + self.model.na
        self._mean, self._std = load_normalization(self.env_id) if normalize else (None, None)
        if self._mean is not None and self._mean.shape != (n_dims,):
            raise ValueError(
                f"normalize=True fits observations of {self._mean.size} dimensions, but this xml_file has {n_dims}: "
                "pass normalize=False with another body."
            )
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(n_dims,), dtype=np.float32)
        self.metadata = {**self.metadata, "unit": "m", "goal_range": self.goal_range, "camera": self.camera}
        self.metadata["observation_names"] = name_components(self.model)

    def _get_obs(self) -> np.ndarray:
        return self.observe(self.state_vector())

    def observe(self, state: np.ndarray) -> np.ndarray:
        """
        Turn states of this body, one or many, into observations.

        :param state: positions, velocities and activations, ``(..., n_dims)`` float64
        :return: ``(..., n_dims)`` float32; a copy
        """
        if self._mean is not None:
            state = (state - self._mean) / self._std
        return state.astype(np.float32)

    def controls(self, action: np.ndarray) -> np.ndarray:
        """
        Turn actions, one or many, into MuJoCo's controls.

        :param action: ``(..., n_actions)``
        :return: ``(..., nu)``
        """
        return action

    def _get_coordinates(self) -> np.ndarray:
        return self.data.qpos[: self.n_coordinates].copy()

    def goal_observation(self, goal: np.ndarray) -> np.ndarray:
        """
        Observe the body at rest in its first pose, at a place; the running episode does not change.

        :param goal: the place, as in ``info["coordinates"]``, metres
        :return: an observation, normalised as those of the episode are
        :raises ValueError: if the goal is no place
        """
        qpos = self.init_qpos.copy()
        qpos[: self.n_coordinates] = check_place(goal, self.n_coordinates)
        return self.observe(np.concatenate((qpos, np.zeros(self.model.nv + self.model.na))))

    def state_vector(self) -> np.ndarray:
        return np.concatenate((self.data.qpos, self.data.qvel, self.data.act))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin at the origin, or at ``options["place"]``, as in ``info["coordinates"]``."""
        observation, info = super().reset(seed=seed, options=options)
        if not options or "place" not in options:
            return observation, info
        qpos = self.data.qpos.copy()
        qpos[: self.n_coordinates] += check_place(options["place"], self.n_coordinates, 'options["place"]')
        self.set_state(qpos, self.data.qvel.copy())
        return self._get_obs(), self._get_reset_info()

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on.

        :return: NumPy arrays and JSON values
        """
        return {
            "np_random": get_generator(self),
            "simulation": get_simulation(self.model, self.data),
            "xpos": self.data.xpos.copy(),  # after a step it is one substep old, and Ant's next reward depends on it
        }

    def set_state(self, qpos: np.ndarray | State, qvel: np.ndarray | None = None) -> None:
        """
        Restore a state; or, as in Gymnasium, set positions and velocities.

        :param qpos: what ``get_state`` returned; or positions, ``(nq,)``
        :param qvel: nothing; or velocities, ``(nv,)``
        :raises ValueError: if it is the state of another environment
        """
        if qvel is not None:
            return super().set_state(qpos, qvel)
        state = check_state(qpos, self.get_state())
        set_generator(self, state["np_random"])
        set_simulation(self.model, self.data, state["simulation"])
        self.data.xpos[:] = state["xpos"]
        return None

    @staticmethod
    def find_on_back(qpos: np.ndarray) -> Any:
        """
        Return whether the upward axis of the torso points below the horizon, here that of a floating body.

        :param qpos: positions, ``(..., nq)``; the root's quaternion of any length stands at 3 to 6
        :return: ``(...)`` bool
        """
        # The axis' height is 1 - 2 (x^2 + y^2) for a unit quaternion; this has its sign for a quaternion of any length.
        w, x, y, z = (qpos[..., index] for index in range(3, 7))
        return w * w + z * z < x * x + y * y

    @property
    def is_on_back(self) -> bool:
        """Whether the torso's upward axis points below the horizon."""
        return bool(self.find_on_back(self.data.qpos))

    def _get_reset_info(self) -> dict[str, Any]:
        return {**super()._get_reset_info(), "coordinates": self._get_coordinates()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        check_action(action, (self.model.nu,))
        observation, reward, terminated, truncated, info = super().step(action)
        terminated = self.terminate_on_back and self.is_on_back  # neither body terminates by itself
        return observation, reward, terminated, truncated, {**info, "coordinates": self._get_coordinates()}

    def render(self) -> Any:
        viewer = self.mujoco_renderer.viewer
        if viewer is not None:
            viewer.make_context_current()
        return super().render()

    def close(self) -> None:
        """Free the renderer in its own OpenGL context; it can be called twice."""
        renderer = getattr(self, "mujoco_renderer", None)  # missing where the constructor has failed
        if renderer is None:
            return
        if renderer.viewer is not None and self.render_mode != "human":
            renderer.viewer.make_context_current()
            renderer.viewer.con.free()
        renderer.viewer = None
        super().close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


class AntEnv(LocomotionEnv, GymnasiumAntEnv):
    """
    Gymnasium's ``Ant-v5`` that observes its position, ignores contact forces and never terminates.

    The observation is ``qpos`` (15: x, y, z, the torso's quaternion, 8 joint angles) followed by ``qvel`` (14).
    ``info["coordinates"]`` is the torso's ``(x, y)`` in metres.

    :param normalize: whether to normalise observations by their fixed mean and standard deviation
    :param terminate_on_back: whether an episode terminates once the torso's upward axis points below the horizon, from
        where the Ant seldom gets up. For training only: it changes the paper's task, so measure coverage without it
    :param kwargs: passed to ``Ant-v5``: ``render_mode``, ``width``, ``height``, ``reset_noise_scale``, ...
    """

    env_id = "sb3_metra/Ant-v0"
    n_coordinates = 2
    goal_range = 50.0
    camera = "track"

    def __init__(self, normalize: bool = True, terminate_on_back: bool = False, **kwargs: Any):
        check_body(
            normalize,
            kwargs,
            {
                "exclude_current_positions_from_observation",
                "include_cfrc_ext_in_observation",
                "terminate_when_unhealthy",
            },
        )
        check_flag("terminate_on_back", terminate_on_back)
        GymnasiumAntEnv.__init__(
            self,
            exclude_current_positions_from_observation=False,
            include_cfrc_ext_in_observation=False,
            terminate_when_unhealthy=False,
            **kwargs,
        )
        gym.utils.EzPickle.__init__(self, normalize, terminate_on_back, **kwargs)
        self.terminate_on_back = terminate_on_back
        check_names(self, *map(kwargs.get, ("camera_id", "camera_name", "main_body")))
        self._set_observation(normalize)


class HalfCheetahEnv(LocomotionEnv, GymnasiumHalfCheetahEnv):
    """
    Gymnasium's ``HalfCheetah-v5`` that observes its position.

    The observation is ``qpos`` (9: x, z, the torso's angle, 6 joint angles) followed by ``qvel`` (9).
    ``info["coordinates"]`` is the torso's ``(x,)`` in metres.

    :param normalize: whether to normalise observations by their fixed mean and standard deviation
    :param terminate_on_back: whether an episode terminates once the torso is upside down, as for Ant; for
        training only. Without it no episode terminates
    :param kwargs: passed to ``HalfCheetah-v5``: ``render_mode``, ``width``, ``height``, ``reset_noise_scale``, ...
    """

    env_id = "sb3_metra/HalfCheetah-v0"
    n_coordinates = 1
    goal_range = 100.0
    camera = "track"

    def __init__(self, normalize: bool = True, terminate_on_back: bool = False, **kwargs: Any):
        check_body(normalize, kwargs, {"exclude_current_positions_from_observation"})
        check_flag("terminate_on_back", terminate_on_back)
        GymnasiumHalfCheetahEnv.__init__(self, exclude_current_positions_from_observation=False, **kwargs)
        gym.utils.EzPickle.__init__(self, normalize, terminate_on_back, **kwargs)
        self.terminate_on_back = terminate_on_back
        check_names(self, kwargs.get("camera_id"), kwargs.get("camera_name"))
        self._set_observation(normalize)

    @staticmethod
    def find_on_back(qpos: np.ndarray) -> Any:
        return np.cos(qpos[..., 2]) < 0.0  # the torso's angle counts turns

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        # Else MuJoCo 3.17 prints, for every environment made, that half_cheetah.xml uses a deprecated attribute, and
        # starts a log file in the working directory.
        previous = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(_warn_unless_deprecated_mass)
        try:
            return super()._initialize_simulation()
        finally:
            mujoco.set_mju_user_warning(previous)
