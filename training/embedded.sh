#!/usr/bin/env bash
# The agents in the package. A run that was stopped goes on when this is started again.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
train() { .venv/bin/foveate text train --resume --threads 1 --tolerance 0 "$@"; }
# The embedded classifier's own agent. Shown nothing, that classifier falls back to the shares of the labels, up to
# 0.34, so that a drop of 0.8 is beyond most texts: ε is 0.6.
train --model emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --threshold 0.6 --steps 20000 --run runs/emotion
# The general agent: features that fit any classifier, learned on three classifiers at once.
train --model ../shared/victims/emotion ../shared/victims/sst2 ../shared/victims/snli \
  --data $data/emotion/train.jsonl $data/sst2/train.jsonl.gz $data/snli/train_subset.jsonl.gz \
  --threshold 0.8 0.7 0.8 --features relative-histograms profile geometry context \
  --min-tokens 10 --games 66 --evaluate-texts 100 --steps 48000 --run runs/general
# Played with a tolerance of 0.5.
for name in emotion general; do sed -i 's/"tolerance": 0.0/"tolerance": 0.5/' runs/$name/agent/config.json; done
