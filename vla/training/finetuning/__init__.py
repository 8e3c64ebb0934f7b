"""A trained policy goes on learning: on another robot, by adapters, or on tasks that disagree."""
