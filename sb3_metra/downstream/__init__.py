"""Tasks solved with skills: choosing them as actions, the paper's tasks, and starting SAC from one of them."""

from sb3_metra.downstream.finetune import sac_from_skill
from sb3_metra.downstream.registration import TASKS
from sb3_metra.downstream.wrappers import SkillActionVecWrapper, SkillActionWrapper, skill_action_space, to_skills

__all__ = [
    "TASKS",
    "SkillActionVecWrapper",
    "SkillActionWrapper",
    "sac_from_skill",
    "skill_action_space",
    "to_skills",
]
