"""Judge a repertoire of skills: rollouts, coverage, pictures, videos, and a callback for training."""

from sb3_metra.evaluation.callbacks import SkillEvalCallback
from sb3_metra.evaluation.coverage import policy_state_coverage, state_coverage
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills

__all__ = ["SkillEvalCallback", "SkillTrajectory", "policy_state_coverage", "rollout_skills", "state_coverage"]
