"""Networks of agents by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from foveate.agents.models import mask_a3c, s3ta
from foveate.agents.models.baselines import Residual, ResidualSettings
from foveate.agents.models.grid import small
from foveate.agents.models.interface import AgentNetwork
from foveate.agents.models.mask_a3c import MaskA3C, MaskA3CSettings
from foveate.agents.models.s3ta import S3TA, TO_THE_LETTER, S3TASettings
from foveate.errors import RequestError


class Kind(NamedTuple):
    """A network and its settings."""

    network: Callable[..., AgentNetwork]
    """Made of an observation, a number of actions and settings."""
    settings: type[Any]
    fixed: Mapping[str, Any] = {}
    """What the name alone says of them."""


MODELS: Mapping[str, Kind] = {
    "s3ta": Kind(S3TA, S3TASettings),
    "s3ta-paper": Kind(S3TA, S3TASettings, TO_THE_LETTER),
    "s3ta-fixed-query": Kind(S3TA, S3TASettings, {"queries": "fixed"}),
    "s3ta-l2-keys": Kind(S3TA, S3TASettings, {"queries": "l2-keys"}),
    "residual": Kind(Residual, ResidualSettings),
    "residual-lstm": Kind(Residual, ResidualSettings, {"lstm": True}),
    "a3c": Kind(MaskA3C, MaskA3CSettings, {"masks": "none"}),
    "policy-mask-a3c": Kind(MaskA3C, MaskA3CSettings, {"masks": "policy"}),
    "value-mask-a3c": Kind(MaskA3C, MaskA3CSettings, {"masks": "value"}),
    "mask-a3c": Kind(MaskA3C, MaskA3CSettings),
}


ON_SMALL_SCREENS: Mapping[Callable[..., AgentNetwork], dict[str, Any]] = {
    S3TA: s3ta.SMALL_SCREEN,
    MaskA3C: mask_a3c.SMALL_SCREEN,
}
"""Settings that a network has there unless it is told otherwise."""


def build(
    name: str, observation: tuple[int, int, int], actions: int, settings: Mapping[str, Any] | None = None
) -> AgentNetwork:
    """A network for screens of `observation` (channels, height, width) and so many actions.

    `settings` are those of the network that differ from their defaults, which are others on a small screen. Raises
    RequestError for an unknown name or setting, and for a value that no network can be made with.
    """
    if name not in MODELS:
        raise RequestError(f"no model is called {name!r}; there is {', '.join(MODELS)}")
    kind = MODELS[name]
    defaults = ON_SMALL_SCREENS.get(kind.network, {}) if small(observation) else {}
    asked = dict(settings or {}) | dict(kind.fixed)
    if unknown := asked.keys() - {f.name for f in fields(kind.settings)}:
        raise RequestError(f"the model {name} has no setting {', '.join(sorted(unknown))}")
    try:
        return kind.network(
            observation, actions, kind.settings(**{k: _tuples(v) for k, v in (defaults | asked).items()})
        )
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        told = ", ".join(f"{name}={value}" for name, value in asked.items())
        raise RequestError(f"no {name} can be made for screens of {observation} with {told} ({error})") from error


def settings_of(network: AgentNetwork) -> dict[str, Any]:
    """All its settings, as `build` takes them."""
    return asdict(network.settings)  # type: ignore[call-overload]


def _tuples(value: Any) -> Any:
    """JSON's lists as settings have them."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
