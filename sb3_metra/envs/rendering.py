"""Pictures of MuJoCo's scenes without a screen: one renderer for each environment, in its own OpenGL context."""

import atexit
import contextlib
import ctypes
import importlib
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np

from sb3_metra.envs.checks import check_picture

Quality = Literal["fast", "full"]
"""``"full"`` draws all that the model asks for. ``"fast"`` leaves out shadows, reflections and smooth edges."""

_DEVICE = "MUJOCO_EGL_DEVICE_ID"
_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}  # by values of MUJOCO_GL, the better one ahead

GL_PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"
NO_GL = (
    "Pixel environments need OpenGL without a screen, which is missing or does not work here ({reason}): on Debian and "
    f"Ubuntu run `sudo apt-get install {GL_PACKAGES}`, and set MUJOCO_GL=egl, or install libosmesa6 and set "
    "MUJOCO_GL=osmesa."
)


def choose_gl() -> str:
    """
    Choose how to draw unless ``MUJOCO_GL`` is set, and set it for MuJoCo and Gymnasium.

    On Linux that is EGL, which uses an NVIDIA GPU or else the CPU, or OSMesa; elsewhere it is MuJoCo's own choice.

    :return: the value of ``MUJOCO_GL``; empty where nothing was found, or elsewhere than on Linux
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen or sys.platform != "linux":
        return chosen
    for chosen, library in _LIBRARIES.items():
        if _is_installed(library):
            os.environ["MUJOCO_GL"] = chosen
            return chosen
    return ""


def _is_installed(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def explained_imports(missing: str) -> Iterator[None]:
    """
    Choose how to draw while simulators are imported, which otherwise need a screen, and explain what is missing.

    The process's ``MUJOCO_GL`` is restored: an environment sets it.

    :param missing: the message if a package is missing
    :raises ImportError: with that sentence, or with one about OpenGL where its library is missing
    :raises ValueError: if ``MUJOCO_EGL_DEVICE_ID`` names no device
    """
    before = os.environ.get("MUJOCO_GL")
    choose_gl()
    try:
        yield
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        raise ImportError(missing) from error
    except AttributeError as error:
        if "'NoneType' object" not in str(error):  # PyOpenGL's way of saying that a library is missing
            raise
        raise ImportError(NO_GL.format(reason=f"MUJOCO_GL={choose_gl()}, whose library is not found")) from error
    except RuntimeError as error:
        raise _explained(error) from error
    finally:
        os.environ.pop("MUJOCO_GL", None)
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _explained(error: Exception) -> Exception:
    """
    Turn what a driver or its loader raised into one sentence; MuJoCo's error about a device number is one already.

    :param error: what was raised
    :return: what to raise instead
    """
    if _DEVICE in str(error):
        return ValueError(str(error))
    return ImportError(NO_GL.format(reason=f"{type(error).__name__}: {error}".strip()))


def _make_gl_context(width: int, height: int) -> Any:
    """
    Make an OpenGL context of the kind that is chosen now, also where MuJoCo was imported under another choice.

    :param width: width of the pictures to be drawn
    :param height: their height
    :return: the context, not current yet
    :raises ImportError: if a library is missing or does not work, or ``MUJOCO_GL`` turns drawing off
    :raises ValueError: if ``MUJOCO_EGL_DEVICE_ID`` names no device
    """
    chosen = choose_gl()
    if chosen in ("disable", "disabled", "off", "false", "0"):
        raise ImportError(NO_GL.format(reason=f"MUJOCO_GL={chosen} turns it off"))
    if not chosen and sys.platform == "linux":
        raise ImportError(NO_GL.format(reason="neither libEGL nor libOSMesa is found"))
    try:
        module = importlib.import_module(f"mujoco.{chosen}" if chosen in ("egl", "osmesa") else "mujoco.gl_context")
        return module.GLContext(width, height)
    except Exception as error:  # PyOpenGL's loaders and drivers raise whatever they like
        raise _explained(error) from error


_open_renderers: "weakref.WeakSet[SceneRenderer]" = weakref.WeakSet()


def _close_all() -> None:
    """Close the renderers that are still open when the program ends, before the drivers do."""
    for renderer in list(_open_renderers):
        renderer.close()


def count_egl_devices() -> int:
    """
    Count the devices that EGL can draw on, GPUs or the CPU; ``MUJOCO_EGL_DEVICE_ID`` is a smaller number.

    :return: their number, 0 where drawing does not go through EGL
    """
    if choose_gl() != "egl":
        return 0
    with explained_imports(NO_GL.format(reason="MUJOCO_GL=egl, which cannot be imported")):
        from mujoco.egl import egl_ext
    return len(egl_ext.eglQueryDevicesEXT())


class SceneRenderer:
    """
    Draws pictures of one model and of one size, in an OpenGL context of its own.

    MuJoCo frees a renderer's objects in the current context, so closing one renderer may turn the pictures of another
    into noise. This one makes its own context current before it draws and before it is closed.

    :param model: the model. Its textures, sizes and visual settings are read here, once.
    :param width: width of the pictures in pixels
    :param height: height of the pictures in pixels
    :param quality: ``"fast"`` or ``"full"``
    :param shadows: whether ``"fast"`` draws shadows, too
    :param max_geoms: largest number of shapes in a scene
    """

    def __init__(
        self,
        model: Any,
        width: int,
        height: int,
        quality: Quality = "fast",
        shadows: bool = False,
        max_geoms: int = 2000,
    ):
        self._gl_context: Any = None
        self._context: Any = None
        check_picture(None, width, height)
        check_quality(quality)
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._scene = mujoco.MjvScene(model, maxgeom=max_geoms)
        self._option = mujoco.MjvOption()
        if quality == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._gl_context = _make_gl_context(width, height)
        atexit.unregister(_close_all)  # at the program's end, what was registered last is called first:
        atexit.register(_close_all)  # this before the drivers, which dm_control may have loaded meanwhile
        _open_renderers.add(self)
        self._gl_context.make_current()
        self._context = self._make_context(quality)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def _make_context(self, quality: Quality) -> Any:
        """
        Upload the model with a buffer of the picture's size, without changing the model.

        :param quality: ``"fast"`` draws into one sample a pixel, coarse shadows if any, and round shapes with fewer
            faces
        :return: MuJoCo's context
        """
        vis = self._model.vis
        settings = [(vis.global_, "offwidth", self._rect.width), (vis.global_, "offheight", self._rect.height)]
        if quality == "fast":
            coarse = {"offsamples": 0, "shadowsize": 512, "numslices": 10, "numstacks": 6, "numquads": 2}
            settings += [(vis.quality, name, value) for name, value in coarse.items()]
        before = [getattr(group, name) for group, name, _ in settings]
        try:
            for group, name, value in settings:
                setattr(group, name, value)
            return self._mujoco.MjrContext(self._model, self._mujoco.mjtFontScale.mjFONTSCALE_150)
        finally:
            for (group, name, _), value in zip(settings, before, strict=True):
                setattr(group, name, value)

    @property
    def gl_renderer(self) -> str:
        """OpenGL's name of the renderer: a GPU, or the CPU (``llvmpipe``)."""
        self._gl_context.make_current()
        from OpenGL import GL

        return GL.glGetString(GL.GL_RENDERER).decode()

    def render(self, data: Any, camera: Any) -> np.ndarray:
        """
        Draw the model as it stands.

        :param data: its ``mujoco.MjData``
        :param camera: its ``mujoco.MjvCamera``
        :return: ``(height, width, 3)`` uint8
        """
        if self._context is None:
            raise RuntimeError("render cannot be called after close.")
        mujoco = self._mujoco
        self._gl_context.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, camera, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        picture = np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, self._rect, self._context)
        return picture[::-1]  # OpenGL's first row is the lowest

    def upload_terrain(self) -> None:
        """Show the model's height fields as they are now; tasks with terrain shape it again for every episode."""
        is_terrain = self._model.geom_type == self._mujoco.mjtGeom.mjGEOM_HFIELD
        for index in self._model.geom_dataid[is_terrain]:  # a model may hold a height field that nothing stands on
            self._gl_context.make_current()
            self._mujoco.mjr_uploadHField(self._model, self._context, int(index))

    def close(self) -> None:
        """Free what the renderer holds, in its own context; it can be called twice."""
        if self._context is not None:
            self._gl_context.make_current()
            self._context.free()
            self._context = None
        if self._gl_context is not None:
            self._gl_context.free()
            self._gl_context = None

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


def check_quality(quality: str) -> None:
    """
    Refuse an unknown quality.

    :param quality: ``"fast"`` or ``"full"``
    """
    if quality not in get_args(Quality):
        raise ValueError(f'quality must be "fast" or "full", got {quality!r}.')


def make_camera(model: Any, camera: int | str) -> Any:
    """
    Find one of a model's cameras.

    :param model: the model
    :param camera: its number or its name; -1 is a free camera that shows the whole model
    :return: a ``mujoco.MjvCamera``
    """
    import mujoco

    names = [model.camera(index).name for index in range(model.ncam)]
    number = names.index(camera) if camera in names else camera
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or not -1 <= number < model.ncam:
        raise ValueError(f"camera must be a number from -1 to {model.ncam - 1} or one of {names}, got {camera!r}.")
    view = mujoco.MjvCamera()
    if number == -1:
        mujoco.mjv_defaultFreeCamera(model, view)
    else:
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, int(number)
    return view
