"""A group of commands of which one need not be named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class DefaultCommandGroup(TyperGroup):
    """Hands its arguments to its command `run` if the first of them names no other command.

    So `vla eval CONFIG` and `vla eval plan` live side by side; a config file called `plan` is
    written `./plan`.
    """

    default = "run"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, *ctx.help_option_names}
        # without arguments too: the command says which one it misses
        if not args or args[0] not in known:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of the default command, as if it were the group's, then the other commands."""
        self.commands[self.default].format_help(ctx, formatter)
        self.format_commands(ctx, formatter)
