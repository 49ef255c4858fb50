"""PlayingAgent: a network, the environment it plays, and how it was trained. Saved and loaded the Hugging Face way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate import hub
from foveate.agents.games import EnvironmentSettings, atari_name, published_mask_a3c
from foveate.agents.models import build, settings_of
from foveate.agents.models.interface import AS_IT_IS, AgentInputs, AgentNetwork, AgentOutput, Edit, State
from foveate.agents.models.scaling import Whitened
from foveate.errors import RequestError
from foveate.hub import SafeHubMixin

EMBEDDED = Path(__file__).parent.parent / "assets" / "players"


def embedded_players() -> tuple[str, ...]:
    """The names of the playing agents in the package."""
    return hub.embedded(EMBEDDED)


class PlayingAgent(nn.Module, SafeHubMixin, library_name="foveate", tags=["foveate", "reinforcement-learning"]):
    """A network that plays one environment.

    `from_pretrained`, `save_pretrained` and `push_to_hub` come from huggingface_hub: safetensors and a config.json.
    """

    def __init__(
        self,
        model: str,
        observation: Sequence[int],
        actions: int,
        environment: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        steps: int = 0,
        source: str | None = None,
        whiten: bool = False,
    ) -> None:
        """`model` is a name of `foveate.agents.models.MODELS`, `settings` the network's; `environment` are the
        `EnvironmentSettings` it was trained on, `observation` (channels, height, width) and `actions` what that has;
        `steps` is how many of the agent's steps it learned from, `source` where its weights are from; `whiten` shows
        it every pixel as its distance from the usual, which `foveate.agents.whitening` measures."""
        super().__init__()
        if unknown := environment.keys() - {f.name for f in fields(EnvironmentSettings)}:
            raise RequestError(f"environments have no setting {', '.join(sorted(unknown))}")
        self.model = model
        channels, height, width = observation
        self.observation = (channels, height, width)
        self.actions = actions
        played: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in environment.items()}
        self.environment = EnvironmentSettings(**played)
        self.steps = steps
        self.source = source
        self.network: AgentNetwork = build(model, self.observation, actions, settings)
        self.whiten = whiten
        if whiten:
            self.network.scale = Whitened(self.observation)

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of its maps."""
        return self.network.heads

    def initial_state(self, envs: int) -> dict[str, Tensor]:
        return self.network.initial_state(envs)

    def forward(
        self, inputs: AgentInputs, state: State, observe: bool = False, edit: Edit = AS_IT_IS
    ) -> tuple[AgentOutput, dict[str, Tensor]]:
        return self.network(inputs, state, observe, edit)

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **options: Any) -> str | None:
        """As the mixin's, but with every setting, so that a default which changes one day changes no saved agent."""
        return super().save_pretrained(save_directory, config=config or self.config(), **options)

    def config(self) -> dict[str, Any]:
        """What makes it again, but for its weights; plain JSON."""
        return {
            "model": self.model,
            "observation": self.observation,
            "actions": self.actions,
            "environment": asdict(self.environment),
            "settings": settings_of(self.network),
            "steps": self.steps,
            "source": self.source,
            "whiten": self.whiten,
        }

    def fingerprint(self) -> str:
        """Of the network, its settings and its weights (SHA-256): two agents that have it in common play alike."""
        about = [self.model, self.observation, self.actions, settings_of(self.network)]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def check(self, observation: tuple[int, int, int], actions: int, env: str) -> None:
        """Raises RequestError where an environment is not of the kind that the agent learned to play."""
        if (observation, actions) != (self.observation, self.actions):
            raise RequestError(
                f"this agent plays {self.environment.env} ({_size(self.observation)}, {self.actions} actions); "
                f"{env} has {_size(observation)} and {actions}; leave out --env, or take an agent of that game"
            )

    @classmethod
    def load(cls, name: str | Path) -> PlayingAgent:
        """An agent by the name of an embedded one, by directory, or by hub id; ready to play.

        Raises RequestError where there is none, or the directory holds something else.
        """
        return hub.load(cls, name, EMBEDDED, "playing agent")


def import_mask_a3c(file: str | Path) -> PlayingAgent:
    """An agent from weights that Mask-A3C's authors published (`trained_models/*.dat`, double mask and ConvLSTM).

    The game is read from the file's name. Raises RequestError where the file is not such a network, or its name does
    not begin with a game's.
    """
    try:
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        actions = len(state["actor_linear.weight"])
        renamed = _renamed(state)
    except FileNotFoundError as error:
        raise RequestError(f"no such file: {file}") from error
    except Exception as error:  # torch.load names no common class for what a foreign file can make it raise
        raise _foreign(file, error) from error
    word = Path(file).name.split("_")[0].split("-")[0].removesuffix("NoFrameskip")
    try:
        game = atari_name(word)
    except RequestError as error:
        raise RequestError(
            f"{Path(file).name} does not begin with a game's name, as in BreakoutNoFrameskip-v4_....dat; rename it"
        ) from error
    assert game is not None
    env = "ALE/" + "".join(part.capitalize() for part in game.split("_")) + "-v5"
    agent = PlayingAgent(
        model="mask-a3c",
        observation=(1, 80, 80),
        actions=actions,
        environment=asdict(published_mask_a3c(env)),
        source=f"{Path(file).name}, machine-perception-robotics-group/Mask-Attention_A3C (Apache-2.0)",
    )
    try:
        agent.network.load_state_dict(renamed)
    except RuntimeError as error:
        raise _foreign(file, error) from error
    return agent.eval().requires_grad_(False)


def _foreign(file: str | Path, error: Exception) -> RequestError:
    return RequestError(
        f"{file} is not a double-masked network of Mask-A3C with a ConvLSTM ({type(error).__name__}); give a .dat of "
        "its trained_models"
    )


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names as MaskA3C has them."""
    names = {f"conv{n + 1}": f"convolutions.{n}.conv" for n in range(3)}
    for theirs, ours in (("a", "policy"), ("c", "value")):
        names |= {f"att_conv_{theirs}1": f"{ours}.mask", f"{theirs}_conv": f"{ours}.features"}
    names |= {"actor_linear": "policy.output", "critic_linear": "value.output"}
    joint = "convlstm1.conv"
    renamed = {
        f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": tensor
        for name, tensor in state.items()
        if not name.startswith(joint)
    }
    # One convolution of inputs and hidden state together is the sum of one of each.
    weight = state[f"{joint}.weight"]
    inputs = weight.shape[1] - len(weight) // 4
    renamed["memory.input.weight"] = weight[:, :inputs].contiguous()
    renamed["memory.recurrent.weight"] = weight[:, inputs:].contiguous()
    renamed["memory.input.bias"] = state[f"{joint}.bias"]
    return renamed


def _size(observation: Sequence[int]) -> str:
    return " × ".join(str(n) for n in observation)
