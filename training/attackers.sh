#!/usr/bin/env bash
# The attackers of the README's tables, and those in the package; each takes 3 to 15 minutes a core. The explainers of
# training/victims.sh come first: two of the attackers learn on from them.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
train() { .venv/bin/foveate text train --task attack --resume --threads 1 --evaluate-texts 200 --rounds 2 "$@"; }
train --model ../shared/victims/emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --start runs/victims/emotion/agent --learner.learning-rate 0.0003 --steps 16000 --evaluate-every 8000 \
  --run runs/attackers/emotion
train --model ../shared/victims/sst2 --data $data/sst2/train.jsonl.gz --texts 67349 --min-tokens 10 --tolerance 0 \
  --start runs/victims/sst2/agent --learner.learning-rate 0.0003 --steps 20000 --run runs/attackers/sst2
train --model ../shared/victims/snli --data $data/snli/train_subset.jsonl.gz \
  --validation $data/snli/validation.jsonl.gz --steps 20000 --run runs/attackers/snli
# In the package: the embedded classifier's own, and the general one.
train --model emotion --start emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --steps 16000 --run runs/emotion-attack
train --model ../shared/victims/emotion ../shared/victims/sst2 ../shared/victims/snli --start general \
  --data $data/emotion/train.jsonl $data/sst2/train.jsonl.gz $data/snli/train_subset.jsonl.gz \
  --features relative-histograms profile geometry context --min-tokens 10 --games 66 --evaluate-texts 100 \
  --steps 16000 --run runs/general-attack
