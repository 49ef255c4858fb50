#!/bin/sh
# The learning curves of docs/agents/minatar: ten models on MinAtar's Breakout, three seeds each, one learner and its
# settings for all of them. An hour and a half on one core.
#   training/minatar.sh [STEPS]      resumes what was interrupted
set -eu
steps=${1:-100000}
export OMP_NUM_THREADS=1

for seed in 0 1 2; do
    for model in s3ta s3ta-paper s3ta-fixed-query s3ta-l2-keys residual residual-lstm \
        a3c policy-mask-a3c value-mask-a3c mask-a3c; do
        foveate agent train --run "runs/minatar/$model-$seed" --env MinAtar/Breakout-v1 --model "$model" --seed $seed \
            --algorithm a3c --a3c.unroll 10 --a3c.learning-rate 1e-3 --a3c.epsilon 1e-5 --a3c.no-amsgrad \
            --a3c.clip-norm 4 --threads 1 --log-every 5000 --steps "$steps" --resume
    done
done
python training/curves.py runs/minatar --output docs/agents/minatar
