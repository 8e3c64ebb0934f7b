"""Errors that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """What was given is wrong, and the message says how to mend it: the command line prints it
    without a traceback."""


class Notice(Warning):
    """Something that the user should know, and that changes nothing: the command line shows it in
    one line."""


class DataWarning(Notice):
    """Something of a dataset is odd or was left out, and it can be read all the same. The message
    names the dataset, and the key that reads what was left out."""


class ConfigError(UserError):
    """A config is wrong. `problems` holds one line for each mistake: key, what was expected,
    remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))
