"""A gradient step as one CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch as th

from sb3_metra.common.type_aliases import SkillReplayBufferSamples, map_tensors

Recorder = Callable[[Callable[[], th.Tensor]], Callable[[], th.Tensor]]
"""Takes a function of no argument, and gives one that does the same on the same memory, without running it."""


def record_cuda_graph(function: Callable[[], th.Tensor]) -> Callable[[], th.Tensor]:
    """
    Record what a function does on the GPU.

    :param function: launches work on the GPU and never waits for it
    :return: a function that does the same work in one launch, and returns the same tensor
    :raises RuntimeError: if the function waits for the GPU, or does what a graph cannot hold; work goes on as before
    """
    graph, usual = th.cuda.CUDAGraph(), th.cuda.current_stream()
    try:
        with th.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be acting
            result = function()
    except BaseException:
        _leave_recording(usual)
        raise

    def replay() -> th.Tensor:
        graph.replay()
        return result

    return replay


def _leave_recording(stream: th.cuda.Stream) -> None:
    """
    Undo what PyTorch leaves behind a recording that failed: its stream, and a generator that takes itself for recorded.

    :param stream: the one in use before
    """
    th.cuda.set_stream(stream)
    generator = th.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(generator.clone_state())  # a copy is not being recorded, and draws the same


class CapturedStep:
    """
    A gradient step that is recorded once and replayed, so that no kernel waits for Python to launch it.

    Every call takes exactly one step. The first ones run it as it is, which fills the optimisers' state and lets cuDNN
    choose its kernels; then it is recorded, on memory of its own into which later batches are copied. Where that fails,
    a warning says why, and steps go on as they are.

    :param step: takes a batch and constants, returns a tensor; all else that it reads and writes are tensors that keep
        their place
    :param recorder: what records it; ``None``: nothing
    :param warm_up: calls before the recording
    """

    def __init__(
        self,
        step: Callable[..., th.Tensor],
        recorder: Recorder | None = record_cuda_graph,
        warm_up: int = 3,
    ) -> None:
        self._step, self._warm_up = step, warm_up
        self._recorder = recorder
        self._aside: th.cuda.Stream | None = None
        self._replay: Callable[[], th.Tensor] | None = None
        self._places: list[th.Tensor] = []
        self._kind: Any = None
        self._calls = 0

    def __reduce__(self) -> Any:
        return type(self), (self._step, self._recorder, self._warm_up)  # a copy records on memory of its own

    @property
    def is_recorded(self) -> bool:
        """Whether the next step of the same kind is replayed."""
        return self._replay is not None

    def __call__(self, batch: SkillReplayBufferSamples, *constants: Any) -> th.Tensor:
        """
        Take one step.

        :param batch: transitions on the device; another number of them, and the step is recorded anew
        :param constants: what else the step takes; others, and it is recorded anew
        :return: what the step returned, the caller's own
        """
        device = batch.actions.device
        with th.cuda.device(device) if device.type == "cuda" else nullcontext():
            return self._call(batch, constants)

    def _call(self, batch: SkillReplayBufferSamples, constants: tuple[Any, ...]) -> th.Tensor:
        if self._recorder is None:
            return self._step(batch, *constants)
        tensors = _tensors(batch)
        kind = ([x.shape for x in tensors], constants)
        if kind != self._kind:
            self._kind, self._replay, self._calls = kind, None, 0
        self._calls += 1
        if self._calls <= self._warm_up:
            return self._run_aside(batch, constants)
        if self._replay is None and not self._record(self._recorder, batch, constants):
            return self._step(batch, *constants)
        assert self._replay is not None
        for place, tensor in zip(self._places, tensors, strict=True):
            place.copy_(tensor)
        return self._replay().clone()

    def _record(self, recorder: Recorder, batch: SkillReplayBufferSamples, constants: tuple[Any, ...]) -> bool:
        """Whether there is a recording now."""
        own = map_tensors(th.clone, batch)
        try:
            self._replay = recorder(lambda: self._step(own, *constants))
            self._places = _tensors(own)
        except RuntimeError as error:
            self._recorder = None  # once is enough
            warnings.warn(
                f"gradient steps run one kernel at a time, because no CUDA graph could be made of them: {error}",
                stacklevel=4,
            )
        return self._replay is not None

    def _run_aside(self, batch: SkillReplayBufferSamples, constants: tuple[Any, ...]) -> th.Tensor:
        """Before a recording, PyTorch wants work to have run on another stream than the usual one: always the same."""
        if batch.actions.device.type != "cuda":
            return self._step(batch, *constants)
        usual, aside = th.cuda.current_stream(), self._aside or th.cuda.Stream()
        self._aside = aside
        aside.wait_stream(usual)
        with th.cuda.stream(aside):
            result = self._step(batch, *constants)
        usual.wait_stream(aside)
        return result


def _tensors(batch: SkillReplayBufferSamples) -> list[th.Tensor]:
    found: list[th.Tensor] = []
    map_tensors(found.append, batch)
    return found
