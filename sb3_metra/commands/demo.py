"""``sb3-metra demo``: the demonstration, see :mod:`sb3_metra.demo`."""

import argparse

from sb3_metra.commands.loading import registered
from sb3_metra.common.inputs import path_of
from sb3_metra.demo import run_demo


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra demo", description="Train METRA for a few minutes and show what its skills do."
    )
    parser.add_argument(
        "--env",
        default="sb3_metra/HalfCheetah-v0",
        metavar="ID",
        help="environment; sb3_metra/PointMass-v0 is faster (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    parser.add_argument("--out", type=path_of, metavar="DIR", help="folder to write (default: demo/NAME_OF_THE_ENV)")
    parser.add_argument("--minutes", type=float, default=3.0, help="wall time at most (default: %(default)s)")
    options = parser.parse_args(arguments)

    registered(options.env)
    run_demo(options.env, seed=options.seed, out=options.out, minutes=options.minutes)
