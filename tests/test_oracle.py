"""Every method's gradient step agrees with recorded ones, and the comparison notices what it is there to notice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from tests.make_oracle import draw, make_oracle, replay
from tests.oracle import CORE, run_oracle

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "state_continuous.npz"
TOLERANCE = 1e-5
FUSED = {"state_continuous", "lsd", "csf", "dads"}  # files that fused Adam takes by default, too; the others are slow
BATCH = {"observations", "next_observations", "actions", "dones", "stored_dones", "skills", "alternative_skills"}
SMALL: dict[str, Any] = {"obs_dim": 5, "action_dim": 3, "hidden": (16, 16), "batch": 32}
IMAGES: dict[str, Any] = {"pixels": (64, 64, 3), "action_dim": 3, "hidden": (32, 32), "batch": 16}

VARIANTS: dict[str, dict[str, Any]] = {
    "continuous": {},
    "one_dimension": {"skill_dim": 1},
    "discrete": {"discrete": True, "skill_dim": 16},
    "saturated": {"saturated": True},
    "saturated_discrete": {"saturated": True, "discrete": True, "skill_dim": 6},
    "fixed_ent_coef": {"fixed_ent_coef": 0.01},
    "three_hidden_layers": {"hidden": (24, 16, 8), "batch": 17},
    "one_hidden_layer": {"hidden": (24,)},
    "pixels": IMAGES,
    "pixels_saturated": IMAGES | {"saturated": True},
    "stacked_pixels_discrete": IMAGES
    | {"pixels": (64, 64, 9), "discrete": True, "skill_dim": 24, "fixed_ent_coef": 0.01, "cnn_depth": 6},
    "large_pixels": IMAGES | {"pixels": (80, 72, 3), "batch": 8},
}


def worst(errors: dict[str, float]) -> tuple[float, str]:
    """The largest error and the quantity that has it."""
    return max((error, name) for name, error in errors.items())


@pytest.mark.parametrize(
    ("file", "fused"),
    [
        pytest.param(file, fused, marks=[pytest.mark.slow] if fused and file not in FUSED else [])
        for file in sorted(path.stem for path in DATA.glob("*.npz"))
        for fused in (False, True)
    ],
)
def test_recorded_steps_of_the_authors_code(file: str, fused: bool) -> None:
    """Nothing that is recorded is left out of the comparison."""
    with np.load(DATA / f"{file}.npz") as archive:
        names = [name.split("/") for name in archive.files]
    recorded = {name[1] for name in names if name[0] == "step0" and not name[1].startswith("noise_")}
    final = {f"final/{name[1]}" for name in names if name[0] == "final"}
    vectors = {f"final/{name[1]} u and v" for name in names if name[0] == "final" and name[-1].endswith(".u")}
    errors = run_oracle(DATA / f"{file}.npz", fused=fused)
    assert set(errors) == (recorded - BATCH) | final | vectors
    if file == "lsd_converged":  # a small mean of large terms
        assert errors.pop("phi_loss") < 10 * TOLERANCE
    assert worst(errors) < (TOLERANCE, "")
    assert max(errors[name] for name in final) < 1e-6


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("file", sorted(path.stem for path in DATA.glob("*.npz")))
def test_recorded_steps_on_cuda(file: str) -> None:
    """In single precision, whose sums a GPU adds up in another order."""
    assert worst(run_oracle(DATA / f"{file}.npz", fused=True, device="cuda")) < (10 * TOLERANCE, "")


def test_the_second_implementation_agrees_with_the_authors_code() -> None:
    with np.load(RECORDED) as archive:
        data = dict(archive)
    for name, value in replay(data).items():
        difference = np.linalg.norm((np.asarray(value, np.float64) - data[name]).ravel())
        assert difference <= 1e-6 * np.linalg.norm(data[name].ravel()), name


@pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=pytest.mark.slow) if name == "pixels_saturated" else name for name in VARIANTS],
)
def test_variants(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    make_oracle(path, **VARIANTS[variant])
    errors = run_oracle(path)
    expected = {"final/target_q1", "final/target_q2", "final/log_dual_lambda", "slack", "new_action"}
    assert set(errors) >= CORE | expected
    assert worst(errors) < (TOLERANCE, "")


def test_variants_are_what_they_say() -> None:
    """Saturated actions reach 1 and both bounds of the deviation; about half of the pairs violate the constraint."""
    data = replay(draw(saturated=True))
    assert np.isin([-1.0, 1.0], data["step0/actions"]).all()
    assert np.mean(np.abs(data["step0/new_action"]) == 1.0) > 0.1
    assert 0.3 < np.mean(data["step0/slack"] < 0.0) < 0.7
    hidden, layers = data["step0/observations"], ("hidden0", "hidden1")
    hidden = np.concatenate([hidden, data["step0/skills"]], axis=1)
    for layer in layers:
        hidden = np.tanh(hidden @ data[f"init/actor/{layer}.weight"].T + data[f"init/actor/{layer}.bias"])
    log_std = hidden @ data["init/actor/log_std.weight"].T + data["init/actor/log_std.bias"]
    assert np.mean(log_std < np.log(1e-6)) > 0.02
    assert np.mean(log_std > 2.0) > 0.02


@pytest.mark.parametrize("variant", ["discrete", "saturated", "pixels"])
def test_the_defaults_round_otherwise_and_no_more(variant: str, tmp_path: Path) -> None:
    """Fused Adam and channels last are the same formulas; of their roundings phi's displacement magnifies some."""
    path = tmp_path / "file.npz"
    make_oracle(path, **VARIANTS[variant])
    errors = run_oracle(path, fused=True, channels_last=True)
    assert worst(errors) < (1e-4 if variant == "pixels" else TOLERANCE, "")
    assert max(error for name, error in errors.items() if name.startswith("final/")) < TOLERANCE


@pytest.mark.parametrize("kwargs", [SMALL, IMAGES | {"batch": 6}])
def test_other_ways_to_store_the_same(kwargs: dict[str, Any], tmp_path: Path) -> None:
    data = make_oracle(tmp_path / "file.npz", n_steps=1, **kwargs)
    expected = run_oracle(tmp_path / "file.npz")
    batch = len(data["step0/actions"])
    other = {"step0/something_else": np.zeros(3), "meta/comment": np.array("text")}
    for name, value in data.items():
        if value.shape == (batch,):
            other[name] = value[:, None]
        elif name.endswith("observations") and "meta/pixel_shape" in data:
            other[name] = value.reshape(-1, *data["meta/pixel_shape"]).astype(np.float32)
        elif name.startswith("step") and value.ndim == 0:
            other[name] = value[None]
        elif name in ("init/log_ent_coef", "final/log_dual_lambda"):
            other[name] = value.reshape(())
        else:
            other[name] = value
    sizes = ("batch", "obs_dim", "action_dim", "skill_dim", "hidden", "n_steps", "cnn_depth")
    for name in (*(f"meta/{size}" for size in sizes), "step0/alignment_before_phi_step", "final/log_dual_lambda"):
        other.pop(name, None)
    np.savez(tmp_path / "other.npz", **other)
    dropped = {"alignment_before_phi_step", "final/log_dual_lambda"}
    assert run_oracle(tmp_path / "other.npz") == {name: expected[name] for name in set(expected) - dropped}


def change_weight(data: dict[str, np.ndarray]) -> None:
    data["init/phi/hidden0.weight"][0, 0] += 0.01


def change_final_weight(data: dict[str, np.ndarray]) -> None:
    data["final/target_q2/hidden1.weight"][1, 1] += 0.01


def change_done(data: dict[str, np.ndarray]) -> None:
    data["step0/dones"][3] = 1.0 - data["step0/dones"][3]


def spoil_reward(data: dict[str, np.ndarray]) -> None:
    data["step2/rewards"][0] = np.nan


def swap_noises(data: dict[str, np.ndarray]) -> None:
    data["step1/noise_next_action"], data["step1/noise_new_action"] = (
        data["step1/noise_new_action"],
        data["step1/noise_next_action"],
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_weight, "alignment_before_phi_step"),
        (change_final_weight, "final/target_q2"),
        (change_done, "q_target"),
        (spoil_reward, "rewards"),
        (swap_noises, "next_action"),
    ],
)
def test_a_changed_number_is_noticed(change: Any, name: str, tmp_path: Path) -> None:
    data = make_oracle(tmp_path / "file.npz", **SMALL)
    assert run_oracle(tmp_path / "file.npz")[name] < TOLERANCE
    change(data)
    np.savez(tmp_path / "file.npz", **data)
    assert run_oracle(tmp_path / "file.npz")[name] > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("mistake", "name", "least"),
    [
        ({"norm": "sum"}, "slack", 100 * TOLERANCE),
        ({"norm": "sum"}, "final/phi", 3 * TOLERANCE),  # three steps move weights by a few times 1e-4 whatever they do
        ({"stale_reward": True}, "q_target", 100 * TOLERANCE),
    ],
)
def test_another_norm_or_order_is_noticed(mistake: dict[str, Any], name: str, least: float, tmp_path: Path) -> None:
    assert run_oracle_of(replay(draw(**SMALL), **mistake), tmp_path)[name] > least


def test_the_norm_of_the_paper(tmp_path: Path) -> None:
    assert worst(run_oracle_of(replay(draw(**SMALL), norm="sum"), tmp_path, constraint_norm="sum")) < (TOLERANCE, "")


def test_an_uncentred_direction_is_noticed(tmp_path: Path) -> None:
    data = replay(draw(discrete=True, skill_dim=4, **SMALL))
    assert run_oracle_of(data | {"meta/discrete": np.array(0)}, tmp_path)["phi_loss"] > 100 * TOLERANCE


@pytest.mark.parametrize("missing", ["rewards", "q_target", "actor_loss", "final/q2"])
def test_a_file_that_proves_nothing_is_refused(missing: str, tmp_path: Path) -> None:
    data = replay(draw(**SMALL))
    kept = {name: value for name, value in data.items() if not f"{name}/".endswith(f"/{missing}/")}
    kept = {name: value for name, value in kept.items() if not name.startswith(f"{missing}/")}
    with pytest.raises(ValueError, match=rf"must record \['{missing}'\]"):
        run_oracle_of(kept, tmp_path)


def test_images_must_be_whole_numbers(tmp_path: Path) -> None:
    data = replay(draw(**IMAGES, n_steps=1))
    with pytest.raises(AssertionError, match="whole numbers"):
        run_oracle_of(data | {"step0/observations": data["step0/observations"] / 255.0}, tmp_path)


def run_oracle_of(data: dict[str, np.ndarray], folder: Path, **kwargs: Any) -> dict[str, float]:
    """Write a file and run the comparison on it."""
    np.savez(folder / "written.npz", **data)
    return run_oracle(folder / "written.npz", **kwargs)


@pytest.mark.parametrize(
    ("file", "kwargs", "name"),
    [
        ("lsd", {"iterate_each_pass": False}, "displacement"),
        ("csd", {"constraint_norm": "sum"}, "slack"),
        ("csf", {"contrast_coef": 1.0}, "sf_target"),
        ("diayn", {"subtract_log_prior": True}, "rewards"),
        ("diayn_discrete", {"subtract_log_prior": False}, "rewards"),
        ("dads", {"skip_last_steps": False}, "skill_dynamics_loss"),
        ("cic", {"divide_by_variance": False}, "rewards"),
        ("visr", {"normalize_features": True}, "sf_target"),
        ("visr", {"gamma": 0.98}, "sf_target"),
    ],
)
def test_what_differs_from_the_authors_is_noticed(file: str, kwargs: dict[str, Any], name: str) -> None:
    assert run_oracle(DATA / f"{file}.npz", **kwargs)[name] > 100 * TOLERANCE


@pytest.mark.parametrize("file", ["csf", "dads", "visr"])
def test_dones_are_used(file: str, tmp_path: Path) -> None:
    with np.load(DATA / f"{file}.npz") as archive:
        data = dict(archive)
    data["step0/dones"] = 1.0 - data["step0/dones"]
    errors = run_oracle_of(data, tmp_path)
    assert max(errors.get("q_target", 0.0), errors.get("sf_target", 0.0)) > 100 * TOLERANCE


@pytest.mark.parametrize("missing", ["skill_dynamics_loss", "final/skill_dynamics", "rewards"])
def test_a_baseline_that_proves_nothing_is_refused(missing: str, tmp_path: Path) -> None:
    with np.load(DATA / "dads.npz") as archive:
        kept = {name: x for name, x in archive.items() if f"/{missing}/" not in f"/{name}/"}
    with pytest.raises(ValueError, match=rf"must record \['{missing}'\]"):
        run_oracle_of(kept, tmp_path)


def test_a_file_of_no_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a file must hold one of"):
        run_oracle_of({"meta/lr": np.array(1e-4)}, tmp_path)
