"""The evaluation core: objectives, evaluators, constraints, schedules, trees."""
