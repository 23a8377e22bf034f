"""Bad input is refused at once with a sentence that names it, and leaves the model as it was."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

from sb3_metra import METRA
from sb3_metra.algorithms import ALGORITHMS
from sb3_metra.common.networks import Representation
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.representation_discovery import RepresentationDiscovery
from sb3_metra.common.sac import SkillSAC
from sb3_metra.common.skill_discovery import SkillDiscovery
from sb3_metra.common.spaces import UnsupportedSpaceError
from tests.toys import TINY, Scripted, scripted_envs, tiny_model

NAN, INF = math.nan, math.inf
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 46, 46), np.uint8)
LAST = spaces.Box(0, 255, (46, 46, 3), np.uint8)
NOISE = NormalActionNoise(np.zeros(2), np.full(2, 0.1))


class OnlySpaces(gym.Env):
    """An environment that is only its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space = UNIT) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def build(policy: Any = "MlpPolicy", env: Any = None, **kwargs: Any) -> METRA:
    """A model on spaces alone; ``kwargs`` replace any of its arguments."""
    return METRA(policy, OnlySpaces(VECTOR) if env is None else env, **(TINY | kwargs))


# Arguments of the constructor

AT_LEAST_1 = "must be an integer of at least 1"
AT_LEAST_0 = "must be an integer of at least 0"
FLAG = "must be True or False"
NO_INTEGERS: list[Any] = [-2, 2.5, "x", "16", "", None, True, NAN, INF, [16], {}]
NO_NUMBERS: list[Any] = [-0.1, NAN, INF, "x", "0.5", "", None, True, [0.5], {}, th.nn.ReLU]
NO_FLAGS: list[Any] = ["no", "yes", "False", 0, 1, 0.5, None, [], NAN]
NO_DICTS: list[Any] = [1, "x", [], True, {1: 2}]

#: For each argument: what its sentence says, and values that it does not take.
ARGUMENTS: dict[str, tuple[str, list[Any]]] = {
    "skill_dim": (AT_LEAST_1, [0, *NO_INTEGERS]),
    "discrete": (FLAG, NO_FLAGS),
    "unit_skills": (FLAG, NO_FLAGS),
    "dual_lambda": ("must be a finite number greater than 0", [0, "auto", *NO_NUMBERS]),
    "dual_slack": ("must be a finite number of at least 0", NO_NUMBERS),
    "constraint_norm": ('must be "sum" or "mean"', ["max", "", None, 1, ["sum"]]),
    "learning_rate": (
        "must be a finite number greater than 0, or a function of the remaining progress",
        [0, *NO_NUMBERS, lambda: 1.0, lambda _: NAN, lambda _: -1.0, lambda _: "x", lambda x: NAN if x == 0 else x],
    ),
    "buffer_size": (AT_LEAST_1, [0, *NO_INTEGERS]),
    "learning_starts": (AT_LEAST_0, NO_INTEGERS),
    "batch_size": (AT_LEAST_1, [0, *NO_INTEGERS]),
    "objective_batch_size": (AT_LEAST_1, [0, *(x for x in NO_INTEGERS if x is not None)]),
    "tau": ("must be a number between 0 and 1", [1.5, *NO_NUMBERS]),
    "gamma": ("must be a number between 0 and 1", [1.5, *NO_NUMBERS]),
    "train_freq": (
        "must be a positive integer, or a pair such as",
        [0, *NO_INTEGERS, "episode", (1, "close"), ("1", "episode"), (0, "step"), (8,), (8, "step", 1)],
    ),
    "gradient_steps": ("must be an integer of at least -1", NO_INTEGERS),
    "action_noise": ("must be an ActionNoise of SB3", [1, "x", NormalActionNoise, np.zeros(2)]),
    "replay_buffer_class": (
        "must be a subclass of SkillReplayBuffer",
        [dict, "x", 1, ReplayBuffer, HerReplayBuffer],
    ),
    "replay_buffer_kwargs": ("must be a dictionary of arguments by name", NO_DICTS),
    "ent_coef": (
        'must be a number of at least 0, "auto" to learn it',
        ["aut", "automatic", "auto_", "auto_x", "auto_0", "auto_-1", "auto0.1", "nan", -1, NAN, INF, None, True, [1]],
    ),
    "target_entropy": (
        'must be a finite number, "auto" or a share',
        ["low", "auto_", "auto_x", "auto_nan", "auto0.5", None, NAN, INF, True, [1], np.zeros(2)],
    ),
    "random_warmup": (FLAG, NO_FLAGS),
    "bfloat16": (FLAG, NO_FLAGS),
    "tf32": (FLAG, NO_FLAGS),
    "cudnn_deterministic": (FLAG, NO_FLAGS),
    "cuda_graph": (FLAG, NO_FLAGS),
    "overlap": (FLAG, NO_FLAGS),
    "actor_observation": (
        "must be ",
        [
            1,
            "x",
            [],
            ["-z"],
            [True],
            [True, False, 1],
            [False, False, False],
            ["-x", "y"],
            np.ones(3),
            lambda x: 1,
            lambda: 1,
        ],
    ),
    "stats_window_size": (AT_LEAST_1, [0, *NO_INTEGERS]),
    "tensorboard_log": ("must be a path", [1, True, ["logs"]]),
    "policy_kwargs": ("must be a dictionary of arguments by name", NO_DICTS),
    "phi_kwargs": ("must be a dictionary of arguments by name", NO_DICTS),
    "verbose": (AT_LEAST_0, NO_INTEGERS),
    "seed": ("must be an integer between 0 and 4294967295", [2**32, -1, 2.5, "x", "0", True, NAN, [1]]),
    "device": ('must be "auto", "cpu" or another device', ["gpu", "x", 1, None, "cuda:99", "xpu:7", True]),
    "_init_setup_model": (FLAG, NO_FLAGS),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    sentence, values = ARGUMENTS[name]
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} ") as error:
            build(**{name: value})
        assert sentence in str(error.value), value
        assert ", got " in str(error.value), value
        assert "\n" not in str(error.value), value


def test_every_argument_has_a_row() -> None:
    names = {name for cls in (METRA, RepresentationDiscovery, SkillSAC) for name in signature(cls.__init__).parameters}
    assert names - {"self", "policy", "env", "kwargs", "skill_prior"} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"skill_dim": 1, "discrete": True}, "skill_dim must be at least 2 with discrete skills, got 1"),
        ({"batch_size": 33, "buffer_size": 32}, "buffer_size must hold at least one batch of 33 transitions, got 32"),
        ({"objective_batch_size": 64, "buffer_size": 32}, "buffer_size must hold at least one batch of 64"),
        ({"objective_batch_size": 8}, "objective_batch_size must be at least batch_size=16, got 8"),
        ({"buffer_size": 10**15}, f"buffer_size must fit into memory, got {10**15}"),
        ({"action_noise": NormalActionNoise(np.zeros(3), np.ones(3))}, r"finite numbers of shape \(2,\), got \["),
        ({"action_noise": NormalActionNoise(np.zeros(1), np.ones(1))}, r"finite numbers of shape \(2,\), got \["),
        ({"action_noise": NormalActionNoise(np.zeros(2), np.full(2, NAN))}, r"finite .* got \[nan, nan\]"),
        ({"action_noise": NormalActionNoise(0.0, 0.1)}, "action_noise must give arrays of numbers, got"),
        ({"replay_buffer_kwargs": {"optimize_memory_usage": True}}, "optimize_memory_usage must be False, got True"),
        ({"replay_buffer_kwargs": {"handle_timeout_termination": "no"}}, "handle_timeout_termination must be True or"),
        ({"replay_buffer_kwargs": {"handle_timeouts": True}}, "must hold arguments of SkillReplayBuffer, got 'handle_"),
        ({"replay_buffer_kwargs": {"n_stack": 3}}, "must hold arguments of SkillReplayBuffer, got 'n_stack'"),
        ({"replay_buffer_kwargs": {"skill_dim": 3}}, "must not hold skill_dim, which the algorithm sets, got"),
        ({"policy_kwargs": {"critic_dim": 3}}, "must not hold critic_dim, which the algorithm sets, got"),
    ],
)
def test_arguments_that_do_not_fit_together(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_episodes_of_several_environments_are_no_round() -> None:
    with pytest.raises(ValueError, match="train_freq must count steps with 3 environments, got"):
        tiny_model(train_freq=(1, "episode"))


@pytest.mark.parametrize("algorithm", ALGORITHMS.values())
def test_unknown_names_given_to_a_constructor(algorithm: type[SkillDiscovery]) -> None:
    name = algorithm.__name__
    for given, meant in (("skill_prior", "skill_dim"), ("batchsize", "batch_size"), ("phi_kwarg", "phi_kwargs")):
        if meant in signature(algorithm).parameters:
            with pytest.raises(TypeError, match=rf"{name}\(\) got an unknown argument '{given}'; .* '{meant}'"):
                algorithm("MlpPolicy", None, **{given: 3})
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unknown argument 'zzz'; it has policy, env, skill_dim"):
        algorithm("MlpPolicy", None, zzz=3)


def test_a_constructor_of_ones_own_takes_what_it_likes() -> None:
    class Mine(METRA):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.mine = kwargs.pop("mine")
            super().__init__(*args, **kwargs)

    model = Mine("MlpPolicy", scripted_envs(1), mine=3, **(TINY | {"skill_dim": 3}))
    assert (model.mine, model.skill_prior.dim) == (3, 3)


#: What is as good as the number behind it: NumPy's scalars, whole floats, and what YAML 1.1 takes for a string.
EQUIVALENTS: list[tuple[str, Any, Any]] = [
    ("buffer_size", 1e5, 100_000),
    ("buffer_size", "1e5", 100_000),
    ("batch_size", 16.0, 16),
    ("batch_size", np.int32(16), 16),
    ("learning_starts", np.float64(50.0), 50),
    ("gradient_steps", 2.0, 2),
    ("gradient_steps", -1, -1),
    ("objective_batch_size", 32.0, 32),
    ("train_freq", 8.0, (8, "step")),
    ("train_freq", [8, "step"], (8, "step")),
    ("train_freq", (np.int64(2), "step"), (2, "step")),
    ("tau", "5e-3", 0.005),
    ("gamma", np.float32(0.5), 0.5),
    ("learning_rate", "1e-3", 1e-3),
    ("learning_rate", np.float64(1e-3), 1e-3),
    ("target_entropy", np.float64(-1.0), -1.0),
    ("random_warmup", np.True_, True),
    ("seed", 3.0, 3),
]


@pytest.mark.parametrize(("name", "value", "expected"), EQUIVALENTS)
def test_numbers_in_other_clothes(name: str, value: Any, expected: Any) -> None:
    got = getattr(build(**{name: value}), name)
    if name == "train_freq":
        got = (got.frequency, got.unit.value)
    assert got == expected
    assert type(got) is type(expected) or name == "seed"


def test_multipliers_in_other_clothes() -> None:
    model = build(dual_lambda="1e-3", dual_slack=np.float32(0.5), ent_coef="0.25", skill_dim=3.0)
    assert model.objective.dual.value.item() == pytest.approx(1e-3)
    assert model.objective.dual.slack == 0.5
    assert model.entropy_dual.value.item() == pytest.approx(0.25)
    assert model.skill_prior.dim == 3
    assert type(model.skill_prior.dim) is int


def test_training_with_whole_floats() -> None:
    """Case: 1e5 in a file of settings reaches NumPy and range() as an integer."""
    model = tiny_model(buffer_size=2e3, gradient_steps=2.0, batch_size=16.0, learning_starts=1.6e1, train_freq=8.0)
    model.learn(48.0)
    assert model._n_updates > 0
    assert model.num_timesteps == 48


def test_noise_for_another_number_of_environments() -> None:
    model = tiny_model(action_noise=VectorizedActionNoise(NOISE, 2))
    assert model.action_noise.n_envs == 3
    model.learn(12)
    state = np.random.get_state()[1].copy()
    tiny_model(action_noise=NOISE, seed=None)
    assert np.array_equal(np.random.get_state()[1], state)  # trying the noise out draws nothing for good


def test_a_schedule_that_goes_wrong_while_training() -> None:
    model = tiny_model(learning_rate=lambda x: NAN if 0 < x < 0.5 else 1e-3)
    with pytest.raises(ValueError, match=r"learning_rate must be a finite number of at least 0, got nan at progress 0"):
        model.learn(96)


# Arguments of the policy and of phi


class OwnExtractor(FlattenExtractor):
    """An extractor with an argument of its own."""

    def __init__(self, observation_space: spaces.Space, scale: float = 1.0) -> None:
        super().__init__(observation_space)


LAYERS = "must be a list of positive integers"
NO_LAYERS: list[Any] = [[0], [-1], [2.5], [True], ["8"], [NAN], [[8]], "8", 8, {"pi": [8]}, {"pi": [8], "vf": [8]}]
MODULE = "must be a class of torch.nn that needs no arguments"
NO_MODULES: list[Any] = ["relu", nn.ReLU(), th.relu, None, int, nn.Linear]
POLICY: dict[str, tuple[str, list[Any]]] = {
    "net_arch": (LAYERS, [*NO_LAYERS, {"pi": [8], "qf": [0]}, [{"pi": [8], "qf": [8]}]]),
    "activation_fn": (MODULE, NO_MODULES),
    "actor_activation_fn": (MODULE, NO_MODULES),
    "features_extractor_class": ("must be a subclass of BaseFeaturesExtractor", ["x", int, nn.Linear]),
    "features_extractor_kwargs": ("must ", [1, "x", [], {"scale": 1}]),
    "normalize_images": (FLAG, NO_FLAGS),
    "optimizer_class": ("must be ", ["adam", int, None, th.optim.LBFGS, th.optim.SparseAdam]),
    "optimizer_kwargs": ("must ", [1, "x", {"lr": 1.0}, {"epsilon": 1e-8}]),
    "actor_gain": ("must be a finite number of at least 0", NO_NUMBERS),
    "n_critics": (AT_LEAST_1, [0, *NO_INTEGERS]),
    "share_critic_encoder": (FLAG, NO_FLAGS),
    "layer_norm": (FLAG, NO_FLAGS),
    "hard_bounds": (FLAG, NO_FLAGS),
    "actor_extractor_class": ("must be a subclass of BaseFeaturesExtractor", ["x", int, nn.Linear]),
    "actor_extractor_kwargs": ("must ", [1, "x", [], {"scale": 1}]),
}
PHI = {name: POLICY[name] for name in ("activation_fn", "features_extractor_class", "normalize_images")}
PHI |= {
    "normalize_steps": (FLAG, NO_FLAGS),
}
PHI |= {"net_arch": (LAYERS, NO_LAYERS), "features_extractor_kwargs": POLICY["features_extractor_kwargs"]}


@pytest.mark.parametrize(("where", "name"), [("policy_kwargs", x) for x in POLICY] + [("phi_kwargs", x) for x in PHI])
def test_arguments_of_networks(where: str, name: str) -> None:
    sentence, values = (POLICY if where == "policy_kwargs" else PHI)[name]
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} ") as error:
            build(**{where: {name: value}})
        assert sentence in str(error.value), value
        assert "got " in str(error.value), value


def test_every_argument_of_networks_has_a_row() -> None:
    given = {"self", "observation_space", "action_space", "lr_schedule", "skill_prior", "critic_dim", "dim"}
    assert set(signature(SkillPolicy.__init__).parameters) - given == set(POLICY)
    assert set(signature(Representation.__init__).parameters) - given == set(PHI)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy_kwargs": {"netarch": [8]}}, "arguments of SkillPolicy, got 'netarch': did you mean 'net_arch'"),
        ({"phi_kwargs": {"net_arhc": [8]}}, "arguments of Representation, got 'net_arhc': did you mean 'net_arch'"),
        ({"phi_kwargs": {"dim": 3}}, "phi_kwargs must not hold 'dim'"),
        ({"policy_kwargs": {"optimizer_kwargs": {"eps": -1.0}}}, "got Adam and {'eps': -1.0}: Invalid epsilon value"),
        (
            {"policy_kwargs": {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"scael": 1.0}}},
            "arguments of OwnExtractor, got 'scael': did you mean 'scale'",
        ),
    ],
)
def test_misspelt_arguments_of_networks(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"net_arch": (8.0, np.int64(8))},
        {"net_arch": np.array([8])},
        {"net_arch": []},
        {"net_arch": {"pi": [8], "qf": [9, 9]}},
        {"activation_fn": functools.partial(nn.LeakyReLU, 0.2)},
        {"activation_fn": "ELU", "actor_activation_fn": "GELU"},
        {"n_critics": 3.0},
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
        {"optimizer_kwargs": {"foreach": True}},
        {"features_extractor_class": OwnExtractor, "features_extractor_kwargs": {"scale": 2.0}},
    ],
)
def test_arguments_of_networks_that_are_as_good(kwargs: dict[str, Any]) -> None:
    build(policy_kwargs={"net_arch": [8]} | kwargs)


# The policy, and environments


@pytest.mark.parametrize("policy", [None, 1, int, "Mlp", "LstmPolicy", "", SACPolicy, ["MlpPolicy"]])
def test_policies_that_are_none(policy: Any) -> None:
    with pytest.raises(ValueError, match=r'^policy must be a SkillPolicy: "MlpPolicy", .* or a subclass, got '):
        build(policy)


@pytest.mark.parametrize(
    ("policy", "space", "message"),
    [
        ("CnnPolicy", VECTOR, "CnnPolicy needs uint8 images in .* use MlpPolicy for vectors"),
        ("CnnPolicy", spaces.Box(0, 255, (3, 40, 64), np.uint8), "observation must be an image of at least 46x46"),
        ("MlpPolicy", spaces.Dict({"a": VECTOR}), "MultiInputPolicy"),
        ("CnnPolicy", spaces.Dict({"a": IMAGE}), "MultiInputPolicy"),
        ("MultiInputPolicy", VECTOR, "policy must be MlpPolicy or CnnPolicy .* got MultiInputPolicy"),
        (
            "MultiInputPolicy",
            spaces.Dict({"a": spaces.Box(0, 255, (3, 35, 64), np.uint8)}),
            "a must be an image of at least 36x36 pixels in a dictionary, got shape .*FlattenObservation",
        ),
    ],
)
def test_policies_for_other_observations(policy: str, space: spaces.Space, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(policy, OnlySpaces(space))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (3, "env must be an environment, a VecEnv of SB3 or a registered name, got 3"),
        (Scripted, "env must be an environment, .* got <class"),
        ([Scripted()], "env must be an environment, .* got \\["),
        (gym.make_vec("Pendulum-v1", num_envs=2), "got SyncVectorEnv, a vectorised environment of Gymnasium: make_vec"),
        (OnlySpaces(None), "env must have a space of Gymnasium as observation_space, got None"),
    ],
)
def test_environments_that_are_none(env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(env=env)
    with pytest.raises(ValueError, match=message):
        build().set_env(env)


def test_no_environment(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="env must be an environment or its registered name, got None"):
        METRA("MlpPolicy", None)
    build().save(tmp_path / "model")
    with pytest.raises(ValueError, match="env must be given before learning, got None"):
        METRA.load(tmp_path / "model", device="cpu").learn(10)


HUGE = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a": UNIT}), "only Discrete, MultiDiscrete, MultiBinary are"),
        (spaces.Text(5), "only Discrete, MultiDiscrete, MultiBinary are"),
        (spaces.Box(-10, 10, (2,), np.int64), "integers are a MultiDiscrete"),
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), "finite lower and upper bound"),
        (spaces.Box(-HUGE, HUGE, (2,), np.float32), "finite lower and upper bound"),
        (spaces.Box(np.zeros(2, np.float32), np.array([1, 0], np.float32)), "each lower bound must be below"),
        (spaces.Box(-1, 1, (), np.float32), "at least one component"),
        (spaces.Box(-1, 1, (0,), np.float32), "at least one component"),
    ],
)
def test_other_action_spaces(space: spaces.Space, message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=f"^action_space must be a Box of floats .* got .*: .*{message}"):
        build(env=OnlySpaces(VECTOR, space))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-1, 1, (0,), np.float32), "it has no components"),
        (spaces.Dict({}), "at least one observation"),
        (spaces.Dict({"a": spaces.Dict({"b": VECTOR})}), "'a' of observation_space .* nested inside .* FlattenObserv"),
        (spaces.Dict({"a": spaces.Tuple([VECTOR])}), "'a' of observation_space .* nested inside .* FlattenObservation"),
        (spaces.Tuple([VECTOR, VECTOR]), "a Tuple, .* FlattenObservation"),
        (spaces.Text(5), "only Box, Discrete"),
        (spaces.Graph(VECTOR, None), "only Box, Discrete"),
        (spaces.Sequence(VECTOR), "only Box, Discrete"),
        (
            spaces.MultiDiscrete([[2, 3], [4, 5]]),
            "it must have one axis: wrap .* FlattenObservation",
        ),
        (spaces.Dict({"a.b": VECTOR}), "keys must be strings without dots"),
        (spaces.Dict({"items": VECTOR}), "'items' cannot name a module"),
        (spaces.Dict({"a": IMAGE, "b": LAST}), "all have their channels first, or all last"),
    ],
)
def test_other_observation_spaces(space: spaces.Space, message: str) -> None:
    with pytest.raises(UnsupportedSpaceError, match=message):
        build("MultiInputPolicy", OnlySpaces(space))


@pytest.mark.parametrize("shape", [(64, 64, 3), (96, 96, 48)])
@pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
def test_float_images_with_channels_last(policy: str, shape: tuple[int, ...]) -> None:
    space: spaces.Space = spaces.Box(0, 1, shape, np.float32)
    space = spaces.Dict({"eye": space}) if policy == "MultiInputPolicy" else space
    with pytest.raises(ValueError, match=r"must be an image with channels first if normalize_images=False, got shape"):
        build(policy, OnlySpaces(space), policy_kwargs={"normalize_images": False})


def test_channels_last_inside_a_normalisation() -> None:
    venv = DummyVecEnv([lambda: OnlySpaces(spaces.Dict({"eye": LAST, "place": VECTOR}))])
    with pytest.raises(ValueError, match=r"write VecNormalize\(VecTransposeImage\(venv\), ...\)"):
        build("MultiInputPolicy", VecNormalize(venv, norm_obs_keys=["place"]))
    build("MultiInputPolicy", VecNormalize(VecTransposeImage(venv), norm_obs_keys=["place"]))


# learn

LEARN: list[tuple[str, str, list[Any]]] = [
    ("total_timesteps", AT_LEAST_0, NO_INTEGERS),
    ("callback", "must be a callback of SB3, a list of them, or a function", ["x", 3, CheckpointCallback, [print], ()]),
    ("log_interval", AT_LEAST_1, [0, *(x for x in NO_INTEGERS if x is not None)]),
    ("tb_log_name", "must be a string", [3, True]),
    ("reset_num_timesteps", FLAG, NO_FLAGS),
    ("progress_bar", FLAG, NO_FLAGS),
]


@pytest.mark.parametrize(("name", "sentence", "values"), LEARN, ids=[row[0] for row in LEARN])
def test_arguments_of_learn(name: str, sentence: str, values: list[Any]) -> None:
    model = tiny_model()
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} {sentence}.*got "):
            model.learn(**({"total_timesteps": 8} | {name: value}))
    assert model.num_timesteps == 0


def test_a_log_that_cannot_be_written(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    model = tiny_model(tensorboard_log=str(tmp_path / "file" / "logs"))
    with pytest.raises(ValueError, match="tensorboard_log must be a folder that can be written to, got"):
        model.learn(8)


# predict, encode and skill_toward

SHAPE = r"observation must have shape \(3,\), or \(n, 3\) for n of them, got"
OBSERVATIONS: list[tuple[Any, str]] = [
    (np.zeros(7), SHAPE),
    (np.zeros(1), SHAPE),
    (np.zeros((3, 1)), SHAPE),
    (np.zeros((1, 1)), SHAPE),
    (np.zeros((2, 2, 3)), SHAPE),
    (0.0, SHAPE),
    (None, SHAPE),
    ("east", SHAPE),
    ([[0.0], [0.0, 1.0]], "observation must have one shape, got parts of several shapes"),
    (["a", "b", "c"], "observation must hold numbers, got <U1"),
    (np.zeros(3, complex), "observation must hold numbers, got complex128"),
    (np.array([0.0, NAN, 0.0]), "observation must be finite, got NaN or infinity"),
    (np.full((2, 3), INF, np.float32), "observation must be finite"),
    (np.full(3, 1e300), "observation must lie within .* got 1e\\+300"),
    (np.full(3, 1e30, np.float32), "observation must lie within .* got 1e\\+30"),
    ({"place": np.zeros(3)}, "observation must be an array of numbers, got a dict"),
    ((np.zeros(3), {}), r"got a tuple: `env.reset\(\)` returns \(obs, info\), which is mixing Gym API"),
]


@pytest.mark.parametrize("call", ["predict", "encode"])
def test_observations(call: str) -> None:
    model = build()
    for observation, message in OBSERVATIONS:
        with pytest.raises(ValueError, match=message):
            getattr(model, call)(observation)


@pytest.mark.parametrize("kind", [list, th.as_tensor, np.float16, np.float64, np.int64, tuple])
def test_observations_that_are_as_good(kind: Callable[[Any], Any]) -> None:
    model = build()
    expected = model.encode(np.array([1, 2, 3], np.float32))
    np.testing.assert_array_equal(model.encode(kind([1, 2, 3])), expected)
    assert model.predict(kind([1, 2, 3]))[0].shape == (2,)


@pytest.mark.parametrize("call", ["predict", "encode"])
@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"a": np.zeros(3)}, r"must be a dict of \['a', 'b'\], got \['a'\]"),
        ({"a": np.zeros(3), "b": np.zeros(2), "c": 0}, r"must be a dict of \['a', 'b'\], got \['a', 'b', 'c'\]"),
        ({"a": np.zeros((4, 3)), "b": np.zeros(2)}, "one of each key, or as many of each"),
        ({"a": np.zeros((4, 3)), "b": np.zeros((5, 2))}, "one of each key, or as many of each"),
        ({"a": np.zeros(1), "b": np.zeros(2)}, r"a must have shape \(3,\)"),
        ({"a": np.full(3, NAN), "b": np.zeros(2)}, "a must be finite"),
        (np.zeros(3), r"must be a dict of \['a', 'b'\], got a ndarray"),
        (({"a": np.zeros(3), "b": np.zeros(2)}, {}), "mixing Gym API"),
    ],
)
def test_dictionaries(call: str, observation: Any, message: str) -> None:
    model = build("MultiInputPolicy", OnlySpaces(spaces.Dict({"a": VECTOR, "b": UNIT})))
    with pytest.raises(ValueError, match=message):
        getattr(model, call)(observation)


def test_numbers_of_a_discrete_space() -> None:
    model = build(env=OnlySpaces(spaces.Discrete(4)))
    for bad in (4, -1, 0.7, "x", [[1]]):
        with pytest.raises(ValueError, match="observation must "):
            model.predict(bad)
        with pytest.raises(ValueError, match="observation must "):
            model.encode(bad)
    np.testing.assert_allclose(model.encode(1.0), model.encode([0, 1])[1], rtol=1e-5)


def test_images_that_a_cast_would_change() -> None:
    model = build("CnnPolicy", OnlySpaces(IMAGE), policy_kwargs={"features_extractor_kwargs": {"depth": 1}})
    for bad in (np.full((3, 46, 46), 0.5), np.full((3, 46, 46), 300), np.full((3, 46, 46), -1)):
        with pytest.raises(ValueError, match="observation must hold integers that fit into uint8, got"):
            model.predict(bad)


@pytest.mark.parametrize(
    ("kwargs", "skill", "message"),
    [
        ({}, [1.0, 0.0, 0.0], r"skill must have shape \(2,\) or \(n, 2\), got \(3,\)"),
        ({}, 1.0, r"skill must have shape \(2,\) or \(n, 2\), got \(\)"),
        ({}, [], r"skill must have shape \(2,\) or \(n, 2\), got \(0,\)"),
        ({}, [3.0, 4.0], r"skill must have norm 1, got \[\[3.0, 4.0\]\]"),
        ({}, [0.0, 0.0], "skill must have norm 1"),
        ({}, [NAN, 1.0], "skill must be finite"),
        ({}, "east", "skill must be an array of numbers, got 'east'"),
        ({}, {"skill": 1}, "skill must be an array of numbers"),
        ({"skill_dim": 3, "discrete": True}, [0.5, 0.5, 0.0], "skill must be one-hot"),
        ({}, np.eye(2), "state must hold one skill for each of the 3 observations, got 2"),
    ],
)
def test_skills(kwargs: dict[str, Any], skill: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**kwargs).predict(np.zeros((3, 3), np.float32), state=skill)


@pytest.mark.parametrize("state", [None, np.eye(2)])
def test_beginnings_of_episodes(state: Any) -> None:
    model = build()
    for bad in ([True], [True] * 3, "no", ["a", "b"], [0.5, 1.0], [NAN, 1.0], [2, 0], [[True, False]], {}):
        with pytest.raises(ValueError, match="episode_start must be True or False for each of the 2 observations, got"):
            model.predict(np.zeros((2, 3)), state=state, episode_start=bad)
    for good in (True, [True, False], np.array([1, 0])):
        model.predict(np.zeros((2, 3)), state=state, episode_start=good)
    for bad in NO_FLAGS:
        with pytest.raises(ValueError, match="deterministic must be True or False"):
            model.predict(np.zeros((2, 3)), state=state, deterministic=bad)


def test_as_many_goals_as_observations() -> None:
    model = build()
    with pytest.raises(ValueError, match="goal must hold one for each of the 2 observations, got 3"):
        model.skill_toward(np.zeros((2, 3)), np.zeros((3, 3)))
    assert model.skill_toward(np.zeros(3), np.ones((4, 3))).shape == (4, 2)


# predict in a loop without the state


@pytest.fixture
def points() -> list[np.ndarray]:
    return [np.full(3, x, np.float32) for x in range(6)]


def test_a_loop_without_the_state_is_warned_of_once(points: list[np.ndarray]) -> None:
    model = build()
    model.predict(points[0])
    with pytest.warns(UserWarning, match="predict was called again without state, so each step follows another"):
        model.predict(points[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(points[2])


@pytest.mark.filterwarnings("error")
def test_no_false_alarm(points: list[np.ndarray]) -> None:
    model = build()
    for _ in range(2):  # episodes that each begin without one
        skill = None
        for point in points[:3]:
            _, skill = model.predict(point, state=skill)
    for _ in range(3):  # several skills from one place
        model.predict(points[3])
    model.predict(points[4], state=[1.0, 0.0])
    for point in points:  # an episode of one step each
        model.predict(point[None], episode_start=np.ones(1, bool))
    model.predict(np.stack(points))  # another number of observations
