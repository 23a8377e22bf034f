"""Every method of skill discovery, by name."""

from __future__ import annotations

from typing import Any

from sb3_metra.algorithms.cic import CIC
from sb3_metra.algorithms.csd import CSD
from sb3_metra.algorithms.csf import CSF
from sb3_metra.algorithms.dads import DADS
from sb3_metra.algorithms.diayn import DIAYN
from sb3_metra.algorithms.genda import GenDa
from sb3_metra.algorithms.lsd import LSD
from sb3_metra.algorithms.metra import METRA
from sb3_metra.algorithms.visr import VISR
from sb3_metra.common.archive import File
from sb3_metra.common.saving import read_algorithm
from sb3_metra.common.skill_discovery import SkillDiscovery

#: The methods by name.
ALGORITHMS: dict[str, type[SkillDiscovery]] = {
    algorithm.__name__: algorithm for algorithm in (METRA, GenDa, CSF, LSD, CSD, DIAYN, DADS, CIC, VISR)
}

__all__ = ["ALGORITHMS", "CIC", "CSD", "CSF", "DADS", "DIAYN", "LSD", "METRA", "VISR", "GenDa", "load"]


def load(path: File, env: Any = None, **kwargs: Any) -> SkillDiscovery:
    """
    Load a saved model of any method. No code in the file is run, unless it is trusted.

    :param path: the file, with or without ``.zip``, or an open one
    :param env: the environment to continue learning in; ``None``: only to act and to encode
    :param kwargs: further arguments of the method's ``load``, such as ``trusted``
    :raises ValueError: if the file is damaged, or its method is unknown
    """
    label, name = read_algorithm(path)
    if name not in ALGORITHMS:
        got = "one of another package" if name is None else f"one of {name!r}"
        raise ValueError(f"{label} must hold a model of one of {sorted(ALGORITHMS)}, got {got}")
    return ALGORITHMS[name].load(path, env, **kwargs)
