#!/usr/bin/env bash
# The attackers of the README's tables, and those in the package; each takes 3 to 15 minutes a core. The explainers of
# training/victims.sh come first: two of the attackers learn on from them.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
train() { .venv/bin/foveate text train --task attack --resume --threads 1 --evaluate-texts 200 --rounds 2 "$@"; }
more() { train --learner.learning-rate 0.0003 "$@"; }
train --model ../shared/victims/snli --data $data/snli/train_subset.jsonl.gz \
  --validation $data/snli/validation.jsonl.gz --rounds 1 --steps 20000 --run runs/attackers/snli-first
more --model ../shared/victims/snli --data $data/snli/train_subset.jsonl.gz \
  --validation $data/snli/validation.jsonl.gz --start runs/attackers/snli-first/agent --tolerance 20 \
  --steps 8000 --evaluate-every 4000 --run runs/attackers/snli
more --model ../shared/victims/emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --start runs/victims/emotion/agent --steps 16000 --evaluate-every 8000 --run runs/attackers/emotion-first
more --model ../shared/victims/emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --start runs/attackers/emotion-first/agent --tolerance 20 --steps 8000 --evaluate-every 4000 \
  --run runs/attackers/emotion
more --model ../shared/victims/sst2 --data $data/sst2/train.jsonl.gz --texts 67349 --min-tokens 10 --tolerance 0 \
  --start runs/victims/sst2/agent --steps 20000 --run runs/attackers/sst2
# A tolerance of 20 never takes a step back. On the validation texts it was better than 0.5 on Emotion (1.95 queries
# against 2.12) and SNLI, and worse on SST-2. A second round solved one of the nine Emotion texts that were left, at 0.08
# queries a text (1,872 validation texts: 1.95 and 2.03), so one is played. On SST-2 later rounds solved three more of 750
# held out, at .6 queries a text more (docs/benchmarks/ablation.md).
sed -i 's/"rounds": 2/"rounds": 1/' runs/attackers/emotion/agent/config.json
# In the package: the embedded classifier's own, and the general one.
train --model emotion --start emotion --data $data/emotion/train.jsonl --validation $data/emotion/validation.jsonl \
  --steps 16000 --run runs/emotion-attack
train --model ../shared/victims/emotion ../shared/victims/sst2 ../shared/victims/snli --start general \
  --data $data/emotion/train.jsonl $data/sst2/train.jsonl.gz $data/snli/train_subset.jsonl.gz \
  --features relative-histograms profile geometry context --min-tokens 10 --games 66 --evaluate-texts 100 \
  --tolerance 2 --learner.learning-rate 0.0003 --steps 8000 --evaluate-every 4000 --run runs/general-attack
sed -i 's/"tolerance": 2.0/"tolerance": 0.5/' runs/general-attack/agent/config.json
