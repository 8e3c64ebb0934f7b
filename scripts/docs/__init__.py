"""What turns docs/ into the site: `hooks.py` is called by mkdocs, the other files do one thing each."""
