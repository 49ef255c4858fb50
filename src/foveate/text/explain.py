"""The command `explain`: from texts, wherever they are, to explanations, wherever they are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from foveate.text import streaming
from foveate.text.streaming import Outcome, stream

if TYPE_CHECKING:
    from foveate.text.corpus import Worker


@dataclass(frozen=True)
class Settings(streaming.Settings):
    """Find the tokens that carry a classifier's decision: with them masked, it falls.

    A text that begins with a dash goes after `--`. Rows that cannot be read or explained are named on stderr, the
    others are explained, and the exit status is 1; where none could be, it is 2.
    """

    target: Annotated[str | None, tyro.conf.arg(metavar="LABEL")] = None
    """The label to explain, by name or number; if not given, the predicted one."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="P")] = None
    """The drop in probability that counts as explained; if not given, what the agent learned to reach, mostly 0.8."""


def explain(settings: Settings) -> Outcome:
    """Explain the texts that are asked for; as `stream` has it."""

    def worker() -> Worker:
        from foveate.text.corpus import ExplainRows
        from foveate.text.explainer import Explainer

        explainer = Explainer.from_pretrained(threshold=settings.threshold, **settings.options())
        return ExplainRows(explainer, settings.target, settings.verify)

    return stream(settings, worker)
