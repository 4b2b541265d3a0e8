"""Help texts that say by words in capitals what is asked for."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

__all__ = ["Command"]


class Command(TyperCommand):
    """A command whose help names an argument as the usage does, without its type in Python."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the lines of arguments and options."""
        found: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for asked in self.get_params(ctx):
            name, text = asked.get_help_record(ctx) or ("", "")
            kind = asked.param_type_name
            found[kind].append((name if kind == "option" else asked.metavar or name, text))
        for kind, lines in found.items():
            if lines:
                with formatter.section(f"{kind.capitalize()}s"):
                    formatter.write_dl(lines)
