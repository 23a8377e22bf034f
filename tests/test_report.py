"""The skill explorer's data and page, on environments whose answers are known by hand; a browser looks elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_metra.envs  # noqa: F401  (registers the environments)
from sb3_metra import METRA, headless
from sb3_metra.cli import main
from sb3_metra.common.skills import GaussianPrior, OneHotPrior, SkillPrior, SpherePrior
from sb3_metra.evaluation import policy_state_coverage
from sb3_metra.evaluation.report import describe_settings, write_report
from sb3_metra.evaluation.report_page import render_page, safe_json
from sb3_metra.evaluation.report_page.curves import describe_curves
from sb3_metra.evaluation.report_page.film import FilmMaker, Shutter
from sb3_metra.evaluation.report_page.gather import PhiPlane, skill_hues
from sb3_metra.evaluation.rollout import SkillTrajectory
from sb3_metra.evaluation.runs import STEPS, read_curves
from sb3_metra.evaluation.skills import skills_to_show
from tests.toys import TINY, Scripted, tiny_model

POINT = "sb3_metra/PointMass-v0"


class Follow:
    """A policy that moves the point mass by its skill's first two components; phi is where it is, twice as far."""

    def __init__(self, prior: SkillPrior) -> None:
        self.skill_prior = prior

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        return np.resize(np.asarray(state, np.float32)[:, :2], (len(state), 2)), state

    def encode(self, observation: Any) -> np.ndarray:
        return np.resize(2.0 * observation, (len(observation), self.skill_prior.dim))


def point(render: bool = False, **kwargs: Any) -> gym.Env:
    drawing = {"render_mode": "rgb_array", "width": 64, "height": 48} if render else {}
    return gym.make(POINT, reset_noise_scale=0.0, **drawing, **kwargs)


def data_of(path: Path) -> dict[str, Any]:
    """What a page's script reads."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return json.loads(match[1])


# What is recorded


def test_page_tells_what_the_skills_do(tmp_path: Path) -> None:
    model = Follow(SpherePrior(2))
    report = write_report(model, point(render=True), tmp_path / "page.html", n_skills=4, unit="m")
    data = data_of(report.path)
    assert report.size == report.path.stat().st_size
    assert report.notes == data["notes"] == []
    assert [skill["name"] for skill in data["skills"]] == ["0°", "90°", "180°", "270°"]
    assert [skill["hue"] for skill in data["skills"]] == pytest.approx([0, 90, 180, 270])
    right = data["skills"][0]
    assert right["end"] == pytest.approx([10.0, 0.0], abs=1e-3)  # 100 steps of 0.1
    assert right["distance"] == pytest.approx(10.0, abs=1e-3)
    assert right["steps"] == right["at"][-1] == 100
    assert right["phi"][0][-1] == pytest.approx(20.0, abs=1e-3)
    assert right["asked"] == [[0, pytest.approx(20.0, abs=1e-3)], [0, pytest.approx(0.0, abs=1e-3)]]
    film = right["film"]
    assert (film["width"], film["height"], film["every"], film["count"]) == (64, 48, 1, 100)
    assert data["place"] == {"names": ["x", "y"], "unit": "m", "note": ""}
    assert len(data["behind"]) == 48
    numbers = {number["label"]: number["value"] for number in data["numbers"]}
    assert numbers["policy state coverage"] == policy_state_coverage(model, point(), SpherePrior(2))
    assert numbers["mean distance"] == pytest.approx(10.0, abs=1e-3)
    assert numbers["cosine of Δφ and z"] == pytest.approx(1.0, abs=1e-4)


def test_the_same_seed_gives_the_same_page(tmp_path: Path) -> None:
    model = METRA("MlpPolicy", POINT, **TINY)
    pages = [
        write_report(model, point(render=True, max_episode_steps=20), tmp_path / str(i), n_skills=3, seed=5).path
        for i in range(2)
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_several_environments_record_every_skill_in_order(tmp_path: Path) -> None:
    env = DummyVecEnv([lambda: point(render=True)] * 3)
    data = data_of(write_report(Follow(SpherePrior(2)), env, tmp_path / "page.html", n_skills=4).path)
    ends = [skill["end"] for skill in data["skills"]]
    np.testing.assert_allclose(ends, [[10, 0], [0, 10], [-10, 0], [0, -10]], atol=1e-3)


def test_normalised_observations_reach_phi_as_the_policy_sees_them(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: point(render=True)]), training=False, norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([1.0, 0.0]), np.full(2, 4.0)
    data = data_of(write_report(Follow(SpherePrior(2)), env, tmp_path / "page.html", n_skills=4).path)
    right = data["skills"][0]
    assert right["end"] == pytest.approx([10.0, 0.0], abs=1e-3)
    assert [right["phi"][0][0], right["phi"][0][-1]] == pytest.approx([-1.0, 9.0], abs=1e-3)  # 2 (x - 1) / 2
    assert right["film"]["count"] == 100
    assert data["fps"] == 20


def test_without_coordinates_phi_is_drawn_and_a_note_says_so(tmp_path: Path) -> None:
    for kind, policy in (("dict", "MultiInputPolicy"), ("image", "CnnPolicy")):
        small = {"net_arch": [8]} | ({"features_extractor_kwargs": {"depth": 2}} if kind == "image" else {})
        model = tiny_model(DummyVecEnv([lambda kind=kind: Scripted(kind=kind)]), policy, policy_kwargs=small)
        report = write_report(model, Scripted(kind=kind), tmp_path / "page.html", n_skills=2)
        data = data_of(report.path)
        assert data["place"] is None
        assert [number["label"] for number in data["numbers"]] == ["cosine of Δφ and z"]
        assert any('no info["coordinates"]' in note for note in report.notes)
        assert any("No videos" in note for note in report.notes)


def test_drawing_that_fails_leaves_a_page_without_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("no OpenGL")

    monkeypatch.setattr("sb3_metra.envs.point.PointMassEnv.render", fail)
    report = write_report(Follow(SpherePrior(2)), point(render=True), tmp_path / "page.html", n_skills=3)
    assert len(report.notes) == 1
    assert report.notes[0].startswith("No videos, because drawing failed (no OpenGL); where MuJoCo draws, on Debian or")
    assert [skill["film"] for skill in data_of(report.path)["skills"]] == [None] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_skills": 0}, "n_skills must be an integer of at least 1, got 0"),
        ({"max_megabytes": 0.0}, "max_megabytes must be a finite number greater than 0, got 0.0"),
        ({"max_megabytes": float("nan")}, "max_megabytes must be a finite number greater than 0, got nan"),
        ({"measured": []}, "measured must hold at least one trajectory of rollout_skills"),
        ({"skills": np.ones((2, 3))}, "skills must have the model.s 2 components, got 3"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_report(Follow(SpherePrior(2)), point(), tmp_path / "page.html", **arguments)
    assert not (tmp_path / "page.html").exists()


def test_skills_are_spread_by_their_kind() -> None:
    assert skills_to_show(SpherePrior(1)).tolist() == [[-1.0], [1.0]]
    assert skills_to_show(OneHotPrior(3)).tolist() == np.eye(3).tolist()
    assert skills_to_show(OneHotPrior(16), 5).tolist() == np.eye(16)[:5].tolist()
    np.testing.assert_allclose(skills_to_show(SpherePrior(2), 4), [[1, 0], [0, 1], [-1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(skills_to_show(GaussianPrior(2), 5), axis=1), np.sqrt(2), rtol=1e-6)
    spread = skills_to_show(SpherePrior(4), 20, seed=1)
    cosines = (spread @ spread.T)[~np.eye(20, dtype=bool)]
    drawn = SpherePrior(4).sample(20, np.random.default_rng(1))
    assert cosines.max() < (drawn @ drawn.T)[~np.eye(20, dtype=bool)].max() - 0.1
    np.testing.assert_array_equal(spread, skills_to_show(SpherePrior(4), 20, seed=1))


def test_hues_tell_skills_apart() -> None:
    assert skill_hues(np.array([[-1.0], [1.0]])).tolist() == [216.0, 0.0]  # blue and red
    assert skill_hues(np.eye(5)).tolist() == [0.0, 72.0, 144.0, 216.0, 288.0]
    plane = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
    np.testing.assert_allclose(skill_hues(plane), [45.0, 180.0, 270.0])
    np.testing.assert_allclose(skill_hues(np.pad(plane, ((0, 0), (0, 2)), constant_values=0.3)), [45.0, 180.0, 270.0])


def test_phi_of_many_dimensions_is_drawn_in_the_plane_where_it_varies() -> None:
    # phi varies along e2 by 4 and along e0 by 1, and hardly along e1
    steps = np.linspace(-1, 1, 21)
    phi = np.stack([np.cos(9 * steps), 1e-3 * steps, 4 * steps], axis=1) + 7.0
    plane = PhiPlane.of([SkillTrajectory(np.eye(3)[0], np.empty(0), phi)])
    drawn = plane.draw(phi)
    np.testing.assert_allclose(np.ptp(drawn, axis=1), [8.0, np.ptp(np.cos(9 * steps))], rtol=1e-2)
    assert "100%" in plane.axes["note"]
    ends = plane.asked(np.array([[7.0, 7.0, 7.0], [7.0, 7.0, 10.0]]), np.array([0.0, 0.0, 2.0]))
    assert ends is not None
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], [3.0, 0.0], atol=0.02)  # as far as it went, as asked


# Films


def test_the_shutter_draws_every_third_state() -> None:
    drawn = []

    class Counting(gym.Wrapper):
        def render(self) -> Any:
            drawn.append(1)
            return self.env.render()

    env = Shutter(DummyVecEnv([lambda: Counting(point(render=True))]), every=3)
    env.reset()
    images = [env.get_images()[0]]
    for _ in range(7):
        env.step(np.ones((1, 2)))
        images.append(env.get_images()[0])
    assert len(drawn) == 3  # states 0, 3 and 6
    assert images[1] is images[0]
    assert images[3] is not images[2]


def test_films_of_mujoco_follow_the_body() -> None:
    pytest.importorskip("mujoco")
    kwargs = headless.drawing_kwargs("sb3_metra/HalfCheetah-v0")
    assert kwargs == {"render_mode": "rgb_array", "width": 640, "height": 480}
    env = gym.make("sb3_metra/HalfCheetah-v0", **kwargs)
    headless.draw_for_films(env)
    headless.follow_body(env)
    try:
        env.reset(seed=0)
        try:
            near = env.render()
        except Exception as error:
            pytest.skip(f"this machine cannot draw: {error}")
        inner: Any = env.unwrapped
        inner.data.qpos[0] = 48.0  # the squares of the floor are as they were
        inner.set_state(inner.data.qpos, inner.data.qvel)
        far = env.render()
    finally:
        env.close()
    # pink and orange, which nothing but the body is
    bodies = [(picture[..., 0].astype(int) - picture[..., 2] > 40).mean() for picture in (near, far)]
    assert bodies[0] > 0.005
    assert bodies[1] == pytest.approx(bodies[0], rel=0.2)


def test_environments_that_observe_pictures_are_drawn_as_they_are() -> None:
    pytest.importorskip("mujoco")
    env = gym.make("sb3_metra/HalfCheetah-v0", render_mode="rgb_array", width=64, height=64)
    model: Any = env.unwrapped.model  # type: ignore[attr-defined]
    before = model.vis.quality.offsamples
    headless.draw_for_films(gym.wrappers.AddRenderObservation(env, render_only=True))
    assert model.vis.quality.offsamples == before
    headless.draw_for_films(env)
    assert model.vis.quality.offsamples == 0
    env.close()


def noise(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 96, 128, 3), dtype=np.uint8))


def test_films_stay_below_their_limit() -> None:
    free = FilmMaker(2, 1e9)
    sizes = [len(free.make(noise(8), 1)["src"]) for _ in range(2)]
    assert free.remark() is None
    limit = sum(sizes) / 6
    maker = FilmMaker(2, limit)
    films = [maker.make(noise(8), 1) for _ in range(2)]
    assert sum(len(film["src"]) for film in films if film) <= limit
    assert all(film is not None for film in films)
    assert "below its limit" in str(maker.remark())
    tiny = FilmMaker(1, 100)
    assert tiny.make(noise(8), 1) is None
    assert "no video" in str(tiny.remark())


def test_a_film_holds_its_pictures_in_order() -> None:
    import base64
    import io

    from PIL import Image

    frames = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(12)]
    film = FilmMaker(1, 1e9).make(frames, every=5)
    assert film is not None
    assert (film["columns"], film["count"], film["every"]) == (10, 12, 5)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(film["src"].partition(",")[2]))).convert("RGB"))
    assert sheet.shape == (96, 640, 3)
    for i in range(12):
        cell = sheet[i // 10 * 48 : i // 10 * 48 + 48, i % 10 * 64 : i % 10 * 64 + 64]
        assert (cell == 20 * i).all()  # so few colours lose nothing


def test_the_limit_holds_for_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = noise(50)
    monkeypatch.setattr("sb3_metra.envs.point.PointMassEnv.render", lambda self: pictures[len(self._trail) % 50])
    env = point(render=True, max_episode_steps=30)
    full = write_report(Follow(SpherePrior(2)), env, tmp_path / "page.html", n_skills=6)
    limit = 1.5 + 0.2 * sum(len(s["film"]["src"]) for s in data_of(full.path)["skills"]) / 1e6
    report = write_report(Follow(SpherePrior(2)), env, tmp_path / "page.html", n_skills=6, max_megabytes=limit)
    assert report.size < full.size
    assert report.size <= limit * 1e6
    assert len(report.notes) == 1


# The page


def test_page_is_safe_and_needs_no_network() -> None:
    evil = "</script><script>alert(1)</script><!--\u2028&amp;{{data}}"
    page = render_page({"title": evil, "numbers": [np.nan, np.inf, -np.inf, np.float32(1) / 3, 12.0], "notes": [evil]})
    assert page.count("</script>") == 2
    assert "alert(1)</script>" not in page
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", page)
    match = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    assert "NaN" not in match[1]
    data = json.loads(match[1])
    assert data["notes"] == [evil]
    assert data["numbers"] == [None, None, None, 0.33333, 12]


def test_json_takes_arrays() -> None:
    assert (
        safe_json({"a": np.array([[1.0, np.nan]]), "b": (True, None, np.int64(3))})
        == '{"a":[[1,null]],"b":[true,null,3]}'
    )


# Settings and curves


def test_settings_are_the_constructors_arguments() -> None:
    model = tiny_model(skill_dim=3, learning_rate=lambda progress: 1e-3 * progress, discrete=True)
    settings = describe_settings(model)
    assert settings["skill_prior"] == "OneHotPrior(dim=3)"
    assert settings["phi_kwargs"] == settings["policy_kwargs"] == "net_arch=[8]"
    assert settings["train_freq"] == "8 step"
    assert settings["learning_rate"] == "<lambda>"
    assert settings["dual_lambda"] == "30.0"
    assert not any(" at 0x" in value for value in settings.values())


def test_curves_come_from_the_log(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}
    np.savez(tmp_path / "evaluations.npz", timesteps=[10, 20], results=[[3.0], [4.0]])
    assert read_curves(tmp_path)["eval/policy_state_coverage"][1].tolist() == [3.0, 4.0]
    lines = [f"b,{STEPS},train/dual_lambda,name", "1.5,10,,x", "nan,20,2.0,y", ",30,3.0,z"]
    (tmp_path / "progress.csv").write_text("\n".join(lines))
    curves = read_curves(tmp_path)
    assert {key: (x.tolist(), y.tolist()) for key, (x, y) in curves.items()} == {
        "b": ([10], [1.5]),
        "train/dual_lambda": ([20, 30], [2.0, 3.0]),
    }
    described = describe_curves(curves)
    assert [(curve["key"], curve["known"]) for curve in described] == [("train/dual_lambda", True), ("b", False)]
    long = describe_curves({"x": (np.arange(1001), np.arange(1001))})[0]
    assert len(long["x"]) <= 400
    assert long["x"][-1] == 1000
    (tmp_path / "progress.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have a column 'time/total_timesteps', got a, b"):
        read_curves(tmp_path)


# The command


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model and a log."""
    folder = tmp_path_factory.mktemp("run")
    METRA("MlpPolicy", make_vec_env(POINT, 1), **TINY).save(folder / "best_model")
    (folder / "progress.csv").write_text(f"{STEPS},train/dual_lambda\n100,30.0\n200,29.0\n")
    return folder


def test_command_writes_a_page_beside_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"report {run} --env {POINT} --n-skills 3 --max-episode-steps 20 --env-kwargs reset_noise_scale:0.0"
    assert main(words.split(" ")) == 0
    page = run / "skills.html"
    assert str(page) in capsys.readouterr().out
    data = data_of(page)
    assert len(data["skills"]) == 3
    assert all(skill["film"] for skill in data["skills"])
    assert data["about"]["command"] == f"sb3-metra {words}"
    assert data["about"]["environment's arguments"] == {"reset_noise_scale": 0}
    assert data["curves"][0]["y"] == [30, 29]
    trained, now = data["versions"]["stable-baselines3"]
    assert trained == now != ""


def test_command_without_videos(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = run / "best_model.zip"
    words = ["report", str(model), "--env", POINT, "--no-video", "--max-episode-steps", "20"]
    assert main([*words, "--out", str(tmp_path / "a" / "page.html")]) == 0
    assert "No videos, as was asked for.\n" in capsys.readouterr().err
    assert all(skill["film"] is None for skill in data_of(tmp_path / "a" / "page.html")["skills"])


def test_command_tells_errors_in_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        ([str(tmp_path / "empty"), "--env", POINT], "which holds no .zip file"),
        ([str(tmp_path / "none.zip"), "--env", POINT], "MODEL must be a file"),
        ([str(run), "--env", "sb3_metra/Nowhere-v0"], "--env must be the id of a registered environment"),
        ([str(run), "--env", POINT, "--n-skills", "0"], "--n-skills must be an integer of at least 1, got 0"),
        (
            [str(run), "--env", POINT, "--max-megabytes", "-1"],
            "--max-megabytes must be a finite number greater than 0, got -1.0",
        ),
    ]:
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
