#!/usr/bin/env bash
# The tables of the README: every method on the three classifiers of ../shared/victims, and on the embedded one.
# Needs the agents of training/victims.sh and training/attackers.sh, and some hours. Goes on where it was stopped.
# The opponents need the extra `attacks` (transformers 4.57): with ATTACKS=PYTHON that runs in an environment of its own.
set -eu
cd "$(dirname "$0")/.."
data=../shared/data
foveate=.venv/bin/foveate
for name in emotion_explainer_1M sst2_explainer_460000 snli_explainer_300000; do
  $foveate import attexplainer ../shared/official/attexplainer/$name.bin --output runs/published/${name%%_*}
done

attributions=feature-ablation@64,feature-ablation:positive@64,occlusion@64,occlusion:positive@64
attributions+=,kernel-shap@32,kernel-shap:positive@32,lime@32,lime:positive@32,shapley-5@32,shapley-5:positive@32
attributions+=,shapley-25@8,shapley-25:positive@8,gradient-x-input@128,integrated-gradients@64
explain() { # name, data, ε
  $foveate text benchmark --resume --model ../shared/victims/$1 --data $2 --threshold $3 --limit 2000 \
    --output runs/tables/$1 --faithfulness 100 --methods \
    agent=runs/victims/$1/agent,agent@200,agent=runs/published/$1@30,attention@512,attention-cls@1000,attention-rollout@128,attention:positive@512,greedy@64,beam@8,exact@2,random@64,$attributions
}
explain emotion $data/emotion/test.jsonl 0.8
explain sst2 $data/sst2/validation.jsonl 0.7
explain snli $data/snli/test.jsonl.gz 0.8
$foveate text benchmark --resume --data $data/emotion/test.jsonl --threshold 0.6 --output runs/tables/embedded \
  --methods agent,agent=general,attention,attention-cls,attention-rollout,random@500,greedy@300

opponents=textbugger@256,hotflip@48,bert-attack@128,deepwordbug@128,pwws@48,pso@32,genetic@24,scpn@10,gan@10
attack() { # name, data, limit
  local common="text benchmark --resume --task attack --model ../shared/victims/$1 --data $2 --limit $3"
  common+=" --output runs/tables/attack-$1 --resources $data/resources --mlm runs/mlm/model"
  local own=agent=runs/attackers/$1/agent,attention,attention-cls,attention-rollout@64,gradient-x-input@64,greedy@64
  own+=,beam@8,random@64
  # Each method's results are kept, so that one environment can go on where another stopped.
  ${ATTACKS:-.venv/bin/python} -m foveate $common --methods $opponents
  $foveate $common --methods $own,$opponents
}
attack emotion $data/emotion/test.jsonl 2000
attack sst2 $data/sst2/validation.jsonl 872
attack snli $data/snli/test.jsonl.gz 1000
$foveate text benchmark --resume --task attack --data $data/emotion/test.jsonl --output runs/tables/attack-embedded \
  --methods agent,agent=general-attack,agent=general,attention,attention-cls,greedy@200,random@300
