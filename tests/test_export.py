"""Exported skills: what is in the folder, that it acts as the model does, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra
from sb3_metra import METRA, cli
from sb3_metra.algorithms import ALGORITHMS
from sb3_metra.commands.export import parse_skill
from sb3_metra.common.skills import OneHotPrior, SpherePrior
from sb3_metra.export import export_skills
from sb3_metra.export.contract import describe_space, name_skills
from tests.test_goal_envs import wanderers
from tests.toys import TINY, made_once, scripted_envs, tiny_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from sb3_metra.export.skill_player import SkillPlayer  # needs onnxruntime


def learnt_on_normalised() -> METRA:
    env = VecNormalize(scripted_envs(2), norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, -2.0, 3.0]), np.array([4.0, 0.25, 1.0])
    return tiny_model(env, learning_rate=2e-3)


@pytest.fixture(scope="session")
def model() -> METRA:
    return learnt_on_normalised()


@pytest.fixture(scope="session")
def exported(model: METRA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    skills = {"east": [1.0, 0.0], "up": [0.6, 0.8]}
    return made_once(tmp_path_factory, "export", lambda folder: model.export(folder, skills=skills, license="MIT"))


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def check_equal(player: SkillPlayer, model: Any, observations: Any, n: int = 3) -> None:
    """As the model acts and encodes, deterministically and with given noise, one at a time and as a batch."""
    own = observations if model.normalization is None else model.normalization.normalize(observations)
    skills, rng = model.skill_prior.evaluation_skills(n), np.random.default_rng(0)
    expected, _ = model.predict(own, state=skills, deterministic=True)
    np.testing.assert_allclose(player.act(observations, skills), expected, rtol=1e-5, atol=1e-5)
    noise = model.policy.actor.draw_noise(n, rng)
    tensors = {k: th.as_tensor(x) for k, x in own.items()} if isinstance(own, dict) else th.as_tensor(own)
    sampled = model.policy.unscale_action(model.policy.act(tensors, skills, noise=noise))
    assert not np.allclose(sampled, expected)
    np.testing.assert_allclose(player.act(observations, skills, noise), sampled, rtol=1e-5, atol=1e-5)
    first = {k: x[0] for k, x in observations.items()} if isinstance(observations, dict) else observations[0]
    np.testing.assert_allclose(player.act(first, skills[0]), expected[0], rtol=1e-5, atol=1e-5)
    if hasattr(model, "encode"):
        latents = model.encode(own)
        np.testing.assert_allclose(player.encode(observations), latents, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(player.encode(first), latents[0], rtol=1e-5, atol=1e-5)


# What is in the folder


def test_the_player_acts_as_the_model_does_on_raw_observations(exported: Path, model: METRA) -> None:
    check_equal(SkillPlayer(exported), model, np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32))


def test_skills_have_names(exported: Path) -> None:
    player, observation = SkillPlayer(exported), np.ones(3)
    assert player.skills.keys() == {"east", "up"}
    np.testing.assert_array_equal(player.act(observation, "up"), player.act(observation, [0.6, 0.8]))
    assert not np.array_equal(player.act(observation, "up"), player.act(observation, "east"))


def test_the_contract_says_what_a_stranger_needs(exported: Path) -> None:
    contract = json.loads((exported / "skills.json").read_text())
    assert contract["algorithm"] == "METRA"
    assert contract["observation_space"]["shape"] == [3]
    assert contract["action_space"] == {
        "type": "Box",
        "shape": [2],
        "dtype": "float32",
        "image": False,
        "low": [-1.0, 0.0],
        "high": [1.0, 10.0],
    }
    assert contract["normalization"] == {"mean": [1, -2, 3], "var": [4, 0.25, 1], "clip": 10.0, "epsilon": 1e-8}
    assert contract["skill"] == {"dim": 2, "discrete": False, "prior": "SpherePrior"}
    assert (contract["license"], contract["format"]) == ("MIT", 1)
    assert contract["versions"]["torch"] == th.__version__
    assert {path.name for path in exported.iterdir()} == {"skills.json", *contract["files"]}
    assert {path.suffix for path in exported.iterdir()} == {".json", ".onnx", ".py", ".safetensors"}
    assert json.loads((exported / "model.json").read_text())["pickled"] == {}


def test_the_folder_runs_without_torch_sb3_and_this_package(copied: Path, model: METRA) -> None:
    code = f"""
import sys
for name in ("torch", "stable_baselines3", "gymnasium", "sb3_metra", "onnx"):
    sys.modules[name] = None
from skill_player import SkillPlayer
print(SkillPlayer({str(copied)!r}).act([1.0, 2.0, 3.0], "up").tolist())
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=copied, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    observation = model.normalization.normalize(np.array([1.0, 2.0, 3.0]))
    expected, _ = model.predict(observation, state=np.array([0.6, 0.8]), deterministic=True)
    np.testing.assert_allclose(json.loads(result.stdout), expected, rtol=1e-5, atol=1e-5)


def test_the_folder_loads_as_a_model(copied: Path, model: METRA) -> None:
    loaded = sb3_metra.load(copied)
    assert type(loaded) is METRA
    assert loaded.skill_prior == model.skill_prior
    assert loaded.learning_rate == loaded.objective_optimizer.param_groups[0]["lr"] == 2e-3
    observation = np.array([0.5, 1.0, -1.0], np.float32)
    np.testing.assert_array_equal(loaded.encode(observation), model.encode(observation))
    state = np.array([0.6, 0.8])
    for a, b in zip(loaded.policy.critic.parameters(), model.policy.critic.parameters(), strict=True):
        assert th.equal(a, b)
    for a, b in zip(loaded.policy.critic_target.parameters(), loaded.policy.critic.parameters(), strict=True):
        assert th.equal(a, b)  # an export holds no targets
    assert b"critic_target" not in (copied / "model.safetensors").read_bytes()
    np.testing.assert_array_equal(
        loaded.predict(observation, state=state, deterministic=True)[0],
        model.predict(observation, state=state, deterministic=True)[0],
    )
    np.testing.assert_array_equal(loaded.normalization.mean, model.normalization.mean)
    METRA.load(copied, env=scripted_envs(2)).learn(24)


def test_a_schedule_is_left_out(tmp_path: Path) -> None:
    model = tiny_model(scripted_envs(2), learning_rate=lambda progress: 0.5 * progress)
    export_skills(model, tmp_path / "skills", onnx=False)
    assert sb3_metra.load(tmp_path / "skills").learning_rate == 1e-4  # the constructor's, instead of code


# What is refused


@pytest.mark.parametrize("name", ["policy.onnx", "phi.onnx", "model.safetensors", "model.json", "skill_player.py"])
def test_a_file_that_was_tampered_with_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"is damaged: {name} is missing, incomplete or from another save"):
        sb3_metra.load(copied)
    if name.endswith(".onnx"):
        with pytest.raises(ValueError, match=f"was changed: {name} does not match its SHA-256"):
            SkillPlayer(copied)


def test_the_contract_itself_may_be_expected_by_its_hash(copied: Path, model: METRA) -> None:
    digest = sb3_metra.common.files.sha256(copied / "skills.json")
    SkillPlayer(copied, sha256=digest)
    contract = json.loads((copied / "skills.json").read_text())
    (copied / "skills.json").write_text(json.dumps(contract | {"license": "other"}))
    with pytest.raises(ValueError, match="is not the one expected: its SHA-256 is"):
        SkillPlayer(copied, sha256=digest)


def test_a_contract_of_another_version_is_refused(copied: Path) -> None:
    contract = json.loads((copied / "skills.json").read_text())
    for changed, found in ((contract | {"format": 2}, "2"), ([], "None")):
        (copied / "skills.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"skills.json must have format 1, got {found}: take the skill_player.py"):
            SkillPlayer(copied)
    (copied / "skills.json").write_text(json.dumps(contract | {"format": 2}))
    with pytest.raises(ValueError, match=r"skills.json must have format 1, got 2: another version of sb3-metra"):
        sb3_metra.load(copied)


def test_a_contract_that_leaves_out_something_is_refused(copied: Path) -> None:
    contract = json.loads((copied / "skills.json").read_text())
    own = {name: entry for name, entry in contract["files"].items() if name not in ("policy.onnx", "model.json")}
    forged = contract["files"] | {"policy.onnx": {"sha256": hashlib.sha256(b"nothing").hexdigest()}}
    for changed, message in (
        ({"format": 1}, "skills.json must say everything that format 1 does, got no action_space, algorithm, files,"),
        (contract | {"files": own}, "must have been exported with networks, got a contract without policy.onnx"),
        (contract | {"files": forged}, "policy.onnx must be a network that onnxruntime can run, got"),
    ):
        (copied / "policy.onnx").write_bytes(b"nothing")
        (copied / "skills.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            SkillPlayer(copied)
    (copied / "skills.json").write_text(json.dumps(contract | {"files": own}))
    with pytest.raises(ValueError, match=r"copied is not a saved model: it holds no data"):  # whose hash nobody knows
        sb3_metra.load(copied)


def test_a_folder_without_a_contract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder must hold skills.json, got"):
        SkillPlayer(tmp_path)
    with pytest.raises(ValueError, match=r"is damaged: its skills.json is missing or incomplete"):
        sb3_metra.load(tmp_path)


@pytest.mark.parametrize(
    ("observation", "skill", "noise", "message"),
    [
        (np.ones(4), "up", None, r"observation must have shape \(3,\), or \(n, ...\) for n of them, got \(4,\)"),
        ([1.0, np.nan, 0.0], "up", None, "observation must be finite numbers"),
        ({"x": np.ones(3)}, "up", None, "observation must have shape"),
        (np.ones(3), "west", None, "skill must be one of east, up or a vector, got 'west'"),
        (np.ones(3), [1.0], None, r"skill must have shape \(2,\), or \(1, 2\) for 1 of them, got \(1,\)"),
        (np.ones(3), [np.inf, 0.0], None, "skill must be finite"),
        (np.ones(3), [1.0, 1.0], None, r"skill must have norm 1, got \[1.0, 1.0\]"),
        (np.ones(3), [[1.0], [1.0, 0.0]], None, "skill must be an array of numbers"),
        (np.ones((4, 3)), "up", np.ones((3, 2)), r"noise must have shape \(2,\), or \(4, 2\) for 4 of them"),
    ],
)
def test_the_player_refuses_what_it_cannot_play(
    exported: Path, observation: Any, skill: Any, noise: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SkillPlayer(exported).act(observation, skill, noise)


@pytest.mark.parametrize(
    ("prior", "known", "strange"),
    [
        ("OneHotPrior", [0.0, 1.0], [0.0, 2.0]),
        ("UniformPrior", [-1.0, 0.5], [0.0, 1.1]),
        ("GaussianPrior", [3.0, 3.0], None),
    ],
)
def test_the_player_knows_the_skills_of_the_prior(copied: Path, prior: str, known: Any, strange: Any) -> None:
    contract = json.loads((copied / "skills.json").read_text())
    contract["skill"]["prior"] = prior
    (copied / "skills.json").write_text(json.dumps(contract))
    player = SkillPlayer(copied)
    player.act(np.ones((2, 3)), [known, known])
    if strange is not None:
        with pytest.raises(ValueError, match=r"skill must have .*, got"):
            player.act(np.ones((2, 3)), [known, strange])


@pytest.mark.parametrize(
    ("skills", "message"),
    [
        ({}, "skills must be a dictionary with at least one entry"),
        ({"a": [1.0, 1.0]}, "skills must hold skills of the model by name: 'a', skill must have norm 1"),
        ({"a": [[1.0, 0.0], [0.0, 1.0]]}, "skills must hold one skill for each name, got 2 for 'a'"),
        ({3: [1.0, 0.0]}, "skills must hold skills of the model by name: 3, a name in skills must be a string"),
    ],
)
def test_names_are_for_skills(model: METRA, tmp_path: Path, skills: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.export(tmp_path, skills=skills)
    assert not list(tmp_path.iterdir())


class Undecided(FlattenExtractor):
    """Does something else for other values, which no graph can hold."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations if observations.sum().item() > 0 else -observations)


@pytest.mark.slow
def test_an_extractor_that_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    model = tiny_model(policy_kwargs={"net_arch": [4], "features_extractor_class": Undecided})
    with pytest.raises(ValueError, match="action must be what ONNX can express, got Undecided, which PyTorch cannot"):
        model.export(tmp_path)
    with pytest.raises(ValueError, match="is damaged"):
        sb3_metra.load(tmp_path)


# Descriptions


def test_names_of_skills_that_nobody_named() -> None:
    assert {name: z.tolist() for name, z in name_skills(OneHotPrior(2)).items()} == {"0": [1, 0], "1": [0, 1]}
    names = {name: z.tolist() for name, z in name_skills(SpherePrior(2)).items()}
    assert names == {"+0": [1, 0], "-0": [-1, 0], "+1": [0, 1], "-1": [0, -1]}


def test_spaces_as_json() -> None:
    space = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(-np.inf, np.array([1.0, np.inf], np.float32))})
    parts = json.loads(json.dumps(describe_space(space)))["spaces"]
    assert parts["a"] == {"type": "Discrete", "shape": [], "dtype": "int64", "image": False, "n": 3, "start": 0}
    assert (parts["b"]["low"], parts["b"]["high"]) == (None, [1.0, None])


def test_skills_on_the_command_line() -> None:
    assert parse_skill("east=1,-0.5") == ("east", [1.0, -0.5])
    for word in ("east", "=1,0", "east=a"):
        with pytest.raises(ValueError, match=f"--skill must be NAME=NUMBERS, such as east=1,0, got '{word}'"):
            parse_skill(word)


# Every kind of observation, skill and method


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "policy"), [("image", "CnnPolicy"), ("dict", "MultiInputPolicy"), ("double", None)])
@pytest.mark.parametrize("discrete", [False, True])
def test_every_kind_of_observation(kind: str, policy: str | None, discrete: bool, tmp_path: Path) -> None:
    model = tiny_model(scripted_envs(kind=kind), policy or "MlpPolicy", discrete=discrete, skill_dim=3)
    model.export(tmp_path)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 46, 48, 3), np.uint8)
    place = rng.normal(size=(3, 3)).astype(np.float64 if kind == "double" else np.float32)
    first = np.moveaxis(image, -1, 1)
    player = SkillPlayer(tmp_path)
    check_equal(player, model, {"camera": first, "place": place} if kind == "dict" else first if policy else place)
    if kind == "image":  # as the environment itself gives it
        np.testing.assert_array_equal(player.encode(image), player.encode(first))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_method(name: str, tmp_path: Path) -> None:
    settings = {key: value for key, value in TINY.items() if key != "phi_kwargs" or name not in ("DIAYN", "DADS")}
    model = ALGORITHMS[name]("MlpPolicy", scripted_envs(), skill_dim=3, **settings).learn(48)
    model.export(tmp_path)
    check_equal(SkillPlayer(tmp_path), model, np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32))
    assert type(sb3_metra.load(tmp_path)) is ALGORITHMS[name]
    assert (tmp_path / "phi.onnx").exists() == hasattr(model, "encode")
    if not hasattr(model, "encode"):
        with pytest.raises(ValueError, match=f"phi must have been exported to encode, but {name} learns none"):
            SkillPlayer(tmp_path).encode(np.zeros(3))


class Counted(gym.Env):
    """Whole numbers, flags and vectors, of which a part is normalised."""

    observation_space = spaces.Dict(
        {"n": spaces.Discrete(4), "flags": spaces.MultiBinary(2), "x": spaces.Box(-5.0, 5.0, (2,))}
    )
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, True, {}


@pytest.mark.slow
def test_dictionaries_of_which_a_part_is_normalised(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([Counted]), norm_obs_keys=["x"])
    env.obs_rms["x"].mean, env.obs_rms["x"].var = np.array([1.0, -1.0]), np.array([4.0, 9.0])
    model = tiny_model(env, "MultiInputPolicy")
    model.export(tmp_path)
    observations = {"n": np.array([0, 3, 1]), "flags": np.array([[0, 1], [1, 1], [0, 0]], np.int8)}
    observations["x"] = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    check_equal(SkillPlayer(tmp_path), model, observations)


@pytest.mark.slow
@pytest.mark.parametrize("space", [spaces.Discrete(5, start=2), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)])
def test_actions_that_can_be_counted(space: spaces.Space, tmp_path: Path) -> None:
    class Choosing(Counted):
        action_space = space

    model = tiny_model(DummyVecEnv([Choosing]), "MultiInputPolicy")
    model.export(tmp_path)
    steps = [model.observation_space.sample() for _ in range(8)]
    player, observations = SkillPlayer(tmp_path), {key: np.stack([x[key] for x in steps]) for key in steps[0]}
    check_equal(player, model, observations, n=8)
    action = player.act(steps[0], "+0")
    assert space.contains(action if action.shape else int(action))


class Wide(BaseFeaturesExtractor):
    """An extractor of one's own that ONNX can express."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, 6)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return th.cat([observations, observations.sin()], dim=1)


@pytest.mark.slow
def test_an_extractor_of_ones_own(tmp_path: Path) -> None:
    model = tiny_model(policy_kwargs={"net_arch": [4], "features_extractor_class": Wide})
    model.export(tmp_path)
    check_equal(SkillPlayer(tmp_path), model, np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32))
    with pytest.raises(ValueError, match="Wide"):
        sb3_metra.load(tmp_path)
    sb3_metra.load(tmp_path, custom_objects={"Wide": Wide})


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(make_vec_env("sb3_metra/PointMass-v0")).save(tmp_path / "model.zip")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "model.zip"), "--out", str(out), "--env", "sb3_metra/PointMass-v0", "--skill", "n=0,1"]
    assert cli.main(["export", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    player = SkillPlayer(out, sha256=printed["sha256"])
    assert player.contract["steps_per_second"] == 20
    assert list(player.skills) == ["n"]
    assert cli.main(["evaluate", str(out), "--env", "sb3_metra/PointMass-v0", "--n-skills", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["n_skills"] == 2


@pytest.mark.slow
def test_a_goal_that_no_network_sees(tmp_path: Path) -> None:
    model = tiny_model(wanderers(), "MultiInputPolicy")
    model.export(tmp_path / "skills")
    seen = wanderers().reset()
    player = SkillPlayer(tmp_path / "skills")
    expected, _ = model.predict(seen, state=np.float32([1, 0]), deterministic=True)
    np.testing.assert_allclose(player.act(seen, [1.0, 0.0]), expected, atol=1e-5)
