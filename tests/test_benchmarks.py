"""The benchmarks run, and report what they measured: no test here looks at a time."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = ["losses", "products", "convolutions", "training", "networks", "sequences", "attention", "gpt"]
SCRIPTS += ["startup", "growth"]


@pytest.fixture
def module(monkeypatch):
    """Imports a script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def run(script, *arguments, without=None):
    """Run a script hastily; `without` is a folder whose modules stand in the way of the installed ones."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}  # beside other tests, waking threads takes most of the time
    if without:
        environment["PYTHONPATH"] = os.pathsep.join([str(without), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, BENCHMARKS / f"{script}.py", "--quick", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_without_peers_and_writes_rows(script, tmp_path):
    for peer in ("torch", "jax", "sklearn"):
        (tmp_path / f"{peer}.py").write_text("raise ImportError")
    arguments = ["--json", tmp_path / "rows.json"]
    if script == "training":
        arguments += ["--only", "logistic", "tutorial CNN, batch 4"]
    finished = run(script, *arguments, without=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    assert "threads" in found["machine"]
    assert found["setting"] == "native vectors, 1 thread"
    assert "PyTorch" not in finished.stdout
    assert found["rows"] or script == "growth"
    for row in found["rows"]:
        assert 0 < row["low"] <= row["seconds"] <= row["high"]
        assert row["peers"].keys() <= {"NumPy OpenBLAS"}


def test_the_gpus_benchmark_predicts_what_it_can_not_measure():
    pytest.importorskip("numba_cuda")
    finished = run("gpu")
    assert finished.returncode == 0, finished.stderr
    rows = [line.split() for line in finished.stdout.splitlines() if line.startswith(("softmax", "sigmoid"))][-2:]
    assert [row[:3] for row in rows] == [["softmax", "(400000,", "10)"], ["sigmoid", "(40000,", "100)"]]
    for row in rows:
        memory, instructions = map(float, row[3:5])
        assert 0 < memory < 1
        assert 0 < instructions < 1


def test_every_instruction_has_a_unit_and_a_row_costs_what_was_counted(module, monkeypatch):
    paper = module("on_paper")
    assert paper.units("ex2.approx.ftz.f32") == {"special": 1}
    assert paper.units("fma.rn.f32") == {"float32": 1}
    assert paper.units("add.s64") == {"integer": 2}
    assert paper.units("mov.b32") == {}
    assert paper.units("ld.global.v4.f32") == {"memory": 4}
    with pytest.raises(KeyError, match="no unit is known for wmma"):
        paper.units("wmma.load")
    counted = {"fma.rn.f32": 2000.0, "ex2.approx.ftz.f32": 100.0}, 8e6
    monkeypatch.setattr(paper, "a_row", lambda loss, C: counted)
    found = paper.predicted("softmax", 1000, 10**6)
    assert found.memory == pytest.approx(1e3 * 8e9 / 3.35e12)
    clocks = max(2100 / 4, 2000 * 32 / 128, 100 * 32 / 16)
    assert found.instructions == pytest.approx(1e3 * 1000 * clocks / (132 * paper.CLOCK))
    assert found.unit == "issue"


def test_the_benchmark_of_a_busy_machine_tells_each_side_alone_and_in_company(tmp_path):
    path = tmp_path / "rows.json"
    finished = run("busy", "--only", "MLP", "--json", path)
    assert finished.returncode == 0, finished.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert "tinynet" in row["sides"]
    for seconds in row["sides"].values():
        assert list(seconds) == ["alone", "beside a busy process", "two trainings at once"]
        assert min(seconds.values()) > 0


@pytest.mark.parametrize(
    ("script", "only"),
    [
        ("losses", ["softmax_cross_entropy", "torch_cross_entropy", "linear"]),
        ("products", []),
        ("convolutions", []),
        ("training", ["MLP"]),
        ("networks", []),
        ("sequences", ["LSTM"]),
        ("growth", []),
    ],
)
def test_with_pytorch_the_values_agree_and_every_row_has_a_ratio(script, only, tmp_path):
    pytest.importorskip("torch")
    finished = run(script, "--json", tmp_path / "rows.json", *(["--only", *only] if only else []))
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    compared = [row for row in found["rows"] if "closed gates" not in row["what"]]  # which PyTorch has no part in
    assert all(row["ratio"] > 0 and row["fastest"].startswith(("PyTorch", "NumPy")) for row in compared)
    if sys.platform == "linux":
        measured = [row["memory"].keys() for row in found["rows"] if "memory" in row]
        assert bool(measured) == (script in ("losses", "networks", "sequences"))
        assert all(names >= {"tinynet", "PyTorch eager"} for names in measured)
    if script == "growth":
        assert all(len(panel) >= 2 for panel in found["curves"].values())


def test_a_setting_is_measured_in_a_process_that_has_it(tmp_path):
    arguments = ["--only", "3,5,17", "--threads", "one", "--json", tmp_path / "rows.json"]
    finished = run("products", *arguments, "--vectors", "avx2")
    if "this machine has no AVX2" in finished.stderr:
        pytest.skip("no AVX2")
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["setting"] == "AVX2, 1 thread"
    assert [row["part"] for row in found["rows"]] == ["forward", "dw", "dw and dx"]
    finished = run("products", *arguments, "--vectors", "both")
    assert "--json takes the figures of one setting" in finished.stderr


def test_a_product_that_takes_longer_than_a_larger_neighbour_is_a_cliff(module):
    products = module("products")
    group = [(7, 7, 7), (8, 8, 8), (9, 9, 9)]
    rows = [{"size": s, "part": "dw", "seconds": t} for s, t in zip(group, (1.5, 1.0, 1.4), strict=True)]
    assert products.cliffs(rows, [group]) == [(1.5, "dw from (7, 7, 7) to (8, 8, 8)")]
    rows[2]["seconds"] = 2.0  # for 1.42 times the work
    assert [where for _, where in products.cliffs(rows, [group])][1] == "dw from (8, 8, 8) to (9, 9, 9)"


def test_scaling_is_measured_predicted_and_drawn(tmp_path):
    pytest.importorskip("mpi4py")
    found, picture = tmp_path / "found.json", tmp_path / "picture.png"
    arguments = ["--only", "logistic regression", "--latency", "2", "--bandwidth", "10"]
    finished = run("scaling", *arguments, "--json", found, "--picture", picture)
    assert finished.returncode == 0, finished.stderr
    assert "predicted for the network given: a = 2.00 us, 1/b = 10.00 GB/s" in finished.stdout
    [curve] = json.loads(found.read_text())["curves"].values()
    assert curve["measured"].keys() == {"strong", "weak"}
    for kind in ("strong", "weak"):
        assert list(curve[kind]) == [str(2**k) for k in range(1, 11)]
        assert all(value > 0 for value in curve[kind].values())
    assert list(curve["weak"].values()) == sorted(curve["weak"].values(), reverse=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_cost_of_an_all_reduce_is_fitted_and_that_of_more_ranks_counted(module):
    scaling = module("scaling")
    a, b = 5e-6, 2e-10
    assert scaling.line({n: a + b * n for n in (256, 4096, 10**6)}) == pytest.approx((a, b))
    assert scaling.line({n: a - 1e-10 * n for n in (256, 4096)})[1] == 0  # no negative bandwidth
    assert scaling.line({n: b * n - 1e-9 for n in (256, 4096)})[0] == 0
    assert scaling.allreduce_seconds(1, 1000, a, b) == 0
    assert scaling.allreduce_seconds(2, 1000, a, b) == pytest.approx(a + 1000 * b)
    assert scaling.allreduce_seconds(8, 8, a, b) == pytest.approx(3 * (a + 8 * b))
    n = 10**8
    assert scaling.allreduce_seconds(8, n, a, b) == pytest.approx(6 * a + 2 * 7 / 8 * b * n)
    assert scaling.step_seconds({1: 1e-3, 4: 4e-3}, 2) == pytest.approx(2e-3)
    times = {64: 1e-3, 512: 4e-3, 1024: 8e-3}
    assert scaling.efficiencies(times, n, 0.0, 0.0, 1024, 64)["strong"][2] == pytest.approx(1)
    assert set(scaling.efficiencies(times, n, 0.0, 0.0, 1024, 64)["weak"].values()) == {1.0}


def test_different_numbers_end_a_benchmark(module):
    agree = module("side_by_side").agree
    agree([1.0, 2.0], [1.0, 2.0 + 1e-7], 1e-5, "here")
    for wrong in ([1.0, 2.1], [1.0, np.nan]):
        with pytest.raises(SystemExit, match="here: tinynet and its peer disagree"):
            agree([1.0, 2.0], wrong, 1e-5, "here")


def test_durations_and_ratios_are_written_with_three_digits(module):
    side = module("side_by_side")
    texts = [side.duration(t) for t in (12.3456, 1.0, 0.0345678, 99.96e-6, 2e-8)]
    assert texts == ["12.3 s", "1.00 s", "34.6 ms", "100 us", "20 ns"]
    assert [side.compared(r) for r in (1.0, 2.5, 5736.4, 0.5)] == [
        "1.00x faster",
        "2.50x faster",
        "5736x faster",
        "2.00x SLOWER",
    ]


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds(module):
    side = module("side_by_side")
    times = {"tinynet": [1.0, 2.0, 4.0], "copy": [0.5, 1.0, 2.0], "PyTorch a": [2.0, 8.0, 12.0], "JAX": [0.5, 1.0, 1.0]}
    row = side.report("work", times, work=4e9, unit="GB/s", share=side.ratio(times, "copy", "tinynet"))
    assert (row["seconds"], row["low"], row["high"]) == (2.0, 1.0, 4.0)
    assert (row["rate"], row["share"]) == (2.0, 0.5)
    assert {name: peer["ratio"] for name, peer in row["peers"].items()} == {"PyTorch a": 3.0, "JAX": 0.5}
    assert (row["fastest"], row["ratio"]) == ("PyTorch a", 3.0)


def made_up():
    """What the scripts might save: rows that are won, lost twice, without peers, in parts, and curves; two settings."""
    peers = {"PyTorch eager": {"seconds": 4e-3, "low": 4e-3, "high": 4e-3, "ratio": 4.0}}
    won = {"what": "won", "seconds": 1e-3, "low": 9e-4, "high": 2e-3, "headline": True, "peers": peers}
    won |= {"fastest": "PyTorch eager", "ratio": 4.0, "rate": 12.5, "unit": "GB/s", "share": 0.5}
    won["memory"] = {"tinynet": 2_000_000}
    peers = {
        "PyTorch eager": {"seconds": 9e-3, "low": 9e-3, "high": 9e-3, "ratio": 0.9},
        "PyTorch compile": {"seconds": 5e-3, "low": 5e-3, "high": 5e-3, "ratio": 0.5},
        "JAX": {"seconds": 2.5e-3, "low": 2.5e-3, "high": 2.5e-3, "ratio": 0.25},
    }
    lost = {"what": "lost", "seconds": 1e-2, "low": 1e-2, "high": 1e-2, "headline": True, "peers": peers}
    lost |= {"fastest": "PyTorch compile", "ratio": 0.5}
    alone = {"what": "alone", "seconds": 3.0, "low": 3.0, "high": 3.0, "headline": False, "peers": {}}
    ceilings = {"copy GB/s": 25.0, "GFLOP/s": 200.0}
    curves = {"size": {"tinynet, 1 thread": {"1": 1e-3, "10": 2e-3, "20": 1e-2}}}
    beside = {"alone": 1e-3, "beside a busy process": 1.5e-3}
    native = {
        "losses": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": [won], "ceilings": ceilings},
        "products": {
            "machine": "a box, 2 threads, vectors of 256 bits",
            "rows": [part("forward", 1.25), part("dw", 0.8)],
        },
        "convolutions": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": []},
        "training": {
            "machine": "a box, 2 threads, vectors of 256 bits, PyTorch 9",
            "rows": [lost],
            "ceilings": ceilings,
        },
        "networks": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": []},
        "sequences": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": []},
        "attention": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": []},
        "gpt": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": []},
        "startup": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": [alone]},
        "busy": {
            "machine": "a box, 2 threads, vectors of 256 bits",
            "rows": [{"what": "step", "sides": {"tinynet": beside}}],
        },
        "growth": {"machine": "a box, 2 threads, vectors of 256 bits", "rows": [], "curves": curves},
    }
    return {"native, all": native, "avx2, one": {"losses": {**native["losses"], "rows": [{**won, "ratio": 3.0}]}}}


def part(name, ratio):
    """A row of a work that has parts, whose peers are one: the fastest of them."""
    peers = {"PyTorch MKL": {"ratio": ratio, "seconds": ratio}, "NumPy OpenBLAS": {"ratio": 0.9, "seconds": 0.9}}
    row = {"what": f"a product, {name}", "part": name, "group": "products", "headline": False, "peers": peers}
    return {**row, "rate": 150.0, "share": 0.75, "seconds": 1.0, "fastest": "PyTorch MKL", "ratio": ratio}


def test_the_report_shows_what_was_lost_like_what_was_won(module):
    report = module("report")
    text = report.section(made_up())
    assert (
        "| won | 1.00 ms (900 us to 2.00 ms) | 4.00 ms (eager) | 4.00x faster | - | 12.5 GB/s, 50% of a copy |" in text
    )
    lost = "| lost | 10.0 ms (10.0 ms to 10.0 ms) | 5.00 ms (compile) | **2.00x SLOWER** |"
    assert f"{lost} JAX 2.50 ms: **4.00x SLOWER** | - |" in text
    assert "| alone | 3.00 s (3.00 s to 3.00 s) | - | - | - | - |" in text
    parts = "| a product | 150 GFLOP/s, 75%: 1.25x faster than MKL | 150 GFLOP/s, 75%: **1.25x SLOWER** than MKL |"
    assert parts in text
    assert "tinynet was slower in 3 of 5 comparisons:\n" in text
    assert "- lost: 4.00x SLOWER than JAX\n- lost: 2.00x SLOWER than PyTorch compile\n" in text
    assert "- Products of Dense: slower in 1 of 2 comparisons, at worst 1.25x SLOWER than PyTorch MKL (a prod" in text
    assert "With AVX2, one thread, tinynet was slower in 0 of 1 comparisons." in text
    assert "| won, tinynet | 2.0 MB |" in text
    assert "| step | tinynet | 1.00 ms (1.00x) | 1.50 ms (1.50x) |" in text
    assert "| tinynet, 1 thread | 1.00 ms | 2.00 ms | 10.0 ms | 2.50 |" in text
    assert "a box, 2 threads, vectors of 256 bits, PyTorch 9" in text
    assert "| won | 4.00 ms (eager) | 1.00 ms | 4.00x faster | 3.00x faster |" in text
    assert "| products, the median | - | - | 1.02x faster | - |" in text
    assert "| products, the slowest | - | - | **1.25x SLOWER** | - |" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert all(len({line.count("|") for line in lines}) == 1 for lines in tables)


def test_a_machine_adds_or_replaces_its_own_section_of_the_results(module):
    report = module("report")
    one = report.with_section("", "a box, 2 threads, vectors of 256 bits", "old text\n\n### In it\n")
    two = report.with_section(
        one, "another, 8 threads, vectors of 512 bits", "| work | tinynet is |\n| --- | --- |\n| won | 2.00x SLOWER |"
    )
    assert list(report.sections(two)) == [
        "a box, 2 threads, vectors of 256 bits",
        "another, 8 threads, vectors of 512 bits",
    ]
    new = report.with_section(two, report.processor(made_up()), report.section(made_up()))
    assert list(report.sections(new)) == list(report.sections(two))
    assert "old text" not in new
    assert new.startswith(report.HEAD)
    assert (
        report.sections(new)["another, 8 threads, vectors of 512 bits"]
        == report.sections(two)["another, 8 threads, vectors of 512 bits"]
    )
    over, count = report.ranges(new)
    assert (over["won"], over["lost"], count) == ((0.5, 4.0), (0.5, 0.5), 2)
    kept = report.sections((BENCHMARKS / "RESULTS.md").read_text())
    assert "AMD EPYC (znver5), 2 threads, vectors of 512 bits" in kept
    assert all((BENCHMARKS / report.file_name(title)).exists() for title in kept)


def test_the_readme_keeps_everything_but_what_is_between_the_markers(module):
    report = module("report")
    table = report.readme_table(
        made_up(), report.with_section("", "a box, 2 threads, vectors of 256 bits", report.section(made_up()))
    )
    assert "| won | 4.00 ms (eager) | 1.00 ms | 4.00x faster | 3.00x faster | 3.00 to 4.00 |" in table
    assert "| lost | 5.00 ms (compile) | 10.0 ms | **2.00x SLOWER** | - | 0.500 to 0.500 |" in table
    assert "range over 1 processor |" in table
    assert "Measured on a box, 2 threads, vectors of 256 bits, PyTorch 9" in table
    assert "slower in 3 of 5 comparisons with native vectors" in table
    assert "alone" not in table
    text = "before\n<!-- benchmarks -->\nold\n<!-- end -->\nafter\n"
    new = report.refreshed(text, table)
    assert new == f"before\n<!-- benchmarks -->\n{table}\n<!-- end -->\nafter\n"
    assert report.refreshed(new, "old") == text
    for bad in ("nothing", "<!-- end -->\n<!-- benchmarks -->", text * 2):
        with pytest.raises(ValueError, match="the README must have one line"):
            report.refreshed(bad, table)
    report.refreshed((BENCHMARKS.parent / "README.md").read_text(), table)


def run_report_on(folder, saved, module, monkeypatch, failing="", more=()):
    """Run report.py's main with stand-ins for the scripts, each of which saves what is given or fails."""
    report = module("report")
    for script in report.SCRIPTS:
        saves = json.dumps(saved["native, all"][script])
        code = f"import sys\nopen(sys.argv[sys.argv.index('--json') + 1], 'w').write({saves!r})\n"
        (folder / f"{script}.py").write_text(code + ("sys.exit('they disagree')" if script == failing else ""))
    (folder / "README.md").write_text("<!-- benchmarks -->\n<!-- end -->\n")
    monkeypatch.setattr(report, "HERE", folder)
    arguments = ["report.py", "--quick", "--out", str(folder), "--readme", str(folder / "README.md")]
    monkeypatch.setattr(sys, "argv", [*arguments, *more])
    report.main()


def test_the_report_writes_tables_picture_and_readme(tmp_path, module, monkeypatch):
    run_report_on(tmp_path, made_up(), module, monkeypatch)
    assert "| won |" in (tmp_path / "RESULTS.md").read_text()
    assert "| won |" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "results-a-box-2-threads-vectors-of-256-bits.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_writes_nothing_when_a_script_found_different_numbers(tmp_path, module, monkeypatch):
    with pytest.raises(SystemExit, match=r"training\.py failed: no table was written"):
        run_report_on(tmp_path, made_up(), module, monkeypatch, failing="training")
    assert not (tmp_path / "RESULTS.md").exists()
    assert not list(tmp_path.glob("*.png"))
    assert (tmp_path / "README.md").read_text() == "<!-- benchmarks -->\n<!-- end -->\n"


def test_a_report_that_was_broken_off_goes_on_where_it_was(tmp_path, module, monkeypatch):
    more = "--keep", str(tmp_path / "kept")
    with pytest.raises(SystemExit):
        run_report_on(tmp_path, made_up(), module, monkeypatch, failing="startup", more=more)
    scripts = list(module("report").SCRIPTS)
    kept = {path.name for path in (tmp_path / "kept").glob("*.json")}
    assert kept == {f"{script}, native, all.json" for script in scripts[: scripts.index("startup")]}
    path = tmp_path / "kept" / "losses, native, all.json"
    path.write_text(path.read_text().replace('"won"', '"won before"'))
    run_report_on(tmp_path, made_up(), module, monkeypatch, more=more)
    assert "| won before |" in (tmp_path / "RESULTS.md").read_text()
    with pytest.raises(SystemExit, match="made otherwise"):
        run_report_on(tmp_path, made_up(), module, monkeypatch, more=(*more, "--rounds", "2"))


def test_hasty_figures_do_not_get_beside_the_projects_own(module, monkeypatch, capsys):
    report = module("report")
    monkeypatch.setattr(sys, "argv", ["report.py", "--quick"])
    with pytest.raises(SystemExit):
        report.main()
    assert "--quick needs --out" in capsys.readouterr().err
