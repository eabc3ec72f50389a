#!/usr/bin/env bash
# `cohort table`: the tables of the reference results, differences and intervals computed by hand, and what cannot be a table.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

reference=$COHORT_SOURCE_DIR/results/reference

# ---- The reference results

# NAME MEAN STD AFTER STD MB, sorted: of a section of their README, and as `cohort table` has it.
rows_of_readme() { # from the heading on, up to the next
    sed -n "/^## $1/,/^## $2/p" "$reference/README.md" | sed -nE 's/^\| ([a-z0-9-]+) \| ([0-9.]+) ± ([0-9.]+) \| ([0-9.]+) ± ([0-9.]+) \| ([0-9.]+) \|$/\1 \2 \3 \4 \5 \6/p' |
        sort
}

rows_of_table() { # result
    cohort table "$reference/$1" --metric test_ppl_mean,test_ppl_after --csv | tr -d '\r' |
        awk -F, 'NR > 1 { if ($2 == "test_ppl_mean") row[$1] = sprintf("%s %.2f %.2f", $1, $6, $7)
                          else printf "%s %.2f %.2f %.1f\n", row[$1], $6, $7, $NF / 1e6 }' | sort
}

test_reference_tables_are_those_of_the_readme() {
    rows_of_readme Poor Out >readme
    rows_of_table multilingual >found
    [[ $(wc -l <readme) == 6 ]] || fail "the README's rows: $(<readme)"
    expect_same readme found 'the tables of poor devices'
    rows_of_readme Out The >readme
    rows_of_table multilingual_ood >found
    [[ $(wc -l <readme) == 6 ]] || fail "the README's rows: $(<readme)"
    expect_same readme found 'the tables out of distribution'
}

# The README has a row for each number of bytes; what is best is bold in both.
test_reference_crossover_is_that_of_the_readme() {
    sed -nE 's/^\| ([0-9]+),000 \| (.*) \|$/\1000 | \2/p' "$reference/README.md" |
        awk -F' \\| ' '{ print $1, "local 0", $2; print $1, "pfedmoe 1", $3; print $1, "comigs 1", $4; print $1, "comigs 0", $5 }' | sort >readme
    cohort table "$reference/multilingual_crossover" --columns tokens_per_device --markdown |
        sed -n 's/_//g; s/^| \([a-z].*\) |$/\1/p' |
        awk -F' \\| ' '$1 == "method" { for (i = 3; i <= NF; i++) tokens[i] = $i; next }
            { for (i = 3; i <= NF; i++) print tokens[i], $1, $2, $i }' | sort >found
    [[ $(wc -l <readme) == 12 && $(grep -c '\*\*' readme) == 3 ]] || fail "the README's cells: $(<readme)"
    expect_same readme found 'the crossovers'
}

# Population, seed, test perplexity and more, with the columns that a summary cannot be without.
summary() { # lines NAME METHOD SEED PPL [UP] [TOKENS]
    local name method seed ppl up tokens
    echo population,method,test_ppl_mean,bytes_up,seed,tokens_per_device,test_loss_mean
    while read -r name method seed ppl up tokens; do
        [[ $ppl != none ]] || ppl=
        echo "$name,$method,$ppl,${up:-0},$seed,${tokens:-1000},$ppl"
    done
}

three_methods() {
    summary <<'ROWS'
a local 1 10
b fedavg 1 9 2500000
c comigs 1 20
a local 2 12
b fedavg 2 10.5 2500000
c comigs 2 21
a local 3 14
b fedavg 3 13.5 2500000
c comigs 3 22.5
ROWS
}

# ---- Numbers

# b - a: -1, -1.5, -0.5: mean -1, deviation 0.5; t(0.975, 2) = 4.30265273, so the interval is -1 -+ 4.30265273 * 0.5 / sqrt(3).
# c - a: 10, 9, 8.5: mean 9.1667, deviation 0.763763.
test_differences_are_paired_and_have_the_interval_of_student() {
    three_methods >s.csv
    expect_status 0 cohort table s.csv --baseline a --csv
    expect_same out - 'the tables' <<'CSV'
population,metric,seeds,missing,diverged,mean,std,mark,baseline,difference,low,high,pairs,bytes_up
a,test_ppl_mean,3,0,0,12,2,near,,,,,,0
b,test_ppl_mean,3,0,0,11,2.29128785,best,a,-1,-2.24206886,0.242068856,3,2500000
c,test_ppl_mean,3,0,0,21.1666667,1.25830574,,a,9.16666667,7.26937515,11.0639582,3,0
CSV
    expect_status 0 cohort table s.csv --baseline local --csv
    expect_text out 'b,test_ppl_mean,3,0,0,11,2.29128785,best,a,-1,'
}

test_text_is_aligned_and_says_how_to_read_it() {
    three_methods >s.csv
    expect_status 0 cohort table s.csv --baseline a
    expect_same out - 'the tables' <<'TEXT'
population   seeds    test_ppl_mean     minus a [95 % interval], pairs   sent (MB)
a                3   12.000 ± 2.000 ~                         baseline         0.0
b                3   11.000 ± 2.291 *       -1.000 [-2.242, +0.242], 3         2.5
c                3   21.167 ± 1.258        +9.167 [+7.269, +11.064], 3         0.0

mean ± standard deviation over seeds
*: the lowest on equal text; ~: not told apart from it, since the 95 % interval of the paired difference holds 0
minus a: mean difference of equal seeds [its 95 % confidence interval, Student's t], pairs of seeds
TEXT
}

test_markdown_and_latex_mark_what_is_best() {
    three_methods >s.csv
    expect_status 0 cohort table s.csv --markdown --out table.md
    [[ ! -s out ]] || fail "something was printed: $(<out)"
    expect_text table.md '| b | 3 | **11.000 ± 2.291** | 2.5 |'
    expect_text table.md '| a | 3 | _12.000 ± 2.000_ | 0.0 |'
    sed -i 's/^b,/b_1,/' s.csv
    expect_status 0 cohort table s.csv --latex --baseline a
    # shellcheck disable=SC2016
    expect_text out 'b\_1 & 3 & \textbf{11.000 $\pm$ 2.291} & $-$1.000 [$-$2.242, +0.242], 3 & 2.5 '
    # shellcheck disable=SC2016
    expect_text out 'a & 3 & \underline{12.000 $\pm$ 2.000} & baseline & 0.0 '
    ! grep -v '^%' out | grep -q '±' || fail "$(<out)"
}

# What is best is best among those of equal text; so is what is compared with a method.
test_an_axis_makes_columns_in_the_order_of_its_numbers() {
    summary >s.csv <<'ROWS'
a local 1 5 0 20000
a local 2 5.5 0 20000
b fedavg 1 6 0 20000
b fedavg 2 6.5 0 20000
a local 1 9 0 3000
a local 2 9.25 0 3000
b fedavg 1 7 0 3000
b fedavg 2 7.5 0 3000
ROWS
    expect_status 0 cohort table s.csv --columns tokens_per_device --baseline local
    grep -q '^method  *3000  *20000' out || fail "$(<out)"
    grep -Eq '^local +9\.125 ± 0\.177 +5\.250 ± 0\.354 \*$' out || fail "$(<out)"
    grep -Eq '^fedavg +7\.250 ± 0\.354 \* +6\.250 ± 0\.354$' out || fail "$(<out)"
    grep -Eq '^fedavg +-1\.875 \[-3\.463, -0\.287\], 2 +\+1\.000 \[\+1\.000, \+1\.000\], 2$' out || fail "$(<out)"
    expect_status 0 cohort table s.csv
    grep -Eq '^population +tokens_per_device +seeds' out || fail "one name at two places: $(<out)"
    grep -Eq '^a +20000 +2 +5\.250 ± 0\.354 \* ' out || fail "$(<out)"
    grep -Eq '^b +3000 +2 +7\.250 ± 0\.354 \* ' out || fail "a best of each text: $(<out)"
    expect_status 2 cohort table s.csv --rows method
    expect_text err 'they differ in more than the seed: in tokens_per_device; name it in --rows or --columns'
}

test_several_results_are_one_table() {
    three_methods | grep -v ',1,1000,' >first.csv
    three_methods | grep -v ',[23],1000,' >second.csv
    three_methods >whole.csv
    expect_status 0 cohort table whole.csv --baseline a
    mv out whole
    expect_status 0 cohort table first.csv second.csv --baseline a
    expect_same whole out 'the table of one file and that of two'
}

# A run with everything in it, a list of specialists too.
test_table_of_a_run() {
    local result
    result=$(reference_result)
    expect_status 0 cohort table "$result" --metric test_ppl_mean,test_ppl_best,valid_loss_mean,bytes_up --baseline averaged
    grep -Eq '^both +2 ' out || fail "$(<out)"
    expect_text out 'valid_loss_mean (nats/token)'
    expect_text out 'both: without a pair are its seeds 8, which averaged lacks'
    expect_status 0 cohort table "$result" --rows method,specialists
    grep -Eq '^comigs +1 2 1 3 +1 +[0-9.]+  ' out || fail "$(<out)"
}

# What makes their text differ is a column, though it is no axis.
test_listed_populations_of_unequal_text_are_not_compared() {
    local bank='method: local, devices: 2, seeds: [1, 2]'
    sed '/- {name/d' "$tiny" >other.yaml
    expect_status 0 cohort run other.yaml --out result --quiet --set data.split=dirichlet --set train.rounds=1 \
        --set "populations=[{name: a, $bank, data: {dirichlet: 0.1}}, {name: b, $bank, data: {dirichlet: 10}}]"
    [[ $(head -n 1 result/summary.csv) == *,evaluation,data.dirichlet ]] || fail "$(<result/summary.csv)"
    expect_status 0 cohort table result
    ! grep -q '[*~]' out || fail "$(<out)"
    expect_status 2 cohort table result --rows method
    expect_text err 'they differ in more than the seed: in population, data.dirichlet; name one of these in --rows or --columns'
}

# Every column of summary.csv is described in results/README.md, and nothing else is. Two columns are there only where devices join late
# (test_held_out.sh).
# shellcheck disable=SC2016
test_columns_of_the_summary_are_those_of_the_readme() {
    sed -n '/^| in summary.csv/,/^$/p' "$COHORT_SOURCE_DIR/results/README.md" | cut -d'|' -f2 | grep -o '`[a-z_]*`' | tr -d '`' | sort >readme
    { head -n 1 "$(reference_result)/summary.csv" | tr , '\n'; printf '%s\n' held_out_ppl_first held_out_ppl_last; } | sort >found
    (($(wc -l <found) >= 20)) || fail "$(<found)"
    expect_same readme found 'the columns'
}

# ---- What has no value

test_diverged_and_empty_are_shown_and_counted() {
    three_methods | sed -E 's/^c,comigs,2[0-9.]*,0,([12]),1000,.*/c,comigs,,0,\1,1000,/; s/^a,local,14,/a,local,,/' >s.csv
    expect_status 0 cohort table s.csv
    grep -Eq '^a +3 +11\.000 ± 1\.414 \(2 of 3\)  ' out || fail "$(<out)"
    grep -Eq '^c +3 +22\.500 \(1 of 3\)  ' out || fail "$(<out)"
    grep -Eq '^b +3 +11\.000 ± 2\.291 \*' out || fail "what lacks a value is not best: $(<out)"
    expect_text out 'c: no test_ppl_mean of 2 of 3 seeds: 1 (diverged), 2 (diverged)'
    expect_text out 'a: no test_ppl_mean of 1 of 3 seeds: 3'
    ! grep -q '3 (diverged)' out || fail "it has a loss: $(<out)"
    expect_status 0 cohort table s.csv --csv
    expect_text out 'c,test_ppl_mean,3,2,2,22.5,,,'
    sed -i 's/^b,fedavg,9,/b,fedavg,inf,/' s.csv
    expect_status 0 cohort table s.csv
    expect_text out 'b: no test_ppl_mean of 1 of 3 seeds: 1 (inf)'
    summary <<<'a local 1 none' >s.csv
    expect_status 0 cohort table s.csv
    grep -Eq '^a +1 +diverged ' out || fail "$(<out)"
}

test_one_pair_has_no_interval() {
    three_methods | grep -v ',[23],1000,' >s.csv
    expect_status 0 cohort table s.csv --baseline a
    grep -Eq '^b +1 +9\.000 \* +-1\.000, 1 ' out || fail "$(<out)"
    grep -Eq '^a +1 +10\.000  ' out || fail "not told apart without an interval: $(<out)"
}

test_unequal_seeds_are_named() {
    three_methods | sed '/^c,.*,1,1000,/d' >s.csv
    echo 'c,comigs,30,0,9,1000,30' >>s.csv
    expect_status 0 cohort table s.csv --baseline a
    grep -Eq '^c .* 2 +0\.0$' out || fail "two pairs: $(<out)"
    expect_text out 'c: without a pair are its seeds 9, which a lacks'
    expect_text out 'a: without a pair are its seeds 1, which c lacks'
    summary >other.csv <<'ROWS'
a local 1 5
a local 2 5
b fedavg 1 4
b fedavg 2 4.01
b fedavg 3 30
ROWS
    expect_status 0 cohort table other.csv
    grep -Eq '^b +3 +12\.670 ± 15\.008  ' out || fail "told apart where it has pairs: $(<out)"
    sed -i '/^c,.*,[23],1000,/d' s.csv
    expect_status 2 cohort table s.csv --baseline a
    expect_text err 'c (seed 9) and the baseline a (seed 1, ...) have no seed in common'
}

# ---- What cannot be a table

refused() { # text, arguments
    expect_status 2 cohort table "${@:2}"
    expect_text err "$1"
    [[ ! -s out && $(wc -l <err) == 1 ]] || fail "more than a message: $(cat out err)"
}

test_names_that_are_not_there() {
    three_methods >s.csv
    refused 'did you mean test_ppl_mean?' s.csv --metric test_ppl_men
    refused 'it has test_ppl_mean, bytes_up, test_loss_mean' s.csv --metric fairness
    refused 's.csv has no such column: it is of a Cohort that did not write it yet' s.csv --metric test_ppl_best
    refused 'did you mean method?' s.csv --rows methods
    refused 'has no such setting' s.csv --columns bytes_up
    refused 'names method twice' s.csv --rows method,method
    refused 'there is no population and no method of that name; populations: a, b, c; methods: local, fedavg, comigs' s.csv --baseline d
    refused 'exclude each other' s.csv --csv --latex
    sed 's/^c,comigs/c,local/' s.csv >two.csv
    refused 'several populations could be the one that b is compared with; name one of them: a, c' two.csv --baseline local
}

test_results_that_do_not_fit_together() {
    three_methods >s.csv
    cp s.csv again.csv
    refused 'again.csv:2: the population a of seed 1, with equal settings, is there already in s.csv:2' s.csv again.csv
    sed '1s/$/,data.dirichlet/; 2,$s/$/,0.1/' s.csv >axis.csv
    refused 's.csv: has no column data.dirichlet, which axis.csv has' axis.csv s.csv
    refused 's.csv: has no column data.dirichlet, which axis.csv has' s.csv axis.csv
}

test_files_that_are_no_summary() {
    three_methods >s.csv
    refused 'nowhere: cannot be opened: No such file' nowhere
    mkdir begun
    refused 'begun: has no summary.csv' begun
    head -c 200 s.csv >cut.csv
    refused 'cut.csv:6: has 5 cells, and the first line names 7 columns' cut.csv
    sed '3s/,9,/,nine,/' s.csv >word.csv
    refused "word.csv:3: test_ppl_mean is 'nine', which is no number" word.csv
    sed '4s/^c/"c/' s.csv >quote.csv
    refused 'quote.csv:4: a quote is not closed' quote.csv
    head -n 1 s.csv >none.csv
    refused 'none.csv: has no populations' none.csv
    : >empty.csv
    refused 'empty.csv: is empty' empty.csv
    echo a,b >other.csv
    refused 'other.csv: has no column population: it is no summary.csv' other.csv
    head -c 100 /dev/zero >zeros.csv
    refused 'zeros.csv: is no text' zeros.csv
}

test_out_is_whole_or_not_there() {
    three_methods >s.csv
    refused 'there is no population' s.csv --baseline d --out table.txt
    [[ ! -e table.txt ]] || fail 'something was written'
    cp -r "$reference/multilingual" result
    refused "is the result's own summary.csv" result --out result/summary.csv
    refused 's.csv is s.csv itself' s.csv --out s.csv
    expect_same result/summary.csv "$reference/multilingual/summary.csv" 'the summaries'
}

run_tests table "$@"
