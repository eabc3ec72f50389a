#!/usr/bin/env python3
"""The README's table of what has run on a GPU, from results/gpu/*.json (./cohort gpu-check writes them). Prints Markdown."""
import glob
import json
import os

HEADER = "| GPU | revision | date | conformance | instructions | memcheck | racecheck | measured cases |"


def tally(results):
    return f"{results['passed']} passed, {results['failed']} failed"


def row(report):
    bench = report.get("bench") or {}
    cases = [case for case in bench.get("benchmarks", []) if case.get("run_type") != "aggregate" and not case.get("error_occurred")]
    cells = [report["hardware"], report["revision"], report["date"], tally(report["conformance"]), tally(report["instructions"]),
             report["memcheck"], report["racecheck"], str(len(cases))]
    return "| " + " | ".join(cells) + " |"


def table(folder):
    reports = []
    for path in glob.glob(os.path.join(folder, "*.json")):
        with open(path, encoding="utf-8") as file:
            reports.append(json.load(file))
    reports.sort(key=lambda report: (report["date"], report["revision"]), reverse=True)
    if not reports:
        return "**No revision has ever run on a GPU.**"
    return "\n".join([HEADER, "|---|---|---|---|---|---|---|---|"] + [row(report) for report in reports])


if __name__ == "__main__":
    print(table(os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu")))
