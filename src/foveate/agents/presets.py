"""`foveate agent train --preset NAME`: settings that belong together, each a change of the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from foveate.agents.a3c import A3CSettings
from foveate.agents.impala import paper as paper_impala
from foveate.agents.training import TrainSettings


def paper(settings: TrainSettings) -> TrainSettings:
    """The learners as the papers have them: S3TA's appendix A.1, 32 unrolls of 50 steps; A3C's defaults are its own.

    S3TA itself to the letter is the model `s3ta-paper`.
    """
    return replace(settings, impala=paper_impala(), envs=32)


def minatar(settings: TrainSettings) -> TrainSettings:
    """What S3TA learned MinAtar's Breakout with; docs/agents/s3ta.md has what was tried beside it, and other games."""
    learner = A3CSettings(
        unroll=10,
        entropy_cost=0.02,
        learning_rate=1e-3,
        anneal=True,
        epsilon=1e-5,
        amsgrad=False,
        clip_norm=4.0,
    )
    return replace(settings, algorithm="a3c", a3c=learner)


def atari(settings: TrainSettings) -> TrainSettings:
    """What S3TA learned Atari's Breakout with, on a core: small grey screens, whitened, and a network for them."""
    learner = A3CSettings(
        unroll=10, learning_rate=5e-4, anneal=True, epsilon=1e-5, amsgrad=False, clip_norm=10.0
    )  # fmt: skip
    seen = replace(settings.environment, screen="grey", size=(64, 64), life_loss_ends=True)
    network = (
        "convolutions=[[4,2,16],[4,2,32],[3,2,32]]",
        "memory=32",
        "heads=8",
        "query_units=[128]",
        "answer_units=[256,128]",
        "core=128",
        "output=64",
    )
    return replace(settings, environment=seen, network=network, whiten=True, algorithm="a3c", a3c=learner)


PRESETS: Mapping[str, Callable[[TrainSettings], TrainSettings]] = {"paper": paper, "minatar": minatar, "atari": atari}
