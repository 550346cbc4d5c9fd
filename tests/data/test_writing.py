"""Files are replaced whole, keep their mode and their owner, and what is no regular file is never replaced."""

import contextlib
import csv
import errno
import os
import pty
import select
import socket
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import checkpoint, plots
from tinynet.data import writing

ROOT = Path(__file__).parents[2]
LISTS = "system.posix_acl_access"
X, Y = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32), np.arange(12) % 3


def model(seed=0):
    return tn.Sequential([tn.Dense(3)], 4, seed=seed)


def fitted(**options):
    m = model()
    options = {"loss": "softmax_cross_entropy", "epochs": 2, "progress": False, **options}
    return tn.fit(m, X, Y, optimizer=tn.SGD(m, 0.1), **options)


def curves(path):
    return plots.training_curves({"loss": [2.0, 1.0]}, path)


WRITERS = {
    "save": lambda path: tn.save(model(), path),
    "save_run": lambda path: checkpoint.save_run(model(), path, {}, {}),
    "fit's checkpoint": lambda path: fitted(checkpoint=path),
    "Checkpoint": lambda path: fitted(callbacks=tn.Checkpoint(path)),
    "CSVLog": lambda path: fitted(callbacks=tn.CSVLog(path)),
    "a picture": curves,
}


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def usual_umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


# --- what is no regular file --------------------------------------------------------------------------------


@pytest.fixture
def specials(tmp_path):
    """Paths of what a save must not replace, by what it is called."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    found = {"a pipe": tmp_path / "pipe.png", "a folder": tmp_path / "folder.png"}
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(tmp_path):  # whose paths may not be long
        server.bind("socket.png")
    found["a socket"] = tmp_path / "socket.png"
    leader, follower = pty.openpty()
    os.symlink(os.ttyname(follower), tmp_path / "terminal.png")
    found["a character device"] = tmp_path / "terminal.png"
    with contextlib.suppress(PermissionError):  # for root alone
        os.mknod(tmp_path / "null.png", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        found["a character device "] = tmp_path / "null.png"
    yield found
    os.close(leader)
    os.close(follower)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_device_a_pipe_a_socket_or_a_folder_stays_what_it_is_and_is_named(specials, writer):
    for name, path in specials.items():
        before = os.stat(path), sorted(os.listdir(path.parent))
        if writer == "CSVLog" and name.startswith("a character device"):
            continue
        with pytest.raises(OSError, match=rf" is {name.strip()}, not a file to write"):
            WRITERS[writer](path)
        assert (os.stat(path).st_mode, os.stat(path).st_ino) == (before[0].st_mode, before[0].st_ino)
        assert sorted(os.listdir(path.parent)) == before[1]


def test_a_csv_log_is_written_through_to_a_terminal_and_another_character_device(specials, tmp_path):
    leader, follower = pty.openpty()
    history = fitted(callbacks=tn.CSVLog(os.ttyname(follower)))
    text = ""  # which the system passes on when it has time
    while text.count("\n") <= len(history["loss"]) and select.select([leader], [], [], 60)[0]:
        text += os.read(leader, 9999).decode()
    rows = list(csv.reader(text.splitlines()))
    os.close(leader)
    os.close(follower)
    assert rows[0] == ["epoch", *history]
    assert [row[:2] for row in rows[1:]] == [[str(k), str(loss)] for k, loss in enumerate(history["loss"], 1)]
    for name, path in specials.items():
        if name.startswith("a character device"):
            device = os.stat(path)
            fitted(callbacks=tn.CSVLog(path))
            assert (os.stat(path).st_ino, os.stat(path).st_rdev) == (device.st_ino, device.st_rdev)


@pytest.mark.slow
def test_a_csv_log_to_the_standard_output_gets_there_and_a_model_never_replaces_it(tmp_path):
    code = """
import numpy as np
import tinynet as tn
m = tn.Sequential([tn.Dense(3)], 4)
tn.fit(m, np.eye(4), [0, 1, 2, 0], loss="softmax_cross_entropy", optimizer=tn.SGD(m, 0.1), epochs=1,
       callbacks=tn.CSVLog("/dev/stdout"))
try:
    tn.save(m, "/dev/stdout")
except OSError as error:
    print(error)
"""
    path = tmp_path / "output"
    refused = {"regular": "is where this program's output goes, not a file to replace", "pipe": "is a pipe"}
    for kind in refused:
        with open(path, "w") as file:
            output = subprocess.PIPE if kind == "pipe" else file
            done = subprocess.run([sys.executable, "-c", code], stdout=output, text=True, check=True, cwd=ROOT)
        lines = (done.stdout or path.read_text()).splitlines()
        assert lines[0].startswith("epoch 1/1  loss ")
        assert lines[1].startswith("epoch,loss,")
        assert lines[2].startswith("1,")
        assert refused[kind] in lines[3]


# --- the path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_a_path_that_names_no_file_is_refused_by_what_it_is(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    for path, error in [
        ("d/", IsADirectoryError),
        ("missing/d/", IsADirectoryError),
        (".", IsADirectoryError),
        ("..", IsADirectoryError),
        ("a/..", IsADirectoryError),
        ("", ValueError),
        ("a\0b", ValueError),
        (b"d/", IsADirectoryError),
        (3, TypeError),
        (True, TypeError),
        (["m"], TypeError),
    ]:
        with pytest.raises(error, match=r"must be the path of a file|(is|names) a folder, not a file to write"):
            WRITERS[writer](path)
    assert os.listdir() == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_path_of_bytes_or_of_odd_letters_works(tmp_path, writer):
    for name in (b"bytes.png", b"\xff\xfe.png", "ä \udcff.png"):
        path = os.path.join(os.fsencode(tmp_path) if isinstance(name, bytes) else str(tmp_path), name)
        WRITERS[writer](path)
        assert os.path.getsize(path) > 0
        if writer in ("save", "save_run", "fit's checkpoint", "Checkpoint"):
            tn.load(model(), path)


def test_a_link_that_points_nowhere_yet_gets_a_file_to_point_to(tmp_path):
    os.symlink("real", tmp_path / "link")
    tn.save(model(1), tmp_path / "link")
    tn.load(model(), tmp_path / "real")
    assert os.readlink(tmp_path / "link") == "real"
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        tn.save(model(), tmp_path / "loop")
    os.mkdir(tmp_path / "a")
    os.mkdir(tmp_path / "a" / "b")
    os.symlink("a/b", tmp_path / "into")
    with contextlib.chdir(tmp_path):
        fitted(checkpoint="into/../file")  # which is a/file
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "file"]


def test_files_stay_where_they_are_when_the_working_directory_changes(tmp_path):
    def elsewhere(training):
        os.chdir("other")

    (tmp_path / "here" / "other" / "other").mkdir(parents=True)
    with contextlib.chdir(tmp_path / "here"):
        log, best = tn.CSVLog("log.csv"), tn.Checkpoint("best")
        fitted(checkpoint="run", callbacks=[elsewhere, log, best])
    assert sorted(os.listdir(tmp_path / "here")) == ["best", "log.csv", "other", "run"]
    assert len((tmp_path / "here" / "log.csv").read_text().splitlines()) == 3
    assert os.listdir(tmp_path / "here" / "other") == ["other"]


# --- mode, owner, attributes --------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_is_replaced_keeps_its_mode_and_a_new_one_has_that_of_any_new_file(tmp_path, usual_umask, writer):
    path = tmp_path / "file.png"
    WRITERS[writer](path)
    assert mode(path) == 0o644
    for bits in (0o600, 0o640, 0o666, 0o777, 0o200 | 0o400):
        path.chmod(bits)
        WRITERS[writer](path)
        assert mode(path) == bits


def test_nobody_can_open_the_new_bytes_of_a_private_file_while_they_are_written(tmp_path, usual_umask, monkeypatch):
    path, seen = tmp_path / "private", []
    tn.save(model(), path)
    path.chmod(0o600)

    real = writing._take_after

    def look(descriptor, *arguments):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, *arguments)
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(writing, "_take_after", look)
    tn.save(model(1), path)
    path.chmod(0o644)
    tn.save(model(1), path)
    assert seen == [0o600, 0o600, 0o600, 0o644]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_is_read_only_is_refused_even_to_root(tmp_path, writer):
    path = tmp_path / "file.png"
    path.write_bytes(b"keep")
    for bits in (0o444, 0o400, 0o000):
        path.chmod(bits)
        with pytest.raises(PermissionError, match=rf"file\.png is read-only \(its mode is {bits:04o}.* chmod u\+w"):
            WRITERS[writer](path)
        assert mode(path) == bits
        assert os.listdir(tmp_path) == ["file.png"]
    path.chmod(0o600)
    assert path.read_bytes() == b"keep"


def test_a_full_disk_names_the_file_and_whose_it_is(tmp_path, monkeypatch):
    path = tmp_path / "run"
    fitted(checkpoint=path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"fit: .*; what the file held before is still there: '.*run'") as caught:
            fitted(checkpoint=path, resume=True, epochs=3)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        with pytest.raises(OSError, match=r"save: [\w ]+: '.*other'"):
            tn.save(model(), tmp_path / "other")
    assert path.read_bytes() == before
    assert len(fitted(checkpoint=path, resume=True, epochs=3)["loss"]) == 3
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match=r"CSVLog: [\w ]+: '/dev/full'"):
            fitted(callbacks=tn.CSVLog("/dev/full"))


@pytest.mark.parametrize("name", ["fchmod", "replace", "fsync"])
def test_where_the_mode_cannot_be_kept_the_old_file_stays(tmp_path, usual_umask, monkeypatch, name):
    path = tmp_path / "file"
    tn.save(model(), path)
    before = path.read_bytes()

    def failing(*arguments):
        raise PermissionError("not here")

    monkeypatch.setattr(os, name, failing)
    with pytest.raises(PermissionError, match="not here"):
        tn.save(model(1), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert mode(path) == 0o644
    assert os.listdir(tmp_path) == ["file"]


def access_list(*entries):
    """Linux's form of it: (tag, bits, user or group)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 2**32 - 1
SHARED = access_list((1, 6, NOBODY), (2, 4, 1234), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
OPEN_FOLDER = access_list((1, 7, NOBODY), (2, 7, 4321), (4, 5, NOBODY), (16, 7, NOBODY), (32, 5, NOBODY))


@pytest.mark.skipif(sys.platform != "linux", reason="access control lists are Linux's here")
def test_access_control_lists_and_attributes_are_kept_and_a_folders_are_not_added(tmp_path, usual_umask, monkeypatch):
    path, plain = tmp_path / "file", tmp_path / "plain"
    tn.save(model(), path)
    tn.save(model(), plain)
    kept = {}
    for name, value in ((LISTS, SHARED), ("user.note", b"mine")):
        with contextlib.suppress(OSError):  # not every file system has them
            os.setxattr(path, name, value)
            kept[name] = value
    with contextlib.suppress(OSError):
        os.setxattr(tmp_path, "system.posix_acl_default", OPEN_FOLDER)
    before = mode(path)
    for file in (path, plain):
        tn.save(model(1), file)
    assert {name: os.getxattr(path, name) for name in kept} == kept
    assert mode(path) == before
    assert LISTS not in os.listxattr(plain)
    assert mode(plain) == 0o644

    def refused(file, name, value):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "setxattr", refused)  # what the list allowed or forbade is not known: nobody gets in
    tn.save(model(), path)
    assert mode(path) == (0o600 if LISTS in kept else 0o644)


# Root may do anything; without its capabilities it is a user like others, of the groups that it is in.
POWERLESS = """
import contextlib, ctypes, os, stat, sys
from pathlib import Path
import tinynet as tn
m = tn.Sequential([tn.Dense(3)], 4)
folder = Path(sys.argv[1])
def said(path):
    try:
        tn.save(m, path)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
root = os.geteuid() == 0
for name, bits in (("group", 0o664), ("banned", 0o604), ("others", 0o646)):
    tn.save(m, folder / name)
    if root:
        os.chown(folder / name, 0, 4321)
    os.chmod(folder / name, bits)
(folder / "closed").mkdir()
tn.save(m, folder / "closed" / "m")
(folder / "closed").chmod(0o555)
(folder / "blind").mkdir()
(folder / "blind").chmod(0o300)
for name, owner, bits in (("theirs", 4321, 0o644), ("shared", 4321, 0o666)):
    tn.save(m, folder / name)
    if root:
        os.chown(folder / name, owner, -1)
    os.chmod(folder / name, bits if root else 0o444 if name == "theirs" else bits)
if root:
    os.setgroups([])
    if sys.platform == "linux":
        version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert ctypes.CDLL(None).capset(version_3, (ctypes.c_uint32 * 6)()) == 0
for name in ("group", "banned", "others", "shared"):
    assert said(folder / name) is None, said(folder / name)
    status = os.stat(folder / name)
    print(name, f"{stat.S_IMODE(status.st_mode):04o}", status.st_gid == os.getgid(), status.st_uid == os.geteuid())
print(said(folder / "theirs"))
print(said(folder / "closed" / "m"))
print(said(folder / "closed" / "new"))
print(said(folder / "blind" / "m"))
(folder / "closed").chmod(0o755)
(folder / "blind").chmod(0o755)
print(*sorted(path.name for path in folder.rglob("*")))
"""


def test_a_user_like_others_gives_no_rights_away_and_is_told_what_may_not_be_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", POWERLESS, tmp_path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    *modes, theirs, closed, new, blind, names = done.stdout.splitlines()
    root = os.geteuid() == 0
    assert modes == [
        f"group {'0604' if root else '0664'} True True",
        f"banned {'0600' if root else '0604'} True True",
        f"others {'0604' if root else '0646'} True True",
        "shared 0666 True True",
    ]
    assert theirs.startswith("PermissionError: save: ")
    assert "theirs is read-only (its mode is 0" in theirs
    for line, name in ((closed, "m"), (new, "new")):
        assert line.startswith(f"PermissionError: save: {name} can't be written, for this user may make no file in the")
    assert blind == "None"
    assert names == "banned blind closed group m m others shared theirs"


def test_root_leaves_a_file_to_the_user_whose_it_is(tmp_path, monkeypatch):
    path, given = tmp_path / "file", []
    tn.save(model(), path)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    else:  # at least it is asked for
        real = os.fchown
        monkeypatch.setattr(os, "fchown", lambda *arguments: (given.append(arguments[1:]), real(*arguments)))
    owner = os.stat(path).st_uid, os.stat(path).st_gid
    tn.save(model(1), path)
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == owner
    assert given in ([], [(-1, owner[1]), (owner[0], -1)])


def test_a_run_that_has_epochs_left_is_not_resumed_from_a_file_that_it_could_not_write(tmp_path):
    path = tmp_path / "run"
    fitted(checkpoint=path)
    path.chmod(0o444)
    assert len(fitted(checkpoint=path, resume=True)["loss"]) == 2  # is finished, and nothing is written
    with pytest.raises(PermissionError, match=r"fit: .*run is read-only"):
        fitted(checkpoint=path, resume=True, epochs=3)
    path.chmod(0o644)
    assert len(fitted(checkpoint=path, resume=True, epochs=3)["loss"]) == 3


# --- while a run is on its way ------------------------------------------------------------------------------


def rows(path):
    with open(path, newline="") as file:
        return [row[0] for row in csv.reader(file)]


def test_a_csv_log_that_was_removed_emptied_or_replaced_is_whole_again_after_the_epoch(tmp_path):
    path = tmp_path / "log.csv"

    def meddle(training):
        if training.epoch == 1:
            path.unlink()
        elif training.epoch == 2:
            path.write_text("")
        elif training.epoch == 3:
            (tmp_path / "other").write_text("something else\n" * 20)
            os.replace(tmp_path / "other", path)
        else:
            return
        seen.append(training.epoch)

    seen = []
    fitted(epochs=5, callbacks=[tn.CSVLog(path), meddle, lambda training: None])
    assert seen == [1, 2, 3]
    assert rows(path) == ["epoch", "1", "2", "3", "4", "5"]


def test_a_csv_log_is_appended_to_as_long_as_nobody_touches_it(tmp_path):
    path, files = tmp_path / "log.csv", set()
    fitted(epochs=4, callbacks=[tn.CSVLog(path), lambda training: files.add(os.stat(path).st_ino)])
    assert len(files) == 1
    assert rows(path) == ["epoch", "1", "2", "3", "4"]


def test_a_csv_log_that_became_a_pipe_or_lost_its_folder_is_an_error_and_never_waits(tmp_path):
    path = tmp_path / "folder" / "log.csv"
    for meddle, message in [
        (lambda: (path.unlink(), os.mkfifo(path)), "CSVLog: .* is a pipe"),
        (lambda: (path.unlink(), path.parent.rmdir()), "CSVLog: there is no folder .*folder to write log.csv in"),
    ]:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        with pytest.raises(OSError, match=message):
            fitted(callbacks=[tn.CSVLog(path), lambda training, meddle=meddle: meddle()])


def test_a_csv_log_in_a_loop_of_ones_own_has_a_line_of_names_and_the_epochs_that_there_are(tmp_path):
    training = tn.training.Training(model(), None)
    log = tn.CSVLog(tmp_path / "log.csv")
    training.epoch = 4  # after those of another program
    for loss in (3.0, 2.0):
        training.epoch += 1
        training.history.setdefault("loss", []).append(loss)
        log(training)
    assert (tmp_path / "log.csv").read_text() == "epoch,loss\n5,3.0\n6,2.0\n"


@pytest.mark.parametrize("name", ["curves.png", "curves.svg", "curves.pdf", "curves.PNG", "curves", "curves."])
def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, name):
    curves(tmp_path / name)
    (found,) = os.listdir(tmp_path)
    assert found == (name if "." in name.rstrip(".") else "curves.png")
    before = (tmp_path / found).read_bytes()
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[found.rpartition(".")[2].lower()]
    assert before.startswith(start)

    def failing(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="disk full"):
            plots.training_curves({"loss": [1.0, 2.0, 3.0]}, tmp_path / name)
    assert (tmp_path / found).read_bytes() == before
    assert os.listdir(tmp_path) == [found]


def test_a_picture_goes_into_an_open_file_too_and_an_unknown_format_is_named(tmp_path):
    with open(tmp_path / "open", "wb") as file:
        curves(file)
    assert (tmp_path / "open").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="'nope' is not supported"):
        curves(tmp_path / "curves.nope")
    assert os.listdir(tmp_path) == ["open"]
