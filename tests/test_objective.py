"""METRA's objective on a linear phi, where every number can be worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_metra.algorithms.metra import METRAObjective
from sb3_metra.common.networks import Representation
from sb3_metra.common.objective import SkillObjective
from sb3_metra.common.skills import OneHotPrior, SkillPrior, SpherePrior
from sb3_metra.common.type_aliases import SkillReplayBufferSamples

ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


def linear_objective(prior: SkillPrior | None = None, **kwargs: Any) -> METRAObjective:
    """An objective with phi(s) = (2 x, y) + (5, -3) for s = (x, y)."""
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    prior = SpherePrior(2) if prior is None else prior
    phi = Representation(space, ACTIONS, prior.dim, net_arch=[])
    with th.no_grad():
        phi.out.weight.copy_(th.tensor([[2.0, 0.0], [0.0, 1.0]]))
        phi.out.bias.copy_(th.tensor([5.0, -3.0]))
    return METRAObjective(prior, phi, **kwargs)


def batch(skills: list[list[float]] | None = None) -> SkillReplayBufferSamples:
    """Two transitions with displacements (1, 0) and (0, 2) under the linear phi, and skills that agree by 0.6 and 2."""
    return SkillReplayBufferSamples(
        observations=th.tensor([[0.0, 0.0], [1.0, 1.0]]),
        actions=th.zeros(2, 1),
        next_observations=th.tensor([[0.5, 0.0], [1.0, 3.0]]),
        dones=th.zeros(2, 1),
        rewards=th.full((2, 1), math.nan),  # never looked at
        skills=th.tensor([[0.6, 0.8], [0.0, 1.0]] if skills is None else skills),
    )


def test_loss_with_the_sum_of_squares_by_hand() -> None:
    """Slacks are min(0.001, 1 - 1) and min(0.001, 1 - 4)."""
    loss, info = linear_objective().loss(batch())
    phi_loss = -((0.6 + 30.0 * 0.0) + (2.0 + 30.0 * -3.0)) / 2
    dual_loss = math.log(30.0) * (0.0 - 3.0) / 2
    assert info["phi_loss"].item() == pytest.approx(phi_loss, rel=1e-6)
    assert info["dual_loss"].item() == pytest.approx(dual_loss, rel=1e-6)
    assert loss.item() == pytest.approx(phi_loss + dual_loss, rel=1e-6)
    assert info["alignment"].tolist() == pytest.approx([0.6, 2.0])
    assert info["constraint_slack"].tolist() == pytest.approx([0.0, -3.0])
    assert info["constraint_violation"].tolist() == [0.0, 1.0]
    assert info["displacement_norm"].tolist() == pytest.approx([1.0, 2.0])
    assert info["dual_lambda"].tolist() == pytest.approx([30.0])


def test_loss_with_the_mean_of_squares_by_hand() -> None:
    """Slacks are min(0.1, 1 - 1/2) and min(0.1, 1 - 4/2)."""
    _, info = linear_objective(constraint_norm="mean", dual_lambda=4.0, dual_slack=0.1).loss(batch())
    assert info["constraint_slack"].tolist() == pytest.approx([0.1, -1.0])
    assert info["phi_loss"].item() == pytest.approx(-((0.6 + 4.0 * 0.1) + (2.0 - 4.0)) / 2, rel=1e-6)
    assert info["dual_loss"].item() == pytest.approx(math.log(4.0) * (0.1 - 1.0) / 2, rel=1e-6)


def test_gradients_by_hand() -> None:
    """
    For one transition the gradient of alignment + lambda * slack by phi's weights is (z - 2 lambda dphi) (s' - s)^T
    where the slack is below epsilon. A displacement does not depend on the bias, of which the gradient is exactly 0.
    """
    objective = linear_objective()
    objective.loss(batch())[0].backward()
    weight, bias = objective.phi.out.weight.grad, objective.phi.out.bias.grad
    assert weight is not None
    assert bias is not None
    expected = [[-(0.6 - 60.0) * 0.5 / 2, 0.0], [-0.8 * 0.5 / 2, -(1.0 - 60.0 * 2.0) * 2.0 / 2]]
    assert weight.tolist() == [pytest.approx(row, rel=1e-5) for row in expected]
    assert bias.tolist() == [0.0, 0.0]
    assert objective.dual.log_value.grad is not None
    assert objective.dual.log_value.grad.tolist() == pytest.approx([-1.5])


def test_where_the_constraint_is_slack_it_pulls_at_nothing() -> None:
    objective = linear_objective()
    near = batch()._replace(next_observations=th.tensor([[0.01, 0.0], [1.0, 1.01]]))
    objective.loss(near)[0].backward()
    assert objective.phi.out.weight.grad is not None
    assert objective.phi.out.weight.grad.tolist() == [
        pytest.approx([-0.6 * 0.01 / 2, 0.0]),
        pytest.approx([-0.8 * 0.01 / 2, -0.01 / 2], rel=1e-4),
    ]


def test_one_backward_pass_is_the_authors_two_steps() -> None:
    """Neither loss has a gradient in the other's variable, so that the sum's gradients are theirs, to the bit."""
    space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    objective = METRAObjective(SpherePrior(2), Representation(space, ACTIONS, 2, net_arch=[16]), dual_lambda=3.0)
    with th.no_grad():
        objective.phi.out.weight.mul_(5.0)
    s, s_next = th.randn(64, 3), th.randn(64, 3)
    skills = th.nn.functional.normalize(th.randn(64, 2))
    empty = th.zeros(64, 1)
    objective.loss(SkillReplayBufferSamples(s, empty, s_next, empty, empty, skills))[0].backward()

    displacement = objective.phi(s_next) - objective.phi(s)
    slack = (1.0 - displacement.square().sum(dim=1)).clamp(max=1e-3)
    assert 0.1 < float((slack < 0).float().mean()) < 1.0
    multiplier = objective.dual.log_value.exp().detach()
    phi_loss = -((displacement * skills).sum(dim=1) + multiplier * slack).mean()
    separate = th.autograd.grad(phi_loss, list(objective.phi.parameters()))
    assert all(th.equal(p.grad, g) for p, g in zip(objective.phi.parameters(), separate, strict=True))
    (dual_gradient,) = th.autograd.grad(
        (objective.dual.log_value * slack.detach().mean()).sum(), objective.dual.log_value
    )
    assert th.equal(objective.dual.log_value.grad, dual_gradient)


def test_reward_by_hand() -> None:
    reward = linear_objective().reward(batch())
    assert reward.shape == (2, 1)
    assert not reward.requires_grad
    assert reward.ravel().tolist() == pytest.approx([0.6, 2.0])


def test_discrete_skills_are_centred_by_hand() -> None:
    """With two skills the directions are (1, -1) and (-1, 1); displacements are (1, 0) and (0, 2)."""
    one_hots = batch([[1.0, 0.0], [1.0, 0.0]])
    objective = linear_objective(OneHotPrior(2))
    assert objective.reward(one_hots).ravel().tolist() == pytest.approx([1.0, -2.0])
    assert objective.loss(one_hots)[1]["alignment"].tolist() == pytest.approx([1.0, -2.0])


def test_what_is_logged_is_detached() -> None:
    loss, info = linear_objective().loss(batch())
    assert loss.requires_grad
    assert [name for name, value in info.items() if value.requires_grad] == []
    assert all(np.isfinite(value.numpy()).all() for value in info.values())


def test_norms_do_not_mix() -> None:
    """With D = 2 the mean is half of the sum."""
    by_sum = linear_objective(dual_slack=10.0).loss(batch())[1]["constraint_slack"]
    by_mean = linear_objective(dual_slack=10.0, constraint_norm="mean").loss(batch())[1]["constraint_slack"]
    assert th.allclose(1.0 - by_sum, 2.0 * (1.0 - by_mean))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"constraint_norm": "max"}, 'constraint_norm must be "sum" or "mean", got \'max\''),
        ({"dual_slack": -1e-3}, "dual_slack must be a finite number of at least 0, got -0.001"),
        ({"dual_slack": math.nan}, "dual_slack must be .* got nan"),
        ({"dual_lambda": 0.0}, "dual_lambda must be a finite number greater than 0, got 0.0"),
        ({"dual_lambda": math.inf}, "dual_lambda must be .* got inf"),
    ],
)
def test_invalid_arguments_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_objective(**kwargs)


def test_an_objective_needs_both_verbs() -> None:
    class Half(SkillObjective):
        def loss(self, batch: SkillReplayBufferSamples) -> Any:
            return None

    with pytest.raises(TypeError, match="abstract"):
        Half(SpherePrior(2))
