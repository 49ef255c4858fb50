"""Explainer: one call from texts to explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import nn

from foveate.errors import RequestError
from foveate.masking.goal import Explain, Goal, Task, check_threshold
from foveate.text.agent import Agent, embedded_agents, embedded_name
from foveate.text.classifier import Replacement, TextClassifier
from foveate.text.encoded import Encoded, Text
from foveate.text.explanation import Explanation
from foveate.text.inputs import unreadable
from foveate.text.methods import METHODS, opens, run
from foveate.text.minimality import verify as verify_minimality
from foveate.text.probe import Probe

WIDE, NARROW = 256, 32
"""Texts worked on at once: many for methods that ask one row a text at a time, few for those that ask hundreds."""


class Explainer:
    """A classifier, and the method that explains its predictions."""

    task: Task = "explain"
    methods: tuple[str, ...] = METHODS
    """All that can be named."""

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        method: str = "agent",
        agent: Agent | str | Path | None = None,
        threshold: float | None = None,
        max_steps: int = 100,
    ) -> None:
        """`agent` is one of one's own or a name or directory; by default the one trained on the classifier, where
        there is one, or else the general one. `threshold` is ε, the drop in probability that counts as
        explained; by default that which the classifier's agent learned to reach, mostly 0.8.

        Raises RequestError where the method or the agent is unknown, or a number out of its range.
        """
        if method not in self.methods:
            near = _nearest(method, self.methods)
            raise RequestError(f"unknown method {method!r}{near}; there is {', '.join(self.methods)}")
        if threshold is not None:
            check_threshold(threshold)
        if max_steps < 1:
            raise RequestError(f"--max-steps must be 1 or more, not {max_steps}")
        if agent is not None and method != "agent":
            raise RequestError(f"an agent explains with the method 'agent', not with {method!r}; leave one of them out")
        self.classifier = classifier
        self.method = method
        self.max_steps = max_steps
        self.agent = find_agent(agent, classifier, self.task) if method == "agent" else None
        self.goal = self._goal(threshold)
        self.at_once = WIDE if method.startswith(("agent", "attention", "random")) else NARROW

    def _goal(self, threshold: float | None) -> Goal:
        return Explain(threshold or (self.agent or find_agent(None, self.classifier)).threshold)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | tuple[nn.Module, Any] | None = None,
        *,
        method: str = "agent",
        agent: Agent | str | Path | None = None,
        threshold: float | None = None,
        max_steps: int = 100,
        replacement: Replacement | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> Explainer:
        """An explainer of a classifier: a hub id, a directory, a (model, tokenizer) pair, or None for the embedded one.

        Raises RequestError where the classifier cannot be loaded, and as `Explainer` does.
        """
        classifier = TextClassifier.from_pretrained(
            "emotion" if model is None else model, replacement=replacement, batch_size=batch_size, device=device
        )
        return cls(classifier, method=method, agent=agent, threshold=threshold, max_steps=max_steps)

    @overload
    def __call__(self, texts: Text, *, target: str | int | None = None, verify: bool = False) -> Explanation: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(
        self, texts: Sequence[Text], *, target: str | int | None = None, verify: bool = False
    ) -> list[Explanation]: ...

    def __call__(
        self, texts: Text | Sequence[Text], *, target: str | int | None = None, verify: bool = False
    ) -> Explanation | list[Explanation]:
        """Explain a text, a (premise, hypothesis) pair (a tuple), or a list of them.

        `target` is the label whose probability is to fall, by name or number; by default the predicted one. `verify`
        checks that every masked token is needed. Raises RequestError where a text is empty or has no token that can
        be masked, or the label is unknown.
        """
        if single(texts):
            [result] = self.attempt([cast(Text, texts)], target=target, verify=verify)
            if isinstance(result, RequestError):
                raise result
            return result
        return list(self.explain_stream(texts, target=target, verify=verify))

    def explain_stream(
        self, texts: Iterable[Text], *, target: str | int | None = None, verify: bool = False
    ) -> Iterator[Explanation]:
        """Explain texts as they come, `at_once` at a time, in their order; raises as a call does."""
        remaining = iter(texts)
        number = 0
        while chunk := list(islice(remaining, self.at_once)):
            for result in self.attempt(chunk, target=target, verify=verify):
                if isinstance(result, RequestError):
                    raise RequestError(f"text {number}: {result}")
                number += 1
                yield result

    def attempt(
        self, texts: Sequence[Text], *, target: str | int | None = None, verify: bool = False
    ) -> list[Explanation | RequestError]:
        """Explain texts all at once; one that cannot be explained has its error in its place, and harms no other."""
        label = self.label_index(target)
        return self._attempt(texts, lambda encoded, _: self._explain(encoded, label, verify))

    def _attempt(
        self,
        texts: Sequence[Text],
        work: Callable[[Encoded, Sequence[int]], Sequence[Explanation]],
        errors: Mapping[int, RequestError] | None = None,
    ) -> list[Explanation | RequestError]:
        """What `work` makes of the texts that can be worked on, given with their places; errors in the others'."""
        results: list[Explanation | RequestError | None] = [
            (errors or {}).get(i) or refusal(text) for i, text in enumerate(texts)
        ]
        places = [i for i, result in enumerate(results) if result is None]
        encoded = self.classifier.encode([texts[i] for i in places])
        playable = encoded.maskable.any(1)
        rows = playable.nonzero().squeeze(1)
        found = iter(work(encoded.select(rows), [places[row] for row in rows.tolist()]) if len(rows) else [])
        for i, words in zip(places, playable.tolist(), strict=True):
            results[i] = next(found) if words else RequestError("the text has no token that can be masked; give words")
        return cast(list[Explanation | RequestError], results)

    def _explain(self, encoded: Encoded, label: int | None, verify: bool) -> list[Explanation]:
        target = None if label is None else torch.full((len(encoded),), label)
        probe = Probe(self.classifier, encoded, target=target, opened=not opens(self.method))
        # The same draws for every chunk: what is said of a text does not depend on how many came before.
        rng = torch.Generator().manual_seed(0)
        found = run(self.method, probe, self.goal, rng, self.agent, self.max_steps)
        if verify:
            found = verify_minimality(probe, found, self.goal)
        return [replace(explanation, explainer=self) for explanation in found]

    def label_index(self, target: str | int | None) -> int | None:
        """The number of a label that is given by name or number; raises RequestError where there is none."""
        return label_indices(self.classifier, [target])[0]


def find_agent(agent: Agent | str | Path | None, classifier: TextClassifier, task: Task = "explain") -> Agent:
    """The agent of that name or place; where none is named, the classifier's own for the task, or the general one."""
    if isinstance(agent, Agent):
        return agent
    if agent is None:
        own = embedded_name(classifier.name, task)
        agent = own if own in embedded_agents() else embedded_name("general", task)
    return Agent.load(agent)


def single(texts: Any) -> bool:
    """Whether it is one text: a string, or a tuple of two, where a list of two is two texts."""
    return isinstance(texts, str) or (isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[0], str))


def label_indices(classifier: TextClassifier, named: Sequence[str | int | None]) -> list[int | None]:
    """The numbers of labels that are given by name or number; raises RequestError where there is none of one."""
    labels = classifier.labels

    def index(label: str | int | None) -> int | None:
        if label is None or label in labels:
            return None if label is None else labels.index(str(label))
        number = int(label) if isinstance(label, int) or label.isdecimal() else -1
        if 0 <= number < len(labels):
            return number
        raise RequestError(
            f"unknown label {label!r}{_nearest(str(label), labels)}; there is "
            + ", ".join(f"{i} {name}" for i, name in enumerate(labels))
        )

    return [index(label) for label in named]


def refusal(text: Any) -> RequestError | None:
    """Why something is no text that can be explained; None where it is one."""
    parts = (text,) if isinstance(text, str) else text
    if (
        not isinstance(parts, tuple | list)
        or len(parts) not in (1, 2)
        or not all(isinstance(part, str) for part in parts)
    ):
        return RequestError(f"{text!r:.60} is no text; give a string, or a tuple of two")
    reasons = [reason for part in parts if (reason := unreadable(part))]
    return RequestError(f"the text {reasons[0]}; give one with words") if reasons else None


def _nearest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, 1)
    return f" (did you mean {near[0]}?)" if near else ""
