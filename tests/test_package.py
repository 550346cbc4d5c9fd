"""The package as a whole: what importing it does, and that what the README says is what is checked."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    ).stdout


@pytest.mark.slow
def test_importing_loads_nothing_heavy_that_numba_did_not():
    code = "import sys, {}; print(*(m for m in sys.modules if '.' not in m))"
    loaded = set(run(code.format("tinynet")).split()) - set(run(code.format("numba")).split())
    assert "tinynet" in loaded
    heavy = {"matplotlib", "torch", "tqdm", "safetensors", "pooch", "platformdirs", "requests", "urllib3"}
    heavy |= {"scipy", "pandas", "sklearn", "mpi4py", "numba_cuda", "onnx"}
    assert not loaded & heavy


@pytest.mark.slow
def test_weights_come_from_pytorch_as_arrays_without_pytorch():
    code = """
import sys
import zipfile
sys.modules["torch"] = None  # an import of it fails
import numpy as np
import tinynet as tn
model = tn.Sequential([tn.Dense(2)], 3)
tn.interop.from_torch(model, {"fc.weight": np.arange(6.0).reshape(2, 3), "fc.bias": np.ones(2)})
print(*model.predict(np.eye(3))[:, 1])
for call in (tn.interop.to_torch, tn.interop.to_torch_module, lambda m: tn.interop.torch_cross_entropy(m, m)):
    try:
        call(model)
    except ImportError as error:
        print(error)
"""
    names = "to_torch", "to_torch_module", "torch_cross_entropy"
    missing = [f"{name} needs PyTorch, which is not installed here: pip install torch" for name in names]
    assert run(code).splitlines() == ["4.0 5.0 6.0", *missing]


@pytest.mark.slow
def test_importing_compiles_nothing():
    code = """
import numba.core.event as event
recorder = event.RecordingListener()
with event.install_recorder("numba:compile") as recorder:
    import tinynet
    import pkgutil, importlib
    for module in pkgutil.walk_packages(tinynet.__path__, "tinynet."):
        if "cuda" not in module.name and "torch" not in module.name:  # those need packages that are optional
            importlib.import_module(module.name)
print(len(recorder.buffer))
"""
    assert run(code).strip() == "0"


@pytest.mark.slow
def test_everything_runs_as_plain_python_too():
    code = """
import numpy as np
import tinynet as tn
x, y = np.random.default_rng(0).standard_normal((12, 4, 4, 1)), np.arange(12) % 3
model = tn.Sequential(
    [tn.Conv2D(2, 3, activation="relu"), tn.MaxPool2D(2), tn.Flatten(), tn.Dropout(0.1), tn.Dense(3)], (4, 4, 1)
)
for make in (tn.SGD, tn.RMSprop, tn.Adam, tn.AdamW):
    optimizer = make(model, lr=0.01, clip_norm=1.0)
    history = tn.fit(model, x, y, loss=tn.softmax_cross_entropy, optimizer=optimizer, epochs=2, progress=False)
print(*(v.hex() for v in history["loss"]))
"""
    plain = [float.fromhex(v) for v in run(code, NUMBA_DISABLE_JIT="1").split()]
    compiled = [float.fromhex(v) for v in run(code).split()]
    assert len(plain) == 2
    assert plain == pytest.approx(compiled, rel=1e-5)


def imported(module, path, modules):
    """The modules of the package that are imported while this one is, by itself."""
    statements, found = list(ast.parse(path.read_text()).body), set()
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.ImportFrom):
            names = {f"{statement.module}.{name.name}" for name in statement.names}
            found |= {name if name in modules else statement.module for name in names}
        elif isinstance(statement, ast.Import):
            found |= {name.name for name in statement.names}
        elif not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            statements += [inner for inner in ast.iter_child_nodes(statement) if isinstance(inner, ast.stmt)]
    return found & modules.keys() - {module}


def test_imports_have_no_circle():
    files = {path.relative_to(ROOT).with_suffix("").parts: path for path in (ROOT / "tinynet").rglob("*.py")}
    modules = {".".join(parts).removesuffix(".__init__"): path for parts, path in files.items()}
    left = {module: imported(module, path, modules) for module, path in modules.items()}
    assert any(left.values())
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, "these import one another, or what does"


def test_no_script_has_the_name_of_an_installed_package():
    """Python looks beside a script first: a cuda.py there hides NVIDIA's package from all that the script imports."""
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
    scripts = [path for folder in ("benchmarks", "examples", "tests") for path in (ROOT / folder).rglob("*.py")]
    hidden = [path for path in scripts if PathFinder.find_spec(path.stem, installed)]
    assert len(scripts) > 50
    assert not hidden


def readme_commands():
    return re.findall(r"^python -m venv .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_the_readme_has_one_command_for_the_example_and_one_for_the_tests():
    example, tests = readme_commands()
    assert example.endswith(".venv/bin/python examples/01_train_digits.py")
    assert (ROOT / "examples" / "01_train_digits.py").exists()
    assert "[test,compare,cuda,mpi]" in tests
    assert tests.endswith(".venv/bin/python -m pytest -n 2 --dist loadfile")


def test_ci_takes_its_commands_from_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    assert "grep '^python -m venv ' \"$repository/README.md\"" in script
    assert "pip install" not in script  # it has no command of its own that could differ
    assert "${commands[0]}" in script
    assert "${commands[1]}" in script
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_the_version_is_written_once():
    import tinynet

    assert re.fullmatch(r"\d+\.\d+\.\d+", tinynet.__version__)
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.slow
def test_the_package_runs_from_a_zip_file_with_all_that_it_reads(tmp_path):
    archive, package = tmp_path / "tinynet.zip", ROOT / "tinynet"
    with zipfile.ZipFile(archive, "w") as file:  # without entries for folders, as wheels are
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(ROOT))
    code = """
import sys
import zipfile
import tinynet as tn
assert tn.__file__.startswith(sys.argv[1]), tn.__file__
(x, y), (x_test, y_test) = tn.data.digits()
model = tn.Sequential([tn.Flatten(), tn.Dense(10)], (8, 8, 1))
history = tn.fit(model, x, y, loss="softmax_cross_entropy", optimizer=tn.SGD(model, 0.1), epochs=1, progress=False)
print(x.shape, x_test.shape, history["loss"][0] < 2.3)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, archive],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(archive), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1437, 8, 8, 1) (360, 8, 8, 1) True\n"
