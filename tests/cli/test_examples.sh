#!/usr/bin/env bash
# Prompts and responses: JSON Lines into shards of examples, and runs on them.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

config=$cli/examples.yaml

# Examples of 10 to 54 bytes; every one differs.
lines_of() { # task, letters, number of examples
    awk -v task="$1" -v letters="$2" -v n="$3" 'BEGIN {
        for (i = 0; i < n; i++) {
            text = ""
            for (j = 0; j < 3 + i % 20; j++) text = text substr(letters, 1 + (i * 7 + j * j + int(i / 20)) % length(letters), 1)
            response = ""
            for (j = length(text); task == "turn" && j > 0; j--) response = response substr(text, j, 1)
            printf "{\"task\": [\"%s\"], \"prompt\": \"%s %d %s\\n\", \"response\": \"%s\\n\"}\n", task, task, i, text,
                task == "turn" ? response : substr(text, 1, 1 + i % 5)
        }
    }'
}

make_corpus() {
    { lines_of turn abcdefg 200 && lines_of head abcdefg 200; } >one.jsonl
    { lines_of turn stuvwxyz 200 && lines_of head stuvwxyz 200; } >two.jsonl
    cohort data --out corpus one=one.jsonl two=two.jsonl "$@" --quiet
}

run_it() { cohort run "$config" --quiet "$@"; }

# Made once: what an undisturbed run of the configuration gives.
undisturbed() {
    local folder=${TMPDIR:-/tmp}/cohort-test-examples
    [[ -e $folder ]] || run_it --out "$folder" >&2 || fail 'the configuration does not run'
    printf '%s\n' "$folder"
}

test_the_table_counts_examples() {
    { lines_of turn abcdefg 40 && lines_of turn abcdefg 5; } >one.jsonl
    expect_status 0 cohort data --out corpus one=one.jsonl
    expect_text out 'source         examples        train'
    expect_text out 'one                  40'
    expect_text out 'one: left out 5 copies of other examples'
}

test_a_folder_has_its_own_splits_and_tasks_are_sources() {
    mkdir phone
    { lines_of turn abcdefg 10 && lines_of head abcdefg 20; } >phone/train.jsonl
    { lines_of turn xyz 3 && lines_of head xyz 4; } >phone/valid.jsonl
    { lines_of turn pqr 5 && lines_of head pqr 6; } >phone/test.jsonl
    expect_status 0 cohort data --out corpus --by-task phone=phone
    expect_same <(awk '{ print $1, $2 }' out | grep -v ^all) - 'the sources' <<'TABLE'
source examples
phone/head 30
phone/turn 18
TABLE
}

test_check_and_run_say_the_same_of_examples() {
    make_corpus
    expect_status 0 cohort check --no-measure "$config"
    expect_text out 'mixed: a device has 30 training examples; train tokens are of prompts and responses'
    [[ ! -s err ]] || fail "$(<err)"
    expect_status 0 cohort export "$(undisturbed)" --table devices
    # 30 examples of about 30 bytes
    awk -F, '$1 == "mixed" && ($7 < 500 || $7 > 1500) { print; bad = 1 } END { exit bad }' out || fail 'not thirty examples'
}

# A recorded window ends with its example, in the table and in the figure.
test_recorded_tokens_are_those_of_examples() {
    make_corpus
    expect_status 0 cohort export "$(undisturbed)" --table tokens
    awk -F, 'NR > 1 && $1 == 6 && $8 == 0 { n[$2] = $6 + 1 } END { for (w in n) print (n[w] < 64 && n[w] > 8) ? "short" : n[w] }' out >lengths
    expect_same lengths - 'the lengths of windows' <<<$'short\nshort\nshort'
    /usr/bin/python3 -c 'import h5py, matplotlib' 2>/dev/null || skip 'no h5py and matplotlib (Debian: python3-h5py)'
    [[ -e ${COHORT_BINARY%/*}/../results/plot.py ]] || skip 'results/plot.py is not beside the program'
    expect_status 0 cohort plot "$(undisturbed)" --out figures
    [[ -s figures/tokens.png && ! -s err ]] || fail "$(<err)"
}

test_a_run_is_the_same_whatever_the_waves_and_threads() {
    make_corpus
    run_it --out small --set wave_tokens=200 --threads 1
    cp -r "$(undisturbed)" whole
    expect_same <(trace_values whole) <(trace_values small) 'the traces'
    expect_same <(h5dump -a /content_hash whole/checkpoint.h5 | tail -n +2) <(h5dump -a /content_hash small/checkpoint.h5 | tail -n +2) \
        'the checkpoints'
}

trace_values() { # result: all but time, configuration and threads
    require h5dump hdf5-tools
    (cd "$1" && h5dump -m '%.17g' -g /loss -g /routing -g /sampling -g /traffic -d /devices -d /rounds trace.h5)
}

# Neighbours in a wave have other lengths; a population alone is as it was.
test_neighbours_change_no_bit() {
    make_corpus
    run_it --out single --set populations='[{name: both, method: comigs, devices: 4}]'
    expect_same <(cohort export "$(undisturbed)" --table loss | grep ,both,) <(cohort export single --table loss | grep ,both,) 'losses'
    [[ $(cohort export single --table loss | wc -l) -gt 60 ]] || fail 'no losses'
}

test_killed_and_resumed_equals_undisturbed() {
    local run options=(--set train.rounds=60)
    make_corpus
    run_it --out whole "${options[@]}"
    "$COHORT_BINARY" run "$config" --out result --quiet "${options[@]}" >started.log 2>&1 &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    kill -KILL "$run"
    wait "$run" 2>/dev/null || true
    [[ ! -e result/summary.csv ]] || fail 'the run was over before it was killed'
    run_it --out result --resume "${options[@]}"
    expect_same_results whole result
}

test_two_processes_draw_and_count_the_same() {
    local dataset
    export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
    require mpirun openmpi-bin
    require h5diff hdf5-tools
    [[ $(ldd "$COHORT_BINARY") == *libmpi* ]] || skip 'this build has no MPI (Debian: libopenmpi-dev)'
    make_corpus
    run_it --out shared --processes 2
    for dataset in /devices /sampling /traffic /routing/tokens/ids; do
        h5diff -q "$(undisturbed)/trace.h5" shared/trace.h5 "$dataset" || fail "$dataset differs"
    done
    h5diff -q -p 1e-5 "$(undisturbed)/trace.h5" shared/trace.h5 /loss || fail 'losses differ'
}

# The windows that a run recorded are examples' numbers, and give the same run.
test_recorded_windows_can_be_given() {
    make_corpus
    local one='[{name: both, method: comigs, devices: 4}]'
    run_it --out drawn --set populations="$one"
    require h5dump hdf5-tools
    [[ $(h5dump -a /sampling/windows/train/units drawn/trace.h5) == *'"example"'* ]] || fail 'windows do not count examples'
    cohort export drawn --table windows | cut -d, -f 4- >windows.csv
    run_it --out given --set populations="$one" --set data.windows=windows.csv
    expect_same <(trace_values drawn | tail -n +2) <(trace_values given | tail -n +2) 'the traces'
    awk -F, 'NR > 1 { seen[$5]++; if ($5 >= 120) exit 1 } END { exit length(seen) < 20 }' windows.csv || fail 'these are no numbers of examples'
}

# The first loss of a device is the base's: B is 0.
test_losses_are_those_of_transformers_on_responses_alone() {
    local python=${COHORT_PYTHON:-python3}
    "$python" -c 'import torch, transformers' 2>/dev/null || skip 'no transformers; COHORT_PYTHON can name a Python that has it'
    make_corpus
    run_it --out result --set train.rounds=1 --set train.local_steps=1 --set data.tokens_per_device=0 \
        --set populations='[{name: a, method: fedavg, devices: 2}]'
    cohort pretrain "$config" --out base --quiet
    cohort export result --table windows >windows.csv
    cohort export result --table loss >loss.csv
    "$python" "$COHORT_SOURCE_DIR/tests/reference/check_examples.py" corpus base windows.csv loss.csv || fail 'losses differ'
}

test_a_tokenizer_makes_ids_of_text() {
    local python=${COHORT_PYTHON:-python3}
    "$python" -c 'import tokenizers' 2>/dev/null || skip 'no tokenizers; COHORT_PYTHON can name a Python that has them'
    "$python" - <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, processors
words = {w: i for i, w in enumerate(["<s>", "</s>", "turn", "left", "right", "?"])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
tokenizer.save("tokenizer.json")
PYTHON
    printf '%s\n' '{"task": "t", "prompt": "turn left", "response": "right"}' '' '{"prompt": "turn up", "response": "?"}' >text.jsonl
    "$python" "$COHORT_SOURCE_DIR/configs/data/tokenize_examples.py" tokenizer.json '</s>' <text.jsonl >ids.jsonl
    expect_same ids.jsonl - 'the ids' <<'IDS'
{"task": "t", "prompt": [0, 2, 3], "response": [4, 1]}
{"prompt": [0, 2, 5], "response": [5, 1]}
IDS
    mkdir parts
    for part in train valid test; do cp ids.jsonl "parts/$part.jsonl"; done
    expect_status 0 cohort data --out corpus --vocabulary 6 a=parts
    echo '{"prompt": 3}' >>text.jsonl
    expect_status 1 "$python" "$COHORT_SOURCE_DIR/configs/data/tokenize_examples.py" tokenizer.json <text.jsonl
    expect_text err 'line 4: is no example of text'
}

# An example is a window, whatever its length: a device may have less text than a window of running text.
test_devices_may_have_less_text_than_a_window() {
    make_corpus
    run_it --out result --set data.tokens_per_device=60 --set train.rounds=1 --set populations='[{name: a, method: fedavg, devices: 4}]'
    [[ -s result/summary.csv ]] || fail 'no summary'
}

# ---- What is refused

expect_refused() { # text; options...
    expect_status 2 cohort run "$config" --out result --quiet "${@:2}"
    expect_text err "$1"
    [[ $(wc -l <err) == 1 && ! -e result ]] || fail "$(<err)"
}

test_broken_lines_are_all_named_and_nothing_is_written() {
    lines_of turn abcdefg 30 >one.jsonl
    printf '{"prompt": "a"\n{"prompt": "a", "response": ""}\n{"prompt": 5, "response": "a"}\n' >>one.jsonl
    expect_status 2 cohort data --out corpus one=one.jsonl
    expect_text err 'one.jsonl:31: is not valid JSON: '
    expect_text err 'one.jsonl:32: the response is empty; there is nothing to learn from it'
    expect_text err 'one.jsonl:33: "prompt" must be text or a list of token ids'
    [[ $(wc -l <err) == 3 && ! -e corpus ]] || fail "$(<err)"
}

test_examples_longer_than_a_window_are_refused_once() {
    make_corpus
    expect_refused "examples.yaml:9: data.corpus: corpus: 140 of its 800 examples have more than 41 tokens (first of source one, train: lines 14, 15, 16)" \
        --set data.sequence=40 --set base.pretrain.sequence=64
    expect_text err 'the longest has 55: write data.sequence: 54, or data.truncate: true to cut them, or leave them out with '
    run_it --out cut --set data.sequence=40 --set base.pretrain.sequence=64 --set data.truncate=true --set train.rounds=1
    expect_refused 'have a prompt of more than 9 tokens (data.sequence)' --set data.sequence=9 --set base.pretrain.sequence=64 \
        --set data.truncate=true
    cohort data --out shorter --longest 41 one=one.jsonl two=two.jsonl >table
    grep -q 'examples with more tokens than --longest' table || fail "$(<table)"
    run_it --out left --set data.corpus=shorter --set data.sequence=40 --set base.pretrain.sequence=64 --set train.rounds=1
}

test_a_context_must_hold_the_longest_example() {
    make_corpus
    expect_refused "windows of 64 tokens do not fit the base's context of 48" --set base.context=48 --set base.pretrain.sequence=48
}

test_more_examples_than_there_are_are_refused() {
    make_corpus
    expect_refused 'device 0 of 4: data.examples_per_device asks for 500 training examples, but there are ' \
        --set data.examples_per_device=500 --set populations='[{name: a, method: local, devices: 4}]'
    expect_refused 'running text has none' --set data.corpus=synthetic --set data.examples_per_device=5 \
        --set populations='[{name: a, method: local, devices: 4}]'
}

test_ids_beyond_the_bases_vocabulary_are_refused() {
    make_corpus --end 256
    sed 's/vocabulary: 256/vocabulary: 257/' "$config" >larger.yaml
    cohort run larger.yaml --out result --quiet --set train.rounds=1
    expect_status 2 cohort check "$config"
    expect_text err 'is 256, but ids must be below the vocabulary of 256'
}

test_a_damaged_shard_is_refused() {
    make_corpus
    printf 'x' | dd of=corpus/test_1.bin bs=1 seek=700 conv=notrunc status=none
    expect_status 2 cohort check "$config"
    expect_text err 'corpus/test_1.bin: does not match its checksum: it is damaged; make it again'
    truncate -s -2 corpus/test_1.bin
    expect_status 2 cohort check "$config"
    expect_text err 'corpus/test_1.bin: the header announces '
}

test_text_and_examples_are_not_mixed() {
    lines_of turn abcdefg 30 >one.jsonl
    mkdir text
    seq 100 >text/a.txt
    cp one.jsonl text/b.jsonl
    expect_status 2 cohort data --out corpus one=one.jsonl text=text/a.txt
    expect_text err 'text/a.txt: is no JSON Lines, but other sources are'
    expect_status 2 cohort data --out corpus text=text
    expect_text err 'text/b.jsonl: is JSON Lines, an object a line; '
    expect_text err 'of prompts and responses name the file itself, FILE.jsonl, as the source'
    expect_status 2 cohort data --out corpus --longest 9 text=text/a.txt
    expect_text err '--by-task, --longest, --vocabulary and --end are of examples'
    expect_status 2 cohort run "$config" --out result --set data.corpus=one.jsonl
    expect_text err 'the corpus one.jsonl is a file; a corpus is a folder of shards, which '
    expect_text err 'cohort data NAME=one.jsonl'
    [[ ! -e corpus ]] || fail 'something was written'
}

test_shares_of_what_is_divided_already_are_refused() {
    local option
    mkdir phone
    for part in train valid test; do lines_of turn abcdefg 3 >"phone/$part.jsonl"; done
    lines_of turn abcdefg 30 >one.jsonl
    for option in --valid-share --test-share; do
        expect_status 2 cohort data --out corpus one=one.jsonl phone=phone "$option" 0.2
        expect_text err 'phone: is divided already, into train.jsonl, valid.jsonl and test.jsonl; leave out --valid-share and --test-share'
        [[ $(wc -l <err) == 1 && ! -e corpus ]] || fail "$(<err)"
    done
    cohort data --out corpus one=one.jsonl --valid-share 0.2 --quiet
}

test_a_full_disk_leaves_no_shards() {
    mkdir disk
    mount -t tmpfs -o size=24k tmpfs disk 2>/dev/null || skip 'no right to mount a file system'
    trap 'umount disk' EXIT
    lines_of turn abcdefg 400 >one.jsonl
    expect_status 3 cohort data --out disk/corpus one=one.jsonl
    expect_text err 'cannot be written: No space left on device'
    expect_empty_folder disk
}

run_tests examples "$@"
