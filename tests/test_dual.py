"""A multiplier kept as its logarithm: its value, its loss and its step, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch as th

from sb3_metra.common.dual import DualVariable


def test_one_step_of_gradient_descent_by_hand() -> None:
    dual = DualVariable(2.0)
    loss = dual.loss(th.tensor([[0.1], [-0.3]]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-0.1 * math.log(2.0))
    th.optim.SGD(dual.parameters(), lr=0.5).zero_grad()
    loss.backward()
    assert dual.log_value.grad is not None
    assert dual.log_value.grad.tolist() == pytest.approx([-0.1])
    th.optim.SGD(dual.parameters(), lr=0.5).step()
    assert dual.value.tolist() == pytest.approx([2.0 * math.exp(0.05)])  # the constraint is violated: it grew


def test_it_shrinks_where_there_is_slack() -> None:
    dual = DualVariable(30.0)
    optimizer = th.optim.Adam(dual.parameters(), lr=1e-4)
    dual.loss(th.full((256,), 1e-3)).backward()
    optimizer.step()
    assert math.log(dual.value.item()) == pytest.approx(math.log(30.0) - 1e-4, abs=1e-6)


def test_the_slack_gets_no_gradient() -> None:
    x = th.ones(3, requires_grad=True)
    (DualVariable(1.5).loss(x * 2.0) + x.sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_its_value_has_no_gradient() -> None:
    dual = DualVariable(0.25)
    assert not dual.value.requires_grad
    assert dual.value.tolist() == [0.25]


def test_a_fixed_one() -> None:
    dual = DualVariable(0.2, learnable=False)
    assert list(dual.parameters()) == []
    assert "log_value" in dual.state_dict()
    loss = dual.loss(th.tensor([1.0, 2.0], requires_grad=True))
    assert loss.item() == 0.0
    assert not loss.requires_grad
    assert DualVariable(0.0, learnable=False).value.tolist() == [0.0]


def test_it_is_saved_and_loaded() -> None:
    other = DualVariable(1.0)
    other.load_state_dict(DualVariable(7.0).state_dict())
    assert other.value.tolist() == pytest.approx([7.0])


@pytest.mark.parametrize(
    ("text", "value", "learnable"),
    [("auto", 1.0, True), ("auto_0.01", 0.01, True), (0.2, 0.2, False), ("0.2", 0.2, False), (0, 0.0, False)],
)
def test_the_syntax_of_entropy_coefficients(text: Any, value: float, learnable: bool) -> None:
    dual = DualVariable.parse(text)
    assert dual.value.item() == pytest.approx(value)
    assert dual.learnable == learnable


@pytest.mark.parametrize("text", ["", "automatic", "auto_x", "one", None, "auto_-1", "auto_0", "nan", -0.1])
def test_other_entropy_coefficients_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"ent_coef must be a .*number.*, got "):
        DualVariable.parse(text, name="ent_coef")


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 0.0])
def test_invalid_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=f"dual_lambda must be a finite number greater than 0, got {value}"):
        DualVariable(value, name="dual_lambda")
    if value != 0.0:
        with pytest.raises(ValueError, match="value must be"):
            DualVariable(value, learnable=False)
