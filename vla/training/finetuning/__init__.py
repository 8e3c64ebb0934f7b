"""A trained policy goes on learning: on another robot, with few of its parameters, or on tasks that disagree."""
