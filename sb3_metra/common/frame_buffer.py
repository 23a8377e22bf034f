"""Replay that keeps every frame once: a stack of frames is put together when it is sampled."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_metra.common.arrays import Signature, flatten, to_device
from sb3_metra.common.buffers import FROM_ENV, DictSkillReplayBuffer, SkillReplayBuffer
from sb3_metra.common.checks import as_stored
from sb3_metra.common.type_aliases import Observations

try:
    import psutil  # type: ignore[import-untyped]
except ImportError:  # as in SB3, where it comes with an extra
    psutil = None

_MAX_SHARE = 0.8  # of a GPU's free memory that frames may take unasked: networks and their gradients come after them
_ONLY = "observation"  # the key of images that are not in a dictionary


class FrameReplayBuffer(DictSkillReplayBuffer):
    """
    :class:`~sb3_metra.common.buffers.SkillReplayBuffer` for stacks of frames: the same samples, a sixth of the memory.

    An observation is ``n_stack`` frames along its first axis, the newest last: (9, 64, 64) is three RGB frames of 64x64
    pixels. An episode begins with its first frame repeated. Images in a dictionary are kept as frames, its other
    observations as they are.

    In each environment, frame t is at place ``t % ring`` of a ring that reaches ``n_stack`` frames further than the
    transitions do. The last frame of an episode moves aside when the next episode takes its place. Memory
    for frames is taken at the first ``add``.

    :param buffer_size: number of transitions, over all environments
    :param observation_space: images, (channels, height, width), or a dictionary that holds some
    :param action_space: actions
    :param device: where samples go
    :param n_envs: number of environments
    :param n_stack: number of frames in an observation; 1 if frames are not stacked
    :param storage: ``"device"`` keeps the frames where samples go, ``"host"`` in host memory; ``"auto"``: on the device
        if that is a GPU (CUDA) and they take at most 80 % of its free memory
    :param kwargs: further arguments of :class:`~sb3_metra.common.buffers.SkillReplayBuffer`
    :raises ValueError: if the space holds no such images, or frames do not fit into the device's memory
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        *,
        n_stack: int,
        storage: Literal["auto", "device", "host"] = "auto",
        **kwargs: Any,
    ) -> None:
        if storage not in ("auto", "device", "host"):
            raise ValueError(f'storage must be "auto", "device" or "host", got {storage!r}')
        is_dict = isinstance(observation_space, spaces.Dict)
        everything = observation_space.spaces if is_dict else {_ONLY: observation_space}  # type: ignore[attr-defined]
        images = _find_images(everything, n_stack)
        plain = spaces.Dict({key: space for key, space in everything.items() if key not in images})
        super().__init__(buffer_size, plain, action_space, device, n_envs, **kwargs)
        # the other observations' space is in single precision by now
        whole = spaces.Dict(self.observation_space.spaces | images) if is_dict else observation_space
        self.observation_space = whole  # type: ignore[assignment]
        self.n_stack, self.storage = n_stack, storage
        self._shapes = {key: (x.shape[0] // n_stack, *x.shape[1:]) for key, x in images.items()}
        self._ring = self.buffer_size + n_stack
        self._ages = np.zeros((self.buffer_size, n_envs), dtype=np.int16)  # frames of its episode before it: < n_stack
        self._aside = np.full((self.buffer_size, n_envs), -1, dtype=np.int32)  # place of s' among the last frames
        self._where: th.device | None = self._choose_storage()
        self.reset()

    def reset(self) -> None:
        """Forget every transition, and give the frames' memory back."""
        super().reset()
        self._added = 0  # steps of the environments, overwritten ones included
        self._newest: dict[str, np.ndarray] = {}  # s' of the last step, whole stacks
        self._frames: dict[str, Any] = {}  # (ring, n_envs, channels, height, width) by key
        self._last_frames: dict[str, Any] = {}  # (number of places, channels, height, width) by key
        self._n_places, self._free_places = 0, list[int]()
        self._aside[:] = -1

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept, once it is allocated."""
        arrays = self._rows() | flatten({"frames": self._frames, "last": self._last_frames, "newest": self._newest})
        return sum(array.nbytes for array in arrays.values())

    def __str__(self) -> str:
        where = self._where or self._choose_storage()
        place = "host memory" if where.type == "cpu" else f"the memory of {where}"
        size = self.buffer_size * self.n_envs
        return f"{type(self).__name__} of {size} transitions, {self._frame_bytes() / 1e9:.2f} GB of frames in {place}"

    # Memory

    def _frame_bytes(self) -> int:
        return self._ring * self.n_envs * sum(int(np.prod(shape)) for shape in self._shapes.values())

    def _choose_storage(self) -> th.device:
        needed = self._frame_bytes()
        if self.device.type == "cuda" and self.storage != "host":
            free = th.cuda.mem_get_info(self.device)[0]
            if needed <= free * (_MAX_SHARE if self.storage == "auto" else 1.0):
                return self.device
            if self.storage == "device":
                raise ValueError(
                    f'storage must be "host" or buffer_size smaller: frames take {needed / 1e9:.2f} GB, and '
                    f"{self.device} has {free / 1e9:.2f} GB free"
                )
        if psutil is not None and needed > (free := psutil.virtual_memory().available):
            warnings.warn(
                f"frames take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free: choose a smaller "
                "buffer_size, or close what else runs",
                stacklevel=3,
            )
        return th.device("cpu")

    def _allocate(self) -> None:
        """Take memory for the frames, unless that is done, and put those of a loaded buffer there."""
        self._where = self._where or self._choose_storage()
        for key, shape in self._shapes.items():
            self._frames[key] = self._grown(self._frames.get(key), (self._ring, self.n_envs, *shape))
            self._last_frames[key] = self._grown(self._last_frames.get(key), (self.n_envs, *shape))

    def _grown(self, stored: Any, shape: tuple[int, ...]) -> th.Tensor:
        """A tensor in the chosen memory with at least this many rows that begins with those stored."""
        n_stored = 0 if stored is None else len(stored)
        if isinstance(stored, th.Tensor) and n_stored >= shape[0]:
            return stored
        grown = th.empty((max(shape[0], n_stored), *shape[1:]), dtype=th.uint8, device=self._where)
        if stored is not None:
            grown[:n_stored] = th.as_tensor(stored)
        return grown

    # Adding

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        As :meth:`SkillReplayBuffer.add <sb3_metra.common.buffers.SkillReplayBuffer.add>`.

        :raises ValueError: as there, or if s and s' are not such stacks; nothing is kept then
        """
        images, next_images = self._images(obs), self._images(next_obs)
        starts = self._find_starts(images)
        self._check_stacks(images, next_images, starts)
        step = self._checked(obs, next_obs, action, reward, done, infos)
        self._allocate()
        row = self.pos
        breaks = self._find_breaks(step["observations"])
        if starts.any() or breaks is not None:
            self.end_episodes(starts if breaks is None else starts | breaks)
        self._keep(step)
        if starts.any():
            self._start_episodes(row - 1, np.flatnonzero(starts), images)
        for place in self._aside[row][self._aside[row] >= 0].tolist():
            heapq.heappush(self._free_places, place)
        self._aside[row] = -1
        self._ages[row] = np.where(starts, 0, np.minimum(self._ages[row - 1] + 1, self.n_stack - 1))
        for key, frames in self._frames.items():
            newest = next_images[key][:, -self._shapes[key][0] :]
            frames[(self._added + 1) % self._ring].copy_(th.as_tensor(newest))
        self._newest = {key: x.copy() for key, x in next_images.items()}
        self._added += 1

    def check(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """As :meth:`SkillReplayBuffer.check <sb3_metra.common.buffers.SkillReplayBuffer.check>`."""
        for x in (obs, next_obs):
            self._images(x)
        super().check(obs, next_obs, action, reward, done, infos)

    def _checked_observation(self, obs: Any) -> Any:
        return super()._checked_observation(obs if isinstance(obs, dict) else {})

    def _images(self, obs: Any) -> dict[str, np.ndarray]:
        if not isinstance(self.observation_space, spaces.Dict):
            obs = {_ONLY: obs}
        elif not isinstance(obs, dict) or not obs.keys() >= self._shapes.keys():
            got = list(obs) if isinstance(obs, dict) else type(obs).__name__
            raise ValueError(f"observation must be a dict with {list(self._shapes)}, got {got}")
        shapes = {key: (self.n_envs, self.n_stack * shape[0], *shape[1:]) for key, shape in self._shapes.items()}
        return {key: as_stored(obs[key], key, shape, np.dtype(np.uint8), FROM_ENV) for key, shape in shapes.items()}

    def _find_starts(self, images: dict[str, np.ndarray]) -> np.ndarray:
        """Where s is not s' of the step before, a new episode begins, whether or not the last one came to its end."""
        if not self._newest:
            return np.ones(self.n_envs, dtype=bool)
        differing = [(x != self._newest[key]).any(axis=(1, 2, 3)) for key, x in images.items()]
        return np.any(differing, axis=0)

    def _check_stacks(
        self, images: dict[str, np.ndarray], next_images: dict[str, np.ndarray], starts: np.ndarray
    ) -> None:
        for key, stacks in images.items():
            channels = self._shapes[key][0]
            begin = stacks[starts]
            if (begin[:, channels:] != begin[:, :-channels]).any():
                raise ValueError(
                    f"{key} must begin an episode with its first frame repeated n_stack={self.n_stack} times, got "
                    "other frames: SB3's VecFrameStack has zeros there, and a new buffer needs new episodes"
                )
            if (next_images[key][:, :-channels] != stacks[:, channels:]).any():
                raise ValueError(
                    f"{key} must move by one frame of n_stack={self.n_stack} in each step, got a next observation that "
                    "does not begin with the last frames of the one before"
                )

    def _start_episodes(self, row: int, envs: np.ndarray, images: dict[str, np.ndarray]) -> None:
        """Put s' of the row before aside, whose place in the ring goes to the first frames of the new episodes."""
        place = self._added % self._ring
        if self._added > 0:
            places = [heapq.heappop(self._free_places) if self._free_places else self._new_place() for _ in envs]
            self._aside[row, envs] = places
            for key, frames in self._frames.items():
                self._last_frames[key][places] = frames[place, envs]
        for key, frames in self._frames.items():
            frames[place, envs] = th.as_tensor(images[key][envs, -self._shapes[key][0] :], device=self._where)

    def _new_place(self) -> int:
        self._n_places += 1
        for key, kept in self._last_frames.items():
            if len(kept) < self._n_places:
                rows = min(2 * len(kept), self.buffer_size * self.n_envs)
                self._last_frames[key] = self._grown(kept, (rows, *kept.shape[1:]))
        return self._n_places - 1

    # Sampling

    def _gather_observations(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, env: VecNormalize | None
    ) -> tuple[Any, Any]:
        """s and s', as two views of the frames that they share."""
        observations = super()._gather_one("observations", batch_inds, env_inds, env)
        next_observations = super()._gather_one("next_observations", batch_inds, env_inds, env)
        frames = self._gather_frames(batch_inds, env_inds, 0, self.n_stack + 1)
        for key, x in frames.items():
            channels = self._shapes[key][0]
            observations[key], next_observations[key] = x[:, :-channels], x[:, channels:]
        return self._as_given(observations), self._as_given(next_observations)

    def _gather_one(
        self,
        name: Literal["observations", "next_observations"],
        batch_inds: np.ndarray,
        env_inds: np.ndarray,
        env: VecNormalize | None,
    ) -> Any:
        observations = super()._gather_one(name, batch_inds, env_inds, env)
        first = 0 if name == "observations" else 1
        frames = self._gather_frames(batch_inds, env_inds, first, first + self.n_stack)
        return self._as_given(observations | frames)

    def _as_given(self, observations: dict[str, th.Tensor]) -> Observations:
        return observations if isinstance(self.observation_space, spaces.Dict) else observations[_ONLY]

    def _gather_frames(
        self, batch_inds: np.ndarray, env_inds: np.ndarray, first: int, end: int
    ) -> dict[str, th.Tensor]:
        """Some of the ``n_stack + 1`` frames of s and s' in their order, by key."""
        self._allocate()
        assert self._where is not None
        steps = self._added - 1 - (self._added - 1 - batch_inds) % self.buffer_size
        back = np.minimum(np.arange(self.n_stack)[::-1], self._ages[batch_inds, env_inds][:, None])
        frames = np.concatenate([steps[:, None] - back, steps[:, None] + 1], axis=1)[:, first:end] % self._ring
        aside = self._aside[batch_inds, env_inds].astype(np.int64)
        ended = np.flatnonzero(aside >= 0) if end > self.n_stack else np.empty(0, dtype=np.int64)
        index = ((frames * self.n_envs + env_inds[:, None]).ravel(), ended, aside[ended])
        moved = [to_device(x, self._where) for x in index]
        return {key: self._gather_stacks(key, end - first, *moved) for key in self._shapes}

    def _gather_stacks(
        self, key: str, n_frames: int, index: th.Tensor, ended: th.Tensor, aside: th.Tensor
    ) -> th.Tensor:
        """
        Several frames of each transition, one behind the other along the channels.

        :param key: of the images
        :param n_frames: number of frames of a transition
        :param index: their places, (batch * n_frames,)
        :param ended: transitions whose last frame lies aside
        :param aside: its place there
        """
        shape = self._shapes[key]
        pinned = self.device.type == "cuda" and index.device.type == "cpu"
        frames = th.empty((len(index), *shape), dtype=th.uint8, device=index.device, pin_memory=pinned)
        th.index_select(self._frames[key].flatten(0, 1), 0, index, out=frames)
        frames = frames.view(len(index) // n_frames, n_frames, *shape)
        frames[:, -1].index_copy_(0, ended, self._last_frames[key].index_select(0, aside))
        return frames.to(self.device, non_blocking=self.device.type == "cuda").flatten(1, 2)

    # Saving

    _ROWS = (*DictSkillReplayBuffer._ROWS, "_ages", "_aside")
    _FREE = DictSkillReplayBuffer._FREE | {"added", "n_places"}

    def to_arrays(self) -> dict[str, np.ndarray]:
        return super().to_arrays() | flatten(self._filled_frames() | {"newest": self._newest})

    def _filled_frames(self) -> dict[str, dict[str, np.ndarray]]:
        if self._added > 0:
            self._allocate()
        kept = {"frames": (self._frames, self._added + 1), "last_frames": (self._last_frames, self._n_places)}
        return {name: {key: x[:n].cpu().numpy() for key, x in held.items()} for name, (held, n) in kept.items()}

    def meta(self) -> dict[str, Any]:
        return super().meta() | {"n_stack": self.n_stack, "added": self._added, "n_places": self._n_places}

    def _check_saved(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        super()._check_saved(meta, arrays)
        added, aside = meta["added"], arrays["aside"][arrays["aside"] >= 0]
        if (meta["pos"], meta["full"]) != (added % meta["buffer_size"], added >= meta["buffer_size"]):
            raise ValueError(f"replay buffer must have added that leads to pos {meta['pos']}, got {added}")
        if (aside >= meta["n_places"]).any() or len(np.unique(aside)) < len(aside):
            raise ValueError(f"replay buffer must hold different numbers below {meta['n_places']} as aside, got others")

    def _signatures(self, meta: Mapping[str, Any]) -> dict[str, Signature]:
        signatures = super()._signatures(meta)
        n_frames = min(meta["added"] + 1, meta["buffer_size"] + self.n_stack)
        for key, (channels, *size) in self._shapes.items() if meta["added"] > 0 else ():
            signatures |= {
                f"frames/{key}": ((n_frames, self.n_envs, channels, *size), np.dtype(np.uint8)),
                f"last_frames/{key}": ((meta["n_places"], channels, *size), np.dtype(np.uint8)),
                f"newest/{key}": ((self.n_envs, self.n_stack * channels, *size), np.dtype(np.uint8)),
            }
        return signatures

    def _take_saved(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        super()._take_saved(meta, arrays)
        self._aside[self.size() :] = -1
        self._ring = self.buffer_size + self.n_stack
        self._added, self._n_places = meta["added"], meta["n_places"]
        self._free_places = sorted(set(range(self._n_places)) - set(self._aside.ravel().tolist()))
        keys = self._shapes if self._added > 0 else ()
        self._frames, self._last_frames, self._newest = (
            {key: arrays[f"{name}/{key}"] for key in keys} for name in ("frames", "last_frames", "newest")
        )
        self._newest = {key: x.copy() for key, x in self._newest.items()}
        self._where = None  # chosen anew, for another size
        if self._added > 0:
            self._allocate()

    def __getstate__(self) -> dict[str, Any]:
        frames = {f"_{name}": by_key for name, by_key in self._filled_frames().items()}
        return super().__getstate__() | frames | {"_where": None}  # chosen anew where it is loaded

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._aside[self.size() :] = -1

    def _ends(self) -> np.ndarray:
        return super()._ends() | (self._aside >= 0)


def choose_buffer(
    buffer_class: type[ReplayBuffer] | None, kwargs: dict[str, Any], space: spaces.Space, env: VecEnv | None
) -> tuple[type[ReplayBuffer], dict[str, Any]]:
    """
    The replay buffer for observations: where images are among them, one that keeps each frame once.

    :param buffer_class: the class that was asked for; ``None`` to choose one
    :param kwargs: its keyword arguments
    :param space: observations
    :param env: the environments, whose attribute ``frame_stack`` says how many frames an observation holds
    :return: the class, and its keyword arguments with ``n_stack`` where it takes that
    """
    is_dict = isinstance(space, spaces.Dict)
    if buffer_class is None:
        everything = space.spaces.values() if is_dict else [space]  # type: ignore[attr-defined]
        plain = DictSkillReplayBuffer if is_dict else SkillReplayBuffer
        buffer_class = FrameReplayBuffer if any(is_image_space(x) for x in everything) else plain
    if issubclass(buffer_class, FrameReplayBuffer) and "n_stack" not in kwargs:
        told = env is not None and env.has_attr("frame_stack")
        kwargs = kwargs | {"n_stack": env.get_attr("frame_stack", 0)[0] if told and env is not None else 1}
    return buffer_class, kwargs


def _find_images(everything: dict[str, spaces.Space], n_stack: int) -> dict[str, spaces.Box]:
    """The images among some spaces, whose channels must be those of ``n_stack`` frames."""
    boxes = {key: space for key, space in everything.items() if isinstance(space, spaces.Box)}
    images = {key: space for key, space in boxes.items() if is_image_space(space)}
    if not images:
        raise ValueError(
            "observation_space must be uint8 images in [0, 255] with three axes, or a Dict with some, for a "
            f"FrameReplayBuffer, got {everything}"
        )
    for key, space in images.items():
        channels = space.shape[0]
        if not isinstance(n_stack, int) or n_stack < 1 or channels % n_stack != 0:
            raise ValueError(f"n_stack must be a number that divides the {channels} channels of {key}, got {n_stack!r}")
    return images
