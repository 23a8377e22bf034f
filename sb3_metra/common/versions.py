"""Which installed packages work together, asked of the packages' metadata alone; nothing heavy is imported here."""

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "sb3-metra"


def check_versions(extra: str = "") -> None:
    """
    Refuse an installation whose packages cannot work together.

    The requirements are those of this package's own metadata, so that they are written down once. A package that is
    used from a bare source tree has no metadata: then there is nothing to compare with, and nothing is refused.

    :param extra: Name of an extra, for example ``"dmc"``, whose requirements are checked. Those of the core by default.
    :raises ValueError: if the package has no such extra.
    :raises ImportError: if a required package is missing, or installed in a version that does not work. The message
        says what was found, what is needed, and the command that installs it.
    """
    try:
        declared = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return
    extras = declared.get_all("Provides-Extra") or []
    if extra and extra not in extras:
        raise ValueError(f"extra must be one of {', '.join(extras)}, got {extra!r}")
    faults = {str(requirement): fault for requirement, fault in _faults(extra)}
    if faults:
        needed_by = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
        command = " ".join(f'"{requirement}"' for requirement in faults)
        raise ImportError(f"{needed_by} {declared['Version']} {', '.join(faults.values())}: run pip install {command}")


def _faults(extra: str) -> Iterator[tuple[Requirement, str]]:
    """
    Yield the requirements that the installed packages do not meet, and what is wrong with each.

    :param extra: Name of an extra, or an empty string for the requirements of the core.
    :return: pairs of a requirement, without its marker, and the end of a sentence.
    """
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        if (extra != "" and marker is None) or (marker is not None and not marker.evaluate({"extra": extra})):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield requirement, f"needs {requirement}, which is not installed"
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield requirement, f"needs {requirement}, but {installed} is installed"
