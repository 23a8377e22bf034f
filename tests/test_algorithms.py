"""What every method must do, whichever it is: one test each, run over all of them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_metra
from sb3_metra import ALGORITHMS, METRA
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.sac import SkillSAC
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.envs.point import PointMassEnv
from tests.test_skill_discovery import NoSynchronisation
from tests.toys import TINY, same, scripted_envs, state_of

CONTINUOUS_ONLY = {"VISR"}
VECTORS_ONLY = {"CSD", "DADS"}
NETWORKS = ("phi_kwargs", "discriminator_kwargs", "dynamics_kwargs")

CASES = [(name, kind) for name in ALGORITHMS for kind in (False, True) if not kind or name not in CONTINUOUS_ONLY]
case = pytest.mark.parametrize(("name", "discrete"), CASES)
#: Each method with skills of one kind, and two of them with the other kind, too; the remaining cases are slow.
usual_case = pytest.mark.parametrize(
    ("name", "discrete"),
    [
        pytest.param(name, discrete, marks=[pytest.mark.slow] if discrete and name not in ("METRA", "DIAYN") else [])
        for name, discrete in CASES
    ],
)

usual_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("METRA", "GenDa", "DADS", "VISR") else [pytest.mark.slow])
        for name in ALGORITHMS
    ],
)


def make(name: str, discrete: bool = False, kind: str = "vector", policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    """A model of a method with hidden layers of 8 units and skills of 3 components."""
    algorithm = ALGORITHMS[name]
    own = {argument: {"net_arch": [8]} for argument in NETWORKS if argument in arguments_of(algorithm)}
    arguments = {key: value for key, value in TINY.items() if key != "phi_kwargs"} | own
    return algorithm(policy, scripted_envs(kind=kind), 3, discrete, **(arguments | kwargs))


def arguments_of(algorithm: type) -> set[str]:
    """The names of a class's arguments, its parents' included."""
    return {name for parent in algorithm.__mro__ for name in inspect.signature(parent.__init__).parameters}


@case
def test_it_learns(name: str, discrete: bool) -> None:
    model = make(name, discrete)
    before = state_of(model)
    model.learn(72)
    after = state_of(model)
    assert model._n_updates > 0
    assert all(x.isfinite().all() for x in after.values())
    for part in ("policy/actor", "policy/critic.", "policy/critic_target", "objective"):
        assert any(not th.equal(before[key], x) for key, x in after.items() if key.startswith(f"/{part}")), part


@usual_case
def test_the_seed_decides_everything(name: str, discrete: bool) -> None:
    states = [state_of(make(name, discrete, seed=seed).learn(24)) for seed in (1, 1, 2)]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


@pytest.mark.parametrize(  # test_save_load looks at each method with skills of one kind
    ("name", "discrete"), [pytest.param(*x, marks=[] if x == ("DIAYN", True) else [pytest.mark.slow]) for x in CASES]
)
def test_it_is_saved_and_loaded(name: str, discrete: bool, tmp_path: Path) -> None:
    model = make(name, discrete).learn(24)
    model.save(tmp_path / "model")
    loaded = sb3_metra.load(tmp_path / "model", scripted_envs())
    assert type(loaded) is type(model)
    assert same(state_of(model), state_of(loaded))
    obs = np.ones((2, 3), np.float32)
    skills = model.skill_prior.sample(2)
    ours, theirs = (x.predict(obs, state=skills, deterministic=True) for x in (model, loaded))
    assert np.array_equal(ours[0], theirs[0])
    loaded.learn(24, reset_num_timesteps=False)
    assert not same(state_of(model), state_of(loaded))


def test_a_file_of_another_method_is_refused(tmp_path: Path) -> None:
    make("LSD").save(tmp_path / "model")
    for name in set(ALGORITHMS) - {"LSD"}:
        with pytest.raises(ValueError, match=f"holds a LSD model, not one of {name}"):
            ALGORITHMS[name].load(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "changed", "fixed"),
    [
        ("LSD", {"iterate_each_pass": True}, {"phi_kwargs": {"net_arch": [4]}}),
        ("CSF", {"contrast_coef": 2.0, "n_negatives": 8}, {"discrete": True}),
        ("DIAYN", {"subtract_log_prior": False}, {"discriminator_kwargs": {"net_arch": [4]}}),
        ("DADS", {"n_alternatives": 5, "skip_last_steps": True}, {"gaussian_skills": True}),
        ("DADS", {"n_alternatives": 6}, {"dynamics_kwargs": {"net_arch": [4]}}),
        ("CIC", {"n_neighbors": 3, "divide_by_variance": True}, {"unit_skills": True}),
        ("VISR", {"normalize_features": False}, {"skill_dim": 4}),
    ],
)
def test_what_load_may_change(name: str, changed: dict[str, Any], fixed: dict[str, Any], tmp_path: Path) -> None:
    make(name).save(tmp_path / "model")
    model = ALGORITHMS[name].load(tmp_path / "model", **changed)
    assert {argument: getattr(model, argument) for argument in changed} == changed
    with pytest.raises(ValueError, match=r"load\(\) cannot change skills"):
        ALGORITHMS[name].load(tmp_path / "model", **fixed)


@usual_case
def test_parameters_are_handed_from_one_model_to_another(name: str, discrete: bool) -> None:
    first, second = make(name, discrete), make(name, discrete, seed=7)
    assert not same(state_of(first), state_of(second))
    second.set_parameters(first.get_parameters())
    assert same(state_of(first), state_of(second))
    second.learn(48)
    assert second._n_updates > 0


@case
def test_it_acts_as_sb3_asks(name: str, discrete: bool) -> None:
    model = make(name, discrete)
    action, skill = model.predict(np.ones(3, np.float32))
    assert action.shape == (2,)
    assert skill.shape == (3,)
    model.skill_prior.validate(skill)
    assert model.action_space.contains(action)
    evaluate_policy(model, scripted_envs(1), n_eval_episodes=2, warn=False)


@usual_case
def test_training_mode_is_for_the_loss_alone(name: str, discrete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards and whatever else is asked for in between leave the model as it is, but for statistics of rewards."""
    model = make(name, discrete).learn(48)
    modes = []
    loss = model.objective.loss
    monkeypatch.setattr(model.objective, "loss", lambda batch: (modes.append(model.objective.training), loss(batch))[1])
    batch = model.sample(16)
    model.gradient_step(batch)
    assert modes == [True]
    assert not any(module.training for module in model.objective.modules())
    before = state_of(model)
    rewards = [model.objective.reward(batch) for _ in range(2)]
    assert not rewards[0].requires_grad
    assert rewards[0].shape == (len(batch.actions), model.critic_dim(model.skill_prior))
    if isinstance(model, RepresentationDiscovery):
        obs = np.ones(3, np.float32)
        assert np.array_equal(model.encode(obs), model.encode(obs))
        model.skill_prior.validate(model.skill_toward(obs, 2 * obs))
    model.predict(np.ones(3, np.float32))
    after = state_of(model)
    assert {key for key in after if not th.equal(before[key], after[key])} <= {
        f"/objective/entropy.moments.{moment}" for moment in ("mean", "var", "count")
    }


@usual_case
def test_a_gradient_step_never_waits_for_the_device(name: str, discrete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, discrete).learn(24)
    batch = model.sample(16)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tensor left the device")

    for attribute in ("numpy", "tolist", "cpu", "item", "__bool__", "__float__", "__array__"):
        monkeypatch.setattr(th.Tensor, attribute, refuse)
    with NoSynchronisation():
        info = model.gradient_step(batch)
    monkeypatch.undo()
    assert all(x.isfinite().all() and not x.requires_grad for x in info.values())


@pytest.mark.parametrize(
    ("kind", "policy", "name"),
    [
        pytest.param(*kind, name, marks=[] if name in usual else [pytest.mark.slow])
        for *kind, usual in (
            ("dict", "MultiInputPolicy", {"METRA", "CIC", "VISR", *VECTORS_ONLY}),
            ("image", "CnnPolicy", {"GenDa", "CSF", "DIAYN", *VECTORS_ONLY}),
        )
        for name in ALGORITHMS
    ],
)
def test_dictionaries_and_images(name: str, kind: str, policy: str) -> None:
    if name in VECTORS_ONLY:  # the dictionary holds an image, too
        with pytest.raises(ValueError, match=f"observation_space must hold vectors for {name}"):
            make(name, kind=kind, policy=policy)
        return
    small = {"features_extractor_kwargs": {"depth": 2}} if kind == "image" else {}
    model = make(name, kind=kind, policy=policy, policy_kwargs={"net_arch": [8]} | small).learn(24)
    assert model._n_updates > 0
    if isinstance(model, RepresentationDiscovery):
        assert np.shape(model.encode(model.env.reset())) == (3, 3)


@usual_method
def test_half_precision(name: str) -> None:
    model = make(name, bfloat16=True).learn(24)
    assert model._n_updates > 0
    assert all(x.isfinite().all() for x in state_of(model).values())


@usual_method
def test_a_larger_batch_for_the_objective(name: str) -> None:
    model = make(name, objective_batch_size=24).learn(72)
    assert model._n_updates > 0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_signature_and_documentation(name: str) -> None:
    """The first arguments are the same everywhere, and each is documented."""
    algorithm = ALGORITHMS[name]
    parameters = [x for x in inspect.signature(algorithm.__init__).parameters if x not in ("self", "kwargs")]
    assert parameters[:4] == ["policy", "env", "skill_dim", "discrete"]
    assert algorithm.__name__ == name
    assert issubclass(algorithm, SkillDiscovery)
    assert getattr(sb3_metra, name) is algorithm
    assert name in sb3_metra.__all__
    for parameter in set(parameters) - arguments_of(SkillDiscovery):
        assert re.search(f":param {parameter}:|``{parameter}``", algorithm.__doc__ or ""), parameter


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_signature_spells_out_every_argument(name: str) -> None:
    """No ``**kwargs`` hides SAC's arguments, and each argument is taken with the default that is shown."""
    parameters = inspect.signature(ALGORITHMS[name]).parameters
    named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    assert {p.kind for p in parameters.values()} == named
    shared = {x for x, p in inspect.signature(SkillSAC).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {"learning_rate", "buffer_size", "seed", "device"} < shared < set(parameters)
    ours = [parent for parent in ALGORITHMS[name].__mro__ if parent.__module__.startswith("sb3_metra.")]
    taken = set().union(*(inspect.signature(parent.__init__).parameters for parent in ours))
    assert taken - set(parameters) == {"self", "kwargs", "skill_prior"}
    defaults = {x: p.default for x, p in parameters.items() if x not in ("policy", "env")}
    model = ALGORITHMS[name]("MlpPolicy", None, **(defaults | {"_init_setup_model": False}))
    assert (model.learning_rate, model.gamma) == (defaults["learning_rate"], defaults["gamma"])


def test_the_signature_of_a_subclass() -> None:
    class Mine(METRA):
        def __init__(self, *args: Any, gamma: float = 0.5, **kwargs: Any) -> None:
            super().__init__(*args, gamma=gamma, **kwargs)

    class Narrow(METRA):
        def __init__(self, env: Any) -> None:
            super().__init__("MlpPolicy", env)

    parameters = inspect.signature(Mine).parameters
    assert list(parameters)[:2] == ["args", "gamma"]
    assert parameters["gamma"].default == 0.5
    assert "tau" in parameters
    assert list(inspect.signature(Narrow).parameters) == ["env"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_method_is_one_short_file(name: str) -> None:
    lines = Path(inspect.getfile(ALGORITHMS[name])).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 130


@pytest.mark.parametrize("name", sorted(CONTINUOUS_ONLY))
def test_discrete_skills_where_they_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match=f"discrete must be False for {name}"):
        make(name, True)


WRONG: dict[type, tuple[Any, ...]] = {bool: ("no", 1.5), int: (2.5, "x"), float: (float("nan"), "x")}
"""What a flag, an integer and a number must not be."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_flag_and_number_is_checked(name: str) -> None:
    cls = ALGORITHMS[name]
    networks = NETWORKS if issubclass(cls, RepresentationDiscovery) else ()
    tiny = {key: value for key, value in TINY.items() if key not in NETWORKS or key in networks}
    checked = 0
    for argument in cls.__signature__.parameters.values():
        for wrong in WRONG.get(type(argument.default), ()):
            with pytest.raises(ValueError, match=rf"\b{argument.name}\b"):
                cls(**{"policy": "MlpPolicy", "env": PointMassEnv()} | tiny | {argument.name: wrong})
            checked += 1
    assert checked > 20
