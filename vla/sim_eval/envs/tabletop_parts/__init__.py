"""The tabletop's scene, language, goals and scripted expert."""
