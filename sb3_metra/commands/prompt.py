"""``sb3-metra prompt``: the skill of a saved model that a reward asks for, as JSON."""

import argparse
import json
import sys
from contextlib import redirect_stdout

from sb3_metra.commands.loading import load_model, parse_keyword_arguments
from sb3_metra.commands.pretrained import MODEL_HELP
from sb3_metra.common.inputs import check_count, check_seed, path_of
from sb3_metra.common.skill_model import require_encoder
from sb3_metra.evaluation.prompts import prompt_skill


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name; nothing but JSON goes to the standard output."""
    parser = argparse.ArgumentParser(
        prog="sb3-metra prompt",
        description="Find the skill of a saved model that a reward asks for, without training, and print it as JSON.",
    )
    add = parser.add_argument
    add("model", type=path_of, metavar="MODEL", help=MODEL_HELP)
    add("--env", required=True, metavar="ID", help="environment")
    add(
        "--reward",
        required=True,
        metavar="EXPRESSION",
        help="of a step: arithmetic over x, y, vx, vy, speed and heading, such as 'cos(30)*vx + sin(30)*vy'; write "
        "--reward=-vx if it begins with a minus",
    )
    add("--n-skills", type=int, default=16, help="skills to try, one episode each (default: %(default)s)")
    add("--n-episodes", type=int, default=8, help="to compare the answer and the best skill in (default: %(default)s)")
    add("--seed", type=int, default=0, help="of these skills and the environment (default: %(default)s)")
    add("--n-envs", type=int, default=8, help="environments at once (default: %(default)s)")
    add("--max-episode-steps", type=int, metavar="N", help="steps after which episodes are cut")
    add("--env-kwargs", nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment, in Python")
    add("--device", default="auto", help="PyTorch device (default: %(default)s)")
    add("--trust", action="store_true", help="unpickle what an old model's files hold, which can run any code")
    options = parser.parse_args(arguments)
    check_count("--n-skills", options.n_skills)
    check_count("--n-episodes", options.n_episodes)
    check_count("--n-envs", options.n_envs)
    check_seed("--seed", options.seed)
    with redirect_stdout(sys.stderr):
        env_kwargs = parse_keyword_arguments(options.env_kwargs)
        model, env = load_model(options.model, options.env, options.n_envs, env_kwargs, options.device, options.trust)
        try:
            require_encoder(model, "prompts")
            answer = prompt_skill(
                model,
                env,
                options.reward,
                options.n_skills,
                n_episodes=options.n_episodes,
                seed=options.seed,
                max_episode_steps=options.max_episode_steps,
            )
        finally:
            env.close()
    result = {
        "skill": answer.skill.tolist(),
        "reward_per_step": answer.reward,
        "best_tried": answer.best_reward,
        "mean_tried": float(answer.rewards.mean()),
        "reward": options.reward,
        "n_skills": options.n_skills,
        "n_episodes": options.n_episodes,
        "seed": options.seed,
        "env": options.env,
        "model": str(options.model),
    }
    print(json.dumps(result, indent=2))
