"""How weights move: worked out by hand."""

from __future__ import annotations

import pytest
import torch as th

from sb3_metra.common.optimization import fast_kernels, move_average, step


def test_averages_move_by_their_weight() -> None:
    averages, values = [th.tensor([1.0, 2.0]), th.tensor([[4.0]])], [th.tensor([3.0, 2.0]), th.tensor([[0.0]])]
    move_average(averages, values, th.tensor(0.25))
    assert [x.tolist() for x in averages] == [[1.5, 2.0], [[3.0]]]
    move_average(averages, values, th.tensor(0.0))
    assert [x.tolist() for x in averages] == [[1.5, 2.0], [[3.0]]]


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_moves_its_own_parameters_until_a_loss_is_not_finite(fused: bool) -> None:
    own, other = th.nn.Parameter(th.tensor([1.0])), th.nn.Parameter(th.tensor([1.0]))
    optimizer = th.optim.Adam([own], lr=0.5, fused=fused)
    failed = th.zeros(())
    step(optimizer, (2 * own + other).sum(), failed)
    assert own.item() == pytest.approx(0.5)  # Adam's first step is as long as the learning rate
    assert other.grad is None
    assert failed.item() == 0.0
    step(optimizer, (own * float("nan")).sum(), failed)
    step(optimizer, (2 * own).sum(), failed)
    assert own.item() == pytest.approx(0.5)
    assert failed.item() == 1.0


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("slope", [float("inf"), 1e30])
def test_a_finite_loss_with_a_gradient_that_is_not_moves_nothing(fused: bool, slope: float) -> None:
    """sqrt(0) has the slope infinity; the square of 1e30 is no single-precision number, and Adam keeps squares."""
    weight, failed = th.nn.Parameter(th.tensor([0.0])), th.zeros(())
    optimizer = th.optim.Adam([weight], lr=0.5, fused=fused)
    step(optimizer, weight.sqrt().sum() if slope == float("inf") else (slope * weight).sum(), failed)
    assert weight.item() == 0.0
    assert failed.item() == 1.0
    assert all(bool(x.isfinite().all()) for x in optimizer.state[weight].values())


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("deterministic", [True, False])
def test_fast_kernels_on_cuda_for_a_while(tf32: bool, deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(th.backends.cudnn, "deterministic", deterministic)
    before = th.get_float32_matmul_precision(), th.backends.cudnn.benchmark
    with fast_kernels(th.device("cuda"), tf32):
        assert th.backends.cudnn.benchmark is not deterministic
        assert th.get_float32_matmul_precision() == ("high" if tf32 else before[0])
    assert (th.get_float32_matmul_precision(), th.backends.cudnn.benchmark) == before
    with fast_kernels(th.device("cpu"), True):
        assert (th.get_float32_matmul_precision(), th.backends.cudnn.benchmark) == before
