"""Tasks of the dm_control suite seen through a camera, on a floor whose colour shows the place."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_flag, check_integer, is_number
from sb3_metra.envs.pixels import MujocoPixelEnv
from sb3_metra.envs.rendering import Quality, explained_imports, make_camera
from sb3_metra.envs.states import State

with explained_imports(
    "Pixel environments of the dm_control suite need dm_control and Shimmy: install them with "
    '`pip install "sb3-metra[dmc]"`, on Python 3.10 to 3.12.'
):
    import mujoco
    from dm_control import suite
    from shimmy.dm_control_compatibility import DmControlCompatibilityV0

    from sb3_metra.envs.poses import draw_tilt, find_float, floats, stand_at, stand_up

_BLUE = 128
_GOAL_RANGES = {"quadruped": 15.0, "humanoid": 10.0}  # as in the code of CSF


def find_floor(model: mujoco.MjModel) -> int:
    """
    Find the floor of a model: a level plane of the world, of finite size, with a textured material.

    :param model: the model
    :return: the floor's number among the model's geoms
    """
    for index in range(model.ngeom):
        geom = model.geom(index)
        is_level_plane = geom.type == mujoco.mjtGeom.mjGEOM_PLANE and geom.bodyid == 0 and geom.quat[0] == 1.0
        if is_level_plane and (geom.size[:2] > 0).all() and _texture_of(model, index) >= 0:
            return index
    raise ValueError(
        "color_floor=True needs a task with a floor, a level plane of finite size with a texture, and this task has "
        "none: pass color_floor=False."
    )


def _texture_of(model: mujoco.MjModel, geom: int) -> int:
    material = model.geom_matid[geom]
    return int(model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]) if material >= 0 else -1


def color_floor(model: mujoco.MjModel, floor_size: float | None = None) -> None:
    """
    Spread one texture over the whole floor: red grows along x, green along y, blue is the same everywhere.

    Along either axis a colour goes from 0 at one edge of the floor to 255 at the other. Call it before anything
    is drawn, because a renderer reads the textures only once.

    :param model: the model, changed in place
    :param floor_size: half the width of the floor, metres, about the origin; the body can walk beyond the drawn
        edges. ``None``: as in the model
    :raises ValueError: if the model has no floor
    """
    floor = find_floor(model)
    if floor_size is not None:
        model.geom_size[floor, :2], model.geom_pos[floor, :2] = floor_size, 0.0
    texture, material = _texture_of(model, floor), int(model.geom_matid[floor])
    height, width = int(model.tex_height[texture]), int(model.tex_width[texture])
    colors = np.full((height, width, int(model.tex_nchannel[texture])), 255, dtype=np.uint8)
    colors[..., 0] = np.rint(np.linspace(0.0, 255.0, width))[None, :]
    colors[..., 1] = np.rint(np.linspace(255.0, 0.0, height))[:, None]  # the first row lies at the far end of y
    colors[..., 2] = _BLUE
    start = int(model.tex_adr[texture])
    model.tex_data[start : start + colors.size] = colors.ravel()
    model.mat_texuniform[material] = False  # the texture's size is the floor's, not a metre
    model.mat_texrepeat[material] = 1.0
    others = np.flatnonzero(model.geom_matid == material)
    model.geom_matid[others[others != floor]] = -1  # walls of the same material keep out of it


class DMCPixelEnv(MujocoPixelEnv, gym.utils.EzPickle):
    """
    A task of the dm_control suite as METRA's paper uses it: pixels, repeated actions, a floor that shows the place.

    The observation is a stack of the latest frames, ``(3 * frame_stack, frame_size, frame_size)`` uint8, the oldest
    first; the first of an episode is repeated. Actions lie in [-1, 1] and are scaled to every joint's bounds. The
    reward is the task's, summed over the repeats. ``info["coordinates"]`` is the body's ``(x, y)`` in metres. The
    suite's own time limit is lifted: ``make_pixel_env`` and the registered environments truncate instead.

    :param domain: domain of the suite, e.g. ``"quadruped"``
    :param task: task of the domain, e.g. ``"run"``
    :param camera: number or name of the model's camera; -1 is a free camera that shows the whole model
    :param frame_size: height and width of a frame in pixels, at least 46
    :param frame_stack: number of frames in an observation
    :param action_repeat: number of the suite's steps for which an action is kept
    :param color_floor: whether the floor's colour shows the place; otherwise the floor is the task's
    :param quality: ``"full"`` draws as dm_control does; ``"fast"`` leaves out shadows, reflections and smooth edges
    :param body: name of the body whose place the coordinates are; by default the torso, or else the model's first body
    :param floor_size: half the width of the coloured floor, metres, about the origin; the body can walk
        beyond the drawn edges. ``None``: as in the task
    :param upright: whether an episode begins on the feet: the default pose, the root's quaternion (1, 0, 0, 0) with a
        noise of 0.02 (standard deviation), the feet just above the floor; otherwise as the task begins
    :param terminate_on_back: whether an episode terminates once the body's upward axis points below the horizon. For
        training only, since it changes the paper's task; with ``upright``, unless joints hold the body upright at the
        start, as cheetah's do
    :param task_kwargs: passed to the task's constructor
    :param render_mode: ``"rgb_array"`` or ``None``
    :param width: width of the pictures that ``render`` draws, in pixels; the observation's frames have their own size
    :param height: height of the pictures that ``render`` draws, in pixels
    """

    def __init__(
        self,
        domain: str,
        task: str,
        camera: int | str = 0,
        frame_size: int = 64,
        frame_stack: int = 3,
        action_repeat: int = 2,
        color_floor: bool = True,
        quality: Quality = "fast",
        body: str | None = None,
        floor_size: float | None = None,
        upright: bool = False,
        terminate_on_back: bool = False,
        task_kwargs: dict[str, Any] | None = None,
        render_mode: str | None = None,
        width: int = 240,
        height: int = 240,
    ):
        gym.utils.EzPickle.__init__(
            self,
            domain,
            task,
            camera,
            frame_size,
            frame_stack,
            action_repeat,
            color_floor,
            quality,
            body,
            floor_size,
            upright,
            terminate_on_back,
            task_kwargs,
            render_mode,
            width,
            height,
        )
        if (domain, task) not in suite.ALL_TASKS:
            raise ValueError(
                "domain and task must name a task of the dm_control suite, such as 'quadruped' and 'run', "
                f"got {domain!r} and {task!r}."
            )
        check_integer("action_repeat", action_repeat, 1)
        flags = {"color_floor": color_floor, "upright": upright, "terminate_on_back": terminate_on_back}
        for name, flag in flags.items():
            check_flag(name, flag)
        if not isinstance(task_kwargs, dict | None):
            raise ValueError(f"task_kwargs must be a dict of the task's arguments, or None, got {task_kwargs!r}.")
        if floor_size is not None and not (color_floor and is_number(floor_size) and floor_size > 0):
            raise ValueError(
                "floor_size must be a finite number above 0, or None, and goes with color_floor=True, "
                f"got {floor_size!r} and color_floor={color_floor!r}."
            )
        super().__init__(frame_size, frame_stack, quality, render_mode, width, height)
        self.action_repeat, self.terminate_on_back = action_repeat, terminate_on_back
        self._suite = DmControlCompatibilityV0(
            suite.load(domain, task, task_kwargs={"time_limit": float("inf"), **(task_kwargs or {})})
        )
        self._physics = self._suite.unwrapped.physics
        self.metadata = {
            **self.metadata,
            "render_fps": round(1.0 / (self._suite.dt * action_repeat)),
            "goal_range": _GOAL_RANGES.get(domain),
            "camera": camera,
        }
        bounds = self._suite.action_space
        assert isinstance(bounds, spaces.Box)
        self._low, self._range = bounds.low, bounds.high - bounds.low
        self.action_space = spaces.Box(-1.0, 1.0, shape=bounds.shape, dtype=np.float32)
        self._camera = make_camera(self.model, camera)
        self._body_index = self._find_body(body)
        if terminate_on_back and not upright and floats(self.model, self._body_index):
            raise ValueError("terminate_on_back=True goes with upright=True for a body that floats, got upright=False.")
        self._float = find_float(self.model, self._body_index) if upright else None
        if color_floor:
            _color_floor(self.model, floor_size)
        self._renderer(frame_size, frame_size)  # here, so that a machine that cannot draw says so at once

    @property
    def model(self) -> mujoco.MjModel:
        """MuJoCo's model of the task."""
        return self._physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        """MuJoCo's state of the task."""
        return self._physics.data.ptr

    @property
    def is_on_back(self) -> bool:
        """Whether the body's upward axis points below the horizon."""
        return bool(self.data.xmat[self._body_index, 8] < 0.0)

    def _find_body(self, body: str | None) -> int:
        names = [self.model.body(index).name for index in range(self.model.nbody)]
        if body is None:
            return names.index("torso") if "torso" in names else 1
        if body not in names:
            raise ValueError(f"body must be one of {names}, got {body!r}.")
        return names.index(body)

    def _info(self) -> dict[str, Any]:
        return {"coordinates": self.data.xpos[self._body_index, :2].copy()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode as the task does, or on the feet; as Gymnasium's ``reset`` otherwise."""
        super().reset(seed=seed)
        self._suite.reset(seed=seed)
        if self._float is not None:
            self._stand_up(self._float)
        for renderer in self._renderers.values():
            renderer.upload_terrain()
        return self._frames.reset(self._draw()), self._info()

    def _stand_up(self, start: int) -> None:
        """
        Begin in the default pose, nearly upright, just above contact, like the METRA authors' Quadruped.

        :param start: the first place of the root's free joint in ``qpos``
        :raises ValueError: if something touches at any height, such as a body's own parts in that pose
        """
        qpos = stand_up(self.model, self.data, start, draw_tilt(self.np_random))
        with self._physics.reset_context():
            self.data.qpos[:] = qpos

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on, except what a task keeps in MuJoCo's model.

        :return: NumPy arrays and JSON values
        """
        task = dict(self._suite.np_random.get_state(legacy=False))
        return {**super().get_state(), "task_key": task["state"].pop("key").copy(), "task_random": task}

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of another environment
        """
        super().set_state(state)
        words = {"key": np.asarray(state["task_key"], dtype=np.uint32), **state["task_random"]["state"]}
        self._suite.np_random.set_state({**state["task_random"], "state": words})
        self._suite._env._reset_next_step = False

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Keep an action, in [-1, 1], for ``action_repeat`` of the suite's steps; as Gymnasium's ``step`` otherwise."""
        control = self._low + (self._check_action(action) + 1.0) / 2.0 * self._range
        total, terminated, truncated = 0.0, False, False
        for _ in range(self.action_repeat):
            _, reward, terminated, truncated, _ = self._suite.step(control)
            total += float(reward)
            if terminated or truncated:
                break
        terminated = terminated or (self.terminate_on_back and self.is_on_back)
        return self._frames.push(self._draw()), total, terminated, truncated, self._info()

    def goal_observation(self, goal: np.ndarray) -> np.ndarray:
        """
        Observe the body at rest in the model's default pose, at a place; the running episode does not change.

        :param goal: the place, ``(2,)``, as in ``info["coordinates"]``, metres
        :return: an observation: the frame of that place, repeated over the stack
        :raises ValueError: if the goal is no place, or the task's joints do not let the body go there
        """
        return self._frames.repeat(self._draw_state(stand_at(self.model, self._body_index, goal)))


_color_floor = color_floor  # DMCPixelEnv's argument has the function's name


def make_pixel_env(
    domain: str, task: str, *, max_episode_steps: int | None = 200, **kwargs: Any
) -> gym.Env[np.ndarray, np.ndarray]:
    """
    Make a pixel environment of any task of the dm_control suite.

    :param domain: domain of the suite, e.g. ``"walker"``
    :param task: task of the domain, e.g. ``"walk"``
    :param max_episode_steps: the agent's steps after which an episode is truncated, or ``None`` for no limit
    :param kwargs: passed to ``DMCPixelEnv``: ``camera``, ``frame_size``, ``frame_stack``, ``action_repeat``,
        ``color_floor``, ``quality``, ``render_mode``, ...
    :return: the environment
    :raises ValueError: if an argument is wrong
    """
    if max_episode_steps is not None:
        check_integer("max_episode_steps", max_episode_steps, 1)
    env = DMCPixelEnv(domain, task, **kwargs)
    return env if max_episode_steps is None else gym.wrappers.TimeLimit(env, max_episode_steps)
