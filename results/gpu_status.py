#!/usr/bin/env python3
"""What has run on a GPU, in Markdown.

gpu_status.py          the README's table, a line for each folder of results/gpu (./cohort gpu-check makes them)
gpu_status.py FOLDER   the page of one check: every step with its verdict, every measured case beside its floor

Whatever part of a folder is there is read; what is missing is named, and counts as nothing.
"""
import glob
import json
import os
import re
import sys

HEADER = "| GPU | revision | date | verdict | conformance | steps | measured cases |"


def read_summary(folder):
    """The summary, or what can be said without one."""
    try:
        with open(os.path.join(folder, "summary.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        return {"verdict": "incomplete", "complete": False, "steps": [], "trouble": f"summary.json: {error}"}


def read_lines(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def measured(folder):
    """[(step, case, median in us, percent of the floor or None, MFU or None, peer)] of all cases that have a time."""
    found = []
    for line in read_lines(folder, "bench.jsonl"):
        try:
            record = json.loads(line)
        except ValueError:  # the check ended while it was written
            continue
        for entry in (record.get("result") or {}).get("benchmarks", []):
            if entry.get("aggregate_name") == "median":
                found.append((record["step"], entry["run_name"], entry["real_time"], entry.get("percent_of_floor"), entry.get("mfu_percent"), entry.get("peer")))
    return found


def counted(steps):
    """'3 passed, 1 failed' over all verdicts that there are."""
    verdicts = [step["verdict"] for step in steps]
    known = ["passed", "failed", "not finished", "not run", "running"]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in known if name in verdicts) or "none"


def conformance(summary):
    steps = [step for step in summary["steps"] if step["name"].startswith("conformance ") and "passed" in step]
    if not steps:
        return "not run"
    passed, failed = (sum(step[key] for step in steps) for key in ("passed", "failed"))
    ended = all(step["verdict"] == "passed" or step["failed"] for step in steps)
    return f"{passed} passed, {failed} failed" + ("" if ended else ", some did not end")


def row(folder):
    summary = read_summary(folder)
    own = sum(not peer for *_, peer in measured(folder))
    cells = [summary.get("hardware", os.path.basename(folder)), summary.get("revision", "unknown"), summary.get("date", "unknown"), summary["verdict"],
             conformance(summary), counted(summary["steps"]), str(own)]
    return "| " + " | ".join(cells) + " |"


def table(folder):
    folders = [path for path in glob.glob(os.path.join(folder, "*")) if os.path.isdir(path)]
    folders.sort(key=lambda path: (read_summary(path).get("date", ""), path), reverse=True)
    if not folders:
        return "**No revision has ever run on a GPU.**"
    return "\n".join([HEADER, "|---|---|---|---|---|---|---|"] + [row(path) for path in folders])


def step_line(step):
    numbers = f" ({step['passed']} passed, {step['failed']} failed)" if "passed" in step else ""
    reason = f": {step['reason']}" if step.get("reason") else ""
    lines = [f"- {step['name']}: {step['verdict']}{numbers}{reason}"]
    lines += [f"  - failed: {name}" for name in step.get("failures", [])]
    lines += [f"  - waiting after each operation: {line}" for line in step.get("waiting_after_each", {}).get("last_lines", [])]
    return "\n".join(lines)


def heading(summary):
    parts = [f"{key} {summary[key]}" for key in ("driver", "nvcc", "revision", "date", "sizes") if summary.get(key)]
    ended = f"ended after {summary['seconds']} s" if summary.get("complete") else "did not reach its end"
    return f"# {summary.get('hardware', 'GPU unknown')}: {summary['verdict']}\n\n{'; '.join(parts + [ended])}"


def unsummarised(folder):
    """What the other files say where there is no summary."""
    lines = read_lines(folder, "conformance.tap")
    passed, failed = (sum(bool(re.match(pattern, line)) for line in lines) for pattern in ("ok ", "not ok "))
    return f"- conformance.tap: {passed} passed, {failed} failed, nothing known of the rest" if lines else "- no conformance.tap"


def percent(value):
    return "" if value is None else f"{value:.1f} %"


def page(folder):
    summary = read_summary(folder)
    lines = [heading(summary), ""]
    if "trouble" in summary:
        lines += [summary["trouble"], "", unsummarised(folder)]
    lines += [step_line(step) for step in summary["steps"]]
    cases = measured(folder)
    lines += ["", "| case | median us | of its floor | MFU |", "|---|---|---|---|"] if cases else ["", "No case was measured."]
    lines += [f"| {name} | {time:.1f} | {percent(share)} | {percent(mfu)} |" for _, name, time, share, mfu, _ in cases]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("\n\n".join(page(folder) for folder in sys.argv[1:]))
    else:
        print(table(os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu")))
