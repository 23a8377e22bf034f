"""Every method of skill discovery, by name."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from sb3_metra.algorithms.cic import CIC
from sb3_metra.algorithms.csd import CSD
from sb3_metra.algorithms.csf import CSF
from sb3_metra.algorithms.dads import DADS
from sb3_metra.algorithms.diayn import DIAYN
from sb3_metra.algorithms.lsd import LSD
from sb3_metra.algorithms.metra import METRA
from sb3_metra.algorithms.visr import VISR
from sb3_metra.common.skill_discovery import SkillDiscovery

#: The methods by name.
ALGORITHMS: dict[str, type[SkillDiscovery]] = {
    algorithm.__name__: algorithm for algorithm in (METRA, LSD, CSD, CSF, DIAYN, DADS, CIC, VISR)
}

__all__ = ["ALGORITHMS", "CIC", "CSD", "CSF", "DADS", "DIAYN", "LSD", "METRA", "VISR", "load"]


def load(path: str | os.PathLike[str], env: Any = None, **kwargs: Any) -> SkillDiscovery:
    """
    Load a saved model, whatever its method.

    :param path: its file, with or without ``.zip``
    :param env: the environment to go on in; ``None``: only to act and to encode
    :param kwargs: further arguments of the method's ``load``
    :raises ValueError: if the file names a method that this version does not have
    """
    path = Path(path)
    path = path if path.exists() else path.with_name(f"{path.name}.zip")
    with zipfile.ZipFile(path) as archive:
        name = json.loads(archive.read("data")).get("algorithm", "METRA")  # files of before 0.2 have no name
    if name not in ALGORITHMS:
        raise ValueError(f"{path} must hold a model of one of {sorted(ALGORITHMS)}, got one of {name!r}")
    return ALGORITHMS[name].load(path, env, **kwargs)
