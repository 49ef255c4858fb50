"""foveate: what did a network look at when it decided, and does that claim survive a test?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.errors import RequestError
    from foveate.text.agent import Agent
    from foveate.text.attack_result import AttackResult, Edit
    from foveate.text.attacker import Attacker
    from foveate.text.classifier import TextClassifier
    from foveate.text.explainer import Explainer
    from foveate.text.explanation import Explanation, Step, Token
    from foveate.text.explanation_files import load, read, save

_HOMES = {
    "Agent": "foveate.text.agent",
    "AttackResult": "foveate.text.attack_result",
    "Attacker": "foveate.text.attacker",
    "Edit": "foveate.text.attack_result",
    "Explainer": "foveate.text.explainer",
    "Explanation": "foveate.text.explanation",
    "RequestError": "foveate.errors",
    "Step": "foveate.text.explanation",
    "TextClassifier": "foveate.text.classifier",
    "Token": "foveate.text.explanation",
    "load": "foveate.text.explanation_files",
    "read": "foveate.text.explanation_files",
    "save": "foveate.text.explanation_files",
}

__all__ = [
    "Agent",
    "AttackResult",
    "Attacker",
    "Edit",
    "Explainer",
    "Explanation",
    "RequestError",
    "Step",
    "TextClassifier",
    "Token",
    "load",
    "read",
    "save",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use (PEP 562), so that `import foveate` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
