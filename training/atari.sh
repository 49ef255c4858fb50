#!/bin/sh
# The Atari players of the package: an hour (Breakout) and an hour and a half (Pong) for S3TA on one core each, an hour
# and a half for Breakout on whole screens in colour, two and a half hours for Mask-A3C.
#   training/atari.sh      resumes what was interrupted
set -eu
export OMP_NUM_THREADS=1

train() {  # name, then what it takes
    run=runs/atari/$1
    shift
    foveate agent train --run "$run" --threads 1 --seed 1 --resume "$@"
    for how in "--seed 1 --sticky 0.25" "--seed 2"; do
        foveate agent evaluate --agent "$run/agent" --episodes 50 --parallel 50 $how
    done
}

train breakout-s3ta --preset atari --env Breakout --steps 1000000
train pong-s3ta --preset atari --env Pong --steps 1400000
train breakout-s3ta-rgb --preset atari --env Breakout --screen rgb --network memory=32 heads=8 'query_units=[128]' \
    'convolutions=[[8,4,16],[4,2,32],[3,2,32]]' 'answer_units=[256,128]' core=128 output=64 --steps 620000
train breakout-mask-a3c --env Breakout --model mask-a3c --network memory=32 'convolutions=[16,32,32]' --screen grey \
    --size 64 64 --life-loss-ends --algorithm a3c --a3c.unroll 8 --a3c.learning-rate 3e-4 --a3c.epsilon 1e-5 \
    --a3c.no-amsgrad --a3c.clip-norm 4 --a3c.anneal --steps 2380000

for name in breakout-s3ta pong-s3ta breakout-s3ta-rgb breakout-mask-a3c; do
    python training/pack.py "runs/atari/$name" "$name"
done
