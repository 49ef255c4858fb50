"""Loading TextAttack, which would fetch data and set environment variables, logging and random states as it pleases."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from foveate.errors import RequestError


@cache
def textattack() -> ModuleType:
    """`foveate.text.opponents.harness`, and TextAttack with it; neither fetches anything.

    To be called inside `nltk_data`: TextAttack reads NLTK's stopwords while it is imported. Raises RequestError where
    it is missing or does not load.
    """
    environment = dict(os.environ)
    try:
        # What these keep of the environment must not be TextAttack's temporary directory.
        for package in ("datasets", "flair"):
            import_module(package)
        with tempfile.TemporaryDirectory() as folder:
            # The mark of a finished installation: without it, importing TextAttack asks for six downloads.
            (Path(folder) / "post_install_check_3").touch()
            os.environ["TA_CACHE_DIR"] = folder
            return import_module("foveate.text.opponents.harness")
    except (ImportError, AttributeError) as error:
        # An AttributeError is how an old `datasets` meets a new pyarrow.
        raise RequestError(f"TextAttack does not load ({error}): pip install 'foveate[attacks]'") from error
    finally:
        for key in set(os.environ) - set(environment):
            del os.environ[key]
        os.environ.update({k: v for k, v in environment.items() if os.environ.get(k) != v})
        logging.getLogger("textattack.shared.utils.install").setLevel(logging.ERROR)


@contextmanager
def nltk_data(places: list[str]) -> Iterator[None]:
    """NLTK reads from these directories and downloads nothing, as long as this is open.

    Raises RequestError where NLTK does not find, or does not trust, what it is asked for.
    """
    import nltk
    from nltk.corpus import stopwords, wordnet

    path, download = list(nltk.data.path), nltk.download
    nltk.data.path[:] = [*places, *path]
    nltk.download = _nothing
    # A corpus that was read stays bound to its place, and NLTK refuses it once that is out of its path; to read it
    # anew takes seconds. So what was read of these places is put back while they are open, and else set aside.
    corpora = (stopwords, wordnet)
    outside = [_state(corpus) for corpus in corpora]
    for corpus, inside in zip(corpora, _read.get(tuple(places), [None] * len(corpora)), strict=True):
        vars(corpus).get("_unload", _nothing)()
        if inside is not None:
            _restore(corpus, inside)
    try:
        yield
    except (LookupError, PermissionError) as error:
        if isinstance(error, KeyError | IndexError):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip(" *")), type(error).__name__)
        raise RequestError(f"NLTK cannot read its data in {', '.join(places)}: {reason}") from error
    finally:
        _read[tuple(places)] = [_state(corpus) for corpus in corpora]
        for corpus, before in zip(corpora, outside, strict=True):
            _restore(corpus, before)
        nltk.data.path[:] = path
        nltk.download = download


_State = tuple[type, dict[str, Any]]
_read: dict[tuple[str, ...], list[_State]] = {}
"""NLTK's corpora as they were left, by the directories that they were read from."""


def _state(corpus: Any) -> _State:
    return type(corpus), dict(vars(corpus))


def _restore(corpus: Any, state: _State) -> None:
    corpus.__class__ = state[0]
    vars(corpus).clear()
    vars(corpus).update(state[1])


def _nothing(*args: object, **kwargs: object) -> bool:
    return False


@contextmanager
def drawn() -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds the generators that TextAttack draws from; they end as they were."""
    states = random.getstate(), np.random.get_state()

    def seed(value: int) -> None:
        random.seed(value)
        np.random.seed(value)

    try:
        yield seed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
