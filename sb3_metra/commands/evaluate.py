"""``sb3-metra evaluate``: measure a saved model and print the result as JSON."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sb3_metra.commands.loading import load_model, parse_keyword_arguments
from sb3_metra.evaluation.coverage import policy_state_coverage


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
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

    :param path: the saved model
    :param env_id: id of the environment
    :param n_skills: number of skills, one episode each
    :param seed: seed of skills and environment
    :param cell_size: edge of a cell, in the environment's unit
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :return: the coverage, and what it was measured with
    """
    if n_skills < 1:
        raise ValueError(f"--n-skills must be at least 1, got {n_skills}.")
    model, env = load_model(path, env_id, env_kwargs=env_kwargs, device=device)
    try:
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
