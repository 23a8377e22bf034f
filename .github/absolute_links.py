"""Make the relative links of a Markdown file absolute, for PyPI: absolute_links.py README.md REPOSITORY_URL TAG."""

import re
import sys
from pathlib import Path

LINK = re.compile(r'(\]\(|src=")(?!https?:|mailto:|#)([^)"\s]+)')
PICTURES = (".png", ".jpg", ".gif", ".svg", ".webp")


def absolute(text: str, repository: str, tag: str) -> str:
    """
    Markdown whose links and pictures point to a repository on GitHub.

    :param text: Markdown
    :param repository: address of the repository, https://github.com/OWNER/NAME
    :param tag: tag or branch
    """

    def replace(match: re.Match[str]) -> str:
        start, path = match.groups()
        kind = "raw" if path.endswith(PICTURES) else "blob"
        return f"{start}{repository}/{kind}/{tag}/{path}"

    return LINK.sub(replace, text)


if __name__ == "__main__":
    file, repository, tag = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    file.write_text(absolute(file.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")
