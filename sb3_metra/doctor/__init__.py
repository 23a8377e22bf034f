"""A doctor for runs: from a model, some rollouts and the log it names what is wrong, with numbers and the remedy."""

from sb3_metra.doctor.callback import DoctorCallback
from sb3_metra.doctor.diagnosis import CHECKS, diagnose, examine
from sb3_metra.doctor.findings import Diagnosis, Finding

__all__ = ["CHECKS", "Diagnosis", "DoctorCallback", "Finding", "diagnose", "examine"]
