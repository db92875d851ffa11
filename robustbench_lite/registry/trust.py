"""What a name may lead to, by where the text came from that has it."""

from __future__ import annotations

import enum

from robustbench_lite.errors import UsageError


class Trust(enum.IntEnum):
    """What a name may lead to, by where its text entered.

    Everything that takes one denies by default.
    """

    REGISTERED = 0
    """Text of a file (board, card, record, options): registered names and built-in networks."""
    INSTALLED = 1
    """Text that was typed, or passed by Python: ``package.module:Class`` too."""
    ANY = 2
    """Whatever the text came from, the user has said ``--allow-code``: ``file.py:factory`` too."""

    @property
    def in_files(self) -> Trust:
        """The same for names in a file that is named.

        Who types the name of a card has not typed what stands in it.
        """
        return self if self == Trust.ANY else Trust.REGISTERED

    def require(self, needed: Trust, what: str, name: str) -> None:
        """Refuse a name, before anything of it is imported, unless this trust is enough.

        Args:
            needed: the least trust that the name takes.
            what: kind of thing that the name is of.
            name: what was written.

        Raises:
            UsageError: this trust is less than ``needed``.
        """
        if self < needed:
            known = (
                "a file may give registered names alone" if needed < Trust.ANY else "it runs a file"
            )
            raise UsageError(
                f"The {what} {name!r} names code, and {known}. If you trust that code, add "
                "--allow-code."
            )
