"""``sb3-metra train``: rl_zoo3's train with METRA, see :mod:`sb3_metra.zoo`."""

from sb3_metra import zoo

_HELP = """\
sb3-metra train is rl_zoo3's train, with other defaults:
  --algo metra          or genda, csf, lsd, csd, diayn, dads, cic, visr; an algorithm of rl_zoo3's own runs as it does
                        there, see below
  --env sb3_metra/PointMass-v0
  --conf-file           the method's shipped settings; with --paper the authors', metra_paper.yml
  --eval-freq 100000    the best model is kept by policy state coverage, not by reward,
  --eval-episodes 48    and --optimize maximises it; an episode follows one skill
  --save-freq N         also writes checkpoints to resume from
  -params collectors:4  runs the episodes in processes of Ray, here or on a cluster
  --resume RUN          continues a killed run, with its own arguments and those given now
  --trust               with -i, unpickle what an old model's files hold, which can run any code that they bring
With an algorithm of rl_zoo3's own on a downstream task, such as --algo sac --env sb3_metra/AntMultiGoals-v0:
  --skills MODEL        actions are the skills of a saved model, and a step is one skill
  --skill-length 25     steps of the environment that a skill is followed
  --conf-file           the shipped sac_skills.yml or ppo_skills.yml; without --skills sac.yml or ppo.yml
What rl_zoo3 says:
"""


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name."""
    if {"-h", "--help"}.intersection(arguments):
        print(_HELP)
    zoo.train(arguments)
