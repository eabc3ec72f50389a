"""check_figures.py RESULTS CASE [FOLDER]: the numbers that figures draw are those of hand-made summaries and of a result. RESULTS is the
folder of the scripts; cases that look at a result take its folder, with routing.csv, the table of that name, in it."""
import csv
import math
import os
import sys

sys.path.insert(0, sys.argv[1])
import by_text  # noqa: E402
import cost  # noqa: E402
import fairness  # noqa: E402
import metric  # noqa: E402
import mixture  # noqa: E402
import numpy as np  # noqa: E402
import plot  # noqa: E402
import routing  # noqa: E402
from result import Result  # noqa: E402
from sweep import Axis, Roles, Unreadable, axes_of, band_name, declared_axes, mean_and_band, read_summary, table  # noqa: E402


def summary(text):
    lines = [line.strip().split(",") for line in text.strip().splitlines()]
    return [dict(zip(lines[0], line)) for line in lines[1:]]


# Rows out of order; comigs at 10 has lost seed 2, local at 100 both.
SWEEP = summary("""population,method,seed,generalists,specialists,rank,split,data.dirichlet,test_ppl_mean
    l10,local,1,0,2,4,dirichlet,10,8.0
    l10,local,2,0,2,4,dirichlet,10,9.0
    l01,local,1,0,2,4,dirichlet,0.1,6.0
    l01,local,2,0,2,4,dirichlet,0.1,7.0
    l100,local,1,0,2,4,dirichlet,100,
    l100,local,2,0,2,4,dirichlet,100,nan
    c10,comigs,1,1,1,4,dirichlet,10,7.5
    c10,comigs,2,1,1,4,dirichlet,10,
    c01,comigs,1,1,1,4,dirichlet,0.1,6.25
    c01,comigs,2,1,1,4,dirichlet,0.1,7.25
    c100,comigs,1,1,1,4,dirichlet,100,7.0
    c100,comigs,2,1,1,4,dirichlet,100,7.5""")
AXES = ["method", "data.dirichlet"]


def names(rows, declared=(), chosen=None):
    return [axis.name for axis in axes_of(rows, declared, chosen)]


def parts(roles):
    return roles.x and roles.x.name, roles.line and roles.line.name, [axis.name for axis in roles.facets]


def refused(call, words):
    try:
        call()
    except Unreadable as error:
        assert words in str(error), error
        return
    raise AssertionError(f"not refused: {words}")


def case_axes():
    assert declared_axes("seed: 1\nsweep:\n  axes: [method, data.dirichlet, seed]\npopulations:\n  - {}\n") == AXES
    assert declared_axes("sweep: {axes: [rank]}\n") == ["rank"]
    assert declared_axes("seed: 1\npopulations:\n  - name: axes\n") == []
    assert names(SWEEP, AXES) == AXES
    assert names(SWEEP) == AXES
    # of settings that change together the first
    assert names(SWEEP, ["method", "generalists", "data.dirichlet"]) == AXES
    # a key by the last part of its name
    assert names([{**row, "rank": row["data.dirichlet"]} for row in SWEEP], ["method", "experts.rank"]) == ["method", "experts.rank"]
    # what does not tell populations apart is no axis: their names do
    assert names(SWEEP, ["method"]) == ["population"]
    refused(lambda: names(SWEEP, AXES, "rnak"), "no such column; the settings in which populations differ are method, data.dirichlet")
    refused(lambda: names(SWEEP, AXES, "rank"), "all populations have the value 4")


def bank_rows(banks):
    return [{"population": f"{m}{g}{s}", "method": m, "seed": "1", "generalists": g, "specialists": s} for m, g, s in banks]


def case_roles():
    assert parts(Roles(axes_of(SWEEP, AXES))) == ("data.dirichlet", "method", [])
    assert parts(Roles(axes_of(SWEEP, AXES, "method"), "method")) == ("method", "data.dirichlet", [])
    # Banks that only one method has: lines have both names.
    own = bank_rows([("local", "0", "1"), ("local", "0", "2"), ("comigs", "1", "1"), ("comigs", "1", "3")])
    roles = Roles(axes_of(own, ["method", "generalists", "specialists"]))
    assert parts(roles) == (None, "method", []) and roles.line.levels == ["local 1S", "local 2S", "comigs 1G1S", "comigs 1G3S"]
    # Banks that all methods have
    shared = bank_rows([(m, g, s) for m in ("local", "comigs") for g, s in (("1", "1"), ("2", "0"))])
    assert parts(Roles(axes_of(shared, ["method", "generalists", "specialists"]))) == (None, "method", ["experts"])
    assert parts(Roles(axes_of(shared, ["method", "generalists", "specialists"], "specialists"), "specialists")) == \
        ("specialists", "method", [])
    # Numbers of experts, a list a device among them, are names; the other axis is the number.
    lists = [{"population": f"{s}{r}", "seed": "1", "generalists": "1", "specialists": s, "rank": r} for s in ("1", "1 3") for r in ("4", "8")]
    assert parts(Roles(axes_of(lists, ["specialists", "experts.rank"]))) == ("experts.rank", "specialists", [])


def case_table():
    found = table(SWEEP, Roles(axes_of(SWEEP, AXES)), "test_ppl_mean")
    assert list(found) == [""] and list(found[""]) == ["local", "comigs"]
    assert found[""]["comigs"]["0.1"] == [6.25, 7.25] and list(found[""]["local"]) == ["0.1", "10", "100"]
    assert found[""]["comigs"]["10"][0] == 7.5 and math.isnan(found[""]["comigs"]["10"][1])
    assert all(map(math.isnan, found[""]["local"]["100"]))
    assert band_name(found) == "range"
    assert mean_and_band([6.0, 7.0, 9.5], False) == (7.5, 6.0, 9.5)
    # 3 +- t(0.975, 4) s / sqrt(5), s = sqrt(2.5)
    assert np.allclose(mean_and_band([1, 2, 3, 4, 5, math.nan], True), [3, 3 - 1.96293, 3 + 1.96293], atol=1e-4)
    assert band_name({"": {"": {"1": [1, 2, 3, 4, 5], "2": [1, 2, 3, 4, 6]}}}) == "95 % interval"
    assert band_name({"": {"": {"1": [1, 2, 3, 4, 5], "2": [1, 2, 3, 4, math.nan]}}}) == "range"
    assert band_name({"": {"": {"1": [1], "2": [2]}}}) == ""


def case_lines():
    figure = metric.line_figure(SWEEP, Roles(axes_of(SWEEP, AXES)), "test_ppl_mean")
    axes = figure.axes[0]
    local, comigs = (line for line in axes.lines if line.get_linestyle() != "None")
    assert list(local.get_xdata()) == list(comigs.get_xdata()) == [0.1, 10, 100] and axes.get_xscale() == "log"
    assert np.array_equal(local.get_ydata(), [6.5, 8.5, math.nan], equal_nan=True) and list(comigs.get_ydata()) == [6.75, 7.5, 7.25]
    hollow = [line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert hollow == [[[10, 7.5]]], hollow
    band = axes.collections[1].get_paths()[0].vertices
    assert {tuple(v) for v in band} == {(0.1, 6.25), (0.1, 7.25), (10, 7.5), (100, 7.0), (100, 7.5)}, band
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "10", "100"]
    said = "".join(text.get_text() for text in figure.texts)
    assert "bands: range" in said and "3 of 12 populations diverged" in said.replace("\n", " "), said


def case_entropy():
    """It is a line in all panels, or in the title of all: the limits that they share leave no other choice."""
    figure, panels = plot.plt.subplots(1, 3, sharey=True)
    for axes in panels:
        axes.set_ylim(2.5, 3.0)
    plot.entropy_lines(panels, [1.2, 1.26, math.nan])
    assert [len(axes.lines) for axes in panels] == [0, 0, 0] and panels[0].get_ylim() == (2.5, 3.0)
    plot.entropy_lines(panels, [1.26, 1.3, math.nan])
    assert [len(axes.lines) for axes in panels] == [1, 1, 0]


def case_map():
    figure = metric.map_figure(SWEEP, Roles(axes_of(SWEEP, AXES)), "test_ppl_mean")
    axes = figure.axes[0]
    written = {text.get_position(): (text.get_text(), text.get_fontweight()) for text in axes.texts}
    assert written == {(0, 0): ("6.50", "bold"), (1, 0): ("8.50", "normal"), (0, 1): ("6.75", "normal"), (1, 1): ("7.50*", "bold"),
                       (2, 1): ("7.25", "normal")}, written
    assert [t.get_text() for t in axes.get_yticklabels()] == ["local", "comigs"]
    assert sum(patch.get_hatch() is not None for patch in axes.patches) == 1


def case_result(folder):
    """What figures take from the trace is what the summary and the exported tables say."""
    result, rows = Result(folder), read_summary(os.path.join(folder, "summary.csv"))
    for series in result.series():
        own = [rows[p] for p in series.populations]
        rounds, sent, mean, low, high = cost.curves(result, series)
        losses = [float(row["test_loss_mean"]) for row in own]
        assert rounds[-1] == result.rounds[-1] and np.allclose([mean[-1], low[-1], high[-1]], [np.mean(losses), min(losses), max(losses)])
        assert sent[-1] == sum(int(row["bytes_up"]) + int(row["bytes_down"]) for row in own) / len(own)
        assert sent[-1] == 0 or 0 < sent[0] < sent[-1]
        for p, (loss, worst, gini) in zip(series.populations, fairness.points(result, series)):
            of_devices = np.sort(result.test[-1, result.members(p)])
            n, tenth = len(of_devices), -(-len(of_devices) // 10)
            assert np.allclose([loss, worst], [of_devices.mean(), of_devices[-tenth:].mean()])
            assert np.isclose(gini, np.abs(np.subtract.outer(of_devices, of_devices)).sum() / (2 * n * n * of_devices.mean()))


def case_routing(folder):
    """Of the uneven bank: devices of 2, 3 and 4 experts, one of them a generalist."""
    result = Result(folder)
    found = routing.collect(result)
    assert list(found) == [("comigs", 1)] and list(found["comigs", 1]) == [2, 3, 4], found
    with open(os.path.join(folder, "routing.csv"), newline="", encoding="utf-8") as file:
        lines = [row for row in csv.DictReader(file) if row["population"] == "uneven" and int(row["round"]) == result.rounds[-1]]
    for experts, device in ((3, "1"), (4, "3")):
        own = [row for row in lines if row["device"] == device]
        layers = len({row["layer"] for row in own})
        for which, column in enumerate(("gate_mean", "token_share")):
            of_kind = [sum(float(row[column]) for row in own if (int(row["expert"]) > 0) == specialist) / layers for specialist in (False, True)]
            assert np.allclose(found["comigs", 1][experts][0][which], of_kind, atol=1e-6)


def case_by_text(folder):
    """A panel for each amount of text, with the mean perplexity of the devices that have it, from the exported table of losses."""
    result = Result(folder, "experts.rank")
    losses = list(csv.DictReader(open(os.path.join(folder, "losses.csv"), newline="", encoding="utf-8")))
    last = max(row["round"] for row in losses if row["split"] == "test")
    ppl = {(row["population"], row["seed"], row["device"]): math.exp(float(row["loss"])) for row in losses
           if row["split"] == "test" and row["round"] == last}
    panels = [axes for axes in by_text.figure(result).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["600 tokens of text", "4k tokens of text"]
    for axes, devices in zip(panels, (("0", "2"), ("1",))):
        for line, method in zip((0, 2), ("local", "comigs")):
            for rank, drawn in zip((2, 4, 8), axes.lines[line].get_ydata()):
                names = [row["population"] for row in result.rows if row["method"] == method and row["rank"] == str(rank)]
                wanted = np.mean([ppl[name, seed, device] for name in set(names) for seed in ("7", "8") for device in devices])
                assert abs(drawn - wanted) < 1e-6 * wanted, (method, rank, drawn, wanted)


def case_mixture(folder):
    result = Result(folder)
    panels = mixture.panels_of(result)
    assert [panel.populations[0] for panel in panels] == [0, 2], [panel.name for panel in panels]
    expected = np.zeros((4, 2), int)
    expected[[0, 1, 2, 3], [0, 1, 0, 1]] = 4000
    assert np.array_equal(panels[0].tokens, expected), panels[0].tokens
    assert np.array_equal(panels[1].tokens, [[8000, 8000]]), "pooled data is of all sources"
    # A value that a population lacks is not in the name.
    nobody = type("", (), {"axes": [Axis("data.dirichlet", ["", "3"]), Axis("split", ["iid", "dirichlet"])], "name": str})
    two = [type("", (), {"populations": [i]}) for i in range(2)]
    assert [mixture.name_of(panel, two, nobody) for panel in two] == ["iid", "data.dirichlet 3, dirichlet"]
    # Devices of several sources: two populations with a mixture, the others with another.
    result.mixture = np.tile([[1000, 3000]], (len(result.devices), 1))
    result.mixture[np.concatenate([result.members(0), result.members(1)])] = [4000, 0]
    panels = mixture.panels_of(result)
    assert [panel.populations for panel in panels][0] == [0, 1] and panels[1].populations[0] == 2
    first, second = (axes.images[0].get_array() for axes in mixture.figure(result).axes[:2])
    assert np.array_equal(first, [[1, 0]] * 4) and np.array_equal(second[0], [0.25, 0.75]), (first, second)


if __name__ == "__main__":
    globals()["case_" + sys.argv[2]](*sys.argv[3:])
