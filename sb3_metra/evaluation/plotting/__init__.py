"""Pictures of skills and of training; the only package that imports matplotlib."""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "sb3-metra[plot]"') from error

from sb3_metra.evaluation.plotting.curves import plot_curves, plot_training
from sb3_metra.evaluation.plotting.goals import plot_goals
from sb3_metra.evaluation.plotting.phi import plot_phi
from sb3_metra.evaluation.plotting.style import skill_colors
from sb3_metra.evaluation.plotting.trajectories import plot_small_multiples, plot_trajectories

__all__ = [
    "plot_curves",
    "plot_goals",
    "plot_phi",
    "plot_small_multiples",
    "plot_training",
    "plot_trajectories",
    "skill_colors",
]
