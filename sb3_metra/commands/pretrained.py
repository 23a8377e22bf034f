"""``--pretrained NAME`` of the commands that take a model: one that comes with the package, in its environment."""

from __future__ import annotations

from sb3_metra.pretrained import find_pretrained, names

OPTION = "--pretrained"
COMMANDS = ("doctor", "evaluate", "export", "goals", "prompt", "report")
"""The commands that take it in place of a model."""
MODEL_HELP = f"a saved model, a zip file; or the folder of a run; or {OPTION} NAME for one of {', '.join(names())}"
"""What ``--help`` says of the model."""


def put_in(command: str, words: list[str]) -> list[str]:
    """
    Replace ``--pretrained NAME`` by the model's folder, and name its environment unless that is named.

    :param command: the command
    :param words: what follows it
    :return: the words that the command reads
    :raises ValueError: if there is no such model
    """
    if command not in COMMANDS or OPTION not in words:
        return words
    at = words.index(OPTION)
    if at + 1 == len(words):
        raise ValueError(f"{OPTION} must be followed by one of {', '.join(names())}, got nothing")
    folder, origin = find_pretrained(words[at + 1])
    named = any(word == "--env" or word.startswith("--env=") for word in words)
    return [str(folder), *words[:at], *words[at + 2 :], *([] if named else ["--env", origin["env"]])]
