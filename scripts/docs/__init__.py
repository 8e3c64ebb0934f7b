"""What turns docs/ into the site: mkdocs calls `hooks.py`; the other files do one thing each."""
