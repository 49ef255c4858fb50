"""Put a trained player into the package: python training/pack.py RUN NAME

Half the precision halves the package's weight; the model card tells what that does to the scores.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

PLAYERS = Path(__file__).parent.parent / "src" / "foveate" / "assets" / "players"


def pack(run: Path, name: str) -> None:
    kept = PLAYERS / name
    kept.mkdir(parents=True, exist_ok=True)
    weights = {key: tensor.half() for key, tensor in load_file(run / "agent" / "model.safetensors").items()}
    save_file(weights, kept / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(run / "agent" / "config.json", kept / "config.json")
    shutil.copyfile(run / "curve.csv", kept / "curve.csv")


if __name__ == "__main__":
    pack(Path(sys.argv[1]), sys.argv[2])
