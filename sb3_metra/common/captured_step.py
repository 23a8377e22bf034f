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
    :raises RuntimeError: where the function waits for the GPU, or does what a graph cannot hold
    """
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may be acting
        result = function()

    def replay() -> th.Tensor:
        graph.replay()
        return result

    return replay


class CapturedStep:
    """
    A gradient step that is recorded once and replayed, so that no kernel waits for Python to launch it.

    Every call takes exactly one step. The first ones run it as it is, which fills the optimisers' state and lets cuDNN
    choose its kernels; then it is recorded, on memory of its own into which later batches are copied. Where that fails,
    a warning says why, and steps go on as they are.

    :param step: takes a batch and constants, returns a tensor; all else that it reads and writes are tensors that keep
        their place
    :param recorder: what records it
    :param warm_up: calls before the recording
    """

    def __init__(
        self,
        step: Callable[..., th.Tensor],
        recorder: Recorder = record_cuda_graph,
        warm_up: int = 3,
    ) -> None:
        self._step, self._recorder, self._warm_up = step, recorder, warm_up
        self._replay: Callable[[], th.Tensor] | None = None
        self._places: list[th.Tensor] = []
        self._kind: Any = None
        self._calls = 0

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
        tensors = _tensors(batch)
        kind = ([x.shape for x in tensors], constants)
        if kind != self._kind:
            self._kind, self._replay, self._calls = kind, None, 0
        self._calls += 1
        if self._replay is None and self._calls > self._warm_up:
            self._record(batch, constants)
        if self._replay is None:
            return self._run_aside(batch, constants)
        for place, tensor in zip(self._places, tensors, strict=True):
            place.copy_(tensor)
        return self._replay().clone()

    def _record(self, batch: SkillReplayBufferSamples, constants: tuple[Any, ...]) -> None:
        own = map_tensors(th.clone, batch)
        try:
            self._replay = self._recorder(lambda: self._step(own, *constants))
            self._places = _tensors(own)
        except RuntimeError as error:
            self._warm_up = 2**63  # once is enough
            warnings.warn(
                f"gradient steps run one kernel at a time, because no CUDA graph could be made of them: {error}",
                stacklevel=3,
            )

    def _run_aside(self, batch: SkillReplayBufferSamples, constants: tuple[Any, ...]) -> th.Tensor:
        """Before a recording, PyTorch wants work to have run on another stream than the usual one."""
        if batch.actions.device.type != "cuda":
            return self._step(batch, *constants)
        usual, aside = th.cuda.current_stream(), th.cuda.Stream()
        aside.wait_stream(usual)
        with th.cuda.stream(aside):
            result = self._step(batch, *constants)
        usual.wait_stream(aside)
        return result


def _tensors(batch: SkillReplayBufferSamples) -> list[th.Tensor]:
    found: list[th.Tensor] = []
    map_tensors(found.append, batch)
    return found
