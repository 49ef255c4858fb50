"""Explain a model of one's own, already in memory: a (model, tokenizer) pair instead of a name."""

import sys

from transformers import AutoModelForSequenceClassification, AutoTokenizer

import foveate

place = sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(place)
tokenizer = AutoTokenizer.from_pretrained(place)

explainer = foveate.Explainer.from_pretrained((model, tokenizer), method="greedy", threshold=0.3)
for explanation in explainer(["i love the bright movie", "the film is awful"], verify=True):
    print(explanation)
