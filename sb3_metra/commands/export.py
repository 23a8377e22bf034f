"""``sb3-metra export``: a saved model's skills as ONNX, in a folder from which they run anywhere."""

import argparse
import json
import sys
from contextlib import redirect_stdout

from sb3_metra.commands.loading import find_model, load_algorithm, load_model, parse_keyword_arguments
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.inputs import path_of
from sb3_metra.export import export_skills


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra export", description="Write a saved model's skills to a folder from which they run anywhere."
    )
    add = parser.add_argument
    add("model", type=path_of, metavar="MODEL", help=MODEL_HELP)
    add("--out", type=path_of, required=True, metavar="DIR", help="the folder to write")
    add("--env", metavar="ID", help="environment; adds its unit and steps per second")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python")
    add("--skill", action="append", default=[], metavar="NAME=1,0", help="name a skill; may be given again")
    add("--license", metavar="NAME", help="licence of the weights, such as MIT")
    add("--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code")
    options = parser.parse_args(arguments)
    skills = dict(map(parse_skill, options.skill)) or None
    with redirect_stdout(sys.stderr):
        if options.env is None:
            model, env = load_algorithm(find_model(options.model), "cpu", options.trust), None
        else:
            env_kwargs = parse_keyword_arguments(options.env_kwargs)
            model, env = load_model(options.model, options.env, 1, env_kwargs, "cpu", options.trust)
        try:
            digest = export_skills(model, options.out, skills=skills, license=options.license, env=env)
        finally:
            if env is not None:
                env.close()
    print(json.dumps({"folder": str(options.out), "sha256": digest}, indent=2))


def parse_skill(word: str) -> tuple[str, list[float]]:
    """
    Read a skill with its name.

    :param word: such as ``"east=1,0"``
    :return: the name and the numbers
    :raises ValueError: if it is something else
    """
    name, _, numbers = word.partition("=")
    try:
        vector = [float(number) for number in numbers.split(",")]
    except ValueError:
        vector = []
    if not name or not vector:
        raise ValueError(f"--skill must be NAME=NUMBERS, such as east=1,0, got {word!r}")
    return name, vector
