"""Agent: a trained value network, and what it looks at. Saved and loaded the Hugging Face way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveate import hub
from foveate.errors import RequestError
from foveate.hub import SafeHubMixin
from foveate.masking.game import Moves
from foveate.masking.goal import Task
from foveate.masking.qnetwork import NetworkSettings, build_network
from foveate.masking.state import State
from foveate.text.features import check_features, token_features

EMBEDDED = Path(__file__).parent.parent / "assets" / "agents"


def embedded_agents() -> tuple[str, ...]:
    """The names of the agents in the package; the one named as a classifier is that classifier's own."""
    return hub.embedded(EMBEDDED)


def embedded_name(classifier: str, task: Task) -> str:
    """What the agent of that classifier and task is called in the package; "general" for those of any classifier."""
    return classifier if task == "explain" else f"{classifier}-{task}"


class Agent(nn.Module, SafeHubMixin, library_name="foveate", tags=["foveate", "attexplainer"]):
    """Reads the state of each game and values the toggling of every token.

    `from_pretrained`, `save_pretrained` and `push_to_hub` come from huggingface_hub: safetensors and a config.json.
    """

    def __init__(
        self,
        features: Sequence[str],
        inputs: int,
        network: str = "pooled",
        width: int = 96,
        layers: int = 2,
        moves: Moves = "take-back",
        tolerance: float = 0.5,
        rounds: int = 1,
        classifier: str | None = None,
        threshold: float = 0.8,
        task: Task = "explain",
    ) -> None:
        """`features` are groups of `foveate.text.features.FEATURES`, `inputs` their width together; `classifier` names
        the one that the agent was trained on, null for an agent of any; `threshold` is the ε it learned to reach,
        `task` what it learned."""
        super().__init__()
        check_features(features)
        self.features = tuple(features)
        self.inputs = inputs
        self.moves: Moves = moves
        self.tolerance = tolerance
        self.rounds = rounds
        self.classifier = classifier
        self.threshold = threshold
        self.task: Task = task
        self.network = build_network(NetworkSettings(network, width, layers), inputs)  # type: ignore[arg-type]

    def look(self, state: State) -> Float[Tensor, "games tokens features"]:
        """The agent's features of each token.

        Raises RequestError where they do not have the width that the agent was trained with.
        """
        features = token_features(state, self.features)
        if features.shape[-1] != self.inputs:
            raise RequestError(
                f"this agent was trained for another classifier ({self.classifier}: {self.inputs} features a token, "
                f"here {features.shape[-1]}); use --agent {embedded_name('general', self.task)}, or train one with "
                "`foveate text train`"
            )
        return features

    def forward(
        self,
        features: Float[Tensor, "games tokens features"],
        visible: Bool[Tensor, "games tokens"],
        real: Bool[Tensor, "games tokens"],
    ) -> Float[Tensor, "games tokens"]:
        return self.network(features, visible, real)

    @torch.no_grad()
    def values(self, state: State) -> Float[Tensor, "games tokens"]:
        """Q of toggling each token; −∞ where that is not allowed."""
        return self(self.look(state), state.visible, state.real).masked_fill(~state.legal, -torch.inf)

    @classmethod
    def load(cls, name: str | Path) -> Agent:
        """An agent by the name of an embedded one, by directory, or by hub id; ready to play.

        Raises RequestError where there is none, or the directory holds something else.
        """
        return hub.load(cls, name, EMBEDDED, "agent")


def import_attexplainer(file: str | Path) -> Agent:
    """An agent from a value network that the paper's authors published (`report_weights/*.bin`).

    Raises RequestError where the file is not such a network.
    """
    agent = Agent(features=["statistics"], inputs=68, network="paper", moves="toggle", classifier=None)
    names = {"layer1": "hidden", "layer2": "output.0", "out": "output.2"}
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        renamed = {f"{names[k.rsplit('.', 1)[0]]}.{k.rsplit('.', 1)[1]}": v for k, v in state.items()}
        agent.network.load_state_dict(renamed)
    except FileNotFoundError as error:
        raise RequestError(f"no such file: {file}") from error
    except Exception as error:  # torch.load names no common class for what a foreign file can make it raise
        raise RequestError(
            f"{file} is not a value network of AttExplainer ({type(error).__name__}); give a .bin of its report_weights"
        ) from error
    return agent.eval().requires_grad_(False)
