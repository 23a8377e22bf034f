"""The table of spaces in the shared reference: every row is true, and what networks see of the unusual ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from sb3_metra.common.networks import prepare
from sb3_metra.common.spaces import UnsupportedSpaceError, check_action_space, check_observation_space
from tests.test_like_sb3 import Samples
from tests.toys import tiny_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "modules" / "shared.md"
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
NESTED = spaces.Dict({"a": spaces.Dict({"b": BOX})})

#: By the first cell of a row: spaces that it is about, and those that its words except.
EXAMPLES: dict[str, tuple[list[spaces.Space], list[spaces.Space]]] = {
    "`Box` of floats": (
        [BOX, spaces.Box(-1.0, 1.0, (2, 3), np.float64)],
        [spaces.Box(-np.inf, np.inf, (2,), np.float32)],
    ),
    "`Box` of integers": ([spaces.Box(-5, 5, (2,), np.int64), spaces.Box(0, 255, (2,), np.uint8)], []),
    "`Box` of shape `()`": ([spaces.Box(-1.0, 1.0, (), np.float32)], []),
    "`Discrete`": ([spaces.Discrete(4), spaces.Discrete(4, start=-2)], []),
    "`MultiDiscrete`": (
        [spaces.MultiDiscrete([3, 2]), spaces.MultiDiscrete([3, 2], start=[1, -1])],
        [spaces.MultiDiscrete([[3, 2]]), spaces.MultiDiscrete([33, 33])],
    ),
    "`MultiBinary`": ([spaces.MultiBinary(3)], [spaces.MultiBinary(11), spaces.MultiBinary([2, 2])]),
    "`Dict`": ([spaces.Dict({"a": BOX, "b": spaces.Discrete(3)})], [NESTED]),
    "`Tuple`, `Text`, `Graph`, `Sequence`": (
        [spaces.Tuple([BOX]), spaces.Text(5), spaces.Graph(BOX, None), spaces.Sequence(BOX)],
        [],
    ),
}


def rows() -> dict[str, tuple[str, str]]:
    """The table's cells for actions and observations, by its first cell."""
    lines = PAGE.read_text(encoding="utf-8").split("| space | action | observation |")[1].splitlines()[2:]
    table = [line.strip("|").split("|") for line in lines[: lines.index("")]]
    return {first.strip(): (action.strip(), observation.strip()) for first, action, observation in table}


def test_every_row_has_examples() -> None:
    assert rows().keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(("column", "check"), [(0, check_action_space), (1, check_observation_space)])
def test_every_row_is_true(name: str, column: int, check: object) -> None:
    cell, (usual, excepted) = rows()[name][column], EXAMPLES[name]
    assert cell[0] in "✔✗"
    assert cell[0] == "✔" or len(cell) == 1 or " helps" in cell
    for space in usual:
        assert taken(check, space) == (cell[0] == "✔"), space
    if cell[0] == "✔" and len(cell) > 1 and excepted and column == 0:
        assert not any(taken(check, space) for space in excepted)


def taken(check: object, space: spaces.Space) -> bool:
    """Whether a space is not refused; a refusal says what it got, and what to do."""
    try:
        check(space)  # type: ignore[operator]
    except UnsupportedSpaceError as error:
        sentence = str(error)
    else:
        return True
    assert ": " in sentence.rpartition(", got ")[2], sentence
    return False


@pytest.mark.parametrize(
    ("space", "observations", "seen"),
    [
        (spaces.Box(-9.0, 9.0, (), np.float64), [2.0, -3.0], [[2.0], [-3.0]]),
        (spaces.Box(-9, 9, (), np.int64), [2, -3], [[2.0], [-3.0]]),
        (spaces.Discrete(3, start=-1), [-1, 1], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        (
            spaces.MultiDiscrete([2, 3], start=[5, -1]),
            [[5, 1], [6, -1]],
            [[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0]],
        ),
    ],
    ids=str,
)
def test_what_networks_see_by_hand(space: spaces.Space, observations: list, seen: list) -> None:
    prepared = prepare(th.as_tensor(np.array(observations, space.dtype)), space)
    assert prepared.tolist() == seen
    assert prepare(prepared, space).tolist() == seen  # prepared once, given to several networks


def test_observations_outside_a_space_with_a_start_are_refused() -> None:
    model = tiny_model(Samples(spaces.Discrete(3, start=-1)))
    model.predict(np.array(-1))
    for bad in (-2, 2):
        with pytest.raises(ValueError, match=r"observation must be one of Discrete\(3, start=-1\), got"):
            model.predict(np.array(bad))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_takes_no_action_out_of_its_bounds(dtype: type) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-1e3, 1e3, (100, 3)).astype(dtype)
    space = spaces.Box(low, (low + rng.uniform(1e-2, 1e3, low.shape)).astype(dtype), dtype=dtype)  # type: ignore[arg-type]
    policy = tiny_model(Samples(BOX, space), learning_starts=1).policy
    for edge in (-1.0, 1.0):
        action = policy.unscale_action(np.full((1, *low.shape), edge, np.float32))[0]
        assert space.contains(action)
        np.testing.assert_allclose(action, space.low if edge < 0 else space.high, rtol=1e-5)


def test_images_beside_vectors_with_channels_last_and_normalised_vectors() -> None:
    eye = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    venv = DummyVecEnv([lambda: Samples(spaces.Dict({"eye": eye, "place": BOX}))])
    kwargs = {"net_arch": [4], "features_extractor_kwargs": {"cnn_output_dim": 4}}
    for env in (venv, VecNormalize(VecTransposeImage(venv), norm_obs_keys=["place"])):
        model = tiny_model(env, "MultiInputPolicy", policy_kwargs=kwargs, buffer_size=32).learn(24)
        assert model.observation_space["eye"].shape == (3, 36, 40)
        assert model._n_updates > 0


def test_images_of_floats_come_with_channels_first() -> None:
    env = Samples(spaces.Box(0.0, 1.0, (1, 46, 46), np.float32))
    kwargs = {"net_arch": [4], "normalize_images": False, "features_extractor_kwargs": {"depth": 1}}
    assert tiny_model(env, "CnnPolicy", policy_kwargs=kwargs, buffer_size=32).learn(24)._n_updates > 0
