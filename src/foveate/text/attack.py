"""The command `attack`: from texts, wherever they are, to texts with another label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from foveate.text import streaming
from foveate.text.filling import FillSettings
from foveate.text.streaming import Outcome, stream

if TYPE_CHECKING:
    from foveate.text.corpus import Worker


@dataclass(frozen=True)
class Settings(streaming.Settings):
    """Change a classifier's decision by masking few tokens, or by putting others in their place.

    A text whose label is known and that the classifier got wrong from the start is skipped, and counted apart. A text
    that begins with a dash goes after `--`. Rows that cannot be read or attacked are named on stderr, the others are
    attacked, and the exit status is 1; where none could be, it is 2.
    """

    filling: Annotated[FillSettings, tyro.conf.arg(name="")] = field(default_factory=FillSettings)
    """What stands in the place of the tokens found."""
    keep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="negations|/REGEX/|FILE|WORD,WORD")] = ()
    """Words that are left alone."""
    label_column: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The column of the true label; found by its usual names if not given."""
    attack_wrong: bool = False
    """Attack the texts too that the classifier got wrong from the start."""


def attack(settings: Settings) -> Outcome:
    """Attack the texts that are asked for; as `stream` has it."""

    def worker() -> Worker:
        from foveate.text.attacker import Attacker
        from foveate.text.corpus import AttackRows

        attacker = Attacker.from_pretrained(
            filling=settings.filling, keep=settings.keep, attack_wrong=settings.attack_wrong, **settings.options()
        )
        return AttackRows(attacker, settings.verify)

    return stream(settings, worker, label_column=settings.label_column)
