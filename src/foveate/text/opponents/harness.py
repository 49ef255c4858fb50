"""TextAttack over a probe: its searches and constraints ask our classifier, and every row that they ask is counted.

Imported by `foveate.text.opponents.loading.textattack` alone, which keeps TextAttack's import from reaching out.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import torch
from jaxtyping import Float
from textattack import Attack as Search
from textattack.goal_function_results import GoalFunctionResult
from textattack.goal_functions import UntargetedClassification
from textattack.models.wrappers import ModelWrapper
from textattack.shared import AttackedText
from torch import Tensor

from foveate.errors import RequestError
from foveate.text.encoded import Text
from foveate.text.opponents import recipes
from foveate.text.opponents.resources import Resources
from foveate.text.probe import Probe

COLUMNS = ("premise", "hypothesis")
"""What TextAttack's recipes call the two texts of a pair."""


class Exhausted(Exception):
    """The budget of queries is spent."""


class Victim(ModelWrapper):
    """Our classifier as TextAttack asks it, for one text of a probe at a time."""

    def __init__(self, probe: Probe, budget: int | None) -> None:
        self.probe = probe
        self.budget = budget
        self.model = probe.classifier.model
        self.tokenizer = probe.classifier.tokenizer
        self.row = 0
        self.opened = False

    def open(self, row: int) -> None:
        """Go on to another text, whose first prediction is free."""
        self.row, self.opened = row, False

    def __call__(self, texts: list[Text]) -> Float[Tensor, "texts labels"]:
        if self.opened:
            self.pay(len(texts))
        self.opened = True
        classifier = self.probe.classifier
        return classifier.predict(classifier.encode(texts)).probabilities

    def pay(self, rows: int) -> None:
        """Count so many rows; raises Exhausted where the budget does not hold them."""
        if rows > self.left:
            raise Exhausted
        self.probe.count(torch.full((rows,), self.row))

    @property
    def left(self) -> int:
        """The rows that may still be asked for this text."""
        return sys.maxsize if self.budget is None else self.budget - int(self.probe.queries[self.row])

    @property
    def target(self) -> int:
        return int(self.probe.label[self.row])


class Goal(UntargetedClassification):
    """Another label than the first, within a budget of rows that really go through the classifier.

    TextAttack's own count takes an answer that it remembers for a query, ours does not: what was paid for once is free
    to whoever keeps it, our own searches and these alike. Its memory is emptied after every text.
    """

    def __init__(self, victim: Victim) -> None:
        super().__init__(victim, model_batch_size=1024)
        self.victim = victim
        self.best: GoalFunctionResult | None = None

    def start(self, row: int) -> None:
        self.victim.open(row)
        self.best = None
        self.clear_cache()

    def get_results(
        self, attacked_text_list: list[AttackedText], check_skip: bool = False
    ) -> tuple[list[GoalFunctionResult], bool]:
        """Raises Exhausted where the budget ends; what was asked until then is in `best`."""
        asked = self._within_budget(attacked_text_list)
        results, _ = super().get_results(asked, check_skip)
        for result in results:
            if self.best is None or result.score > self.best.score:
                self.best = result
        if len(asked) < len(attacked_text_list):
            raise Exhausted
        return results, False

    def _within_budget(self, texts: list[AttackedText]) -> list[AttackedText]:
        if not self.victim.opened:
            return texts
        left = self.victim.left
        for i, text in enumerate(texts):
            left -= text not in self._call_model_cache
            if left < 0:
                return texts[:i]
        return texts

    def _process_model_outputs(self, inputs: Any, scores: Any) -> Any:
        # They are probabilities already; TextAttack would take another softmax where rounding keeps their sum from 1.
        return scores


class Opponent:
    """One of TextAttack's recipes, attacking texts of a probe."""

    def __init__(self, name: str, probe: Probe, resources: Resources, budget: int | None) -> None:
        """Raises RequestError where a resource cannot be read."""
        victim = Victim(probe, budget)
        self.goal = Goal(victim)
        transformation, constraints, search = recipes.RECIPES[name](victim, resources)
        self.search = Search(self.goal, constraints, transformation, search)

    def attack(self, row: int, text: Text) -> Text:
        """The text that the attack ends in: the adversarial one, or of those asked the one that came closest.

        Raises RequestError where TextAttack cannot read the text.
        """
        if any(AttackedText.SPLIT_TOKEN in part for part in ([text] if isinstance(text, str) else text)):
            raise RequestError(f"TextAttack divides texts at {AttackedText.SPLIT_TOKEN}: leave out {text!r:.60}")
        self.goal.start(row)
        given = text if isinstance(text, str) else OrderedDict(zip(COLUMNS, text, strict=True))
        try:
            found = self.search.attack(given, self.goal.victim.target).perturbed_result
        except Exhausted:
            found = self.goal.best
        finally:
            self.search.clear_cache()
        return found.attacked_text.tokenizer_input
