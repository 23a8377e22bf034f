"""Skills that start anywhere: what the actor sees, episodes that begin elsewhere, and how much a start matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import METRA
from sb3_metra.common.skills import SpherePrior
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation.starts import evaluate_starts, start_spread
from tests.toys import scripted_envs, tiny_model

POINT = "sb3_metra/PointMass-v0"
BODIES = {"Ant": 29, "HalfCheetah": 18, "Quadruped": 57, "Humanoid": 55}


def second_and_sum(observations: th.Tensor) -> th.Tensor:
    return th.stack([observations[:, 1], observations[:, 1] + observations[:, 2]], dim=1)


# What the actor sees


def hidden(model: METRA) -> list[int]:
    """Which components of an observation change no action."""
    skill, base = (
        model.skill_prior.toward(np.ones(2)),
        np.array([0.1, 0.2, 0.3], np.float32)[: model.observation_space.shape[0]],
    )
    before = model.predict(base, state=skill, deterministic=True)[0]
    others = [base + 5.0 * np.eye(len(base), dtype=np.float32)[i] for i in range(len(base))]
    for other in others:
        assert not np.array_equal(model.encode(other), model.encode(base))  # phi keeps everything
    return [
        i for i, x in enumerate(others) if np.array_equal(model.predict(x, state=skill, deterministic=True)[0], before)
    ]


def test_a_mask_says_what_the_actor_sees() -> None:
    assert hidden(tiny_model()) == []
    assert hidden(tiny_model(actor_observation=[False, True, False])) == [0, 2]
    assert hidden(tiny_model(actor_observation=np.array([True, True, False]))) == [2]


def test_names_say_what_the_actor_sees() -> None:
    assert hidden(tiny_model(PointMassEnv(), actor_observation=["-x"])) == [0]
    assert hidden(tiny_model(make_vec_env(POINT), actor_observation=["x"])) == [1]
    for names in (["-z"], ["-x", "y"]):
        with pytest.raises(ValueError, match="actor_observation must be names among x, y, all of them with a minus or"):
            tiny_model(PointMassEnv(), actor_observation=names)
    with pytest.raises(ValueError, match=r"must be a mask or a function if env\.metadata has no observation_names"):
        tiny_model(actor_observation=["-x"])


def test_a_function_says_what_the_actor_sees(tmp_path: Path) -> None:
    model = tiny_model(actor_observation=second_and_sum)
    assert hidden(model) == [0]
    model.learn(24).save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model", custom_objects={"second_and_sum": second_and_sum})
    assert hidden(loaded) == [0]
    with pytest.raises(ValueError, match="second_and_sum"):
        METRA.load(tmp_path / "model")


def test_a_saved_model_keeps_what_its_actor_sees(tmp_path: Path) -> None:
    tiny_model(PointMassEnv(), actor_observation=["-x"]).save(tmp_path / "model")
    loaded = METRA.load(tmp_path / "model")
    assert hidden(loaded) == [0]
    assert loaded.actor_observation == ["-x"]
    METRA.load(tmp_path / "model", env=PointMassEnv(), actor_observation=["-x"]).learn(24)
    with pytest.raises(ValueError, match=r"actor_observation must be \['-x'\] as in .*, got \['-y'\]"):
        METRA.load(tmp_path / "model", actor_observation=["-y"])


def test_an_actor_sees_in_one_way() -> None:
    from sb3_metra.common.extractors import HiddenComponents

    with pytest.raises(ValueError, match="actor_observation must be None if the actor has an extractor of its own"):
        tiny_model(
            policy_kwargs={"net_arch": [4], "actor_extractor_class": HiddenComponents},
            actor_observation=[False, True, True],
        )


# Episodes that begin elsewhere


def test_a_point_begins_where_it_is_told() -> None:
    env = gym.make(POINT)
    origin, _ = env.reset(seed=0)
    observation, info = env.reset(seed=0, options={"place": [3.0, -2.0]})
    np.testing.assert_allclose(observation - origin, [3.0, -2.0], atol=1e-6)
    np.testing.assert_allclose(info["coordinates"], observation, atol=1e-6)
    with pytest.raises(ValueError, match=r'options\["place"\] must be a place, finite numbers of shape \(2,\)'):
        env.reset(options={"place": [1.0]})
    with pytest.raises(ValueError, match=r'options\["place"\] must lie in the arena, from -1.0 to 1.0'):
        PointMassEnv(arena=1.0).reset(options={"place": [3.0, 0.0]})


@pytest.mark.parametrize(("body", "n"), BODIES.items())
def test_a_body_begins_where_it_is_told_and_names_what_it_observes(body: str, n: int) -> None:
    pytest.importorskip("mujoco" if body in ("Ant", "HalfCheetah") else "dm_control")
    env: Any = gym.make(f"sb3_metra/{body}-v0", normalize=False)
    names = env.unwrapped.metadata["observation_names"]
    assert len(set(names)) == len(names) == env.observation_space.shape[0] == n
    origin, info = env.reset(seed=0)
    place = np.array([3.0, -2.0])[: len(info["coordinates"])]
    observation, moved = env.reset(seed=0, options={"place": place})
    changed = np.flatnonzero(~np.isclose(observation, origin, atol=1e-6))
    assert [names[i] for i in changed] == ["x", "y"][: len(place)]
    np.testing.assert_allclose(moved["coordinates"] - info["coordinates"], place, atol=1e-6)
    assert moved.keys() == info.keys()
    env.close()


# How much a start matters


def test_the_spread_of_displacements_by_hand() -> None:
    same, opposite, half, still = [[1, 0], [1, 0]], [[1, 0], [-1, 0]], [[2, 0], [0, 0]], [[0, 0], [0, 0]]
    np.testing.assert_allclose(start_spread(np.array([same, opposite, half, still])), [0, 1, np.sqrt(0.5), 0])


class Homing:
    """Goes where its skill points, or as far as it minds, back to the origin."""

    def __init__(self, minds: float) -> None:
        self.minds, self.skill_prior = minds, SpherePrior(2)

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        back = -observation / np.maximum(np.linalg.norm(observation, axis=1, keepdims=True), 1e-9)
        return (1 - self.minds) * state + self.minds * back, state


@pytest.mark.parametrize("n_envs", [1, 5])
def test_a_skill_that_minds_its_start_spreads(n_envs: int) -> None:
    env = make_vec_env(POINT, n_envs=n_envs)
    results = [evaluate_starts(Homing(x), env, 3, 4, max_episode_steps=5) for x in (0.0, 0.5, 1.0)]
    assert results[0]["start_spread"] < 1e-6 < 0.2 < results[1]["start_spread"] < results[2]["start_spread"] <= 1.0
    assert results[0]["distance"] == pytest.approx(0.5, rel=1e-5)
    assert len(results[0]["start_spread_by_skill"]) == 3
    assert results == [evaluate_starts(Homing(x), env, 3, 4, max_episode_steps=5) for x in (0.0, 0.5, 1.0)]


def test_an_environment_that_begins_where_it_likes_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"start_range must be given for an environment without metadata"):
        evaluate_starts(model, scripted_envs(1))
    with pytest.raises(ValueError, match=r"env must begin where reset\(options=.*\) says and report"):
        evaluate_starts(model, scripted_envs(1), start_range=[1.0, 1.0])
    with pytest.raises(ValueError, match="n_starts must be an integer of at least 2, got 1"):
        evaluate_starts(model, scripted_envs(1), n_starts=1)
