#!/usr/bin/env bash
# The explainers of the README's tables, one a classifier of ../shared/victims; each takes 5 to 20 minutes a core.
# A run that was stopped goes on when this is started again.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
train() { .venv/bin/foveate text train --resume --threads 1 --evaluate-texts 200 "$@"; }
train --model ../shared/victims/emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --rounds 2 --steps 32000 --evaluate-every 8000 --run runs/victims/emotion
train --model ../shared/victims/sst2 --data $data/sst2/train.jsonl.gz --threshold 0.7 --texts 67349 --min-tokens 10 \
  --tolerance 0 --steps 60000 --run runs/victims/sst2
train --model ../shared/victims/snli --data $data/snli/train_subset.jsonl.gz \
  --validation $data/snli/validation.jsonl.gz --tolerance 0 --steps 30000 --run runs/victims/snli
# How they play was chosen on the validation texts (SST-2: on training texts that were never dealt): two rounds, and on
# SNLI a tolerance of 0.5. There 0.5 and 0 gave 4.48 and 5.37 queries, on SST-2 .883 and .906 fidelity.
sed -i 's/"rounds": 1/"rounds": 2/' runs/victims/{sst2,snli}/agent/config.json
sed -i 's/"tolerance": 0.0/"tolerance": 0.5/' runs/victims/snli/agent/config.json
