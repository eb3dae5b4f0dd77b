"""The studies, by name."""

from . import bandit, contextual_choice, two_step, water_maze

STUDIES = {
    study.name: study for study in (contextual_choice.STUDY, bandit.STUDY, two_step.STUDY, water_maze.STUDY)
}
