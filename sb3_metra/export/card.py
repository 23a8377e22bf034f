"""The card of a model on the Hugging Face Hub: what it is, what was measured, its settings, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_metra.common.saving import versions
from sb3_metra.export.writer import settings_of

_FOR_LOADING = """```python
import sb3_metra
from sb3_metra.export.hub import load_from_hub

model = sb3_metra.load(load_from_hub("{repo_id}"))
action, skill = model.predict(observation)  # draws a skill
action, skill = model.predict(observation, state=skill, deterministic=True)  # keeps it
```
"""
_FOR_PLAYING = """
The folder `skills` runs without PyTorch and sb3-metra:

```python
from huggingface_hub import snapshot_download
from sb3_metra.export.skill_player import SkillPlayer  # or the copy in the folder, with NumPy and onnxruntime alone

player = SkillPlayer(snapshot_download("{repo_id}") + "/skills")
action = player.act(observation, next(iter(player.skills)))
```
"""


def make_card(
    model: Any,
    repo_id: str,
    env_id: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    license: str | None = None,
    *,
    export: bool = True,
    page: bool = False,
) -> str:
    """
    A card in Markdown, with the metadata that the Hub reads in front.

    :param model: an algorithm
    :param repo_id: such as ``"me/ant"``
    :param env_id: of the environment
    :param metrics: what was measured, by name
    :param license: of the weights
    :param export: whether the export lies beside the model
    :param page: whether the skill explorer does
    """
    name, where = type(model).__name__, f" in `{env_id}`" if env_id else ""
    tags = [
        "reinforcement-learning",
        "unsupervised-skill-discovery",
        "stable-baselines3",
        name,
        *([env_id] if env_id else []),
    ]
    head = ["library_name: stable-baselines3", "tags:", *(f"- {tag}" for tag in tags)]
    head += [f"license: {license.lower()}"] if license else []
    prior = model.skill_prior
    kind = (
        f"{prior.dim} discrete skills"
        if prior.discrete
        else f"Skills of {prior.dim} dimensions ({type(prior).__name__})"
    )
    parts = ["---", *head, "---", f"# {name}{where}", ""]
    parts.append(f"{kind}, discovered without a reward in {model.num_timesteps:,} steps by sb3-metra, a plugin of SB3.")
    if page:
        parts += ["", "`skills.html` is the skill explorer: download it and open it in a browser."]
    if metrics:
        parts += ["", "## Measured", "", *_table(("metric", "value"), metrics)]
    parts += ["", "## How to use it", "", _FOR_LOADING.format(repo_id=repo_id).rstrip()]
    if export:
        parts += [_FOR_PLAYING.format(repo_id=repo_id).rstrip()]
    parts += ["", "## Settings", "", *_table(("argument", "value"), settings_of(model))]
    parts += ["", "## Versions", "", *_table(("package", "version"), versions())]
    return "\n".join(parts) + "\n"


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *(f"| `{name}` | {_cell(value)} |" for name, value in rows.items()),
    ]


def _cell(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
