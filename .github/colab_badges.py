"""Put Colab's badge above every notebook: colab_badges.py OWNER/NAME, once the repository has an address."""

import json
import sys
from pathlib import Path

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def add_badge(notebook: Path, repository: str, branch: str = "main") -> None:
    """
    Begin a notebook with a badge that opens it in Colab, in place of one that is there already.

    :param notebook: the file, in the repository's folder ``examples/notebooks``
    :param repository: owner and name on GitHub
    :param branch: branch that Colab opens
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    first = content["cells"][0]
    lines = [line for line in first["source"] if not line.startswith(BADGE)]
    page = f"https://colab.research.google.com/github/{repository}/blob/{branch}/examples/notebooks/{notebook.name}"
    first["source"] = [f"{BADGE}({page})\n", *([] if lines[0] == "\n" else ["\n"]), *lines]
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        add_badge(path, sys.argv[1])
