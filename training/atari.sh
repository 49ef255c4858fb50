#!/bin/sh
# The players of Atari's Breakout in the package: Mask-A3C, which learns from the game alone, and S3TA, which is taught by
# it at first. Two and a half hours and an hour on one core each.
#   training/atari.sh      resumes what was interrupted
set -eu
export OMP_NUM_THREADS=1

train() {  # name, then what is different
    run=runs/atari/$1
    shift
    foveate agent train --run "$run" --env Breakout --screen grey --size 64 64 --life-loss-ends --threads 1 --seed 1 \
        --network $network --algorithm a3c --a3c.epsilon 1e-5 --a3c.no-amsgrad --a3c.anneal --resume "$@"
    for how in --sample "--sticky 0.25" ""; do
        foveate agent evaluate --agent "$run/agent" --episodes 100 --parallel 50 --seed 1 $how
    done
}

network='memory=32 convolutions=[16,32,32]'
train mask-a3c --model mask-a3c --a3c.unroll 8 --a3c.learning-rate 3e-4 --a3c.clip-norm 4 --steps 2380000
network='memory=32 convolutions=[[4,2,16],[4,2,32],[3,2,32]] heads=16 normalise_answers=false'
train s3ta --model s3ta --a3c.unroll 10 --a3c.learning-rate 5e-4 --a3c.clip-norm 20 --steps 850000 \
    --teacher.agent runs/atari/mask-a3c/agent --teacher.cost 5 --teacher.steps 350000 --teacher.temperature 0.25

for model in mask-a3c s3ta; do python training/pack.py "runs/atari/$model" "breakout-$model"; done
