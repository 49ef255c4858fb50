"""Analyses of playing agents by name. The file of that name is one: its settings, and `analyse(settings) -> Findings`.

`subject.py` says who is analysed, `findings.py` what becomes of the outcome; the other files are what analyses share.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from foveate.errors import RequestError

ANALYSES: dict[str, str] = {
    "attention": "how narrow is each head's attention, and which things of the game does it follow?",
    "hard-attention": "does play need what is attended to faintly?",
    "inject": "does the agent look at something new on its screen, and act upon it?",
    "heads": "what is each head good for?",
    "invert": "does play need the attention to lie where it lies?",
    "masking-game": "how few places must be blurred until it acts otherwise, and does it look at them?",
    "transitions": "how do the maps go from frame to frame, and what is looked at where the value turns?",
    "tripwires": "does it look to where things will be, and act when they cross a place that it watches?",
    "saliency": "does what changes policy and value when blurred lie where the agent looks?",
    "what-where": "does a head look at a place for what is there, or for where it is?",
}
"""What each asks, in a few words; the file has the same name, with underscores."""


def analysis(name: str) -> Any:
    """The module of an analysis: `Settings` and `analyse`. Raises RequestError for an unknown name."""
    if name not in ANALYSES:
        raise RequestError(f"there is no analysis {name!r}; there is {', '.join(ANALYSES)}")
    return import_module(f"{__name__}.{name.replace('-', '_')}")
