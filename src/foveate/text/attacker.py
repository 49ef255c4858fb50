"""Attacker: one call from texts to attacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import nn

from foveate.errors import RequestError
from foveate.masking.goal import Attack, Goal, Task
from foveate.text import opponents
from foveate.text.agent import Agent
from foveate.text.attack_result import AttackResult, masked_result
from foveate.text.classifier import Replacement, TextClassifier
from foveate.text.encoded import Encoded, Text
from foveate.text.explainer import Explainer, single
from foveate.text.fill import filler
from foveate.text.filling import FillSettings
from foveate.text.methods import METHODS, opens, run
from foveate.text.minimality import verify as verify_minimality
from foveate.text.opponents import OPPONENTS, Resources
from foveate.text.probe import Probe
from foveate.text.protect import pattern, without_protected


class Attacker(Explainer):
    """A classifier, and the method that changes its predictions."""

    task: Task = "attack"
    methods = (*METHODS, *OPPONENTS)

    def __init__(
        self,
        classifier: TextClassifier,
        *,
        method: str = "agent",
        agent: Agent | str | Path | None = None,
        max_steps: int = 100,
        filling: FillSettings | None = None,
        keep: Sequence[str] = (),
        attack_wrong: bool = False,
    ) -> None:
        """`agent` as for an Explainer; by default the classifier's own attacker, or else the general one.
        `filling` says what stands in the place of the tokens found; by default they stay masked. `keep` names words
        that are left alone (see `foveate.text.protect`). `attack_wrong=True` attacks texts too that the classifier
        got wrong from the start.

        Raises RequestError where the method or the agent is unknown, a number out of its range, or something that the
        filling needs is missing.
        """
        super().__init__(classifier, method=method, agent=agent, max_steps=max_steps)
        if method in OPPONENTS and (keep or attack_wrong or (filling and filling.fill != "mask")):
            raise RequestError(f"{method} has words of its own: leave out --fill, --keep and --attack-wrong")
        if method in OPPONENTS:
            self.at_once = 4  # They take texts one by one, seconds each.
        self.filling = filling or FillSettings()
        self._fill = filler(self.filling, keep)
        pattern(keep)  # What cannot be read is said before anything is attacked.
        self.keep = tuple(keep)
        self.attack_wrong = attack_wrong

    def _goal(self, threshold: float | None) -> Goal:
        return Attack()

    @property
    def fill(self) -> str:
        """What stands in the place of the tokens found, as each result's `fill` has it."""
        if self.method in OPPONENTS:
            return "words"
        if self.filling.fill == "mask" and not self.classifier.shown_mask:
            return "delete"
        return self.filling.fill

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        model: str | Path | tuple[nn.Module, Any] | None = None,
        *,
        method: str = "agent",
        agent: Agent | str | Path | None = None,
        max_steps: int = 100,
        filling: FillSettings | None = None,
        keep: Sequence[str] = (),
        attack_wrong: bool = False,
        replacement: Replacement | None = None,
        batch_size: int = 32,
        device: str | torch.device | None = None,
    ) -> Attacker:
        """An attacker of a classifier: a hub id, a directory, a (model, tokenizer) pair, or None for the embedded one.

        Raises RequestError where the classifier cannot be loaded, and as `Attacker` does.
        """
        classifier = TextClassifier.from_pretrained(
            "emotion" if model is None else model, replacement=replacement, batch_size=batch_size, device=device
        )
        return cls(
            classifier,
            method=method,
            agent=agent,
            max_steps=max_steps,
            filling=filling,
            keep=keep,
            attack_wrong=attack_wrong,
        )

    @overload  # type: ignore[override]
    def __call__(self, texts: Text, *, truths: str | int | None = None, verify: bool = False) -> AttackResult: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(
        self, texts: Sequence[Text], *, truths: Sequence[str | int | None] | None = None, verify: bool = False
    ) -> list[AttackResult]: ...

    def __call__(self, texts: Any, *, truths: Any = None, verify: bool = False) -> AttackResult | list[AttackResult]:
        """Attack a text, a (premise, hypothesis) pair (a tuple), or a list of them.

        `truths` are the true labels, by name or number, as many as texts; a text that the classifier got wrong is
        skipped. `verify` checks that every masked token is needed. Raises RequestError where a text is empty or has
        no token that can be masked, or a label is unknown.
        """
        if single(texts):
            [result] = self.attempt([texts], truths=[truths], verify=verify)
            if isinstance(result, RequestError):
                raise result
            return result
        return list(self.attack_stream(zip(texts, truths or [None] * len(texts), strict=True), verify=verify))

    def attack_stream(
        self, texts: Iterable[tuple[Text, str | int | None]], *, verify: bool = False
    ) -> Iterator[AttackResult]:
        """Attack (text, truth) pairs as they come, `at_once` at a time, in their order; raises as a call does."""
        remaining = iter(texts)
        number = 0
        while chunk := list(islice(remaining, self.at_once)):
            for result in self.attempt([t for t, _ in chunk], truths=[truth for _, truth in chunk], verify=verify):
                if isinstance(result, RequestError):
                    raise RequestError(f"text {number}: {result}")
                number += 1
                yield result

    def attempt(  # type: ignore[override]
        self, texts: Sequence[Text], *, truths: Sequence[str | int | None] | None = None, verify: bool = False
    ) -> list[AttackResult | RequestError]:
        """Attack texts all at once; one that cannot be attacked has its error in its place, and harms no other."""
        labels: list[int | None] = []
        errors: dict[int, RequestError] = {}
        for i, truth in enumerate(truths or [None] * len(texts)):
            try:
                labels.append(self.label_index(truth))
            except RequestError as error:
                labels.append(None)
                errors[i] = error

        def attack(encoded: Encoded, places: Sequence[int]) -> Sequence[AttackResult]:
            return self._attack(encoded, [labels[i] for i in places], verify)

        return cast(list[AttackResult | RequestError], self._attempt(texts, attack, errors))

    def _attack(self, encoded: Encoded, truths: Sequence[int | None], verify: bool) -> list[AttackResult]:
        if self.method in OPPONENTS:
            return self._oppose(encoded, truths)
        probe = Probe(
            self.classifier,
            without_protected(encoded, self.keep),
            truths=None if self.attack_wrong else truths,
            opened=not opens(self.method),
        )
        # The same draws for every chunk: what is found in a text does not depend on how many came before.
        rng = torch.Generator().manual_seed(0)
        found = run(self.method, probe, self.goal, rng, self.agent, self.max_steps)
        if verify:
            found = verify_minimality(probe, found, self.goal)
        names = [None if t is None else self.classifier.labels[t] for t in truths]
        results = [
            masked_result(one, self.classifier.shown_mask, name, skipped=skipped)
            for one, name, skipped in zip(found, names, probe.skipped.tolist(), strict=True)
        ]
        return self._signed(self._fill(self.classifier, results))

    def _oppose(self, encoded: Encoded, truths: Sequence[int | None]) -> list[AttackResult]:
        """What an opponent with words of its own makes of the texts."""
        resources = Resources(self.filling.resources, self.filling.mlm)
        rng = torch.Generator().manual_seed(0)
        found = opponents.attack(self.method, Probe(self.classifier, encoded), rng, resources, truths=truths)
        return self._signed(found)

    def _signed(self, results: Sequence[AttackResult]) -> list[AttackResult]:
        return [replace(result, fill=self.fill, explainer=self) for result in results]
