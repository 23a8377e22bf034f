"""Prompts: the skill for a goal, a reward and a trajectory, where the right answer is known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_metra import cli
from sb3_metra.algorithms import ALGORITHMS, CIC, METRA, VISR
from sb3_metra.common.prompts import reward_direction
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.envs.point import PointMassEnv
from sb3_metra.evaluation.prompts import prompt_skill
from sb3_metra.evaluation.quantities import parse_expression, step_quantities
from tests.toys import TINY, Chores, scripted_envs, tiny_model

POINT = "sb3_metra/PointMass-v0"
FOUR_WAYS = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]


def linear(matrix: Any, cls: type[RepresentationDiscovery] = METRA, **kwargs: Any) -> Any:
    """A model on the point mass whose phi is a linear map of the place."""
    weight = th.tensor(matrix)
    settings = TINY | {"phi_kwargs": {"net_arch": []}, "skill_dim": len(weight)} | kwargs
    model = cls("MlpPolicy", PointMassEnv(), **settings)
    with th.no_grad():
        model.objective.phi.out.weight.copy_(weight)
        model.objective.phi.out.bias.fill_(5.0)  # makes no difference to a displacement
    return model


@pytest.fixture(scope="module")
def identity() -> METRA:
    return linear([[1.0, 0.0], [0.0, 1.0]])


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


# Goals


def test_a_goal_is_answered_by_the_way_there(identity: METRA) -> None:
    here, goal = np.array([1.0, 2.0]), np.array([4.0, 6.0])
    np.testing.assert_allclose(identity.infer_skill(goal=goal, observations=here), [0.6, 0.8], atol=1e-6)
    several = identity.infer_skill(goal=np.array([[4.0, 6.0], [1.0, 0.0]]), observations=here)
    np.testing.assert_allclose(several, [[0.6, 0.8], [0.0, -1.0]], atol=1e-6)


def test_a_goal_alone_starts_where_the_environments_are() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="observations must be given with goal, because the model has no environment"):
        model.infer_skill(goal=np.array([4.0, 6.0]))
    model._last_obs = np.array([[1.0, 2.0]], np.float32)
    np.testing.assert_allclose(model.infer_skill(goal=np.array([4.0, 6.0])), [0.6, 0.8], atol=1e-6)


# Rewards


def test_a_reward_is_answered_by_the_weights_of_its_regression(identity: METRA, places: np.ndarray) -> None:
    moves = np.diff(places, axis=0)
    reward = 3 * moves[:, 0] - 4 * moves[:, 1] + 7.0
    expected = [0.6, -0.8]
    np.testing.assert_allclose(identity.infer_skill(reward=reward, observations=places), expected, atol=1e-5)
    pairs = {"observations": places[:-1], "next_observations": places[1:]}
    np.testing.assert_allclose(identity.infer_skill(reward=reward, **pairs), expected, atol=1e-5)
    both = identity.infer_skill(reward=np.stack([reward, -reward]), **pairs)
    np.testing.assert_allclose(both, [expected, [-0.6, 0.8]], atol=1e-5)


def test_a_reward_may_be_a_function(identity: METRA, places: np.ndarray) -> None:
    def eastward(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        return after[:, 0] - before[:, 0]

    skill = identity.infer_skill(reward=eastward, observations=places)
    np.testing.assert_allclose(skill, [1.0, 0.0], atol=1e-5)
    skills = identity.infer_skill(reward=[eastward, lambda s, t: s[:, 1] - t[:, 1]], observations=places)
    np.testing.assert_allclose(skills, [[1.0, 0.0], [0.0, -1.0]], atol=1e-5)


def test_a_discrete_skill_is_the_one_that_a_reward_moves_most(places: np.ndarray) -> None:
    model = linear(FOUR_WAYS, discrete=True)
    moves = np.diff(places, axis=0)
    skills = model.infer_skill(reward=np.stack([moves[:, 1] + 0.1 * moves[:, 0], -moves[:, 0]]), observations=places)
    assert skills.argmax(axis=1).tolist() == [1, 2]


def test_what_does_not_move_has_no_weight() -> None:
    features = np.random.default_rng(0).normal(size=(50, 3)) * [1.0, 1.0, 1e-6]
    weights = reward_direction(features, (features[:, :1] + np.random.default_rng(1).normal(size=(50, 1))).T)
    assert abs(weights[0, 2]) < 1e-6 < abs(weights[0, 0])


# Trajectories


def test_a_trajectory_is_answered_by_the_direction_it_takes(identity: METRA) -> None:
    path = np.array([[0.0, 0.0], [9.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(identity.infer_skill(trajectory=path), [0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(identity.infer_skill(trajectory=list(path)), [0.6, 0.8], atol=1e-6)
    skills = identity.infer_skill(trajectory=[path, path[:2]])
    np.testing.assert_allclose(skills, [[0.6, 0.8], [1.0, 0.0]], atol=1e-6)
    assert identity.infer_skill(trajectory=np.stack([path, path])).shape == (2, 2)


def test_trajectories_of_dictionaries() -> None:
    model = tiny_model(scripted_envs(kind="dict"), "MultiInputPolicy", policy_kwargs={"net_arch": [4]})
    space = model.observation_space
    space.seed(0)
    steps = [space.sample() for _ in range(3)]
    steps = [x | {"place": x["place"].clip(-2, 2)} for x in steps]
    as_arrays = {key: np.stack([x[key] for x in steps]) for key in steps[0]}
    skill = model.infer_skill(trajectory=steps)
    np.testing.assert_allclose(skill, model.skill_toward(steps[0], steps[-1]), atol=1e-4)
    np.testing.assert_array_equal(skill, model.infer_skill(trajectory=as_arrays))
    batched = {key: np.stack([x, x[::-1]]) for key, x in as_arrays.items()}
    np.testing.assert_allclose(model.infer_skill(trajectory=batched), [skill, -skill], atol=1e-4)


# Methods


def test_visr_follows_where_states_lie_instead_of_how_they_change() -> None:
    model = linear([[1.0, 0.0], [0.0, 1.0]], VISR)
    model.objective.phi.out.bias.data.zero_()
    path = np.array([[0.0, 5.0], [2.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(model.infer_skill(trajectory=path), [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(model.infer_skill(goal=path[0], observations=path), np.tile([0, 1], (3, 1)), atol=1e-6)


def test_cic_asks_the_codes_of_skills() -> None:
    model = linear(FOUR_WAYS[:3], CIC, discrete=True)
    path = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32)
    objective = model.objective
    latents = th.as_tensor(model.encode(path))
    key = objective.predictor(th.cat([latents[:1], latents[1:]], dim=1))
    codes = objective.skill_encoder(th.eye(3))
    agreement = th.nn.functional.cosine_similarity(codes, key)
    assert model.infer_skill(trajectory=path).argmax() == agreement.argmax().item()


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_method_answers_or_says_that_it_cannot(name: str, places: np.ndarray) -> None:
    networks = {"phi_kwargs"} if issubclass(ALGORITHMS[name], RepresentationDiscovery) else set()
    settings = {key: value for key, value in TINY.items() if key != "phi_kwargs" or key in networks}
    model = ALGORITHMS[name]("MlpPolicy", PointMassEnv(), skill_dim=3, **settings)
    if not networks:
        with pytest.raises(ValueError, match=f"model must learn phi to infer skills, got one of {name}, which learns"):
            model.infer_skill(goal=places[0])
        return
    prompts: list[dict[str, Any]] = [
        {"goal": places[:2], "observations": places[0]},
        {"trajectory": [places, places[:3]]},
        {"reward": [lambda s, t: t[:, 0], lambda s, t: s[:, 1]], "observations": places},
    ]
    for prompt in prompts:
        skills = model.infer_skill(**prompt)
        assert skills.shape == (2, 3)
        model.skill_prior.validate(skills)


# Bad input

PATH = np.arange(10.0).reshape(5, 2) ** 2


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "the prompt must be one of goal, reward, trajectory, got none of them"),
        ({"goal": PATH[0], "reward": [1.0]}, "the prompt must be one of .*, got goal and reward"),
        ({"reward": [1.0]}, "observations must be given with reward, got None"),
        ({"trajectory": PATH[0]}, "trajectory must hold successive observations of Box"),
        ({"trajectory": PATH[:1]}, "trajectory must hold at least two observations, got 1"),
        ({"trajectory": np.zeros((3, 5))}, "observation must have shape"),
        ({"goal": np.zeros(3), "observations": PATH[0]}, "observation must have shape"),
        ({"trajectory": [[0.0, 1.0], [1.0]]}, "trajectory must hold observations of one shape"),
        ({"trajectory": PATH[[0, 1, 0]]}, "trajectory must lead somewhere in phi"),
        (
            {"reward": [1.0, 2.0], "observations": [[0.0, 1.0], [1.0]]},
            "observations must hold observations of one shape",
        ),
        ({"reward": [1.0, 2.0], "observations": np.zeros((3, 2))}, "reward must lead somewhere in phi"),
        ({"reward": [1.0], "observations": PATH[:1]}, "observations must have a length of at least 2 for a reward"),
        (
            {"reward": [1.0, 2.0], "observations": PATH[0], "next_observations": PATH[1]},
            "observations must be a batch of observations of Box.*, got a single one",
        ),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(identity: METRA, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identity.infer_skill(**prompt)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (np.ones(3), r"reward must be one number for each of the 4 transitions, .* got \(3,\)"),
        ("vx", "reward must be one number for each of the 4 transitions, .* got 'vx'"),
        (lambda s, t: s, r"reward must be one number for each of the 4 transitions, .* got \(4, 2\)"),
        ([0, 1, np.nan, 2], "reward must be finite, got nan among its numbers"),
        (np.ones(4), "reward must differ between transitions, got 1 for all 4 of them"),
    ],
)
def test_a_reward_of_something_else_is_refused(identity: METRA, reward: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identity.infer_skill(reward=reward, observations=PATH)
    with pytest.raises(ValueError, match="next_observations must hold one for each of the 5 observations, got 2"):
        identity.infer_skill(reward=reward, observations=PATH, next_observations=PATH[:2])


# Named quantities


def test_quantities_of_steps_by_hand() -> None:
    quantities = step_quantities(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 3.0]]), rate=10.0)
    expected = {"x": [3, 3], "y": [4, 3], "vx": [30, 0], "vy": [40, -10], "speed": [50, 10]}
    expected |= {"heading": [np.degrees(np.arctan2(4, 3)), -90]}
    assert quantities.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(quantities[name], values)
    assert list(step_quantities(np.zeros((2, 1)))) == ["x", "vx", "speed"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("vx", 2.0),
        ("-vx", -2.0),
        ("cos(60)*vx + sin(30)*vy", 1.0 + 0.5 * 3.0),
        ("abs(-vx) / (vy - 1) - 1e1", -9.0),
        ("sqrt(vx * 2)", 2.0),
        ("7", 7.0),
    ],
)
def test_expressions_are_arithmetic(text: str, value: float) -> None:
    quantities = {"vx": np.array([2.0, 2.0]), "vy": np.array([3.0, 3.0])}
    np.testing.assert_allclose(parse_expression(text, quantities)(quantities), [value, value])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vz", "there is no 'vz'"),
        ("vx +", "it cannot be read"),
        ("__import__('os').system('true')", "is not among numbers, names"),
        ("vx.real", "'vx.real' is not among numbers, names"),
        ("vx ** 9", "is not among"),
        ("(lambda: 1)()", "is not among"),
        ("cos(vx, 1)", "cos takes one argument"),
        ("True", "is not among"),
        ("", "must be an expression"),
        ("vx+" * 100 + "vx", "must be an expression of at most 200 characters"),
    ],
)
def test_an_expression_is_nothing_but_arithmetic(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^reward must be") as refusal:
        parse_expression(text, ["vx", "vy"])
    assert message in str(refusal.value)


# A wish, answered in an environment


class Walker:
    """Goes where the skill points; phi is the place."""

    def __init__(self) -> None:
        model = linear([[1.0, 0.0], [0.0, 1.0]])
        self.skill_prior, self.encode, self.infer_skill = model.skill_prior, model.encode, model.infer_skill

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        return np.asarray(state), state


def test_a_wish_is_answered_and_tried() -> None:
    env = make_vec_env(POINT, n_envs=4)
    answer = prompt_skill(Walker(), env, "cos(30)*vx + sin(30)*vy", n_skills=6, max_episode_steps=20)
    angle = np.radians(30)
    np.testing.assert_allclose(answer.skill, [np.cos(angle), np.sin(angle)], atol=1e-3)
    assert answer.reward == pytest.approx(2.0, rel=1e-3)  # 0.1 a step, 20 steps a second
    assert answer.rewards.shape == (6,)
    assert answer.rewards.max() == pytest.approx(answer.best_reward)
    assert answer.best_reward <= answer.reward + 1e-6


class Slipping(Walker):
    """Goes nowhere but in the environments' first episode."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        self.steps += 1
        return np.asarray(state) * (self.steps <= 20), state


def test_the_best_skill_is_followed_again() -> None:
    answer = prompt_skill(Slipping(), make_vec_env(POINT, n_envs=6), "vx", n_skills=6, max_episode_steps=20)
    assert answer.rewards.max() > 0.5
    assert (answer.reward, answer.best_reward) == (0.0, 0.0)
    with pytest.raises(ValueError, match="n_episodes must be an integer of at least 1, got 0"):
        prompt_skill(Walker(), make_vec_env(POINT), "vx", n_episodes=0)


def test_the_command_prints_the_skill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear([[1.0, 0.0], [0.0, 1.0]]).save(tmp_path / "model.zip")
    arguments = [str(tmp_path / "model.zip"), "--env", POINT, "--n-skills", "3", "--max-episode-steps", "9"]
    assert cli.main(["prompt", *arguments, "--reward=-vx"]) == 0
    result = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(result["skill"], [-1.0, 0.0], atol=1e-3)
    assert {"reward_per_step", "best_tried", "mean_tried"} < result.keys()
    assert cli.main(["prompt", *arguments, "--n-episodes", "0", "--reward", "vx"]) == 2
    assert "--n-episodes must be" in capsys.readouterr().err
    assert cli.main(["prompt", *arguments, "--reward", "vz"]) == 2
    assert "reward must be arithmetic over x, y, vx, vy, speed, heading, such as" in capsys.readouterr().err
    assert cli.main(["prompt", *arguments, "--reward", "1"]) == 2
    assert "reward must differ between transitions" in capsys.readouterr().err


def test_places_are_needed_for_named_quantities() -> None:
    gym.register(env_id := "tests/Nowhere-v0", Chores, max_episode_steps=5)
    try:
        with pytest.raises(ValueError, match=r'env must report info\["coordinates"\] for rewards of named quantities'):
            prompt_skill(Walker(), make_vec_env(env_id), "vx")
    finally:
        del gym.registry[env_id]


@pytest.mark.slow
def test_a_trained_model_answers_wishes_and_demonstrations() -> None:
    from sb3_metra.evaluation import rollout_skills
    from sb3_metra.hyperparams import load_settings

    settings = load_settings(POINT)
    env = make_vec_env(POINT, settings.pop("n_envs"))
    settings.pop("n_timesteps")
    model = METRA(env=env, **settings, seed=0, device="cpu").learn(40_000)
    best = max(
        t.coordinates[-1] @ [0.5, np.sqrt(0.75)] for t in rollout_skills(model, env, model.skill_prior.sample(48))
    )
    answer = prompt_skill(model, env, "cos(60)*vx + sin(60)*vy")
    assert answer.reward * 5.0 >= 0.9 * best  # an episode lasts five seconds
    skills = model.skill_prior.toward(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    shown = [t.observations for t in rollout_skills(model, env, skills, deterministic=False, seed=1)]
    cosines = (model.infer_skill(trajectory=shown) * skills).sum(axis=1)
    assert cosines.min() > 0.9
