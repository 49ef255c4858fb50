#!/bin/sh
# The players of MinAtar in the package: S3TA on Breakout and on Freeway, half an hour on one core each, on Asterix, two
# hours and a half, and on Space Invaders, five, in two runs; Mask-A3C on Space Invaders, about an hour.
#   training/players.sh      resumes what was interrupted
set -eu
export OMP_NUM_THREADS=1

run() {  # name, then what it takes
    name=$1
    shift
    foveate agent train --run "runs/players/$name" --threads 1 --resume "$@"
}

train() {
    run "$@"
    python training/pack.py "runs/players/$1" "minatar-$1"
}

train breakout-s3ta --preset minatar --env MinAtar/Breakout-v1 --log-every 20000 --steps 1100000 --seed 1
train freeway-s3ta --preset minatar --env MinAtar/Freeway-v1 --whiten --envs 32 --a3c.unroll 20 \
    --a3c.entropy-cost 0.002 --steps 800000 --seed 1
train asterix-s3ta --preset minatar --env MinAtar/Asterix-v1 --whiten --envs 32 --a3c.unroll 20 \
    --a3c.entropy-cost 0.005 --a3c.gae-lambda 0.95 --a3c.learning-rate 5e-4 \
    --network memory=40 'convolutions=[[3,1,32]]' --steps 3200000 --seed 1
set -- --preset minatar --env MinAtar/SpaceInvaders-v1 --whiten --envs 32 --a3c.unroll 20 --a3c.gae-lambda 0.95 \
    --network memory=40 'convolutions=[[3,1,32]]' --seed 1
run space-invaders-s3ta-first "$@" --a3c.entropy-cost 0.01 --a3c.learning-rate 4e-4 --steps 4600000
train space-invaders-s3ta "$@" --start runs/players/space-invaders-s3ta-first/agent --a3c.entropy-cost 0.02 \
    --a3c.learning-rate 2e-4 --a3c.value-cost 0.1 --a3c.clip-norm 40 --steps 2100000
train space-invaders-mask-a3c --env MinAtar/SpaceInvaders-v1 --log-every 20000 --model mask-a3c \
    --network memory=32 'convolutions=[32,32,64]' --algorithm a3c --a3c.learning-rate 5e-4 --a3c.entropy-cost 0.02 \
    --steps 500000
