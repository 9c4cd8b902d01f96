#!/bin/sh
# The preset `large` on a GPU: 256 pixels, one GRID speaker and 120 synthetic people, from videos to tables and a film.
#
#     sh docs/large.sh GRID WORK [SETTING...]
#
# GRID: a folder that `avprep index grid` reads. WORK: a new folder. SETTING: such as data.batch_size=8, over the preset's.
# PEOPLE, WORDS: of the synthetic corpus, 120 and 10 by default.
# Shards take minutes of CPU; training takes SECONDS_EACH for each of three stages (identity, speech, full), 100, 120 and
# 260 by default: eight minutes. Each stage is stopped by then, wherever it is, and the next begins with its weights.
set -eu

grid=$1 work=$2
shift 2
seconds=${SECONDS_EACH:-100 120 260}
for setting; do
    shift
    set -- "$@" --set "$setting"
done

mkdir -p "$work"
avprep index grid "$grid" --sentences -o "$work/sentences.jsonl"
avprep crop "$work/sentences.jsonl" "$work/grid" --detector yunet
avprep mfcc "$work/sentences.jsonl" "$work/grid"
avprep demo "$work/people" --words "${WORDS:-10}" --speakers "${PEOPLE:-120}" --takes 1 --no-smiles --train-steps 0

before=
stage() { # name, seconds
    name=$1 limit=$2
    shift 2
    timeout --signal=TERM "$limit" avprep train "$work/grid" "$work/people/shards" "$work/$name" --share 1 --share 1 \
        --preset large --stage "$name" ${before:+--init-from "$before"} --set optimizer.schedule=constant "$@" ||
        test $? -eq 124 # stopped in time, having saved
    before=$work/$name
    test -e "$before/checkpoint.safetensors" || {
        echo "large.sh: $limit s were too short for a step of the stage $name: give more in SECONDS_EACH" >&2
        exit 1
    }
}
for name in identity speech full; do
    stage "$name" "${seconds%% *}" "$@"
    seconds=${seconds#* }
done

avprep evaluate "$work/full" "$work/grid" -o "$work/results" --svm-clips 500
avprep evaluate "$work/full" "$work/people/shards" -o "$work/results-people" --svm-clips 500
