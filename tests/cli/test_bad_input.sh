#!/usr/bin/env bash
# Bad input as a user meets it: exit code 2, a message that says what is wrong and where, and nothing written.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

# Refused by `run`, in a folder that stays empty, and by `check` with the same words; every text is in the messages, of which there are as
# many as said.
expect_refused() { # messages, options, --, expected text...
    local messages=$1 text
    local -a options=()
    shift
    while [[ $1 != -- ]]; do options+=("$1") && shift; done
    mkdir elsewhere
    (cd elsewhere && expect_status 2 cohort run "${options[@]}" --out result && mv out err ..)
    for text in "${@:2}"; do expect_text err "$text"; done
    [[ $(wc -l <err) == "$messages" ]] || fail "expected $messages message(s): $(<err)"
    expect_empty_folder elsewhere
    mv err said_by_run
    (cd elsewhere && expect_status 2 cohort check "${options[@]}" && mv out err ..)
    expect_same said_by_run err 'what run and check say'
    rmdir elsewhere
}

# ---- Missing and truncated files

test_missing_configuration() { expect_refused 1 ../nowhere.yaml -- nowhere.yaml 'No such file'; }

test_configuration_that_is_cut_off() {
    head -c 300 "$tiny" >cut.yaml
    expect_refused 1 ../cut.yaml -- cut.yaml
}

test_configuration_that_is_binary() {
    head -c 3000 "$COHORT_BINARY" >binary.yaml
    expect_refused 1 ../binary.yaml -- binary.yaml UTF-8
}

test_configuration_that_is_far_too_large() {
    head -c 17000000 /dev/zero | tr '\0' '#' >large.yaml
    expect_refused 1 ../large.yaml -- large.yaml 'larger than 16 MiB'
}

test_missing_base() {
    expect_refused 1 "$tiny" --set 'base={checkpoint: nowhere}' -- '--set base.checkpoint: there is no folder nowhere' config.json model.safetensors
    expect_refused 1 "$COHORT_SOURCE_DIR/configs/gpt2.yaml" -- gpt2.yaml:6: 'base.checkpoint: there is no folder gpt2'
    cohort pretrain "$tiny" --out base --quiet
    rm base/model.safetensors
    expect_refused 1 "$tiny" --set "base={checkpoint: $PWD/base}" -- "$PWD/base" 'no model.safetensors'
    rm base/config.json
    expect_refused 1 "$tiny" --set "base={checkpoint: $PWD/base}" -- base/config.json 'No such file'
}

# Files of a good base, damaged one at a time.
test_damaged_base() {
    local base="base={checkpoint: $PWD/base}" n
    cohort pretrain "$tiny" --out base --quiet
    cp -r base good
    truncate -s -1 base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- model.safetensors truncated
    truncate -s 7 base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- model.safetensors 'too short'
    n=$(stat -c %s good/model.safetensors)
    cp good/model.safetensors base
    printf 'x' >>base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- 'has something appended'
    cp good/model.safetensors base
    printf '\xff\xff\xff\xff' | dd of=base/model.safetensors conv=notrunc status=none
    expect_refused 1 "$tiny" --set "$base" -- 'header length 4294967295'
    cp good/model.safetensors base
    printf '\x00\x00\xc0\x7f' | dd of=base/model.safetensors bs=1 seek=$((n - 8)) conv=notrunc status=none
    expect_refused 1 "$tiny" --set "$base" -- 'is NaN'
    cp good/model.safetensors base
    printf '\x00\x00\x80\x7f' | dd of=base/model.safetensors bs=1 seek=$((n - 8)) conv=notrunc status=none
    expect_refused 1 "$tiny" --set "$base" -- 'is Inf'
    sed 's/"dtype":"F32"/"dtype":"I32"/' good/model.safetensors >base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- 'must be F32, F16 or BF16'
    sed 's/\[384,12672\]/[380,12668]/' good/model.safetensors >base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- 'overlaps another'
    sed 's/"shape":\[96\]/"shape":[95]/' good/model.safetensors >base/model.safetensors
    expect_refused 1 "$tiny" --set "$base" -- 'a different number of bytes'
    cp good/model.safetensors base
    head -c 100 good/config.json >base/config.json
    expect_refused 1 "$tiny" --set "$base" -- config.json 'not valid JSON'
    sed 's/"n_embd": 32/"n_embd": 64/' good/config.json >base/config.json
    expect_status 2 cohort run "$tiny" --set "$base" --out result
    expect_text err '"transformer.wte.weight" has shape [64, 32]; it must be [64, 64]'
    [[ ! -e result ]] || fail 'something was written'
}

test_base_of_too_few_positions() {
    cohort pretrain "$tiny" --out base --quiet
    expect_refused 1 "$tiny" --set "base={checkpoint: $PWD/base}" --set data.sequence=64 -- \
        '--set data.sequence: windows of 64 tokens do not fit' '32 positions' 'take at most 32'
    sed -e "/^  layers:/,/^  pretrain:/d" -e "s|^base:.*|base: {checkpoint: $PWD/base}|" -e 's/sequence: 32/sequence: 64/' "$tiny" >long.yaml
    expect_refused 1 ../long.yaml -- "long.yaml:$(grep -n 'sequence: 64' long.yaml | cut -d : -f 1): data.sequence: windows of 64 tokens"
}

# A base that was made before is read by both.
test_damaged_base_in_the_cache() {
    local -x COHORT_CACHE=$PWD/cache
    local base
    cohort pretrain "$tiny" --out base --quiet
    base=$(echo cache/bases/*)
    truncate -s -1 "$base/model.safetensors"
    expect_refused 2 "$tiny" -- model.safetensors truncated 'remove it to make it anew'
    cp base/model.safetensors "$base"
    sed -i 's/"layer_norm_epsilon": 1e-5/"layer_norm_epsilon": 1e-6/' "$base/config.json"
    expect_refused 1 "$tiny" -- "$base" 'its config.json has been changed; remove it to make it anew'
}

test_numbers_whose_product_no_float_holds() {
    expect_refused 1 "$tiny" --set experts.alpha=1.0e-45 --set 'populations=[{name: a, method: local, devices: 1}]' -- \
        "--set populations: population 'a': experts.alpha 1e-45, divided for the rank, is 0"
    expect_refused 1 "$tiny" --set 'experts={balance: 1000, balance_importance: 1.0e-44}' --set \
        'populations=[{name: a, method: comigs, devices: 2}]' -- "--set populations: population 'a': experts.balance 1000"
    expect_refused 1 "$tiny" --set 'experts={balance: 1.0e-50}' --set 'populations=[{name: a, method: comigs, devices: 2}]' -- \
        "--set populations: population 'a': experts.balance 1e-50"
}

test_precision_that_the_backend_lacks() {
    expect_refused 1 "$tiny" --backend cpu --set precision=bf16 -- '--set precision: bf16 needs a GPU'
}

# Found before a base is trained for them: the cache stays empty.
# Factor B of fedsa stays on its device; fedavg ends with an average.
test_adapters_of_which_no_device_is_near_another_s() {
    local made
    for made in fedsa fedavg; do
        cohort run "$tiny" --set "populations=[{name: a, method: $made, devices: 2, generalists: 1}]" --set train.rounds=1 --out "$made" --quiet
        cohort export "$made" --adapters "$made-adapters"
    done
    local held='populations=[{name: a, method: fedprox, devices: 2, generalists: 1}]'
    expect_refused 1 "$tiny" --set adapters="$PWD/fedsa-adapters" --set "$held" -- \
        'adapters: ' 'device 1 starts from other shared parts than device 0' 'give them the same'
    expect_status 0 cohort check --no-measure "$tiny" --set adapters="$PWD/fedavg-adapters" --set "$held"
    expect_status 0 cohort check --no-measure "$tiny" --set adapters="$PWD/fedsa-adapters" --set "${held/fedprox/fedavg}"
}

test_bad_adapters() {
    local -x COHORT_CACHE=$PWD/cache
    local one='populations=[{name: a, method: local, devices: 1}]' many='populations=[{name: a, method: local, devices: 50}]'
    expect_refused 1 "$tiny" --set adapters=nowhere -- adapters 'no folder nowhere'
    mkdir adapters
    expect_refused 1 "$tiny" --set adapters="$PWD/adapters" --set "$one" -- adapters_0_0.safetensors 'No such file'
    expect_refused 8 "$tiny" --set adapters="$PWD/adapters" --set "$many" -- adapters_0_7.safetensors 'No such file'
    expect_status 2 cohort check "$tiny" --set adapters="$PWD/adapters" --set "$one"
    expect_text err adapters_0_0.safetensors
    printf '\x10\x00\x00\x00\x00\x00\x00\x00{"a":{}' >adapters/adapters_0_0.safetensors
    expect_refused 1 "$tiny" --set adapters="$PWD/adapters" --set "$one" -- adapters_0_0.safetensors 'does not fit into the file'
    printf '\x02\x00\x00\x00\x00\x00\x00\x00{}' >adapters/adapters_0_0.safetensors
    expect_refused 24 "$tiny" --set adapters="$PWD/adapters" --set "$one" -- 'tensor "layer.0.expert.0.fc.A" is missing; it must be there with shape [4, 32]'
    [[ ! -e cache ]] || fail 'a base was trained first'
}

# Values count, too: they are looked at before a base is trained.
test_adapters_that_are_not_finite() {
    local -x COHORT_CACHE=$PWD/cache
    require python3
    mkdir adapters
    python3 - adapters/adapters_0_0.safetensors <<'PYTHON'
import json, struct, sys
shapes, a, r, d, f = {}, 2, 4, 32, 128
for l in range(2):
    shapes.update({f'layer.{l}.attention.{p}.A': [a, d] for p in ('qkv', 'out')})
    shapes.update({f'layer.{l}.attention.qkv.B': [3 * d, a], f'layer.{l}.attention.out.B': [d, a]})
    for e in range(2):
        x = f'layer.{l}.expert.{e}.'
        shapes.update({x + 'fc.A': [r, d], x + 'fc.B': [f, r], x + 'proj.A': [r, f], x + 'proj.B': [d, r]})
header, at = {}, 0
for name, (rows, columns) in shapes.items():
    header[name] = {'dtype': 'F32', 'shape': [rows, columns], 'data_offsets': [at, at + 4 * rows * columns]}
    at += 4 * rows * columns
text = json.dumps(header).encode()
values = bytearray(at)
values[-4:] = struct.pack('<f', float('nan'))
open(sys.argv[1], 'wb').write(struct.pack('<Q', len(text)) + text + values)
PYTHON
    expect_refused 1 "$tiny" --set adapters="$PWD/adapters" --set 'populations=[{name: a, method: local, devices: 1}]' -- \
        '--set adapters: ' adapters_0_0.safetensors 'is NaN'
    [[ ! -e cache ]] || fail 'a base was trained first'
}

# They would be waited for.
test_pipes_in_place_of_files() {
    local -a options
    mkfifo pipe
    cohort pretrain "$tiny" --out base --quiet
    mv pipe base/model.safetensors
    expect_refused 1 "$tiny" --set "base={checkpoint: $PWD/base}" -- 'model.safetensors: is not a regular file'
    make_shards shards
    mv base/model.safetensors shards/valid_0.bin
    expect_text_refused 'valid_0.bin: is not a file'
}

# ---- Text

on_text() { printf '%s\n' "$tiny" --set data.corpus="$1" --set base.pretrain.tokens=0 --set base.vocabulary=256; }

make_shards() {
    mkdir text
    seq 1 20000 >text/numbers
    cohort data --out "$1" numbers=text/numbers --quiet
}

expect_text_refused() { # expected text...
    local -a options
    mapfile -t options < <(on_text "$PWD/shards")
    expect_refused 1 "${options[@]}" -- "$@"
}

test_corpus_that_is_missing_or_empty() {
    local -a options
    mapfile -t options < <(on_text nowhere)
    expect_refused 1 "${options[@]}" -- 'no corpus nowhere' 'cohort data'
    mkdir shards
    expect_text_refused "$PWD/shards" 'holds no shards'
    touch shards/{train,valid,test}_0.bin
    mapfile -t options < <(on_text "$PWD/shards")
    expect_refused 3 "${options[@]}" -- 'train_0.bin: is empty' 'valid_0.bin: is empty' 'test_0.bin: is empty'
}

test_damaged_shards() {
    local -a options
    make_shards good
    cp -r good shards
    rm shards/valid_0.bin
    expect_text_refused valid_0.bin 'is missing'
    cp good/valid_0.bin shards
    truncate -s 60 shards/valid_0.bin # 30 tokens; a window has 32
    mapfile -t options < <(on_text "$PWD/shards")
    expect_refused 1 "${options[@]}" --set data.valid_tokens_per_device=0 --set 'populations=[{name: a, method: local, devices: 1}]' -- \
        '30 valid token' 'data.sequence: 32'
    truncate -s 61 shards/valid_0.bin
    expect_text_refused valid_0.bin '61 bytes are no multiple of 2'
    cp good/valid_0.bin shards
    printf '\xff\xff' | dd of=shards/train_0.bin bs=2 seek=77 conv=notrunc status=none
    expect_text_refused train_0.bin 'token 77 is 65535' 'below the vocabulary of 256'
}

test_windows_file_that_is_a_folder() {
    expect_refused 1 "$tiny" --set data.windows="$PWD" --set 'populations=[{name: a, method: local, devices: 1}]' -- 'Is a directory'
}

test_windows_file_that_lacks_a_window() {
    printf 'device,part,step,index,offset\n0,train,0,0,5\n' >windows.csv
    expect_refused 1 "$tiny" --set data.windows="$PWD/windows.csv" --set 'populations=[{name: a, method: local, devices: 1}]' -- \
        windows.csv 'device 0, train, step 0, index 1' 'steps 0 to 23'
    expect_refused 1 "$tiny" --set data.windows=nowhere.csv --set 'populations=[{name: a, method: local, devices: 1}]' -- \
        'nowhere.csv cannot be opened'
}

# ---- Settings

test_zero_devices() {
    expect_refused 1 "$tiny" --set populations.0.devices=0 -- '--set populations.0.devices' 'must be 1 to'
    expect_refused 1 "$tiny" --set populations.0.devices=-3 -- '--set populations.0.devices' 'must be 1 to'
}

test_more_experts_than_the_limits() {
    expect_refused 1 "$tiny" --set populations.4.specialists=99 -- populations.4.specialists '0 to 16 experts'
    expect_refused 1 "$tiny" --set populations.4.generalists=9 --set populations.4.specialists=8 -- '17 experts' 'at most 16'
    expect_refused 1 "$tiny" --set populations.4.experts.rank=300 -- 'sum to 600' 'at most 512'
}

test_five_errors_with_their_lines() {
    cat >five.yaml <<'YAML'
seed: 7
base: {layers: none, width: 32, heads: 2}
data: {corpus: synthetic, sequnce: 32}
train:
  rounds: 0
  learning_rate: 2.0e-3x
populations:
  - {name: a, method: comig, devices: 4}
YAML
    expect_refused 5 ../five.yaml -- five.yaml:2: base.layers five.yaml:3: data.sequence five.yaml:5: train.rounds five.yaml:6: \
        train.learning_rate five.yaml:8: comigs
}

test_set_of_an_unknown_key() {
    expect_refused 1 "$tiny" --set train.round=3 -- '--set train.round' 'did you mean train.rounds?'
    expect_refused 1 "$tiny" --set populations.9.rank=3 -- '--set populations.9.rank' "'9' does not name an entry"
    expect_refused 1 "$tiny" --set train.rounds -- '--set train.rounds' 'key.path=value'
}

# ---- Output that cannot be written

# Said before a base is trained for it: the cache stays empty.
expect_output_refused() { # path, expected text...
    local -x COHORT_CACHE=$PWD/cache
    local command
    for command in run pretrain; do
        expect_status 2 cohort "$command" "$tiny" --out "$1"
        for text in "${@:2}"; do expect_text err "$text"; done
        [[ $(wc -l <err) == 1 ]] || fail "expected one message: $(<err)"
        [[ ! -e cache ]] || fail "$command --out $1: a base was trained first"
    done
}

test_output_below_a_file() {
    echo mine >occupied
    expect_output_refused occupied/result 'occupied is no folder'
    expect_output_refused occupied 'occupied is no folder'
    [[ $(<occupied) == mine ]] || fail 'the file was changed'
}

test_output_where_nothing_can_be_made() {
    [[ -d /proc/self ]] || skip 'no /proc here'
    expect_output_refused /proc/result 'cannot be written there: /proc: '
    expect_output_refused "/tmp/$(printf 'x%.0s' {1..5000})" 'too long'
    expect_output_refused "$(printf 'x%.0s' {1..300})" 'too long'
    ln -s nowhere dangling
    expect_output_refused dangling/result 'dangling is no folder'
}

test_output_on_a_read_only_disk() {
    mkdir disk
    mount -t tmpfs -o ro tmpfs disk 2>/dev/null || skip 'no right to mount a file system'
    trap 'umount disk' EXIT
    expect_output_refused disk/result disk 'Read-only file system'
    expect_output_refused disk disk 'Read-only file system'
}

test_output_that_holds_something_else() {
    mkdir full
    echo mine >full/notes
    expect_output_refused full full
    [[ $(ls -A full) == notes && $(<full/notes) == mine ]] || fail 'the folder was changed'
}

# ---- Results that are damaged

expect_resume_refused() { # expected text...
    local text
    (cd result && sha256sum ./* >../before)
    expect_status 2 cohort run "$tiny" --out result --resume --quiet
    for text in "$@"; do expect_text err "$text"; done
    [[ $(wc -l <err) == 1 ]] || fail "expected one message: $(<err)"
    (cd result && sha256sum --quiet --check ../before) || fail 'the result was changed'
    [[ ! -e result/summary.csv ]] || fail 'there is a summary'
}

test_result_with_damaged_files() {
    local good file
    good=$(reference_result)
    cp -r "$good" result
    rm result/summary.csv
    for file in trace.h5 checkpoint.h5; do
        truncate -s 5000 "result/$file"
        expect_resume_refused "result/$file" damaged
        truncate -s 0 "result/$file"
        expect_resume_refused "result/$file" damaged
        cp "$good/$file" result
    done
    rm result/trace.h5
    expect_resume_refused result/trace.h5 'no trace to resume'
    cp "$good/trace.h5" result
    head -c 200 "$good/config.yaml" >result/config.yaml
    expect_status 2 cohort run "$tiny" --out result --resume --quiet
    expect_text err result/config.yaml
    rm result/config.yaml
    expect_resume_refused 'no config.yaml'
}

test_export_and_info_of_damaged_results() {
    cp -r "$(reference_result)" result
    truncate -s 5000 result/trace.h5
    expect_status 2 cohort info result
    expect_text err result/trace.h5
    expect_status 2 cohort export result --table loss --out loss.csv
    expect_text err result/trace.h5
    [[ ! -e loss.csv ]] || fail 'a table was written'
}

# Bytes anywhere in the file, most of them in HDF5's own structures: refused or read, never a crash.
test_traces_with_changed_bytes() {
    local good size try place status command
    good=$(reference_result)
    size=$(stat -c %s "$good/trace.h5")
    cp -r "$good" result
    RANDOM=7
    for try in {1..40}; do
        cp "$good/trace.h5" result
        for place in $((RANDOM % 4096)) $((RANDOM * 32768 % size + RANDOM % 64)); do
            printf '%b' "\\x$(printf %02x $((RANDOM % 256)))" | dd of=result/trace.h5 bs=1 seek="$place" conv=notrunc status=none
        done
        for command in 'info result' 'export result --table all --out tables'; do
            status=0
            # shellcheck disable=SC2086
            cohort $command >out 2>err || status=$?
            ((status == 0 || status == 2)) || fail "try $try: $command: exit status $status: $(<err)"
        done
    done
}

run_tests bad_input "$@"
