"""Drawing MuJoCo's bodies for films: at which size, how to draw fast, and where the camera looks."""

import inspect
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from sb3_metra.envs import MAX_EPISODE_STEPS, find_spec

_PLANE, _FREE_JOINT, _TRACKING = 0, 0, 1  # MuJoCo's numbers for a kind of geom, of joint, of camera
_FLOOR_GREY, _FLOOR_CONTRAST = 130, 0.3


def drawing_kwargs(env_id: str, width: int = 640, height: int = 480) -> dict[str, Any]:
    """
    Arguments with which an environment draws pictures for films.

    :param env_id: id of a registered environment
    :param width: width of a picture in pixels, where that can be chosen; a point mass is square
    :param height: height of a picture in pixels
    :return: none where it cannot draw
    """
    spec = find_spec(env_id)
    creator = load_env_creator(str(spec.entry_point))
    if "rgb_array" not in getattr(creator, "metadata", {}).get("render_modes", []):
        return {}
    sized = spec.id in MAX_EPISODE_STEPS or {"width", "height"} <= inspect.signature(creator).parameters.keys()
    width, height = (240, 240) if "Point" in env_id else (width, height)
    return {"render_mode": "rgb_array", **({"width": width, "height": height} if sized else {})}


def leave_out_shadows(env: gym.Env) -> None:
    """
    Shadows and mirror images are six sevenths of the time that MuJoCo takes for a picture on a CPU.

    :param env: an environment; one that is not Gymnasium's MuJoCo, or observes pictures, stays as it is
    """
    scene = _scene(env)
    if scene is not None:
        scene.light_castshadow[:] = 0
        scene.mat_reflectance[:] = 0


def draw_for_films(env: gym.Env) -> None:
    """
    Draw fast what is shrunk afterwards, and pale floors; to be called before the first picture.

    Edges stay rough, round bodies a little angular, and the black and white squares of a floor turn grey: most of a
    film's bytes would be spent on them.

    :param env: an environment; one that is not Gymnasium's MuJoCo, or observes pictures, stays as it is
    """
    leave_out_shadows(env)
    scene = _scene(env)
    if scene is None:
        return
    quality = scene.vis.quality
    quality.offsamples, quality.numslices, quality.numstacks, quality.numquads = 0, 14, 8, 2
    floors = scene.geom_matid[(scene.geom_type == _PLANE) & (scene.geom_matid >= 0)]
    for texture in {int(i) for i in scene.mat_texid[floors].flat if i >= 0}:
        size = int(scene.tex_height[texture] * scene.tex_width[texture] * scene.tex_nchannel[texture])
        pixels = scene.tex_data[scene.tex_adr[texture] :][:size]
        pixels[:] = _FLOOR_GREY + _FLOOR_CONTRAST * pixels


def follow_body(env: gym.Env) -> None:
    """
    Let Gymnasium's camera go along with the body, x to the right and y away from it; to be called before the first
    picture. By itself Gymnasium 1.4 looks at the place where the body starts, even once it has left.

    :param env: an environment; one that is not Gymnasium's MuJoCo, or observes pictures, stays as it is
    """
    scene = _scene(env)
    if scene is None:
        return
    moves_in_plane = bool((scene.jnt_type == _FREE_JOINT).any())
    renderer = env.unwrapped.mujoco_renderer  # type: ignore[attr-defined]
    renderer.camera_id = None  # a number would undo the type
    renderer.default_cam_config = {
        "type": _TRACKING,
        "trackbodyid": 1,
        "azimuth": 90.0,
        "elevation": -45.0 if moves_in_plane else -12.0,
        "distance": 5.0 if moves_in_plane else 4.0,
    }


def _scene(env: gym.Env) -> Any:
    """MuJoCo's model of an environment that Gymnasium draws, unless what is drawn is what it observes."""
    inner = env.unwrapped
    state_observed = isinstance(env.observation_space, gym.spaces.Box) and len(env.observation_space.shape) == 1
    return getattr(inner, "model", None) if state_observed and hasattr(inner, "mujoco_renderer") else None
