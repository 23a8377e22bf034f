"""The page of the skill explorer: HTML, style and script lie here as data; this puts them and the data in one file."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

_SCRIPTS = ("plots.js", "dial.js", "stage.js", "page.js")  # in this order
_DIGITS = 5


def render_page(data: Mapping[str, Any]) -> str:
    """
    Put the page together.

    :param data: what :func:`~sb3_metra.evaluation.report.gather_report` returns; ``data["title"]`` is a string
    :return: HTML that needs nothing else
    """
    parts = {
        "title": html.escape(str(data["title"])),
        "style": _read("page.css"),
        "script": "\n".join(_read(name) for name in _SCRIPTS),
        "data": safe_json(data),
    }
    # in one pass, so that nothing is looked for in what was put in
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))


def safe_json(value: Any) -> str:
    """
    JSON that may stand inside ``<script>``: it cannot end the element, and holds no NaN, which JSON does not know.

    :param value: plain values, dictionaries, sequences and NumPy arrays; numbers that are not finite become ``null``
    """
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """What JSON can say, floats with five digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
