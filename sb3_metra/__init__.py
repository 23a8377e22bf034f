"""METRA for Stable-Baselines3: unsupervised discovery of skills. Importing it registers the environments by name."""

from sb3_metra.common.versions import check_versions

check_versions()  # says in one sentence what to install, before an import fails in another way

from sb3_metra import envs
from sb3_metra.algorithms import ALGORITHMS, CIC, CSD, CSF, DADS, DIAYN, LSD, METRA, VISR, GenDa, load
from sb3_metra.common.plain import add_safe_globals
from sb3_metra.common.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_metra.pretrained import load_pretrained

__version__ = "0.1.0"

__all__ = [
    "ALGORITHMS",
    "CIC",
    "CSD",
    "CSF",
    "DADS",
    "DIAYN",
    "LSD",
    "METRA",
    "VISR",
    "CnnPolicy",
    "GenDa",
    "MlpPolicy",
    "MultiInputPolicy",
    "__version__",
    "add_safe_globals",
    "envs",
    "load",
    "load_pretrained",
]
