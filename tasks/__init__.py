"""Tasks: what an agent sees and what is rewarded; nothing here knows of the models.

``eplstm.tasks.gym_env`` offers them to Gymnasium; it is imported on its own, because gymnasium is optional.
"""

from .barcode_bandit import BarcodeBandit
from .contextual_choice import ContextualChoice
from .environment import Policy, RandomPolicy, Task, Worlds, play
from .rlwm import RLWM
from .trials import Trials
from .two_step import TwoStep
from .two_step_analysis import stay_effects, stay_table, stay_trials
from .two_step_baselines import ModelBased, ModelFree
from .water_maze import WaterMaze, steps_by_exposure, steps_to_goal

__all__ = [
    "RLWM",
    "BarcodeBandit",
    "ContextualChoice",
    "ModelBased",
    "ModelFree",
    "Policy",
    "RandomPolicy",
    "Task",
    "Trials",
    "TwoStep",
    "WaterMaze",
    "Worlds",
    "play",
    "stay_effects",
    "stay_table",
    "stay_trials",
    "steps_by_exposure",
    "steps_to_goal",
]
