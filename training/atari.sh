#!/bin/sh
# What was tried on Atari, on grey screens of few pixels and with small memories, as a core can afford: S3TA and Mask-A3C
# on Ms Pacman, an hour and 40 minutes. They beat random play and have not learned to look: docs/agents/s3ta.md.
#   training/atari.sh      resumes what was interrupted
set -eu
export OMP_NUM_THREADS=1

train() {  # name, then what is different
    run=runs/atari/$1
    shift
    foveate agent train --run "$run" --env MsPacman --screen grey --life-loss-ends --threads 1 --log-every 20000 \
        --seed 1 --network $network --resume "$@"
    for how in --sample "--sticky 0.25"; do
        foveate agent evaluate --agent "$run/agent" --episodes 100 --parallel 50 --seed 1 $how
    done
}

network='memory=32 convolutions=[[8,4,16],[4,2,32]] heads=8 normalise_answers=false'
train s3ta --model s3ta --impala.unroll 20 --impala.learning-rate 5e-4 --impala.anneal --steps 1000000
network='memory=32'
train mask-a3c --size 64 64 --model mask-a3c --algorithm a3c --a3c.learning-rate 3e-4 --a3c.anneal --steps 440000
