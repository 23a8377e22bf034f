"""``sb3-metra doctor``: find what is wrong with a run, with the remedy."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from sb3_metra.commands.loading import find_model, load_model, parse_keyword_arguments
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.inputs import check_count, check_seed, path_of
from sb3_metra.doctor import Diagnosis, examine
from sb3_metra.evaluation.runs import LOG_FILES, find_log

ILL = 3
"""Exit status if there is a finding that spoils the skills: 1 and 2 are for what keeps the doctor from looking."""


def run(arguments: list[str]) -> int:
    """
    Run the command on the words after its name.

    :param arguments: the words
    :return: 0; 3 if there is an error among the findings
    """
    parser = argparse.ArgumentParser(
        prog="sb3-metra doctor",
        description="Say what is wrong with a run, with numbers and the remedy. The status is 0 if no error was found, "
        f"{ILL} if one was, 2 after a mistake in the arguments.",
    )
    add = parser.add_argument
    add("model", type=path_of, metavar="RUN_OR_MODEL", help=MODEL_HELP)
    add("--env", required=True, metavar="ID", help="environment")
    add("--log", type=path_of, metavar="FILE", help="the run's log (default: one beside the model)")
    add("--n-episodes", type=int, default=16, help="rollouts, one skill each (default: %(default)s)")
    add("--n-envs", type=int, default=1, help="environments at once (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the environments (default: %(default)s)")
    add("--max-episode-steps", type=int, metavar="N", help="steps after which episodes are cut")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python")
    add("--json", action="store_true", help="print JSON instead of text")
    add("--device", default="auto", help="PyTorch device (default: %(default)s)")
    add("--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code")
    options = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):
        diagnosis = examine_model(
            options.model,
            options.env,
            options.log,
            n_episodes=options.n_episodes,
            n_envs=options.n_envs,
            seed=options.seed,
            max_episode_steps=options.max_episode_steps,
            env_kwargs=parse_keyword_arguments(options.env_kwargs),
            device=options.device,
            trusted=options.trust,
        )
    print(json.dumps(diagnosis.as_dict(), indent=2) if options.json else diagnosis)
    return ILL if diagnosis.errors else 0


def examine_model(
    path: Path,
    env_id: str,
    log: Path | None = None,
    *,
    n_episodes: int = 16,
    n_envs: int = 1,
    seed: int = 0,
    max_episode_steps: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    trusted: bool = False,
) -> Diagnosis:
    """
    Examine a saved model.

    :param path: the saved model, or the folder of a run
    :param env_id: id of the environment
    :param log: the run's log, or a folder that holds it; ``None``: the one beside the model, if there is one
    :param n_episodes: rollouts, one skill each
    :param n_envs: environments at once
    :param seed: of the environments
    :param max_episode_steps: cut episodes after as many steps; ``None``: when the environment ends them
    :param env_kwargs: arguments of the environment
    :param device: PyTorch device
    :param trusted: unpickle what the files hold, which can run any code that they bring
    :return: the diagnosis
    """
    check_count("--n-episodes", n_episodes, low=2)
    check_count("--n-envs", n_envs)
    check_seed("--seed", seed)
    if max_episode_steps is not None:
        check_count("--max-episode-steps", max_episode_steps)
    path = find_model(path)
    if log is None:
        log = next((file for name in LOG_FILES if (file := path.parent / name).is_file()), None)
    else:
        log = find_log(log, "--log")
    model, env = load_model(path, env_id, n_envs, env_kwargs=env_kwargs, device=device, trusted=trusted)
    try:
        return examine(model, env, log, n_episodes=n_episodes, seed=seed, max_episode_steps=max_episode_steps)
    finally:
        env.close()
