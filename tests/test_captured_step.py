"""A gradient step that is recorded and replayed: on the CPU with a stand-in for CUDA graphs, and on CUDA for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.env_util import make_vec_env

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA
from sb3_metra.common.captured_step import CapturedStep, record_cuda_graph
from sb3_metra.common.optimization import set_learning_rate
from sb3_metra.common.policies import SkillPolicy
from sb3_metra.common.type_aliases import SkillReplayBufferSamples, map_tensors
from tests.toys import TINY, scripted_envs

needs_cuda = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")


class Recorder:
    """Hands a function back to be called again, as a CUDA graph would be replayed, and counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, function: Callable[[], th.Tensor]) -> Callable[[], th.Tensor]:
        self.recorded += 1

        def replay() -> th.Tensor:
            self.replayed += 1
            return function()

        return replay


def batch_of(value: float, size: int = 4) -> SkillReplayBufferSamples:
    observations = {"a": th.full((size, 2), value), "b": th.full((size, 1), value)}
    following = {key: x + 1 for key, x in observations.items()}
    return SkillReplayBufferSamples(
        observations, *([th.full((size, 1), value)] + [following] + [th.zeros(size, 1)] * 3)
    )


def test_every_call_takes_one_step_on_its_own_batch() -> None:
    taken: list[tuple[float, int]] = []

    def step(batch: SkillReplayBufferSamples, factor: float) -> th.Tensor:
        value = batch.observations["b"].mean() + batch.next_observations["a"].mean()
        taken.append((value.item(), len(batch.actions)))
        return value * factor

    recorder = Recorder()
    captured = CapturedStep(step, recorder, warm_up=2)
    results = [captured(batch_of(value), 10.0) for value in (1.0, 2.0, 3.0, 4.0, 5.0)]
    assert [result.item() for result in results] == [30.0, 50.0, 70.0, 90.0, 110.0]
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    captured(batch_of(6.0, size=7), 10.0)  # another number of transitions: warmed up and recorded anew
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    assert [captured(batch_of(7.0, size=7), factor).item() for factor in (1.0, 1.0, 1.0, 2.0)] == [
        15.0,
        15.0,
        15.0,
        30.0,
    ]
    assert (recorder.recorded, recorder.replayed) == (2, 4)
    assert taken == [(2 * v + 1, 4) for v in (1, 2, 3, 4, 5)] + [(13.0, 7)] + [(15.0, 7)] * 4


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    captured = CapturedStep(lambda batch: batch.actions.sum(), refuse, warm_up=1)
    assert captured(batch_of(1.0)).item() == 4.0
    with pytest.warns(UserWarning, match="one kernel at a time, because no CUDA graph .* not permitted"):
        assert captured(batch_of(2.0)).item() == 8.0
    assert [captured(batch_of(3.0)).item() for _ in range(3)] == [12.0] * 3  # and does not try, nor warn, again


def test_images_are_rounded_to_bfloat16_once(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_vec_env("sb3_metra/PixelPointMass-v0", 2, seed=0)
    small = {"net_arch": [8], "features_extractor_kwargs": {"depth": 2}}
    kwargs = TINY | {"bfloat16": True, "batch_size": 2, "policy_kwargs": small, "phi_kwargs": small}
    seen: list[th.dtype] = []
    convolve, prepare, models = th.nn.Conv2d._conv_forward, SkillPolicy.prepare, []

    def look(self: th.nn.Conv2d, images: th.Tensor, *args: Any) -> th.Tensor:
        if th.is_autocast_enabled("cpu") and images.shape[1:] == env.observation_space.shape:
            seen.append(images.dtype)
        return convolve(self, images, *args)

    for once in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(th.nn.Conv2d, "_conv_forward", look)
            if not once:
                patch.setattr(SkillPolicy, "prepare", lambda self, x, bfloat16=False: prepare(self, x))
            models.append(METRA("CnnPolicy", env, **kwargs).learn(32))
        assert set(seen) == {th.bfloat16 if once else th.float32}
        seen.clear()
    for a, b in zip(*map(weights, models), strict=True):
        assert th.equal(a, b)


class FakeGenerator:
    """CUDA's generator after a recording that failed: it takes itself for recorded, unless a copy takes its place."""

    recorded, draws = True, 5

    def clone_state(self) -> int:
        return self.draws

    def graphsafe_set_state(self, draws: int) -> None:
        self.recorded, self.draws = False, draws


def test_a_failed_recording_leaves_stream_and_generator_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, generators = SimpleNamespace(device_index=1), [FakeGenerator(), FakeGenerator()]
    streams = [usual]

    @contextmanager
    def graph(*_: Any, **__: Any) -> Iterator[None]:
        streams.append(SimpleNamespace(device_index=1))  # and PyTorch does not leave it where its end fails
        yield
        streams.pop()

    def wait() -> th.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(th.cuda, "CUDAGraph", object)
    monkeypatch.setattr(th.cuda, "graph", graph)
    monkeypatch.setattr(th.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(th.cuda, "set_stream", streams.append)
    monkeypatch.setattr(th.cuda, "default_generators", generators)
    with pytest.raises(RuntimeError, match="not permitted"):
        record_cuda_graph(wait)
    assert streams[-1] is usual
    assert [(x.recorded, x.draws) for x in generators] == [(True, 5), (False, 5)]


def test_warming_up_keeps_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Any] = []
    monkeypatch.setattr(th.cuda, "Stream", MagicMock)
    monkeypatch.setattr(th.cuda, "current_stream", MagicMock)
    monkeypatch.setattr(th.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    captured = CapturedStep(lambda batch, factor: 2.0 * factor)
    batch: Any = SimpleNamespace(actions=SimpleNamespace(device=th.device("cuda")))
    assert [captured._run_aside(batch, (x,)) for x in (1.0, 2.0)] == [2.0, 4.0]
    assert used[0] is used[1]


def weights(model: METRA) -> list[th.Tensor]:
    modules = (model.policy, model.objective, model.entropy_dual)
    return [parameter.detach().cpu() for module in modules for parameter in module.parameters()]


def learn(kwargs: dict[str, Any], steps: int = 80) -> METRA:
    model = METRA("MlpPolicy", scripted_envs(2), **(TINY | {"skill_dim": 3} | kwargs))
    return model.learn(steps)


@pytest.fixture
def captured_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Lets every model believe that its steps can be recorded."""
    recorder = Recorder()
    monkeypatch.setattr(METRA, "_captures", property(lambda self: self.cuda_graph))
    monkeypatch.setattr(CapturedStep.__init__, "__defaults__", (recorder, 3))
    return recorder


# powers of two, because a rate on the device has single precision
@pytest.mark.parametrize("learning_rate", [2**-7, lambda remaining: 2**-7 if remaining > 0.4 else 2**-9])
@pytest.mark.parametrize("kwargs", [{}, {"objective_batch_size": 24}])
def test_recorded_steps_learn_the_same(captured_on_the_cpu: Recorder, learning_rate: Any, kwargs: Any) -> None:
    kwargs = kwargs | {"learning_rate": learning_rate}
    captured, plain = learn(kwargs | {"cuda_graph": True}), learn(kwargs | {"cuda_graph": False})
    assert captured_on_the_cpu.recorded == 1
    assert captured_on_the_cpu.replayed == captured._n_updates - 3 > 3
    for a, b in zip(weights(captured), weights(plain), strict=True):
        assert th.equal(a, b)
    names = [name for name in captured.logger.name_to_value if name.startswith("train/")]
    assert "train/phi_loss" in names
    assert captured.logger.name_to_value["train/phi_loss"] == plain.logger.name_to_value["train/phi_loss"]


def test_a_model_that_recorded_its_steps_is_saved_and_loaded(captured_on_the_cpu: Recorder, tmp_path: Path) -> None:
    learn({"ent_coef": 0.01}).save(tmp_path / "model")  # so that a group of the actor's optimiser is empty
    for kwargs in ({}, {"cuda_graph": False}):
        loaded = METRA.load(tmp_path / "model", scripted_envs(2), **kwargs).learn(40)
        groups = loaded.actor.optimizer.param_groups
        assert [type(group["lr"]) for group in groups] == [float if kwargs else th.Tensor, float]
        assert [group["capturable"] for group in groups] == [not kwargs] * 2


def test_other_parameters_forget_the_recording(captured_on_the_cpu: Recorder) -> None:
    model, other = learn({}), learn({"seed": 1})
    captured = model._captured_step
    model.set_parameters(other.get_parameters())
    assert model._captured_step is not captured


@pytest.mark.parametrize("cudnn_deterministic", [True, False])
def test_a_seed_need_not_make_cudnn_deterministic(cudnn_deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SB3 does so on CUDA, by the name of the device alone."""
    monkeypatch.setattr(th.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(th.backends.cudnn, "benchmark", False)
    model = METRA("MlpPolicy", scripted_envs(2), **(TINY | {"cudnn_deterministic": cudnn_deterministic}))
    model.device = th.device("cuda")
    model.set_random_seed(1)
    assert th.backends.cudnn.deterministic is cudnn_deterministic


def test_a_learning_rate_on_the_device_keeps_its_place() -> None:
    optimizer = th.optim.Adam([th.nn.Parameter(th.zeros(2))], lr=1.0, fused=True)
    set_learning_rate(optimizer, 0.5, capturable=True)
    place = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.25, capturable=True)
    assert optimizer.param_groups[0]["lr"] is place
    assert place.item() == 0.25
    set_learning_rate(optimizer, 0.125)
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert optimizer.param_groups[0]["capturable"] is False


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("sb3_metra/PixelPointMass-v0", {"objective_batch_size": 24}),
        ("sb3_metra/PointMass-v0", {"ent_coef": 0.01}),
        ("sb3_metra/PointMass-v0", {"skill_dim": 5, "discrete": True}),
    ],
)
def test_a_gradient_step_asks_the_device_for_nothing(
    env_id: str, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's meta device has shapes and no values: what asks for one, or mixes devices, raises there."""
    monkeypatch.setattr(th, "autocast", lambda *args, **kwargs: nullcontext())  # the meta device has none
    monkeypatch.setattr(th.optim.Adam, "step", lambda self: None)  # nor fused steps, which are PyTorch's own
    env = make_vec_env(env_id, 2, seed=0)
    model = METRA("CnnPolicy" if "Pixel" in env_id else "MlpPolicy", env, **(TINY | {"device": "meta"} | kwargs))
    assert model.replay_buffer is not None
    obs = env.reset()
    for _ in range(4):
        actions = np.zeros((2, 2), np.float32)
        next_obs, rewards, dones, infos = env.step(actions)
        infos = [info | {"skill": np.zeros(model.skill_prior.dim)} for info in infos]
        model.replay_buffer.add(obs, next_obs, actions, rewards, dones, infos)  # type: ignore[arg-type]
        obs = next_obs
    batch: Any = model.replay_buffer.sample(24)
    assert {x.device.type for x in batch[:6]} == {"meta"}
    with pytest.raises(RuntimeError, match="meta"):
        batch.actions.sum().item()
    logged = model._averaged_step(batch, 16)
    assert (logged.device.type, logged.shape) == ("meta", (len(model._logged_names),))


@needs_cuda
@pytest.mark.parametrize("env_id", ["sb3_metra/PointMass-v0", "sb3_metra/PixelPointMass-v0"])
def test_a_cuda_graph_learns_the_same(env_id: str) -> None:
    policy = "CnnPolicy" if "Pixel" in env_id else "MlpPolicy"
    models = []
    for cuda_graph in (True, False):
        env = make_vec_env(env_id, 2, seed=0)
        kwargs = TINY | {"device": "cuda", "cuda_graph": cuda_graph, "gradient_steps": 6}
        models.append(METRA(policy, env, **kwargs).learn(64))
    assert models[0]._captured_step.is_recorded
    for a, b in zip(*map(weights, models), strict=True):
        assert th.allclose(a, b, rtol=1e-3, atol=1e-4)


@needs_cuda
def test_no_gradient_step_waits_for_the_gpu() -> None:
    model = METRA("CnnPolicy", make_vec_env("sb3_metra/PixelPointMass-v0", 2), **(TINY | {"device": "cuda"})).learn(64)
    assert model.replay_buffer is not None
    th.cuda.set_sync_debug_mode("error")
    try:
        for step in (model._averaged_step, model._captured_step):
            for _ in range(3):
                step(model.replay_buffer.sample(16), 16)  # type: ignore[arg-type]
    finally:
        th.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_steps_go_on_after_a_cuda_recording_that_failed() -> None:
    def wait(batch: SkillReplayBufferSamples) -> th.Tensor:
        result = batch.actions.mean() + 0.0 * th.randn((), device="cuda")
        result.item()
        return result

    captured, usual = CapturedStep(wait, warm_up=1), th.cuda.current_stream()
    batches = [map_tensors(lambda x: x.cuda(), batch_of(value)) for value in (1.0, 2.0, 3.0)]
    with pytest.warns(UserWarning, match="one kernel at a time"):
        assert [captured(batch).item() for batch in batches] == [1.0, 2.0, 3.0]
    assert th.cuda.current_stream() == usual
    assert th.randn(3, device="cuda").isfinite().all()
    assert captured(batches[0]).item() == 1.0
