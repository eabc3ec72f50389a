#!/usr/bin/env bash
# Text into shards, and runs on shards.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Two languages of 40 pages each; every page differs.
make_text() {
    local page
    mkdir -p text/up text/down
    for ((page = 0; page < 40; page++)); do
        seq "$((page * 100))" "$((page * 100 + 99))" >"text/up/page$page.txt"
        seq "$((page * 100 + 99))" -1 "$((page * 100))" | tr 0-9 a-j >"text/down/page$page.txt"
    done
}

bytes_of() { cat "$@" | wc -c; }

run_on() { # shards, options
    cohort run "$tiny" --set data.corpus="$1" --set base.pretrain.text="$1" --set base.vocabulary=256 --set train.rounds=2 --quiet "${@:2}"
}

expect_run_refused() { # shards, expected text...
    local text
    expect_status 2 run_on "$1" --out result
    for text in "${@:2}"; do expect_text err "$text"; done
    [[ ! -e result ]] || fail 'something was written'
}

test_shards_hold_every_byte_once() {
    make_text
    expect_status 0 cohort data --out shards up=text/up down=text/down
    expect_same <(cd shards && printf '%s\n' *.bin) - 'the shards' <<'NAMES'
test_0.bin
test_1.bin
train_0.bin
train_1.bin
valid_0.bin
valid_1.bin
NAMES
    expect_text shards/sources.json up
    # A token is a byte, stored in two: whole pages, in any order, with at most a separator between them.
    local tokens=$(($(bytes_of shards/*_0.bin) / 2)) bytes
    bytes=$(bytes_of text/up/*)
    ((tokens >= bytes && tokens <= bytes + 40)) || fail "$bytes bytes of text, but $tokens tokens"
    od -An -v -tu2 -w2 shards/train_1.bin | awk '$1 > 255 || ($1 >= 48 && $1 <= 57) { exit 1 }' || fail 'not the text that went in'
}

test_same_text_gives_the_same_shards() {
    make_text
    cohort data --out one up=text/up down=text/down
    cohort data --out two up=text/up down=text/down
    diff -r one two
}

test_a_folder_with_content_is_refused() {
    make_text
    mkdir shards
    echo mine >shards/train_0.bin
    expect_status 2 cohort data --out shards up=text/up
    expect_text err shards
    [[ $(<shards/train_0.bin) == mine ]] || fail 'a file was overwritten'
}

test_missing_and_empty_sources_are_refused() {
    mkdir empty
    expect_status 2 cohort data --out shards a=nowhere b=empty
    expect_text err nowhere
    expect_text err empty
    [[ ! -e shards ]] || fail 'something was written'
}

test_a_run_on_real_text() {
    make_text
    cohort data --out shards up=text/up down=text/down
    run_on shards --out result --set data.evaluation=out_of_distribution
    [[ $(wc -l <result/summary.csv) == 8 ]] || fail "$(<result/summary.csv)"
}

test_shard_shorter_than_a_window_is_refused() {
    make_text
    cohort data --out shards up=text/up down=text/down
    truncate -s 20 shards/valid_1.bin
    expect_run_refused shards down valid # asks for more than there is
    expect_status 2 run_on shards --out result --set data.valid_tokens_per_device=0
    expect_text err valid
    expect_text err 33 # a window of 32 tokens and the one after it
}

test_token_beyond_the_vocabulary_is_refused() {
    make_text
    cohort data --out shards up=text/up down=text/down
    printf '\0\1' | dd of=shards/train_0.bin bs=2 seek=100 conv=notrunc status=none
    expect_run_refused shards train_0.bin 256
}

test_too_little_text_names_line_population_and_seed() {
    make_text
    cohort data --out shards up=text/up down=text/down
    expect_status 2 run_on shards --out result --set data.tokens_per_device=5000000
    expect_text err "tiny.yaml:30: population 'both', seed 7: device 0 of 4: data.tokens_per_device asks for 5000000 tokens"
    [[ $(grep -c "'both'" err) == 1 ]] || fail "$(<err)"
    [[ $(wc -l <err) == 6 ]] || fail "not every population once: $(<err)"
}

test_populations_of_the_command_line_have_no_line() {
    local populations='[{name: a, method: local, devices: 2}]'
    make_text
    cohort data --out shards up=text/up down=text/down
    expect_status 2 run_on shards --out result --set data.tokens_per_device=5000000 --set populations="$populations"
    expect_text err "--set populations: population 'a', seed 7: device 0 of 2: data.tokens_per_device asks for 5000000 tokens"
    expect_status 2 run_on shards --out result --set populations="${populations/]/, ${populations:1}}"
    expect_text err "--set populations: 'a' with seed 7 is already there"
    ! grep -q ':0: \|line 0' err || fail "$(<err)"
}

test_a_mixture_of_more_text_than_there_is_is_refused() {
    make_text
    cohort data --out shards up=text/up down=text/down
    expect_status 2 run_on shards --out result --set data.split=dirichlet --set data.dirichlet=0.01 --set data.tokens_per_device=50000 \
        --set populations='[{name: a, method: local, devices: 2}]'
    expect_text err "--set populations: population 'a', seed 7: device 0 of 2: takes 50000 tokens (data.tokens_per_device: 50000) from source"
    [[ $(wc -l <err) == 1 && ! -e result ]] || fail "$(<err)"
    sed 's/^data:/&\n  split: dirichlet\n  dirichlet: -2/' "$tiny" >bad.yaml
    expect_status 2 cohort run bad.yaml --out result
    expect_text err "bad.yaml:11: data.dirichlet: '-2' is out of range; it must be above 0"
    [[ $(wc -l <err) == 1 && ! -e result ]] || fail "$(<err)"
}

# Where the corpus has fewer sources than a split needs, or than the devices are given: once for all populations that have the key from there.
test_more_sources_than_there_are_are_refused() {
    local populations='[{name: a, method: local, devices: 2, seeds: [1, 2]}, {name: b, method: fedavg, devices: 2}]'
    sed 's/^data:/&\n  split: pathological\n  pathological: 3/' "$tiny" >bad.yaml
    expect_status 2 cohort run bad.yaml --out result --set populations="$populations"
    expect_text err 'bad.yaml:11: data.pathological: the split pathological needs 3 sources, but synthetic has 2'
    [[ $(wc -l <err) == 1 && ! -e result ]] || fail "$(<err)"
    sed 's/^data:/&\n  sources: [0, 2]/' "$tiny" >bad.yaml
    expect_status 2 cohort check bad.yaml --set populations="$populations"
    expect_text err 'bad.yaml:10: data.sources: there is no source 2; synthetic has 2, numbered from 0'
    [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
    expect_status 2 cohort check "$tiny" --set data.split=drift --set data.synthetic.topics=1
    expect_text err '--set data.split: the split drift needs 2 sources, but synthetic has 1'
}

# All splits beside each other: what devices have of each source is in the trace.
test_the_mixture_of_every_split_is_in_the_trace() {
    local populations='[{name: iid, method: local, devices: 2, data: {split: iid}},
        {name: few, method: local, devices: 2, data: {split: pathological, pathological: 1}},
        {name: moving, method: fedavg, devices: 2, data: {split: drift, drift: 0.5, evaluation: out_of_distribution}},
        {name: poor, method: local, devices: 3, data: {sources: [1, 1, 0], fraction: [1, 0.1, 0.5]}},
        {name: pooled, method: centralized, devices: 4}]'
    expect_status 0 cohort run "$tiny" --out result --quiet --set populations="$populations"
    expect_status 0 cohort export result --table mixture
    expect_same <(grep -v '^few' out) - 'the mixtures' <<'ROWS'
population,seed,device,source,source_name,train_tokens
iid,7,0,0,topic-0,2000
iid,7,0,1,topic-1,2000
iid,7,1,0,topic-0,2000
iid,7,1,1,topic-1,2000
moving,7,0,0,topic-0,3000
moving,7,0,1,topic-1,1000
moving,7,1,0,topic-0,1000
moving,7,1,1,topic-1,3000
poor,7,0,1,topic-1,4000
poor,7,1,1,topic-1,400
poor,7,2,0,topic-0,2000
pooled,7,0,0,topic-0,8000
pooled,7,0,1,topic-1,8000
ROWS
    [[ $(grep -c '^few,7,[01],[01],topic-[01],4000$' out) == 2 ]] || fail "$(<out)"
    expect_status 0 cohort export result --table populations
    expect_text out 'moving,7,fedavg,2,2,0,4,2,4000,drift,mean,out_of_distribution'
    [[ $(grep -c ',drift,.*,out_of_distribution,' result/summary.csv) == 1 ]] || fail "$(<result/summary.csv)"
    expect_status 0 cohort export result --table devices
    expect_text out 'poor,7,0,1,topic-1,'
    expect_text out 'moving,7,0,-1,,'
}

# What devices have of the sources, and where they share text.
test_check_describes_mixtures() {
    local options=(--set data.split=dirichlet --set populations='[{name: mixed, method: local, devices: 8, seeds: [1, 2]}]')
    expect_status 0 cohort check --no-measure "$tiny" "${options[@]}" --set data.dirichlet=1000
    expect_text out "mixed (dirichlet): 51 % of a device's training text are of its largest source (50 % to "
    [[ $(grep -c '(dirichlet)' out) == 1 && ! -s err ]] || fail "$(<out)" "$(<err)"
    make_text
    cohort data --out shards up=text/up down=text/down
    options+=(--set base.pretrain.text=shards --set data.corpus=shards --set base.vocabulary=256)
    expect_status 0 cohort check --no-measure "$tiny" "${options[@]}" --set data.tokens_per_device=9000
    expect_text err "population 'mixed', seed 1: 8 of its 8 devices share text: more of a source is asked than it has"
}

# Each source has 15 kB of training text, for two devices of a population.
test_shared_text_is_noted_by_check_and_run() {
    local options=(--set base.pretrain.text=shards --set data.corpus=shards --set base.vocabulary=256 --set data.tokens_per_device=9000)
    make_text
    cohort data --out shards up=text/up down=text/down
    expect_status 0 cohort check --no-measure "$tiny" "${options[@]}"
    expect_text err "population 'alone', seed 7: its 2 devices of source up share text: 2 x 9000 tokens are asked of"
    [[ $(grep -c 'share text' err) == 6 ]] || fail "$(<err)"
    expect_status 0 cohort run "$tiny" "${options[@]}" --set train.rounds=1 --out result
    expect_text err "population 'alone', seed 7: its 2 devices of source up share text"
    expect_status 0 cohort run "$tiny" "${options[@]}" --set train.rounds=1 --out quiet --quiet
    [[ ! -s err ]] || fail "$(<err)"
    expect_status 0 cohort check --no-measure "$tiny" "${options[@]}" --set data.tokens_per_device=1000
    [[ ! -s err ]] || fail "$(<err)"
}

test_the_folder_to_write_must_be_named() {
    make_text
    expect_status 2 cohort data up=text/up
    expect_text err '--out is missing'
    [[ ! -e data ]] || fail 'something was written'
}

test_half_a_token_is_refused() {
    make_text
    cohort data --out shards up=text/up down=text/down
    printf 'x' >>shards/test_0.bin
    expect_run_refused shards test_0.bin
}

test_a_full_disk_leaves_no_shards() {
    make_text
    mkdir disk
    mount -t tmpfs -o size=24k tmpfs disk 2>/dev/null || skip 'no right to mount a file system'
    trap 'umount disk' EXIT
    expect_status 3 cohort data --out disk/shards up=text/up
    expect_text err 'its tokens cannot be written: No space left on device'
    expect_empty_folder disk
}

# Each population has its own corpus; numbers of sources begin anew in each.
test_devices_are_exported_with_the_names_of_their_sources() {
    make_text
    cohort data --out shards up=text/up down=text/down
    cohort data --out one 'three, four=text/down'
    run_on shards --out result --set populations='[{name: a, method: local, devices: 3}, {name: b, method: fedavg, devices: 1,
        data: {corpus: one}}, {name: c, method: centralized, devices: 2}]'
    expect_status 0 cohort export result --table devices
    expect_same <(cut -d, -f 1-6 out) - 'the devices' <<'TABLE'
population,seed,device,source,source_name,experts
a,7,0,0,up,2
a,7,1,1,down,2
a,7,2,0,up,2
b,7,0,0,"three, four"
c,7,0,-1,,2
TABLE
}

# A federation of users with a shard trio each. A process may have about 65,000 mappings, and often 1,024 open files.
make_users() { # folder, users
    local user part ids
    mkdir -p "$1"
    ids=$(printf '\\%o\\0' {1..40})
    for ((user = 0; user < $2; user++)); do
        # shellcheck disable=SC2059
        for part in train valid test; do printf "$ids" >"$1/${part}_$user.bin"; done
    done
}

users_config() { # corpus, devices
    printf '%s\n' 'base: {layers: 1, width: 16, heads: 2, vocabulary: 65, pretrain: {tokens: 0}}' \
        "data: {corpus: $1, tokens_per_device: 0, sequence: 32}" 'train: {rounds: 1, local_steps: 1, batch: 1}' \
        'evaluate: {windows: 1}' "populations: [{name: p, method: fedavg, devices: $2}]"
}

test_tens_of_thousands_of_sources_are_opened() {
    make_users users 22000
    users_config users 22000 >users.yaml
    (ulimit -Sn 256 && expect_status 0 cohort check --no-measure users.yaml) || fail "$(<err)"
    [[ ! -s err ]] || fail "$(head -3 err)"
}

test_many_shards_that_are_alike_damaged_make_a_few_lines() {
    make_users users 60
    local shard
    for shard in users/train_*; do printf x >>"$shard"; done
    users_config users 60 >users.yaml
    expect_status 2 cohort check users.yaml
    [[ $(wc -l <err) == 8 ]] || fail "$(<err)"
    expect_text err '(and 52 more like it)'
}

test_a_shard_that_shrinks_under_a_run_ends_it_with_its_name() {
    local words status=0 run
    make_text
    cohort data --out shards up=text/up down=text/down
    cp -r shards kept
    words=(run "$tiny" --set data.corpus=shards --set base.pretrain.text=shards --set base.vocabulary=256 --set train.rounds=100000
        --set populations='[{name: a, method: fedavg, devices: 2}]' --out result --quiet)
    "$COHORT_BINARY" "${words[@]}" 2>err &
    run=$!
    wait_until "$run" test -e result/checkpoint.h5
    for shard in shards/*_0.bin; do : >"$shard"; done
    wait "$run" || status=$?
    [[ $status == 4 ]] || fail "exit status $status: $(<err)"
    expect_text err '_0.bin: has 0 bytes now, but had '
    [[ $(wc -l <err) == 1 ]] || fail "$(<err)"
    rm -r shards
    mv kept shards
    checkpoint_text result >before.txt
    "$COHORT_BINARY" "${words[@]}" --resume 2>err &
    run=$!
    wait_until "$run" checkpoint_moved_on
    kill -INT "$run"
    wait "$run" || true
}

checkpoint_moved_on() {
    checkpoint_text result >after.txt 2>/dev/null && ! cmp -s before.txt after.txt
}

run_tests data "$@"
