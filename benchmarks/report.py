"""Run every benchmark of the CPU and write down what came out, lost or won.

    python benchmarks/report.py [--rounds 9] [--quick --out FOLDER] [--out FOLDER] [--readme PATH]

Writes RESULTS.md and results.png into the folder (default: beside this script), and the README's table between its
markers.  Nothing is written unless every script ended well, which it does only if both sides computed the same numbers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import growth
import side_by_side as side
from side_by_side import CEILING, compared, duration

import tinynet as tn

HERE = Path(__file__).parent
SCRIPTS = {
    "losses": "Losses, value and gradient",
    "training": "Training steps and inference",
    "startup": "Start-up",
    "growth": "Growth",
}
START, END = "<!-- benchmarks -->", "<!-- end -->"


def measured(options, folder):
    """{script: what it saved}; ends the program if one of them failed."""
    found = {}
    for script in SCRIPTS:
        path = Path(folder) / f"{script}.json"
        command = [sys.executable, str(HERE / f"{script}.py"), "--rounds", str(options.rounds), "--json", str(path)]
        print(f"\n== {script}.py", flush=True)
        if subprocess.run(command + ["--quick"] * options.quick).returncode:
            sys.exit(f"{script}.py failed: nothing was written")
        found[script] = json.loads(path.read_text(encoding="utf-8"))
    return found


# --- tables -------------------------------------------------------------------------------------------------------


def table(rows):
    """Markdown lines of a table, a line a row."""
    lines = ["| work | tinynet | PyTorch's fastest | tinynet is | other peers | reached |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        ours = f"{duration(row['seconds'])} ({duration(row['low'])} to {duration(row['high'])})"
        others = [
            f"{name} {duration(peer['seconds'])}: {verdict(peer['ratio'])}"
            for name, peer in row["peers"].items()
            if not name.startswith("PyTorch")
        ]
        reached = ""
        if "rate" in row:
            reached = f"{row['rate']:.3g} {row['unit']}"
            reached += f", {row['share']:.0%} of {CEILING[row['unit']]}" if row["share"] else ""
        lines.append(f"| {row['what']} | {ours} | {fastest(row)} | {', '.join(others) or '-'} | {reached or '-'} |")
    return lines


def fastest(row):
    """Two cells: PyTorch's fastest mode, and how tinynet does against it."""
    if "fastest" not in row:
        return "- | -"
    mode = row["fastest"]
    return f"{duration(row['peers'][mode]['seconds'])} ({mode.removeprefix('PyTorch ')}) | {verdict(row['ratio'])}"


def verdict(ratio):
    """What was lost shall not be overlooked."""
    return compared(ratio) if ratio >= 1 else f"**{compared(ratio)}**"


def memory_table(rows):
    """Markdown lines: the memory beyond inputs and outputs, where it was measured."""
    rows = [row for row in rows if row.get("memory")]
    lines = ["", "| memory beyond inputs and outputs | |", "| --- | --- |"] if rows else []
    for row in rows:
        lines += [f"| {row['what']}, {name} | {size / 1e6:.1f} MB |" for name, size in row["memory"].items()]
    return lines


def growth_table(curves):
    lines = []
    for what, panel in curves.items():
        sizes = list(next(iter(panel.values())))
        lines += ["", f"Time by {what}:", "", f"| | {' | '.join(sizes)} | steepest |"]
        lines.append("| --- " * (len(sizes) + 2) + "|")
        for label, curve in panel.items():
            cells = " | ".join(duration(taken) for taken in curve.values())
            lines.append(f"| {label} | {cells} | {growth.steepest(curve):.2f} |")
    return lines


def losses_to(rows):
    """[(work, peer, ratio)] of all that was faster than tinynet, the worst first."""
    found = []
    for row in rows:
        for name, peer in row["peers"].items():
            if peer["ratio"] < 1 and (not name.startswith("PyTorch") or name == row["fastest"]):
                found.append((row["what"], name, peer["ratio"]))
    return sorted(found, key=lambda entry: entry[2])


def comparisons(rows):
    """How many pairs of a work and a peer there are, PyTorch's fastest mode being one peer."""
    return sum(("fastest" in row) + sum(not name.startswith("PyTorch") for name in row["peers"]) for row in rows)


def slower(rows):
    """Markdown lines on where tinynet lost."""
    found = losses_to(rows)
    if not comparisons(rows):
        return ["No peer was installed, so there is nothing to compare with."]
    lines = [f"tinynet was slower in {len(found)} of {comparisons(rows)} comparisons{':' if found else '.'}"]
    return lines + [""] * bool(found) + [f"- {what}: {compared(ratio)} than {peer}" for what, peer, ratio in found]


def results(found):
    """The text of RESULTS.md."""
    rows = [row for data in found.values() for row in data["rows"]]
    ceilings = found["losses"]["ceilings"]
    lines = ["# What the benchmarks measured", "", "Written by `python benchmarks/report.py`.", ""]
    lines += [f"- Machine: {machine(found)}"]
    lines += [f"- A parallel copy of large arrays: {ceilings['copy GB/s']:.1f} GB/s, read and written"]
    lines += [f"- The matrix tile in registers and the L1 cache: {ceilings['GFLOP/s']:.0f} GFLOP/s (float32)", ""]
    lines += [
        "Times are medians, with the lowest and the highest round. Sides are timed in turn, and a ratio is the median",
        "of the rounds' ratios. Values were compared before anything was timed. GB/s counts the prediction read and",
        "the gradient written. GFLOP/s counts a multiply-add as two, a training step as three forward passes, and a",
        "convolution as its plain sum, so that a method with fewer multiplications can pass 100%.",
        "",
        "![How many times faster than PyTorch's fastest mode, and how times grow](results.png)",
        "",
        "## Where tinynet is slower",
        "",
        *slower(rows),
    ]
    for script, title in SCRIPTS.items():
        lines += ["", f"## {title}", ""]
        if found[script]["rows"]:
            lines += table(found[script]["rows"]) + memory_table(found[script]["rows"])
    lines += [
        "The last column is the steepest place: by how much more than the work the time grew from one size to the next",
        "(1: just as much; 2 would be a cliff).",
    ]
    return "\n".join(lines + growth_table(found["growth"]["curves"])) + "\n"


def machine(found):
    """The line on machine and versions of the script that used the most peers."""
    return max((data["machine"] for data in found.values()), key=len)


def readme_table(found):
    """What stands between the README's markers."""
    rows = [row for data in found.values() for row in data["rows"]]
    lines = ["| work | PyTorch's fastest | tinynet | tinynet is |", "| --- | --- | --- | --- |"]
    for row in rows:
        if row["headline"]:
            theirs, ratio = fastest(row).split(" | ")
            lines.append(f"| {row['what']} | {theirs} | {duration(row['seconds'])} | {ratio} |")
    lost = [f"{what} ({compared(ratio)} than {peer})" for what, peer, ratio in losses_to(rows)]
    told = f"slower in {len(lost)} of {comparisons(rows)} comparisons" + (f": {'; '.join(lost)}" if lost else "")
    lines += ["", f"Measured on {machine(found)}. tinynet was {told}."]
    lines += ["All figures: [benchmarks/RESULTS.md](benchmarks/RESULTS.md), written by `python benchmarks/report.py`."]
    return "\n".join(lines)


def refreshed(text, content):
    """The README's text with `content` between the markers."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the README must have one line {START} and after it one line {END}")
    before, rest = text.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


# --- the picture --------------------------------------------------------------------------------------------------


def draw(found, path):
    """Bars: how many times faster than PyTorch's fastest mode.  Beside them, how times grow."""
    rows = [row for data in found.values() for row in data["rows"] if "ratio" in row]
    curves = found["growth"]["curves"]
    picture = tn.plots.figure(14, max(7.0, 0.24 * len(rows)))
    left, right = picture.subfigures(1, 2, width_ratios=[1.35, 1]) if rows else (None, picture)
    if rows:
        axes = left.subplots()
        ratios = [row["ratio"] for row in rows]
        colours = [tn.plots.BLUE if ratio >= 1 else tn.plots.RED for ratio in ratios]
        places = range(len(rows))
        axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
        axes.set_yticks(places, [row["what"] for row in rows], fontsize="small")
        axes.set(xscale="log", xlim=(min(0.5, min(ratios) / 2.5), max(ratios) * 2), ylim=(len(rows) - 0.4, -0.6))
        for place, ratio in zip(places, ratios, strict=True):
            at, align = (ratio * 1.04, "left") if ratio >= 1 else (ratio / 1.04, "right")
            axes.text(at, place, side.short(ratio), va="center", ha=align, fontsize="small")
        axes.axvline(1, color=tn.plots.GREY, linewidth=1)
        axes.xaxis.set_major_formatter("{x:g}x")
        axes.set_xlabel("times as fast as PyTorch's fastest mode (red: slower)")
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes, (what, panel) in zip(right.subplots(len(curves), 1, squeeze=False)[:, 0], curves.items(), strict=True):
        growth.draw(axes, what, panel)
    picture.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each side is timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one hasty round; its figures mean nothing")
    parser.add_argument("--out", help="the folder for RESULTS.md and results.png (default: beside this script)")
    parser.add_argument("--readme", help="the README whose table is refreshed (default: the project's, without --out)")
    options = parser.parse_args()
    if options.quick and not options.out:
        parser.error("--quick needs --out: hasty figures don't belong beside the project's")
    out = Path(options.out or HERE)
    readme = Path(options.readme) if options.readme else None if options.out else HERE.parent / "README.md"
    text = readme and readme.read_text(encoding="utf-8")
    if text:
        refreshed(text, "")  # a README without markers is found out before the hour of measuring
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, folder)
    draw(found, out / "results.png")
    (out / "RESULTS.md").write_text(results(found), encoding="utf-8")
    print(f"\nsaved {out / 'RESULTS.md'} and {out / 'results.png'}")
    if readme:
        readme.write_text(refreshed(text, readme_table(found)), encoding="utf-8")
        print(f"refreshed the table of {readme}")


if __name__ == "__main__":
    main()
