"""Train an agent on the pixels of an environment of one's own, here MiniGrid's; then score it and film it.

    pip install minigrid
    python examples/minigrid_pixels.py RUN [STEPS]

Any environment that gymnasium knows will do, if its actions are discrete and it shows a picture. What turns one into
such an environment, a wrapper, is registered with it.
"""

import sys
from pathlib import Path

import gymnasium
from gymnasium.spaces import Discrete
from gymnasium.wrappers import TransformAction
from minigrid.wrappers import RGBImgObsWrapper

from foveate.agents.evaluation import EvaluationSettings, evaluate
from foveate.agents.games import EnvironmentSettings
from foveate.agents.impala import ImpalaSettings
from foveate.agents.training import TrainSettings, train
from foveate.agents.watch import WatchSettings, watch


def pixels(render_mode: str) -> gymnasium.Env:
    """A room of 5 × 5 tiles of 8 × 8 pixels; the agent turns left or right or walks on, to the green one."""
    room = RGBImgObsWrapper(gymnasium.make("MiniGrid-Empty-Random-5x5-v0", render_mode=render_mode))
    return TransformAction(room, lambda action: action, Discrete(3))


gymnasium.register("Room-v0", entry_point=pixels)
run = Path(sys.argv[1])
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
agent = train(
    TrainSettings(
        run=str(run),
        environment=EnvironmentSettings("Room-v0"),
        model="mask-a3c",
        network=("memory=32", "features=16"),
        impala=ImpalaSettings(entropy_cost=0.003),
        steps=steps,
        log_every=2_000,
    )
)
print(evaluate(EvaluationSettings(str(agent), episodes=20, sample=True)).to_text())
filmed = watch(WatchSettings(str(agent), run / "room.mp4", sheet=run / "room.png", sample=True))
print(f"{run / 'room.mp4'}: {filmed.steps} steps, a return of {filmed.score:.2f}")
