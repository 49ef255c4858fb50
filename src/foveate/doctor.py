"""What is installed, what is missing, and how to mend it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
EMBEDDED = (
    "emotion-classifier",
    *(f"agents/{name}" for name in ("emotion", "emotion-attack", "general", "general-attack")),
    *(f"players/{game}-{name}" for game in ("breakout", "minatar-space-invaders") for name in ("mask-a3c", "s3ta")),
)
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pyarrow", "matplotlib")
EXTRAS = {
    "ale-py": "Atari",
    "minatar": "MinAtar",
    "imageio-ffmpeg": "films of played games",
    "captum": "SHAP, occlusion and integrated gradients",
    "lime": "LIME",
    "datasets": "texts from the Hugging Face hub",
    "wandb": "logging to Weights & Biases",
}
AGENTS = dict.fromkeys(("ale-py", "minatar", "imageio-ffmpeg"), "agents")
"""Packages of the extra that is not called as they are."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    state: str
    """A version, a place, or what is wrong."""
    sound: bool = True
    """False where foveate cannot do all that it should."""
    mend: str = ""
    """What to type to have it."""


def examine() -> list[Finding]:
    """Look at this installation. Nothing heavy is imported but torch, and nothing is fetched."""
    findings = [
        Finding("foveate", _version("foveate") or "not installed"),
        Finding("Python", platform.python_version()),
    ]
    for name in NEEDED:
        found = _version(name)
        findings.append(Finding(name, found or "missing", bool(found), "" if found else f"pip install {name}"))
    findings.append(_accelerator())
    for model in EMBEDDED:
        whole = all((ASSETS / model / file).is_file() for file in ("config.json", "model.safetensors"))
        state, mend = ("embedded", "") if whole else ("missing or broken", "pip install --force-reinstall foveate")
        findings.append(Finding(model, state, whole, mend))
    for name, purpose in EXTRAS.items():
        found = _version(name)
        extra = AGENTS.get(name, name)
        mend = "" if found else f"pip install 'foveate[{extra}]'"
        findings.append(Finding(name, found or f"not installed ({purpose})", mend=mend))
    findings += _opponents()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    findings.append(
        Finding("Hugging Face hub", "not asked (HF_HUB_OFFLINE)" if offline else "asked where a name needs it")
    )
    return findings


def _opponents() -> list[Finding]:
    """TextAttack, and each attack that is held against ours: whether it can run, and what is missing where."""
    found = _version("textattack")
    install = "pip install 'foveate[attacks]'"
    findings = [
        Finding("textattack", found or "not installed (opponents of attacks)", mend="" if found else install),
    ]
    if find_spec("torch") is None:
        return findings
    from foveate.text.opponents.registry import OPPONENTS, lacks
    from foveate.text.opponents.resources import Resources

    for name in OPPONENTS:
        missing = lacks(name, Resources())
        state, mend = (f"not run: needs {missing[0]}", missing[1]) if missing else ("can run", "")
        findings.append(Finding(f"attack {name}", state, mend=mend))
    return findings


def _accelerator() -> Finding:
    if find_spec("torch") is None:
        return Finding("device", "none without torch", False, "pip install torch")
    import torch

    if torch.cuda.is_available():
        return Finding("device", f"cuda ({torch.cuda.get_device_name()})")
    return Finding("device", f"cpu, {torch.get_num_threads()} threads")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
