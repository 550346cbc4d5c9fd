"""Downloads, from a server on this machine that also does whatever servers do wrong."""

import errno
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import tinynet as tn
from tinynet.data import download as download_module
from tinynet.data.download import download, download_members

pytestmark = pytest.mark.slow

CONTENT = np.random.default_rng(0).bytes(300_000)
SIZE, SHA256 = len(CONTENT), hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><title>Please log in</title>" + b" " * 500


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to behave, the last which file is wanted."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        kind, name = self.path.strip("/").split("/")
        content = self.server.contents.get(name)
        first = self.path not in self.server.requests
        self.server.requests.append(self.path)
        if kind == "404" or content is None:
            return self.send_error(404)
        if kind == "503":
            return self.send_error(503)
        if kind == "redirect":
            return self.answer(302, b"", Location=f"/good/{name}")
        if kind == "loop":
            return self.answer(302, b"", Location=self.path)
        if kind == "page":
            return self.answer(200, PAGE, Content_Type="text/html; charset=utf-8")
        if kind == "page-as-data":
            return self.answer(200, PAGE)
        if kind == "page-of-no-length":
            return self.answer(200, PAGE, length=None)
        if kind == "corrupt":
            content = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]
        if kind == "shorter":
            content = content[:-7]
        if kind == "endless":
            return self.endless()
        if kind == "no-length":
            return self.answer(200, content, length=None)
        if kind == "cut" or (kind == "cut-once" and first):
            return self.answer(200, content[: len(content) // 2], length=len(content))
        if kind == "cut-at-once":
            return self.answer(200, b"", length=len(content))
        if kind == "stall":
            self.answer(200, content[: len(content) // 2], length=len(content))
            self.server.stalled.set()
            return self.server.done.wait(60)
        if kind == "together":  # nobody gets the second half before everybody has had the first
            self.answer(200, content[: len(content) // 2], length=len(content))
            self.server.barrier.wait(60)
            return self.wfile.write(content[len(content) // 2 :])
        return self.answer(200, content)

    def answer(self, status, body, length=0, **headers):
        self.send_response(status)
        for name, value in {"Content_Type": "application/octet-stream", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def endless(self):
        self.answer(200, b"", length=None)
        while not self.server.done.is_set():
            self.wfile.write(bytes(2**16))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request, address):  # a client that has heard enough hangs up
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, address)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("tinynet.data.download.TIMEOUT", 20)
    server = Server(("127.0.0.1", 0), Handler)
    server.contents, server.requests = {"file.bin": CONTENT}, []
    server.done, server.stalled, server.barrier = threading.Event(), threading.Event(), threading.Barrier(2)
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.done.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(server, folder, *kinds):
    download(folder / "file.bin", [f"{server.url}/{kind}/" for kind in kinds], SIZE, SHA256)
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in folder.iterdir()] == ["file.bin"]
    return [path.split("/")[1] for path in server.requests]


def refused(server, folder, *kinds):
    with pytest.raises(tn.data.DatasetError) as caught:
        fetch(server, folder, *kinds)
    assert not folder.is_dir() or list(folder.iterdir()) == []
    return caught.value


# --- a server that does what it should, or recovers ---------------------------------------------------------


def test_a_file_comes_whole_into_a_folder_that_is_made_for_it(server, tmp_path):
    assert fetch(server, tmp_path / "some" / "where", "good") == ["good"]


@pytest.mark.parametrize("kind", ["redirect", "no-length"])
def test_a_file_comes_over_a_redirection_and_without_a_length(server, tmp_path, kind):
    fetch(server, tmp_path, kind)


def test_a_connection_that_breaks_off_is_tried_again(server, tmp_path):
    assert fetch(server, tmp_path, "cut-once") == ["cut-once"] * 2


def test_another_mirror_follows_one_whose_connections_break_off(server, tmp_path):
    assert fetch(server, tmp_path, "cut", "good") == ["cut"] * 3 + ["good"]


@pytest.mark.parametrize(
    "kind",
    ["404", "503", "loop", "page", "page-as-data", "page-of-no-length", "corrupt", "shorter", "endless", "cut-at-once"],
)
def test_a_mirror_that_fails_makes_way_for_the_next(server, tmp_path, kind):
    requests = fetch(server, tmp_path, kind, "good")
    assert requests[-1] == "good"


def test_a_server_that_falls_silent_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tinynet.data.download.TIMEOUT", 0.3)
    error = refused(server, tmp_path, "stall")
    assert "timed out" in str(error)
    assert isinstance(error.__cause__, OSError)
    assert fetch(server, tmp_path, "stall", "good")[-1] == "good"


# --- failures -----------------------------------------------------------------------------------------------


def test_a_failure_says_what_each_mirror_answered_and_what_to_fetch_and_where_to_put_it(server, tmp_path):
    error = refused(server, tmp_path, "404", "corrupt", "page")
    text = str(error)
    assert f"{server.url}/404/file.bin: 404 Client Error: Not Found" in text
    assert re.search(rf"/corrupt/file.bin: SHA256 hash .* expected sha256:{SHA256} but got [0-9a-f]{{64}}", text)
    assert f"{server.url}/page/file.bin: expected data, got a web page" in text
    assert f"by hand from one of these, and put it at {tmp_path / 'file.bin'}" in text
    assert error.__cause__ is not None


def test_a_server_that_is_not_there_is_a_failure_with_its_cause(tmp_path, server):
    with pytest.raises(tn.data.DatasetError, match="refused") as caught:
        download(tmp_path / "file.bin", ["http://127.0.0.1:1/"], SIZE, SHA256)
    assert isinstance(caught.value.__cause__, OSError)


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    writes, write = [], download_module._Watched.write

    def interrupted(self, data):
        writes.append(write(self, data))
        if len(writes) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download_module._Watched, "write", interrupted)
        fetch(server, tmp_path, "good")
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, tmp_path, "good")[-1] == "good"


def test_a_full_disk_is_a_failure_with_its_cause_and_leaves_no_half_a_file(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused(server, tmp_path, "good", "good")
    assert "could not be written" in str(error)
    assert "No space left" in str(error)
    assert isinstance(error.__cause__, OSError)
    assert len(server.requests) == 1  # no mirror can help


def test_a_file_moves_into_place_in_one_step_once_it_is_on_the_disk(server, tmp_path, monkeypatch):
    steps, sync, replace = [], os.fsync, os.replace

    def watched_sync(descriptor):
        sync(descriptor)
        steps.append(("on the disk", os.fstat(descriptor).st_size, (tmp_path / "file.bin").exists()))

    def watched_replace(source, target):
        assert not target.exists()
        steps.append(("in place", source.stat().st_size, target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    fetch(server, tmp_path, "cut-once")
    assert steps == [("on the disk", SIZE, False), ("in place", SIZE, "file.bin")]
    assert (tmp_path / "file.bin").stat().st_mode & 0o444 == 0o444  # for all who share the folder


def test_a_file_in_the_folder_s_place_is_a_failure_that_names_it(server, tmp_path):
    (tmp_path / "folder").write_text("")
    error = refused(server, tmp_path / "folder", "good")
    assert str(tmp_path / "folder") in str(error)


def test_progress_is_a_line_where_there_is_no_terminal(server, tmp_path):
    process = start_process(server, tmp_path, "good")
    (line,) = process.communicate(timeout=120)[1].splitlines()
    assert f"{server.url}/good/file.bin" in line
    assert process.returncode == 0


def test_progress_is_a_bar_on_a_terminal(server, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(server, tmp_path, "good")
    assert "file.bin: 100%" in terminal.getvalue()
    assert "300k/300k" in terminal.getvalue()


# --- several processes --------------------------------------------------------------------------------------


def start_process(server, folder, kind):
    code = "import sys, pathlib; from tinynet.data.download import download; f, u, n, s = sys.argv[1:]; "
    code += "download(pathlib.Path(f), [u], int(n), s)"
    arguments = [str(folder / "file.bin"), f"{server.url}/{kind}/", str(SIZE), SHA256]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_do_not_disturb_each_other(server, tmp_path):
    processes = [start_process(server, tmp_path, "together") for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_killed_process_leaves_no_half_a_file_and_is_cleaned_up_after_a_day(server, tmp_path):
    process = start_process(server, tmp_path, "stall")
    assert server.stalled.wait(120)
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.communicate()
    (orphan,) = tmp_path.iterdir()
    assert orphan.name.startswith(".")
    os.utime(orphan, (time.time() - 90_000,) * 2)
    fetch(server, tmp_path, "good")


# --- archives -----------------------------------------------------------------------------------------------


def archive(members):
    """The bytes of a tar.gz of (name, content), or (name, None, type) for what is no plain file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content, *kind in members:
            member = tarfile.TarInfo(name)
            if kind:
                member.type, member.linkname = kind[0], "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack(server, paths, members):
    packed = server.contents["all.tar.gz"] = archive(members)
    size, sha256 = len(packed), hashlib.sha256(packed).hexdigest()
    download_members(paths, "all.tar.gz", [f"{server.url}/good/"], size, sha256)


def test_only_the_wanted_plain_files_of_an_archive_are_unpacked_and_only_where_they_belong(server, tmp_path):
    folder = tmp_path / "inner" / "folder"
    members = [
        ("set/one.bin", None, tarfile.SYMTYPE),
        ("set/two.bin", None, tarfile.LNKTYPE),
        ("set/one.bin", None, tarfile.DIRTYPE),
        ("set/readme.html", b"not wanted"),
        ("../../one.bin", b"first"),
        ("/two.bin", b"second"),
        ("set/one.bin", b"a second one of the name"),
    ]
    unpack(server, [folder / "one.bin", folder / "two.bin"], members)
    found = sorted(path for path in tmp_path.rglob("*") if not path.is_dir())
    assert found == [folder / "one.bin", folder / "two.bin"]
    assert (folder / "one.bin").read_bytes() == b"first"
    assert (folder / "two.bin").read_bytes() == b"second"
    assert not any(path.is_symlink() for path in found)


def test_an_archive_without_a_wanted_file_is_a_failure_that_names_it(server, tmp_path):
    with pytest.raises(tn.data.DatasetError, match=r"all\.tar\.gz.*no two\.bin in it"):
        members = [("one.bin", b"1"), ("two.bin", None, tarfile.SYMTYPE)]
        unpack(server, [tmp_path / "one.bin", tmp_path / "two.bin"], members)
    assert not (tmp_path / "two.bin").exists()


def test_an_archive_with_an_absurdly_large_file_is_a_failure_that_names_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr("tinynet.data.download.LIMIT", 99)
    with pytest.raises(tn.data.DatasetError, match=r"all\.tar\.gz.*one\.bin has 100 bytes"):
        unpack(server, [tmp_path / "one.bin"], [("one.bin", bytes(100))])
    assert not (tmp_path / "one.bin").exists()


def test_what_is_no_archive_is_a_failure_that_names_it(server, tmp_path):
    server.contents["all.tar.gz"] = CONTENT
    with pytest.raises(tn.data.DatasetError, match=r"all\.tar\.gz.*cannot be unpacked"):
        download_members([tmp_path / "one.bin"], "all.tar.gz", [f"{server.url}/good/"], SIZE, SHA256)


# --- the data sets ------------------------------------------------------------------------------------------


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


@pytest.mark.parametrize(("name", "table"), [("mnist", "MNIST"), ("fashion_mnist", "FASHION")])
def test_missing_idx_files_are_downloaded_once_and_present_ones_left_alone(server, tmp_path, monkeypatch, name, table):
    rng = np.random.default_rng(1)
    files, module = {}, sys.modules["tinynet.data.mnist"]
    for file in getattr(module, table):
        shape = (6, 28, 28) if "images" in file else (6,)
        content = server.contents[file] = idx(rng.integers(0, 10, shape, dtype=np.uint8))
        files[file] = (len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(module, table, files)
    monkeypatch.setattr(module, f"{table}_MIRRORS", (f"{server.url}/404/", f"{server.url}/good/"))
    folder = tmp_path / name.replace("_", "-")
    folder.mkdir()
    own = np.arange(6, dtype=np.uint8)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(own))  # not gzipped, and another checksum
    (x_train, y_train), (x_test, y_test) = getattr(tn.data, name)(tmp_path)
    assert x_train.shape == x_test.shape == (6, 28, 28, 1)
    assert y_test.tolist() == own.tolist()
    assert [path.rpartition("/")[2] for path in server.requests if "/good/" in path] == list(files)[:3]
    asked = len(server.requests)
    again = getattr(tn.data, name)(tmp_path)
    assert len(server.requests) == asked
    np.testing.assert_array_equal(again[0][0], x_train)


def test_missing_cifar_files_come_from_the_archive_and_present_ones_are_left_alone(server, tmp_path, monkeypatch):
    module = sys.modules["tinynet.data.cifar10"]
    members = [(f"cifar-10-batches-bin/{name}", bytes([i]) * 3073) for i, name in enumerate(module.NAMES)]
    packed = server.contents[module.ARCHIVE] = archive([("cifar-10-batches-bin/readme.html", PAGE), *members])
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/good/",))
    monkeypatch.setattr(module, "ARCHIVE_SIZE", len(packed))
    monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(packed).hexdigest())
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_2.bin").write_bytes(bytes([9]) * 3073)
    (x_train, y_train), (x_test, y_test) = tn.data.cifar10(tmp_path)
    assert y_train.tolist() == [0, 9, 2, 3, 4]
    assert y_test.tolist() == [5]
    assert sorted(path.name for path in folder.iterdir()) == module.NAMES


def test_missing_reviews_come_from_the_archive(server, tmp_path, monkeypatch):
    module = sys.modules["tinynet.data.movie_reviews"]
    packed = archive([("rt-polaritydata/rt-polarity.pos", b"good\n"), ("rt-polaritydata/rt-polarity.neg", b"bad\n")])
    server.contents[module.ARCHIVE] = packed
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/good/",))
    monkeypatch.setattr(module, "ARCHIVE_SIZE", len(packed))
    monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(packed).hexdigest())
    sentences, labels = tn.data.movie_reviews(tmp_path)
    assert sentences == ["bad", "good"]
    assert labels.tolist() == [0, 1]


REVIEWS = [
    ("aclImdb/train/neg/10_2.txt", b"tenth"),
    ("aclImdb/train/neg/9_1.txt", b"ninth,\r\n  on two lines\n"),
    ("aclImdb/train/pos/0_10.txt", b"good"),
    ("aclImdb/train/unsup/0_0.txt", b"nobody knows"),
    ("aclImdb/test/neg/0_1.txt", b"bad"),
    ("aclImdb/test/pos/0_9.txt", b"best"),
    ("aclImdb/train/urls_pos.txt", b"http"),
]


def offer_reviews(server, monkeypatch, members=REVIEWS):
    module = sys.modules["tinynet.data.imdb"]
    packed = server.contents[module.ARCHIVE] = archive(members)
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/good/",))
    monkeypatch.setattr(module, "ARCHIVE_SIZE", len(packed))
    monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(packed).hexdigest())
    return module, packed


def test_missing_files_of_imdb_are_made_from_its_archive_and_present_ones_left_alone(server, tmp_path, monkeypatch):
    module, packed = offer_reviews(server, monkeypatch)
    folder = tmp_path / "imdb"
    folder.mkdir()
    (folder / "test-pos.txt").write_bytes(b"my own")
    (texts, labels), (texts_test, labels_test) = tn.data.imdb(tmp_path)
    assert (texts, labels.tolist()) == (["ninth, on two lines", "good", "tenth"], [0, 1, 0])
    assert (texts_test, labels_test.tolist()) == (["bad", "my own"], [0, 1])
    assert sorted(path.name for path in folder.iterdir()) == sorted([*module.NAMES[:3], "test-pos.txt"])
    asked = len(server.requests)
    assert tn.data.imdb(tmp_path)[0][0] == texts
    assert len(server.requests) == asked


def test_an_archive_that_was_fetched_by_hand_is_used_and_stays(server, tmp_path, monkeypatch):
    module, packed = offer_reviews(server, monkeypatch)
    place = tmp_path / "imdb" / module.ARCHIVE
    place.parent.mkdir()
    place.write_bytes(packed)
    assert tn.data.imdb(tmp_path)[1][0] == ["bad", "best"]
    assert place.exists()
    assert server.requests == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-40], "expected a gzipped tar archive, found an error in it: "),
        (lambda packed: packed[:50], "expected a gzipped tar archive, found an error in it: "),
        (lambda packed: b"no archive", "expected a gzipped tar archive, found an error in it: "),
        (lambda packed: archive(REVIEWS[1:4]), r"expected reviews for test-neg\.txt\.gz, found none"),
    ],
)
def test_a_broken_archive_of_imdb_is_named_and_leaves_no_half_file(server, tmp_path, monkeypatch, damage, message):
    module, packed = offer_reviews(server, monkeypatch)
    place = tmp_path / "imdb" / module.ARCHIVE
    place.parent.mkdir()
    place.write_bytes(damage(packed))
    with pytest.raises(tn.data.DatasetError, match=message) as caught:
        tn.data.imdb(tmp_path)
    assert str(caught.value).startswith(str(place))
    assert [path.name for path in place.parent.iterdir()] == [module.ARCHIVE]


def test_reviews_too_large_for_the_memory_are_refused(server, tmp_path, monkeypatch):
    module, _ = offer_reviews(server, monkeypatch)
    monkeypatch.setattr(module, "LIMIT", 10)
    with pytest.raises(tn.data.DatasetError, match=r"aclImdb_v1\.tar\.gz: expected at most 10 bytes of reviews"):
        tn.data.imdb(tmp_path)


def test_missing_trees_come_from_a_zip_archive(server, tmp_path, monkeypatch):
    module = sys.modules["tinynet.data.sst"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.mkdir("trees")
        for k, name in enumerate(module.NAMES):
            packed.writestr(f"trees/{name}", f"({k} (2 a) (2 film))\n")
        packed.writestr("../dev.txt", "(4 no)")
    server.contents[module.ARCHIVE] = buffer.getvalue()
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/good/",))
    monkeypatch.setattr(module, "ARCHIVE_SIZE", len(buffer.getvalue()))
    monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    parts = tn.data.sst(tmp_path)
    assert [(texts, labels.tolist()) for texts, labels in parts] == [(["a film"], [k]) for k in range(3)]
    assert sorted(path.name for path in (tmp_path / "sst").iterdir()) == sorted(module.NAMES)


def test_what_is_no_zip_archive_is_a_failure_that_names_it(server, tmp_path):
    server.contents["all.zip"] = CONTENT
    with pytest.raises(tn.data.DatasetError, match=r"all\.zip.*cannot be unpacked"):
        download_members([tmp_path / "one.bin"], "all.zip", [f"{server.url}/good/"], SIZE, SHA256)


@pytest.mark.parametrize(("name", "table"), [("shakespeare", "SHAKESPEARE"), ("names", "NAMES")])
def test_a_missing_text_is_downloaded_once(server, tmp_path, monkeypatch, name, table):
    module = sys.modules["tinynet.data.shakespeare"]
    content = b"emma\nolivia\n" * 10
    server.contents |= {"input.txt": content, "names.txt": content}
    found = [f"{server.url}/good/"], len(content), hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(module, table, found)
    first = getattr(tn.data, name)(tmp_path)
    assert first == getattr(tn.data, name)(tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "table", "labels"), [("pneumonia_mnist", "PNEUMONIA", 1), ("chest_mnist", "CHEST", 14)]
)
def test_missing_x_rays_are_downloaded_once_and_compared_with_the_checksum_that_there_is(
    server, tmp_path, monkeypatch, name, table, labels
):
    module, buffer = sys.modules["tinynet.data.medmnist"], io.BytesIO()
    parts = {f"{part}_images": np.full((2, 28, 28), k, np.uint8) for k, part in enumerate(module.PARTS)}
    np.savez(buffer, **parts, **{f"{part}_labels": np.ones((2, labels), np.uint8) for part in module.PARTS})
    file, size, checksum = getattr(module, table)
    assert (size is None) == checksum.startswith("md5:")
    server.contents[file] = content = buffer.getvalue()
    digest = f"md5:{hashlib.md5(content).hexdigest()}" if size is None else hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(module, table, (file, size and len(content), digest))
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/corrupt/",))
    with pytest.raises(tn.data.DatasetError, match="hash of downloaded file"):
        getattr(tn.data, name)(tmp_path)
    assert list((tmp_path / file.removesuffix(".npz")).iterdir()) == []
    monkeypatch.setattr(module, "MIRRORS", (f"{server.url}/good/",))
    for _ in range(2):
        assert [x.max() * 255 for x, _ in getattr(tn.data, name)(tmp_path)] == [0, 1, 2]
    assert server.requests == [f"/corrupt/{file}", f"/good/{file}"]


def test_without_a_network_the_message_says_where_the_files_belong(server, tmp_path, monkeypatch):
    module = sys.modules["tinynet.data.cifar10"]
    monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:1/",))
    with pytest.raises(tn.data.DatasetError) as caught:
        tn.data.cifar10(tmp_path)
    assert "http://127.0.0.1:1/cifar-10-binary.tar.gz: " in str(caught.value)
    for name in module.NAMES:
        assert str(tmp_path / "cifar-10-batches-bin" / name) in str(caught.value)
