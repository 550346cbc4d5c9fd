"""Run every benchmark of the CPU and write down what came out, lost or won.

    python benchmarks/report.py [--rounds 5] [--keep FOLDER] [--quick --out FOLDER] [--out FOLDER] [--readme PATH]

Every script runs with the machine's own vectors on all threads; and those that can be restricted run again for the
README's rows on one thread, and with AVX2 alone, which is what most laptops have.  Writes this processor's section of
RESULTS.md into the folder (default: beside this script), keeping those of other processors, and its picture; and the
README's table between its markers, which also says what the range over all processors is.  Nothing is written unless
every script ended well, which it does only if both sides computed the same numbers.  With --keep each script's figures
are kept in that folder, and those that lie there are not measured again: a run that was broken off goes on.
"""

import argparse
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import growth
import side_by_side as side
from side_by_side import CEILING, compared, duration

import tinynet as tn
from tinynet.kernels.llvm import FEATURES

HERE = Path(__file__).parent
SCRIPTS = {
    "losses": "Losses, value and gradient",
    "products": "Products of Dense",
    "convolutions": "Convolutions",
    "training": "Training steps and inference",
    "networks": "Known networks",
    "sequences": "Layers that look along time",
    "attention": "Attention and transformer blocks",
    "gpt": "Training a GPT",
    "startup": "Start-up",
    "busy": "Beside other programs",
    "growth": "Growth",
}
# What runs in all settings.
RESTRICTED = "losses", "products", "convolutions", "training", "networks", "sequences", "attention", "gpt"
MANY = "products", "convolutions"  # whose rows are too many for lines of their own
# What they take on two processors: natively on all threads, and in another setting.
MINUTES = {"losses": (3, 1), "products": (2, 1), "convolutions": (3, 1), "training": (5, 3)}
MINUTES |= {
    "networks": (6, 3),
    "sequences": (1, 1),
    "attention": (2, 2),
    "gpt": (3, 2),
    "startup": (2, 0),
    "busy": (1, 0),
    "growth": (1, 0),
}
START, END = "<!-- benchmarks -->", "<!-- end -->"
NATIVE = "native, all"


def settings():
    """The settings that differ on this machine, the plain one first: {its name: (vectors, threads)}."""
    vectors = ["native", "avx2"] if "avx512f" in FEATURES else ["native"]
    threads = ["all", "one"] if tn.get_num_threads() > 1 else ["all"]
    return {", ".join(pair): pair for pair in itertools.product(vectors, threads)}


def in_words(setting):
    """A setting's name for a table: "AVX2, one thread"."""
    vectors, threads = setting.split(", ")
    count = f"{tn.get_num_threads()} threads" if threads == "all" and tn.get_num_threads() > 1 else "one thread"
    return f"{'AVX2' if vectors == 'avx2' else 'native vectors'}, {count}"


def measured(options, folder):
    """{setting: {script: what it saved}}; ends the program if one of them failed."""
    runs = [(s, script) for s in settings() for script in SCRIPTS if s == NATIVE or script in RESTRICTED]
    paths = {(s, script): Path(folder) / f"{script}, {s}.json" for s, script in runs}
    start = time.perf_counter()
    for setting, script in [run for run in runs if not paths[run].exists()]:
        left = sum(MINUTES[one][s != NATIVE] for s, one in runs if not paths[s, one].exists())
        so_far = (time.perf_counter() - start) / 60
        print(f"\n== {script}.py, {in_words(setting)}", end="" if not options.quick else "\n", flush=True)
        if not options.quick:
            print(f": {so_far:.0f} minutes so far, about {left} left on a machine with two processors", flush=True)
        path, (vectors, threads) = paths[setting, script], settings()[setting]
        rounds = min(options.rounds, 3) if script in MANY or setting != NATIVE else options.rounds
        part = path.with_suffix(".part")
        command = [sys.executable, str(HERE / f"{script}.py"), "--rounds", str(rounds), "--json", str(part)]
        command += ["--vectors", vectors, "--threads", threads] + ["--quick"] * options.quick
        if subprocess.run(command + ["--headlines"] * (setting != NATIVE)).returncode:
            sys.exit(f"{script}.py failed: no table was written")
        part.replace(path)
    found = {setting: {} for setting, _ in runs}
    for (setting, script), path in paths.items():
        found[setting][script] = json.loads(path.read_text(encoding="utf-8"))
    return found


def begin_keeping(folder, options):
    """Make the folder; or end the program where it holds figures that were made otherwise."""
    git = ["git", "-C", str(HERE), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    about = f"{side.machine()}\n{options.rounds} rounds{', hasty' * options.quick}\n{commit}\n"
    note = Path(folder) / "about.txt"
    if note.exists() and note.read_text(encoding="utf-8") != about:
        sys.exit(f"{folder} keeps figures that were made otherwise, see {note}; give another folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    note.write_text(about, encoding="utf-8")


def rows_of(data):
    """All rows of a setting that compare sides; those of busy.py compare each side with itself."""
    return [row for script, saved in data.items() if script != "busy" for row in saved["rows"]]


# --- tables -------------------------------------------------------------------------------------------------------


def markdown(head, rows):
    """Lines of a table: `head` and `rows` are lists of cells."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def table(rows):
    """A line for each row."""
    cells = []
    for row in rows:
        ours = f"{duration(row['seconds'])} ({duration(row['low'])} to {duration(row['high'])})"
        others = [
            f"{name} {duration(peer['seconds'])}: {verdict(peer['ratio'])}"
            for name, peer in row["peers"].items()
            if not name.startswith("PyTorch")
        ]
        others += [f"{name} left out: its losses are not eager's" for name in row.get("left_out", [])]
        reached = ""
        if "rate" in row:
            reached = f"{row['rate']:.3g} {row['unit']}"
            reached += f", {row['share']:.0%} of {CEILING[row['unit']]}" if row["share"] else ""
        cells.append([row["what"], ours, *fastest(row), ", ".join(others) or "-", reached or "-"])
    return markdown(["work", "tinynet", "PyTorch's fastest", "tinynet is", "other peers", "reached"], cells)


def table_of_parts(rows):
    """A line for each work, and in it what each of its parts reached and how it compares to the fastest peer."""
    parts, works = list(dict.fromkeys(row["part"] for row in rows)), {}
    for row in rows:
        cell = f"{row['rate']:.3g} GFLOP/s, {row['share']:.0%}"
        if "ratio" in row:
            cell += f": {verdict(row['ratio'])} than {row['fastest'].removeprefix('PyTorch ')}"
        works.setdefault(row["what"].removesuffix(f", {row['part']}"), {})[row["part"]] = cell
    return markdown(["work", *parts], [[work, *(cells[part] for part in parts)] for work, cells in works.items()])


def busy_table(rows):
    """A line for each work and side: seconds a step alone and in company, and how many times as long as alone."""
    company, cells = list(next(iter(rows[0]["sides"].values()))), []
    for row in rows:
        for name, taken in row["sides"].items():
            several = [f"{duration(t)} ({t / taken['alone']:.2f}x)" for t in taken.values()]
            cells.append([row["what"], name, *several])
    return markdown(["work", "side", *company], cells)


def fastest(row):
    """Two cells: PyTorch's time and mode, and what tinynet is beside it."""
    if "ratio" not in row:
        return "-", "-"
    mode = row["fastest"].removeprefix("PyTorch ")
    return f"{duration(row['peers'][row['fastest']]['seconds'])} ({mode})", verdict(row["ratio"])


def verdict(ratio):
    """What was lost shall not be overlooked."""
    return compared(ratio) if ratio >= 1 else f"**{compared(ratio)}**"


def memory_table(rows):
    """Markdown lines: the peak of memory, where it was measured."""
    rows = [row for row in rows if row.get("memory")]
    lines = ["", "| memory at its peak | |", "| --- | --- |"] if rows else []
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
            if peer["ratio"] < 1 and (name == row.get("fastest") or not counts_as_one(name, row)):
                found.append((row["what"], name, peer["ratio"]))
    return sorted(found, key=lambda entry: entry[2])


def counts_as_one(name, row):
    """Whether only the fastest of the peers like this one is compared with: PyTorch's modes, libraries of products."""
    return name.startswith("PyTorch") or "part" in row


def comparisons(rows):
    """How many pairs of a work and a peer there are, PyTorch's fastest mode being one peer."""
    return sum(("fastest" in row) + sum(not counts_as_one(name, row) for name in row["peers"]) for row in rows)


def lost(rows):
    return f"slower in {len(losses_to(rows))} of {comparisons(rows)} comparisons"


def slower(found):
    """Lines on where tinynet lost: each setting's count, and each work but those of which there is a table of parts."""
    lines = []
    for setting, data in found.items():
        rows = rows_of(data)
        if not comparisons(rows):
            return ["No peer was installed, so there is nothing to compare with."]
        lines += [f"With {in_words(setting)}, tinynet was {lost(rows)}{':' if losses_to(rows) else '.'}", ""]
        for script, title in SCRIPTS.items():
            of_script = rows_of({script: data[script]} if script in data else {})
            if script in MANY and losses_to(of_script):
                what, peer, ratio = losses_to(of_script)[0]
                lines.append(f"- {title}: {lost(of_script)}, at worst {compared(ratio)} than {peer} ({what})")
            elif script not in MANY:
                lines += [f"- {what}: {compared(ratio)} than {peer}" for what, peer, ratio in losses_to(of_script)]
        lines.append("")
    return lines[:-1]


# --- what the README shows ----------------------------------------------------------------------------------------


def headlines(found):
    """[[work, PyTorch's time, tinynet's, the ratio in each setting]], as cells of text, lost ratios in bold."""
    ratios, cells = {setting: headline_ratios(data) for setting, data in found.items()}, []
    rows = {row["what"]: row for row in rows_of(found[NATIVE]) if row["headline"]}
    for what in dict.fromkeys([*rows, *(work for each in ratios.values() for work in each)]):
        ours, theirs = (duration(rows[what]["seconds"]), fastest(rows[what])[0]) if what in rows else ("-", "-")
        cells.append([what, theirs, ours, *(verdict(each[what]) if what in each else "-" for each in ratios.values())])
    return cells


def headline_ratios(data):
    """{work: ratio} of one setting; of groups of many rows, the median and the least."""
    rows = rows_of(data)
    found = {row["what"]: row["ratio"] for row in rows if row["headline"] and "ratio" in row}
    for group in dict.fromkeys(row["group"] for row in rows if "group" in row):
        of_group = [row for row in rows if row.get("group") == group and row.get("of_networks", True)]
        several = [row["ratio"] for row in of_group if "ratio" in row]
        if several:
            found[f"{group}, the median"], found[f"{group}, the slowest"] = statistics.median(several), min(several)
    return found


def ranges(results):
    """{work: (least, greatest ratio)} over all sections of RESULTS.md, and how many sections there are.

    A ratio is what stands in a column that begins with "tinynet is".
    """
    found, columns = {}, []
    for line in results.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if any(cell.startswith("tinynet is") for cell in cells):
            columns = [place for place, cell in enumerate(cells) if cell.startswith("tinynet is")]
        elif not cells:
            columns = []
        for place in columns:
            for number, word in re.findall(r"([0-9.]+)x (faster|SLOWER)", cells[place]):
                found.setdefault(cells[0], []).append(float(number) if word == "faster" else 1 / float(number))
    return {work: (min(ratios), max(ratios)) for work, ratios in found.items()}, len(sections(results))


def readme_table(found, results):
    """What stands between the README's markers; `results` is the text of RESULTS.md with this machine's section."""
    (over, count), several = ranges(results), [in_words(setting) for setting in found]
    head = ["work", "PyTorch's fastest", "tinynet", *(f"tinynet is: {one}" for one in several)]
    rows = [[*cells, from_to(*over[cells[0]]) if cells[0] in over else "-"] for cells in headlines(found)]
    lines = markdown([*head, f"range over {count} processor{'s' if count > 1 else ''}"], rows)
    lines += ["", f"Measured on {machine(found)}; the last column has all settings of all processors, as times faster."]
    told = [f"{lost(rows_of(data))} with {in_words(setting)}" for setting, data in found.items()]
    lines += [f"tinynet was {', '.join(told)}."]
    lines += ["Of the known networks PyTorch compiled only ResNet-18, in the first setting."]
    lines += ["All figures: [benchmarks/RESULTS.md](benchmarks/RESULTS.md), written by `python benchmarks/report.py`."]
    return "\n".join(lines)


def from_to(least, greatest):
    return f"{side.short(least)} to {side.short(greatest)}"


def refreshed(text, content):
    """The README's text with `content` between the markers."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"the README must have one line {START} and after it one line {END}")
    before, rest = text.split(START)
    return f"{before}{START}\n{content}\n{END}{rest.split(END)[1]}"


# --- RESULTS.md ---------------------------------------------------------------------------------------------------

HEAD = """# What the benchmarks measured

Written by `python benchmarks/report.py`, a section for each processor that it was run on.

Times are medians, with the lowest and the highest round. Sides are timed in turn, and a ratio is the median
of the rounds' ratios. Values were compared before anything was timed. GB/s counts the prediction read and
the gradient written. GFLOP/s counts a multiply-add as two, a training step as three forward passes, and a
convolution as its plain sum, so that a method with fewer multiplications can pass 100%. The FMA peak is what
multiply-adds reach that do nothing else, in registers. Memory is that of a process of its own: of
linear_cross_entropy beyond inputs and outputs, and of steps all that three of them take. PyTorch's fastest is
that of eager, channels_last and torch.compile; but of the known networks ResNet-18 alone is compiled, in the first
setting, since the deeper ones take many minutes.
"""


def machine(found):
    """The line on machine and versions of the script that used the most peers."""
    return max((data["machine"] for data in found[NATIVE].values()), key=len)


def processor(found):
    """The machine's name, how many threads it has, and how long vectors: the title of its section."""
    return ", ".join(machine(found).split(", ")[:3])


def file_name(title):
    """Of the picture of this section."""
    return f"results-{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}.png"


def sections(results):
    """{title: text} of the sections of RESULTS.md, one for each processor."""
    found = re.split(r"^## (.*)\n", results, flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def with_section(results, title, text):
    """RESULTS.md with this section in the place of the one of that title, or behind all others."""
    found = {**sections(results), title: text}
    return HEAD + "".join(f"\n## {one}\n\n{text.strip()}\n" for one, text in found.items())


def section(found):
    """The section of this machine."""
    lines, several = [f"- {machine(found)}"], [in_words(setting) for setting in found]
    for setting, data in found.items():
        most = data["losses"]["ceilings"]
        text = f"a parallel copy of large arrays {most['copy GB/s']:.1f} GB/s, read and written"
        lines.append(f"- At most, {in_words(setting)}: {text}; FMA peak {most['GFLOP/s']:.0f} GFLOP/s (float32)")
    lines += ["", f"![How many times faster than its peers, and how times grow]({file_name(processor(found))})"]
    lines += ["", "### In short", ""]
    head = ["work", "PyTorch's fastest", "tinynet", *(f"tinynet is: {one}" for one in several)]
    lines += markdown(head, headlines(found))
    lines += ["", "### Where tinynet is slower", "", *slower(found)]
    for setting, data in found.items():
        for script, title in SCRIPTS.items():
            if rows := data.get(script, {"rows": []})["rows"]:
                lines += ["", f"### {title}: {in_words(setting)}", ""]
                make = table_of_parts if script in MANY else busy_table if script == "busy" else table
                lines += make(rows) + memory_table(rows)
    lines += ["", "### Growth", ""]
    lines += [
        "The last column is the steepest place: by how much more than the work the time grew from one size to the next",
        "(1: just as much; 2 would be a cliff).",
    ]
    return "\n".join(lines + growth_table(found[NATIVE]["growth"]["curves"])) + "\n"


# --- the picture --------------------------------------------------------------------------------------------------


def draw(found, path):
    """Bars: how many times faster than the fastest peer, native vectors.  Beside them, how times grow."""
    rows = [row for row in rows_of(found[NATIVE]) if "ratio" in row and "part" not in row]
    rows = {row["what"]: row["ratio"] for row in rows} | headline_ratios(found[NATIVE])
    curves = found[NATIVE]["growth"]["curves"]
    picture = tn.plots.figure(14, max(7.0, 0.24 * len(rows)))
    left, right = picture.subfigures(1, 2, width_ratios=[1.35, 1]) if rows else (None, picture)
    if rows:
        axes = left.subplots()
        ratios = list(rows.values())
        colours = [tn.plots.BLUE if ratio >= 1 else tn.plots.RED for ratio in ratios]
        places = range(len(rows))
        axes.barh(places, [ratio - 1 for ratio in ratios], left=1, color=colours, height=0.7)
        axes.set_yticks(places, list(rows), fontsize="small")
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
    parser.add_argument("--rounds", type=int, default=5, help="how often each side is timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one hasty round; its figures mean nothing")
    parser.add_argument("--keep", help="a folder for each script's figures, from which a later run goes on")
    parser.add_argument("--out", help="the folder for RESULTS.md and its picture (default: beside this script)")
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
        if options.keep:
            folder = options.keep
            begin_keeping(folder, options)
        found = measured(options, folder)
    path, picture = out / "RESULTS.md", out / file_name(processor(found))
    draw(found, picture)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = with_section(before, processor(found), section(found))
    path.write_text(after, encoding="utf-8")
    print(f"\nsaved {path} and {picture}")
    if readme:
        readme.write_text(refreshed(text, readme_table(found, after)), encoding="utf-8")
        print(f"refreshed the table of {readme}")


if __name__ == "__main__":
    main()
