"""The command line ``sb3-metra``: which commands there are. What each one does is written in ``commands``."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import gymnasium as gym

from sb3_metra import __version__
from sb3_metra.commands.pretrained import put_in
from sb3_metra.pretrained import names

COMMANDS = {
    "demo": "train on a MuJoCo body for three minutes and show what the skills do; needs no argument",
    "train": "rl_zoo3's train with METRA, the shipped settings and coverage: train --env sb3_metra/Ant-v0 --progress",
    "enjoy": "rl_zoo3's enjoy: watch a trained model",
    "evaluate": "measure a saved model's skills, print JSON, and draw and film them: evaluate RUN --env ID --out DIR",
    "goals": "send a saved model's skills to goals, without training, and print how near they come as JSON",
    "prompt": "find the skill that a reward asks for, as JSON: prompt RUN --env ID --reward vx",
    "export": "write a saved model's skills as ONNX with a player that runs anywhere: export RUN --out DIR",
    "compare": "draw several runs or methods together, with intervals over seeds: compare metra=runs/a lsd=runs/b",
    "doctor": "find what is wrong with a run, with the remedy: doctor RUN --env ID",
    "study": "train methods x environments x seeds x changes from one file, here, on Ray or on SLURM: study arena",
    "report": "write a web page on which the skills of a saved model can be explored",
}
"""Every command, the name of a module in ``sb3_metra.commands``, and what it does."""


MISTAKES = (ImportError, OSError, TypeError, ValueError, AssertionError, gym.error.Error)
"""What a mistake of the user's is raised as, by this package, Stable-Baselines3 and Gymnasium."""


def one_line(error: BaseException) -> str:
    """
    What an error says, on one line.

    :param error: what was raised
    """
    return " ".join(str(error).split())


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param argv: the words after ``sb3-metra``; those of the process if ``None``
    :return: the exit status: 0, or the command's own; 2 after a mistake, reported in one sentence; 1 after
        another error; 130 if interrupted
    """
    lines = [f"  {name:<9} {what}" for name, what in COMMANDS.items()]
    usage = (
        "`sb3-metra COMMAND --help` lists the arguments of a command. Where it takes a model, `--pretrained NAME`\n"
        f"takes one that comes with the package: {', '.join(names())}."
    )
    description = "\n".join(["Discover skills without a reward.", "", "commands:", *lines, "", usage])
    parser = argparse.ArgumentParser(
        prog="sb3-metra", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sb3-metra {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(argv)
    try:
        words = put_in(options.command, options.arguments)
        status = importlib.import_module(f"sb3_metra.commands.{options.command}").run(words)
    except BrokenPipeError:
        raise
    except MISTAKES as error:
        if options.traceback or not str(error):
            raise
        print(f"sb3-metra {options.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        if options.traceback:
            raise
        where = "`sb3-metra --traceback COMMAND ...` shows where it came from"
        print(f"sb3-metra {options.command}: {type(error).__name__}: {one_line(error)}; {where}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sb3-metra {options.command}: interrupted", file=sys.stderr)
        return 130
    return status or 0


def script() -> int:
    """Run a command as a program: a reader that leaves early, such as ``head``, is no mistake."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 128 + 13  # as a program that SIGPIPE ends
    return status


if __name__ == "__main__":
    sys.exit(script())
