"""Networks that are kept the Hugging Face way: a directory, or a place on the hub, with config.json and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors import SafetensorError
from safetensors.torch import load_model

from foveate.errors import RequestError

Network = TypeVar("Network", bound="SafeHubMixin")


class SafeHubMixin(PyTorchModelHubMixin):
    """The mixin of huggingface_hub, but for its `from_pretrained`, which prints to standard output, passes over weights
    that are missing, and reads pickles."""

    @classmethod
    def _from_pretrained(
        cls: type[Network],
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        proxies: Any = None,
        resume_download: Any = None,
        **settings: Any,
    ) -> Network:
        network: Any = cls(**settings)
        weights = str(Path(model_id) / SAFETENSORS_SINGLE_FILE)
        if not Path(model_id).is_dir():
            weights = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        load_model(network, weights, strict=True)
        return network.eval()


def embedded(folder: Path) -> tuple[str, ...]:
    """The names of the networks in a folder of the package."""
    return tuple(sorted(place.name for place in folder.glob("*") if (place / "config.json").is_file()))


def load(kind: type[Network], name: str | Path, folder: Path, what: str) -> Network:
    """A network by the name of an embedded one in `folder`, by directory, or by hub id; ready to be used.

    `what` is what an error calls it. Raises RequestError where there is none, or the directory holds something else.
    """
    names = embedded(folder)
    place = str(folder / name if str(name) in names else name)
    try:
        if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
            raise KeyError  # from_pretrained would warn of it too
        network: Any = kind.from_pretrained(place)
    except (OSError, TypeError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, TypeError | KeyError):
            reason = "there is no config.json of one"
        raise RequestError(
            f"no {what} at {name!s} ({reason}); embedded agents: {', '.join(names) or 'none'}; or give a directory "
            "with config.json and model.safetensors"
        ) from error
    return network.eval().requires_grad_(False)
