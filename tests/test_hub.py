"""The Hugging Face Hub: what is pushed to one on this machine, and what comes back from it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sb3_metra
from sb3_metra.export.card import make_card
from sb3_metra.export.hub import load_from_hub, push_to_hub
from tests.toys import tiny_model

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one commit and one download need."""

    files: dict[str, bytes]
    created: list[str]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body)["name"])
            self.answer({"url": f"http://{self.headers['Host']}/me/point"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/point/preupload/main":
            files = [
                {"path": x["path"], "uploadMode": "regular", "shouldIgnore": False} for x in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/api/models/me/point/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/me/point/commit/{COMMIT}"})
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        prefix = "/me/point/resolve/main/"
        if self.path.startswith("/me/gated/"):
            self.answer({}, 403, {"X-Error-Code": "GatedRepo"})
        elif "/resolve/gone/" in self.path:
            self.answer({}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif not self.path.startswith("/me/point/"):
            self.answer({}, 404, {"X-Error-Code": "RepoNotFound"})
        elif (content := self.files.get(self.path.removeprefix(prefix))) is None:
            self.answer({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.answer(content, headers={"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("OneHub", (Hub,), {"files": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_a_model_comes_back_as_it_went(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, server = hub
    model = tiny_model()
    page = tmp_path / "page.html"
    page.write_text("<html></html>")
    url = push_to_hub(
        model,
        "me/point",
        env_id="sb3_metra/PointMass-v0",
        metrics={"policy_state_coverage": 12.0},
        page=page,
        license="MIT",
        export=False,
        token="secret",
        endpoint=endpoint,
    )
    assert url.endswith(f"/me/point/commit/{COMMIT}")
    assert server.created == ["point"]
    assert server.files.keys() == {"README.md", "model.zip", "skills.html"}
    assert "| `policy_state_coverage` | 12 |" in server.files["README.md"].decode()
    path = load_from_hub("me/point", endpoint=endpoint, token="secret", cache_dir=tmp_path)
    loaded, observation = sb3_metra.load(path), np.ones(3, np.float32)
    np.testing.assert_array_equal(loaded.encode(observation), model.encode(observation))


@pytest.mark.slow
def test_the_export_goes_along(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    endpoint, server = hub
    push_to_hub(tiny_model(), "me/point", token="secret", endpoint=endpoint)
    assert {"skills/skills.json", "skills/policy.onnx", "skills/skill_player.py"} < server.files.keys()


def test_a_card_tells_what_the_model_is() -> None:
    model = tiny_model(skill_dim=3, discrete=True)
    card = make_card(model, "me/point", "sb3_metra/PointMass-v0", {"distance": 1.5}, "MIT", page=True)
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "mit"
    assert {"METRA", "reinforcement-learning", "sb3_metra/PointMass-v0"} <= set(metadata["tags"])
    assert "# METRA in `sb3_metra/PointMass-v0`" in text
    assert "3 discrete skills, discovered without a reward in 0 steps" in text
    for row in ("| `distance` | 1.5 |", "| `batch_size` | 16 |", "| `stable-baselines3` |"):
        assert row in text
    assert 'load_from_hub("me/point")' in text
    assert "skills.html" in text
    assert "SkillPlayer" not in make_card(model, "me/point", export=False)


def test_what_names_nothing_is_refused(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, _ = hub
    for wrong in ("point", "me/you/point", "", None, "../x"):
        with pytest.raises(ValueError, match="repo_id must be OWNER/NAME, such as me/ant, got"):
            load_from_hub(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="repo_id must be OWNER/NAME, such as me/ant, got"):
            push_to_hub(tiny_model(), wrong)  # type: ignore[arg-type]
    options: dict[str, Any] = {"endpoint": endpoint, "cache_dir": tmp_path, "token": "secret"}
    with pytest.raises(ValueError, match=r"got 'me/point': there is no file 'model\.zip'"):
        load_from_hub("me/point", **options)
    with pytest.raises(ValueError, match="got 'me/other': there is no repository"):
        load_from_hub("me/other", **options)
    with pytest.raises(ValueError, match="revision must be one of 'me/point', got 'gone', which it does not have"):
        load_from_hub("me/point", revision="gone", **options)
    with pytest.raises(ValueError, match=r"page must be a file, such as sb3-metra report writes, got 'nowhere\.html'"):
        push_to_hub(tiny_model(), "me/point", page="nowhere.html")


def test_a_hub_that_does_not_answer_is_not_said_to_lack_the_file(
    hub: tuple[str, type[Hub]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, _ = hub
    options: dict[str, Any] = {"endpoint": endpoint, "cache_dir": tmp_path, "token": "secret"}
    with pytest.raises(OSError, match="403"):
        load_from_hub("me/gated", **options)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="check your connection"):
        load_from_hub("me/point", **options)
