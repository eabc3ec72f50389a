#!/usr/bin/env bash
# Figures of sweeps: that they are drawn, and that what they draw is what the summary says.
# shellcheck source=result.sh
source "$(dirname "${BASH_SOURCE[0]}")/result.sh"

check_figures() { # case, folder of a result where it looks at one
    local python
    require_python h5py matplotlib
    "$python" -W error "$cli/check_figures.py" "$COHORT_SOURCE_DIR/results" "$@" 2>said || fail "$(<said)"
}

test_axes_are_those_declared_or_those_that_vary() { check_figures axes; }
test_each_axis_has_its_role() { check_figures roles; }
test_series_are_the_rows_of_the_summary() { check_figures table; }
test_lines_have_the_means_of_the_summary() { check_figures lines; }
test_entropy_is_a_line_in_all_panels_or_in_none() { check_figures entropy; }
test_maps_write_the_means_and_mark_the_best() { check_figures map; }
test_costs_and_fairness_are_those_of_the_summary() { check_figures result "$(reference_result)"; }
test_mixtures_are_those_of_the_devices() { check_figures mixture "$(reference_result)"; }

test_shares_of_experts_are_those_of_the_table_of_routing() {
    cp -r "$(reference_result)" result
    cohort export result --table routing --out result/routing.csv
    check_figures routing result
}

# Two methods by three ranks, two seeds each.
sweep_result() { # keys of all points, unless they only have two devices
    local configuration=$shared-sweep.$BASHPID.yaml
    {
        sed '/^populations:/,$d' "$tiny"
        printf '%s\n' 'sweep:' "  population: {${1-devices: 2}}" '  cross:' '    - {method: [local, comigs]}' \
            '    - {experts.rank: [2, 4, 8]}' '  seeds: [7, 8]'
    } >"$configuration"
    shared_result "$configuration"
    rm "$configuration"
}

test_devices_of_much_and_of_little_text_have_a_panel_each() {
    cp -r "$(sweep_result 'devices: 3, data.tokens_per_device: [600, 4000, 600]')" result
    cohort export result --table loss --out result/losses.csv
    check_figures by_text result
    expect_status 0 cohort plot result --out figures --axis experts.rank
    [[ -s figures/by_text.png ]] || fail "$(<err)"
}

test_plot_of_a_sweep_draws_its_axes() {
    local python figure
    require_python h5py matplotlib
    expect_status 0 cohort plot "$(sweep_result)" --out figures
    for figure in metric map cost fairness mixture; do
        [[ -s figures/$figure.png ]] || fail "$figure.png is not there: $(<err)"
        expect_text out "figures/$figure.svg"
    done
    expect_text figures/metric.svg '<!-- experts.rank -->'
    expect_text figures/metric.svg '<!-- mean over 2 seeds; bands: range -->'
    expect_text figures/map.svg '<!-- comigs -->'
    expect_text figures/loss.svg '<!-- experts.rank 4 -->'
    [[ $(<err) == 'no figure of routing: no devices with a router and both kinds of expert differ in their number of experts' ]] ||
        fail "$(<err)"
    expect_status 0 cohort plot "$(sweep_result)" --out others --metric bytes_up --axis method
    expect_text others/metric.svg '<!-- bytes up -->'
    expect_text others/metric.svg '<!-- experts.rank 8 -->'
}

# Ranks make panels; the first one shows nothing of fedavg.
test_legends_name_what_any_panel_shows() {
    local python figure
    require_python h5py matplotlib
    {
        sed '/^populations:/,$d' "$tiny"
        printf '%s\n' 'sweep:' '  population: {devices: 2}' '  points:' '    - {method: local, experts.rank: 2}' \
            '    - {method: local, experts.rank: 4}' '    - {method: fedavg, experts.rank: 4}'
    } >points.yaml
    expect_status 0 cohort run points.yaml --out result --quiet --set train.rounds=1
    expect_status 0 cohort plot result
    for figure in loss cost; do
        expect_text "result/figures/$figure.svg" '<!-- experts.rank 2'
        expect_text "result/figures/$figure.svg" '<!-- local -->'
        expect_text "result/figures/$figure.svg" '<!-- fedavg -->'
    done
}

test_plot_says_which_metrics_and_axes_there_are() {
    local python
    require_python h5py matplotlib
    expect_status 2 cohort plot "$(sweep_result)" --out figures --metric test_ppl
    expect_text err '--metric test_ppl: summary.csv has no such measured column; there are test_ppl_mean, '
    expect_status 2 cohort plot "$(sweep_result)" --out figures --metric rank
    expect_text err '--metric rank: '
    expect_status 2 cohort plot "$(sweep_result)" --out figures --axis experts.rnak
    expect_text err '--axis experts.rnak: summary.csv has no such column; the settings in which populations differ are method, experts.rank'
    expect_status 2 cohort plot "$(sweep_result)" --out figures --axis devices
    expect_text err '--axis devices: all populations have the value 2'
    [[ -z $(ls figures 2>/dev/null) ]] || fail 'something was drawn'
}

test_plot_of_a_run_that_goes_on_says_what_is_missing() {
    local python
    require_python h5py matplotlib
    cp -r "$(sweep_result)" result
    rm result/summary.csv
    expect_status 0 cohort plot result
    expect_text err 'no figure of metric: summary.csv is written when the run has ended'
    [[ -s result/figures/cost.png && ! -e result/figures/map.png ]] || fail "$(ls result/figures)"
    cp -r "$(sweep_result)" foreign
    cp "$(reference_result)/summary.csv" foreign
    expect_status 2 cohort plot foreign
    expect_text err 'foreign/summary.csv: its populations are not those of foreign/trace.h5'
}

run_tests figures "$@"
