"""Workers that are watched and replaced, as processes or on a Ray cluster."""
