#!/usr/bin/env bash
# The tables of the README: every method on the three classifiers of ../shared/victims, and on the embedded one.
# Needs the agents of training/victims.sh, and some hours. Goes on where it was stopped.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
foveate=.venv/bin/foveate
for name in emotion_explainer_1M sst2_explainer_460000 snli_explainer_300000; do
  $foveate import attexplainer ../shared/official/attexplainer/$name.bin --output runs/published/${name%%_*}
done
attributions=feature-ablation@100,feature-ablation:positive@100,occlusion@60,occlusion:positive@60
attributions+=,kernel-shap@40,kernel-shap:positive@40,lime@40,lime:positive@40,shapley-5@40,shapley-5:positive@40
attributions+=,shapley-25@15,shapley-25:positive@15,gradient-x-input@150,integrated-gradients@100
table() { # name, data, ε
  $foveate text benchmark --resume --model ../shared/victims/$1 --data $2 --threshold $3 --limit 2000 \
    --output runs/tables/$1 --faithfulness 100 --methods \
    agent=runs/victims/$1/agent,agent@500,agent=runs/published/$1@60,attention,attention-cls,attention-rollout,attention:positive,greedy@150,beam@40,exact@15,random@200,$attributions
}
table emotion $data/emotion/test.jsonl 0.8
table sst2 $data/sst2/validation.jsonl 0.7
table snli $data/snli/test.jsonl.gz 0.8
$foveate text benchmark --resume --data $data/emotion/test.jsonl --threshold 0.6 --output runs/tables/embedded \
  --methods agent,agent=general,attention,attention-cls,attention-rollout,random@500,greedy@300
