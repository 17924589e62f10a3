"""What divergences, answers and the models of a distillation are called."""

from __future__ import annotations

FORWARD, REVERSE, JENSEN_SHANNON = "forward", "reverse", "jensen-shannon"
DIVERGENCES = (FORWARD, REVERSE, JENSEN_SHANNON)
"""Kullback-Leibler from the teacher to the student, the other way round, and between both."""

OF_TASK, OF_TEACHER = "task", "teacher"
ANSWERS = (OF_TASK, OF_TEACHER)
"""Who answers the prompts that are trained on."""

TEACHER, STUDENT, DISTILLED = "teacher", "student", "distilled"
HOSTS = (TEACHER, STUDENT, DISTILLED)
"""The models that are asked: the student is the one before training."""
