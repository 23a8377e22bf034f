"""How weights move: one optimiser step on a loss, moving averages, learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch as th

FAILED = "failed/"  # begins the names of what tells which part of a gradient step was not finite


def step(optimizer: th.optim.Optimizer, loss: th.Tensor, failed: th.Tensor) -> None:
    """
    Take an optimiser step on a loss, for that optimiser's parameters alone, unless something fails to be finite.

    A gradient whose squares sum to more than single precision holds counts as not finite: the optimiser's moments would
    not be.

    :param optimizer: any; fused ones skip a step on the device, for others the device is asked
    :param loss: scalar
    :param failed: scalar on the device that becomes 1 at the first loss or gradient that is not finite; from then on
        nothing moves
    """
    optimizer.zero_grad()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loss.backward(inputs=parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = th.stack(th._foreach_norm(gradients)) if gradients else loss.detach().reshape(1)
    failed.logical_or_(~(loss.detach() + norms.square().sum()).isfinite())
    if is_fused(optimizer):
        optimizer.found_inf = failed  # type: ignore[attr-defined]  # the fused step looks at it on the device
        optimizer.step()
    elif not failed:
        optimizer.step()


def name_culprit(logged: dict[str, float], failed: list[str]) -> str:
    """
    Tell which number was not finite first: one that is logged, or a gradient.

    :param logged: numbers by name, in the order in which they came up
    :param failed: those names among them that begin with :data:`FAILED` and tell of a failure
    """
    names = list(logged)
    part = names.index(failed[0]) if failed else len(names)
    wrong = [name for name in names[:part] if not np.isfinite(logged[name])]
    if wrong:
        return f"{wrong[0]} must be finite, got {logged[wrong[0]]}"
    if failed:
        return f"the gradient of the {failed[0].removeprefix(FAILED)} must be finite, got NaN or infinity"
    name = next(name for name in names if not np.isfinite(logged[name]))
    return f"{name} must be finite, got {logged[name]}"


def move_average(averages: Iterable[th.Tensor], values: Iterable[th.Tensor], weight: th.Tensor | float) -> None:
    """
    Move averages towards values: ``average = (1 - weight) * average + weight * value``.

    :param averages: tensors, changed in place
    :param values: as many tensors of the same shapes
    :param weight: scalar in [0, 1]
    """
    with th.no_grad():
        targets = tuple(averages)
        th._foreach_mul_(targets, 1.0 - weight)
        th._foreach_add_(targets, th._foreach_mul(tuple(values), weight))


def is_fused(optimizer: th.optim.Optimizer) -> bool:
    """Whether the optimiser can skip a step on the device."""
    return bool(optimizer.defaults.get("fused"))


def set_learning_rate(optimizer: th.optim.Optimizer, learning_rate: float, capturable: bool = False) -> None:
    """
    Set the learning rate of every parameter.

    :param optimizer: any
    :param learning_rate: the new one
    :param capturable: keep it on the device, where a CUDA graph reads it anew at each replay
    """
    optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are, on purpose
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = capturable  # also in a group without parameters, or PyTorch refuses to capture
        rate, parameters = group["lr"], group["params"]
        if not capturable or not parameters:
            group["lr"] = learning_rate
        elif isinstance(rate, th.Tensor) and rate.device == parameters[0].device:
            rate.fill_(learning_rate)
        else:
            group["lr"] = th.tensor(learning_rate, dtype=th.float32, device=parameters[0].device)


@contextmanager
def fast_kernels(device: th.device, tf32: bool) -> Iterator[None]:
    """
    On CUDA and for a while, let PyTorch try out which convolution is fastest (unless it was told to be deterministic).

    :param device: where the networks are; nothing changes unless it is CUDA
    :param tf32: let products of matrices round to TF32, too
    """
    if device.type != "cuda":
        yield
        return
    cudnn = th.backends.cudnn
    precision, benchmark = th.get_float32_matmul_precision(), cudnn.benchmark
    try:
        cudnn.benchmark = benchmark or not cudnn.deterministic
        if tf32:
            th.set_float32_matmul_precision("high")
        yield
    finally:
        cudnn.benchmark = benchmark
        th.set_float32_matmul_precision(precision)
