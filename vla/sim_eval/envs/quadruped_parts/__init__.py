"""The quadruped's body, gait, scenes, language, goals and scripted expert."""
