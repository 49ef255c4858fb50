#!/bin/sh
# The learning curves of docs/minatar: every model, three seeds each, and the players in the package. Hours on two cores.
#   training/minatar.sh [STEPS]      resumes what was interrupted
set -eu
steps=${1:-150000}
export OMP_NUM_THREADS=1
small="memory=32"

train() {  # name, then what is different
    name=$1
    shift
    foveate agent train --run "runs/minatar/$name" --env MinAtar/SpaceInvaders-v1 --threads 1 --log-every 5000 \
        --impala.learning-rate 5e-4 --steps "$steps" --resume "$@"
}

for seed in 0 1 2; do
    for model in s3ta s3ta-paper s3ta-fixed-query s3ta-l2-keys; do
        train "$model-$seed" --model "$model" --network $small 'convolutions=[[3,1,16]]' --seed $seed
    done
    for model in residual residual-lstm; do
        train "$model-$seed" --model "$model" --seed $seed
    done
    for model in a3c policy-mask-a3c value-mask-a3c mask-a3c; do
        train "$model-$seed" --model "$model" --network $small --algorithm a3c --a3c.learning-rate 5e-4 \
            --a3c.entropy-cost 0.02 --seed $seed
    done
done
python training/curves.py runs/minatar --output docs/minatar
