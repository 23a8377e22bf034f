"""``sb3-metra enjoy``: rl_zoo3's enjoy with METRA, see :mod:`sb3_metra.zoo`."""

from sb3_metra import zoo

_HELP = """\
sb3-metra enjoy is rl_zoo3's enjoy, with other defaults: --algo metra, --folder logs, --env sb3_metra/PointMass-v0.
  --trust               unpickle what the run's files hold, which can run any code that they bring; other algorithms
                        than this package's need it
What rl_zoo3 says:
"""


def run(arguments: list[str]) -> None:
    """Run the command on the words after its name."""
    if {"-h", "--help"}.intersection(arguments):
        print(_HELP)
    zoo.enjoy(arguments)
