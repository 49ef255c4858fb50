"""Resources: the tables, word lists and models that opponents need, found in a directory and never downloaded."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from foveate.errors import RequestError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class Piece:
    """A part of NLTK's data."""

    title: str
    place: str
    """In an nltk_data directory."""
    zips: str
    """The zip in a resource directory that holds it."""


PIECES = {
    "stopwords": Piece("NLTK's stopwords", "corpora/stopwords", "*stopwords*.zip"),
    "wordnet": Piece("NLTK's WordNet", "corpora/wordnet", "*wordnet*wndb*.zip"),
    "tagger": Piece(
        "NLTK's part-of-speech tagger",
        "taggers/averaged_perceptron_tagger_eng",
        "*averaged_perceptron_tagger_eng*.zip",
    ),
    "tagset": Piece("NLTK's universal tagset", "taggers/universal_tagset", "*universal_tagset*.zip"),
}
FILES = {
    "neighbours": "counterfitted_neighbors*.json*",
    "sememes": "sememe_candidates*.json*",
    "scpn": "scpn_candidates.jsonl*",
    "gan": "gan_candidates.jsonl*",
}
TITLES = {
    "neighbours": "a table of counter-fitted neighbours {word: [words]}, counterfitted_neighbors*.json(.gz)",
    "sememes": "a table of words that share sememes {word: {pos: [words]}}, sememe_candidates*.json(.gz)",
    "scpn": 'the paraphrases of a trained SCPN, lines {"text", "pair", "candidates"} in scpn_candidates.jsonl(.gz)',
    "gan": 'the texts of a trained generator, lines {"text", "pair", "candidates"} in gan_candidates.jsonl(.gz)',
    "mlm": "a masked language model",
    **{kind: piece.title for kind, piece in PIECES.items()},
}
"""What each kind of resource is, as an error names it."""


@dataclass(frozen=True)
class Resources:
    """Where the opponents' resources are."""

    folder: Path | None = None
    """Tables, and NLTK's data as zips or laid out in `nltk_data`."""
    mlm: str | Path | None = None
    """The directory of a masked language model."""

    def file(self, kind: str) -> Path | None:
        """The file of one of `FILES`, the first by name; None where there is none."""
        return min(self.folder.glob(FILES[kind]), default=None) if self.folder else None

    def has(self, kind: str) -> bool:
        """Whether this kind of resource is there, or can be laid out of a zip that is."""
        if kind == "mlm":
            return self.mlm is not None
        if kind in FILES:
            return self.file(kind) is not None
        return self._laid_out(kind) is not None or self._zip(kind) is not None

    def nltk_data(self, kinds: Iterator[str] | tuple[str, ...]) -> list[str]:
        """Directories of NLTK's data that hold these pieces between them, laid out first where there are but zips."""
        found = []
        for kind in kinds:
            place = self._laid_out(kind)
            if place is None:
                place = cache()
                assert self.folder is not None, "`has` says what is there"
                prepare(self.folder, place)
            found.append(str(place))
        return list(dict.fromkeys(found))

    def _laid_out(self, kind: str) -> Path | None:
        named = [Path(part) for part in os.environ.get("NLTK_DATA", "").split(os.pathsep) if part]
        own = [self.folder / "nltk_data", self.folder] if self.folder else []
        usual = [Path(base) / "nltk_data" for base in (Path.home(), sys.prefix, "/usr/share", "/usr/local/share")]
        for root in (*own, *named, cache(), *usual):
            # NLTK's own downloader leaves some of it packed.
            for place in (root / PIECES[kind].place, root / f"{PIECES[kind].place}.zip"):
                # NLTK reads nothing that another account could have written.
                if place.exists() and not any(p.stat().st_mode & _OTHERS for p in (root, place)):
                    return root
        return None

    def _zip(self, kind: str) -> Path | None:
        return min(self.folder.glob(PIECES[kind].zips), default=None) if self.folder else None


def cache() -> Path:
    """Where NLTK's data is laid out that is given as zips."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foveate" / "nltk_data"


def prepare(folder: Path, nltk_data: Path) -> list[Path]:
    """Lay NLTK's data out from the zips in `folder`; says what was laid out.

    What is there already stays as it is. Nobody but the owner can write what is made, or NLTK would not read it.
    """
    made = []
    for piece in PIECES.values():
        source = min(Path(folder).glob(piece.zips), default=None)
        target = nltk_data / piece.place
        if source is None or target.exists():
            continue
        _private(target.parent, nltk_data)
        # A name of its own until all of it is there: another process may be doing the same.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
            with zipfile.ZipFile(source) as packed:
                packed.extractall(name)
            for path in (unpacked := Path(name) / target.name).rglob("*"):
                path.chmod(path.stat().st_mode & ~_OTHERS)
            unpacked.chmod(0o755)
            try:
                os.rename(unpacked, target)
            except OSError:
                if not target.is_dir():
                    raise
                shutil.rmtree(unpacked)
                continue
        made.append(target)
    return made


def _private(folder: Path, root: Path) -> None:
    """Make a directory, and those above it up to `root`, that its owner alone can write to."""
    for place in reversed([folder, *(p for p in folder.parents if p == root or root in p.parents)]):
        if not place.exists():
            place.mkdir(parents=True)
            place.chmod(0o755)


@lru_cache(maxsize=4)
def table(path: Path) -> Mapping[str, Any]:
    """A JSON object, gzipped or not. Raises RequestError where it is none."""
    try:
        values = json.loads(_bytes(path))
    except (OSError, EOFError, ValueError) as error:
        raise RequestError(f"cannot read {path}: {error}; give another as --resources") from error
    if not isinstance(values, dict):
        raise RequestError(f"{path} is no table of words: it must be a JSON object")
    return values


@lru_cache(maxsize=4)
def generated(path: Path) -> Mapping[tuple[str, str | None], tuple[tuple[str, str | None], ...]]:
    """What a generator made of each text, best first: {(text, pair): ((text, pair), ...)}.

    A candidate of a pair is a [text, pair] list. Raises RequestError where the file holds something else.
    """
    found = {}
    try:
        for line in _bytes(path).decode().splitlines():
            values = json.loads(line)
            candidates = [(c, None) if isinstance(c, str) else (str(c[0]), str(c[1])) for c in values["candidates"]]
            found[values["text"], values.get("pair")] = tuple(candidates)
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RequestError(
            f'cannot read {path}: {error}; its lines are {{"text": ..., "pair": ..., "candidates": [...]}}'
        ) from error
    return found


def _bytes(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
