"""The doctor: examines a model, some rollouts and the log, and reports what is wrong with the remedy."""

from sb3_metra.doctor.callback import DoctorCallback
from sb3_metra.doctor.diagnosis import CHECKS, diagnose, examine
from sb3_metra.doctor.findings import Diagnosis, Finding

__all__ = ["CHECKS", "Diagnosis", "DoctorCallback", "Finding", "diagnose", "examine"]
