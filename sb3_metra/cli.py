"""The command line ``sb3-metra``: train, enjoy, evaluate and demo. What each one does is written elsewhere."""

import argparse
import ast
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sb3_metra import METRA, __version__

_DESCRIPTION = """\
Discover skills without a reward.

commands:
  demo      train on a MuJoCo body for three minutes and show what the skills do; needs no argument
  train     rl_zoo3's train with METRA, the shipped settings and coverage: train --env sb3_metra/Ant-v0 --progress
  enjoy     rl_zoo3's enjoy: watch what train left behind
  evaluate  measure the policy state coverage of a saved model and print it as JSON

`sb3-metra COMMAND --help` lists the arguments of a command.
"""

_TRAIN_HELP = """\
sb3-metra train is rl_zoo3's train, with other defaults:
  --algo metra          an algorithm of rl_zoo3's own runs as it does there
  --env sb3_metra/PointMass-v0
  --conf-file           the shipped metra.yml; with --paper the shipped metra_paper.yml, the authors' settings
  --eval-freq 100000    the best model is kept by policy state coverage, not by reward,
  --eval-episodes 48    and --optimize maximises it; an episode follows one skill
What rl_zoo3 says:
"""

_ENJOY_HELP = """\
sb3-metra enjoy is rl_zoo3's enjoy, with other defaults: --algo metra, --folder logs, --env sb3_metra/PointMass-v0.
What rl_zoo3 says:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param argv: the words after ``sb3-metra``; those of the process if ``None``
    :return: the exit status: 0, or 1 after an error, which is told in one sentence
    """
    commands: dict[str, Callable[[list[str]], None]] = {
        "demo": _demo,
        "train": _train,
        "enjoy": _enjoy,
        "evaluate": _evaluate,
    }
    parser = argparse.ArgumentParser(
        prog="sb3-metra", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sb3-metra {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument("command", choices=commands, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(argv)
    try:
        commands[options.command](options.arguments)
    except (ImportError, OSError, ValueError, AssertionError) as error:
        if options.traceback or not str(error):
            raise
        print(f"sb3-metra {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sb3-metra {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _train(arguments: list[str]) -> None:
    """Run rl_zoo3's train, see :mod:`sb3_metra.zoo`."""
    from sb3_metra import zoo

    if {"-h", "--help"}.intersection(arguments):
        print(_TRAIN_HELP)
    zoo.train(arguments)


def _enjoy(arguments: list[str]) -> None:
    """Run rl_zoo3's enjoy, see :mod:`sb3_metra.zoo`."""
    from sb3_metra import zoo

    if {"-h", "--help"}.intersection(arguments):
        print(_ENJOY_HELP)
    zoo.enjoy(arguments)


def _demo(arguments: list[str]) -> None:
    """Run the demonstration, see :mod:`sb3_metra.demo`."""
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
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: demo/NAME_OF_THE_ENV)")
    parser.add_argument("--minutes", type=float, default=3.0, help="wall time at most (default: %(default)s)")
    options = parser.parse_args(arguments)

    from sb3_metra.demo import run_demo

    run_demo(options.env, seed=options.seed, out=options.out, minutes=options.minutes)


def _evaluate(arguments: list[str]) -> None:
    """Print the policy state coverage of a saved model as JSON, and nothing else on the standard output."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra evaluate", description="Print the policy state coverage of a saved model as JSON."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="the saved model, a zip file")
    parser.add_argument("--env", required=True, metavar="ID", help="environment")
    parser.add_argument("--n-skills", type=int, default=48, help="skills, one episode each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of skills and environment (default: %(default)s)")
    parser.add_argument("--cell-size", type=float, default=1.0, help="edge of a cell (default: %(default)s)")
    parser.add_argument(
        "--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python"
    )
    parser.add_argument("--device", default="auto", help="PyTorch device (default: %(default)s)")
    options = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):
        result = evaluate(
            options.model,
            options.env,
            n_skills=options.n_skills,
            seed=options.seed,
            cell_size=options.cell_size,
            env_kwargs=parse_keyword_arguments(options.env_kwargs),
            device=options.device,
        )
    print(json.dumps(result, indent=2))


def evaluate(
    path: Path,
    env_id: str,
    n_skills: int = 48,
    seed: int = 0,
    cell_size: float = 1.0,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """
    Measure the policy state coverage of a saved model.

    Statistics of a ``VecNormalize`` that rl_zoo3 left beside the model are used.

    :param path: the saved model
    :param env_id: id of the environment
    :param n_skills: number of skills, one episode each
    :param seed: seed of skills and environment
    :param cell_size: edge of a cell, in the environment's unit
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :return: the coverage, and what it was measured with
    """
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    from sb3_metra.evaluation.coverage import policy_state_coverage

    if not path.is_file():
        raise ValueError(f"MODEL must be a file, got {str(path)!r}, which does not exist or is a folder.")
    if n_skills < 1:
        raise ValueError(f"--n-skills must be at least 1, got {n_skills}.")
    env: VecEnv = make_vec_env(registered(env_id), n_envs=1, env_kwargs=env_kwargs)
    try:
        statistics = path.parent / env_id.replace("/", "-") / "vecnormalize.pkl"
        if statistics.is_file():
            env = VecNormalize.load(str(statistics), env)
            env.training = env.norm_reward = False
        model = METRA.load(path, env=env, device=device)
        coverage = policy_state_coverage(model, env, model.skill_prior, n_skills, seed, cell_size)
    finally:
        env.close()
    return {
        "policy_state_coverage": coverage,
        "n_skills": n_skills,
        "seed": seed,
        "env": env_id,
        "env_kwargs": env_kwargs or {},
        "model": str(path),
        "cell_size": cell_size,
    }


def registered(env_id: str) -> str:
    """
    Check an environment's id.

    :param env_id: id of the environment; ``module:ID`` imports the module first, as in Gymnasium
    :return: the same id
    :raises ValueError: where no such environment is registered
    """
    import gymnasium as gym

    import sb3_metra.envs  # noqa: F401  registers the environments

    try:
        gym.spec(env_id)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"--env must be the id of a registered environment, got {env_id!r}: {error}") from error
    return env_id


def parse_keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """
    Read ``key:value`` words as rl_zoo3 does, but evaluate literals only.

    :param words: for example ``["arena:5.0", "render_mode:'rgb_array'"]``
    :return: for example ``{"arena": 5.0, "render_mode": "rgb_array"}``
    """
    arguments = {}
    for word in words:
        key, separator, value = word.partition(":")
        try:
            if not (separator and key.isidentifier()):
                raise ValueError(word)
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(
                f"--env-kwargs must be KEY:VALUE with a Python literal, such as arena:5.0, got {word!r}."
            ) from None
    return arguments


if __name__ == "__main__":
    sys.exit(main())
