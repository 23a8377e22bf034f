"""Judge a repertoire of skills: rollouts, metrics, goals, pictures, videos, and a callback for training."""

from sb3_metra.evaluation.callbacks import SkillEvalCallback
from sb3_metra.evaluation.coverage import (
    CoverageTracker,
    achieved_tasks,
    policy_state_coverage,
    state_coverage,
    task_coverage,
)
from sb3_metra.evaluation.goals import GoalReacher, desired_goals, evaluate_goals, sample_goals
from sb3_metra.evaluation.metrics import evaluate_skills, skill_metrics, skill_table
from sb3_metra.evaluation.rollout import SkillTrajectory, rollout_skills
from sb3_metra.evaluation.skills import skills_to_show

__all__ = [
    "CoverageTracker",
    "GoalReacher",
    "SkillEvalCallback",
    "SkillTrajectory",
    "achieved_tasks",
    "desired_goals",
    "evaluate_goals",
    "evaluate_skills",
    "policy_state_coverage",
    "rollout_skills",
    "sample_goals",
    "skill_metrics",
    "skill_table",
    "skills_to_show",
    "state_coverage",
    "task_coverage",
]
