"""Files and models that others made: loaded in one place, bounded, and without code of theirs."""
