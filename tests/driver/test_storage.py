"""The record container: round trips, torn tails, damage, two writers, kills."""

import json
import os
import signal
import struct
import subprocess
import sys
import time

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from gfopt.driver.storage import records as layout
from gfopt.driver.storage import storage
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.storage import RecordWriter, read_records, write_snapshot
from gfopt.driver.storage.tree_records import (
    differences,
    record_to_tree,
    tree_to_record,
)

HEADER = {"kind": "log", "config": {"sigma": 0.3, "layers": [1, 2]}}
DTYPES = [
    *("bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64"),
    *("complex64", ">f4", "<U3", "datetime64[ns]"),
    *("bfloat16", "float8_e4m3fn", "int4"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.log"


def step(i):
    values = {"seed": np.uint32(i), "up": np.float32(i / 3), "down": np.float32(-i)}
    return Record("step", {}, values)


def write(path, *records):
    with RecordWriter.create(path, HEADER) as writer:
        for record in records:
            writer.write(record, sync=False)


def seeds(path):
    return [int(r.arrays["seed"]) for r in read_records(path).records]


def bits(array):
    return (np.dtype(array.dtype), array.shape, array.tobytes())


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))  # NaN payloads, -0, infinities
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    if dtype.kind == "U":
        raw = b"\x61\0\0\0" * (size // 4)
    array = np.frombuffer(bytearray(raw), dtype).reshape(shape)
    return array.T if draw(st.booleans()) else array


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
some_records = st.lists(
    st.builds(
        Record,
        st.text(max_size=5),
        st.dictionaries(st.text(max_size=5), json_values, max_size=2),
        st.dictionaries(st.text(max_size=5), arrays(), max_size=3),
    ),
    max_size=4,
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(some_records)
def test_what_is_written_is_read(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("round") / "a.log"
    write(path, *records, *records)  # the second time by reference
    header, found, lost, num_sound = read_records(path)
    assert header == HEADER and not lost and len(found) == 2 * len(records)
    assert num_sound == len(found)
    for given, got in zip([*records, *records], found, strict=True):
        assert given[:2] == got[:2] and list(given.arrays) == list(got.arrays)
        for name, array in given.arrays.items():
            assert bits(array) == bits(got.arrays[name])
            assert got.arrays[name].flags.writeable


def test_more_descriptions_than_a_byte_can_name(path):
    records = [Record("r", {"i": i % 300}, {"i": np.int64(i)}) for i in range(700)]
    write(path, *records[:400])
    with RecordWriter.append_to(path)[0] as writer:
        for record in records[400:]:
            writer.write(record, sync=False)
    assert [r.meta["i"] for r in read_records(path).records] == [
        i % 300 for i in range(700)
    ]


def test_a_thousand_steps_are_below_20_kb(path):
    write(path, *map(step, range(1000)))
    assert path.stat().st_size < 20_000  # each is a record of its own, 19 bytes
    assert seeds(path) == list(range(1000))


def test_a_large_record(path):
    big = np.arange(3_000_000, dtype=np.float32)
    write(path, Record("model", {}, {"w": big, "empty": np.zeros((0, 2))}), step(1))
    found = read_records(path).records
    assert bits(found[0].arrays["w"]) == bits(big)
    assert found[0].arrays["empty"].shape == (0, 2) and len(found) == 2


@pytest.mark.parametrize("last", [step(3), Record("big", {}, {"x": np.ones(40)})])
def test_a_tail_torn_at_every_byte_is_dropped(path, last):
    write(path, step(1), step(2))
    before = path.stat().st_size
    with RecordWriter.append_to(path)[0] as writer:
        writer.write(last)
    whole = path.read_bytes()
    for end in range(before, len(whole)):
        path.write_bytes(whole[:end])
        assert seeds(path) == [1, 2]
        lost = [f"{end - before} bytes at offset {before} (cut short)"]
        assert read_records(path).lost == lost * (end > before)
        writer, contents = RecordWriter.append_to(path)
        with writer:
            assert contents.lost == lost * (end > before)
            assert writer.header == HEADER
            writer.write(last)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", ["zeros", "half", "nothing in place"])
def test_a_tail_that_a_power_cut_left_is_dropped(path, tail):
    write(path, step(1))
    before = path.stat().st_size
    with RecordWriter.append_to(path)[0] as writer:
        writer.write(Record("big", {}, {"x": np.ones(40)}))
    whole = path.read_bytes()
    kept = {"zeros": before, "half": before + 100, "nothing in place": before + 20}
    path.write_bytes(whole[: kept[tail]].ljust(len(whole), b"\0"))
    assert seeds(path) == [1] and read_records(path).lost


def test_a_flipped_byte_is_found_wherever_it_is(path):
    """In the header it raises, else it costs the record that it is in."""
    write(path)
    start = path.stat().st_size
    path.unlink()
    big = Record("big", {"a": 1}, {"x": np.ones(40)})
    records = [step(1), big, step(2), Record("new", {}, {}), big]
    write(path, *records)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[offset] ^= flip
            path.write_bytes(damaged)
            if offset < start:
                for function in (read_records, RecordWriter.append_to):
                    with pytest.raises(ValueError, match="run.log"):
                        function(path)
                assert path.read_bytes() == damaged
                continue
            _, found, lost, num_sound = read_records(path)
            assert lost and num_sound < 5, offset
            left = iter(records)  # what is there is of what was written, in its order
            assert all(any(equal(r, one) for one in left) for r in found), offset
            assert all(map(equal, found[:num_sound], records))


def equal(a, b):
    same = a[:2] == b[:2] and a.arrays.keys() == b.arrays.keys()
    return same and all(bits(a.arrays[name]) == bits(b.arrays[name]) for name in a[2])


def test_a_record_that_is_missing_or_moved_is_seen(path):
    write(path)
    ends = [path.stat().st_size]
    for i in range(4):
        with RecordWriter.append_to(path)[0] as writer:
            writer.write(step(i))
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    parts = [whole[a:b] for a, b in zip([0, *ends], [*ends, len(whole)], strict=True)]
    for order, left in [
        ([0, 1, 3, 4], [0, 3]),  # 3 cannot be verified, 4 follows from 3
        ([0, 1, 3, 2, 4], [0]),
        ([0, 1, 2, 2, 3, 4], [0, 1, 2, 3]),
    ]:
        path.write_bytes(b"".join(parts[i] for i in order))
        assert read_records(path).lost and seeds(path) == left
    path.write_bytes(whole)
    assert not read_records(path).lost


def test_a_record_of_a_stranger_takes_no_more_memory_than_its_file(path):
    """Whole frames, checksums and all, with descriptions that promise too much."""
    texts = [
        [["x", "<f8", [2**40]]],
        [["x", "<f8", [2**70, 0]]],
        [["x", "<f8", [-1]]],
        [["x", "O", []]],
        [["x", "no type", []]],
        [["x", "<,8", []]],  # an expression, to NumPy
        [["x", {"names": ["a"], "formats": ["O"]}, []]],
        [["x", "<f8", [0] * 80]],
        "no list",
    ]
    write(path)
    whole, start = path.read_bytes(), len(path.read_bytes())
    deep = b"[" * 100_000
    for text in [*(json.dumps(["k", {}, t]).encode() for t in texts), deep, b"\xff"]:
        path.write_bytes(whole)
        with RecordWriter.append_to(path)[0] as writer:
            head = struct.pack("<BBI", 0, 1, len(text))
            writer._put(layout.frame([head + text], writer._chain))
        found = read_records(path)
        assert not found.records and "wrong" in found.lost[0], text[:50]
        assert found.lost[0].startswith(f"{path.stat().st_size - start} bytes at offs")


def test_other_files_are_refused(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n....")
    with pytest.raises(ValueError, match="not a gfopt record file: it starts with"):
        read_records(path)
    with pytest.raises(FileExistsError, match="append_to"):
        RecordWriter.create(path, HEADER)
    for version, age in [(3, "newer"), (1, "older, from before 0.1.0")]:
        path.write_bytes(layout.MAGIC + struct.pack("<I", version) + b"what then")
        with pytest.raises(ValueError, match=f"version {version}, .*reads 2: .*{age}"):
            read_records(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="create"):
        RecordWriter.append_to(path)
    with pytest.raises(FileNotFoundError):
        read_records(path)
    assert not path.exists()


def test_a_file_without_a_whole_header_is_started_again(path):
    write(path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        for function in (read_records, RecordWriter.append_to):
            with pytest.raises(ValueError, match="ends inside its header"):
                function(path)
    write(path, step(1))
    assert seeds(path) == [1]
    with pytest.raises(FileExistsError):
        RecordWriter.create(path, HEADER)


def test_two_writers_at_once_are_refused(path):
    pytest.importorskip("fcntl")
    with RecordWriter.create(path, HEADER) as writer:
        writer.write(step(1))
        for function in (RecordWriter.append_to, lambda p: RecordWriter.create(p, {})):
            with pytest.raises(RuntimeError, match="held by another writer"):
                function(path)
        writer.write(step(2))
    with RecordWriter.append_to(path)[0] as writer:
        writer.write(step(3))
    assert seeds(path) == [1, 2, 3]


def test_a_failed_write_leaves_the_file_as_it_was(path, monkeypatch):
    with RecordWriter.create(path, HEADER) as writer:
        writer.write(step(1))
        whole = path.read_bytes()

        def full(parts):
            writer._file.write(b"half of it")
            raise OSError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(writer, "_put", full)
            with pytest.raises(OSError, match="no space"):
                writer.write(Record("new", {}, {}))
        assert path.read_bytes() == whole
        writer.write(Record("other", {}, {}))
        writer.write(Record("new", {}, {}))
    assert [r.kind for r in read_records(path).records] == ["step", "other", "new"]


def test_what_cannot_be_stored_is_refused(path):
    with RecordWriter.create(path, HEADER) as writer:
        for record, message in [
            (Record("a", {}, {"x": np.array([None])}), "dtype object"),
            (Record("a", {}, {"x": np.zeros(1, [("f", "<f4")])}), "arrays must be"),
            (Record("a", {"x": np.ones(1)}, {}), r"record\.meta must hold what JSON"),
            (Record(1, {}, {}), r"record\.kind must be a string"),
            (Record("a", [], {}), r"record\.meta must be a dict"),
            (Record("a", {}, [1]), r"record\.arrays must be a dict"),
        ]:
            with pytest.raises(TypeError, match=message):
                writer.write(record)
    with pytest.raises(TypeError, match="header must"):
        RecordWriter.create(path.with_name("b"), ["header"])
    assert read_records(path).records == []


WRITE_FOREVER = """
import sys, numpy as np
from gfopt.driver.storage.storage import *
with RecordWriter.create(sys.argv[1], {}) as writer:
    for i in range(10 ** 9):
        arrays = {"seed": np.uint32(i), "x": np.full(i % 7 * 3000, i)}
        writer.write(Record("step", {}, arrays), sync=False)
        if i == 100:
            print("going", flush=True)
"""


def test_a_killed_writer_leaves_a_readable_prefix(path):
    command = [sys.executable, "-c", WRITE_FOREVER, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    with child:
        child.stdout.readline()
        time.sleep(0.05)
        os.kill(child.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    found = seeds(path)
    assert len(found) > 100 and found == list(range(len(found)))
    with RecordWriter.append_to(path)[0] as writer:
        writer.write(step(len(found)))
    assert not read_records(path).lost
    assert seeds(path) == list(range(len(found) + 1))


def test_a_snapshot_is_replaced_whole_or_not_at_all(path):
    write_snapshot(path, {"v": 1}, [step(1)])
    write_snapshot(path, {"v": 2}, [step(2), step(3)])
    assert read_records(path).header == {"v": 2} and seeds(path) == [2, 3]
    with pytest.raises(TypeError):
        write_snapshot(path, {"v": 3}, [step(4), Record("a", {}, {"x": object()})])
    assert read_records(path).header == {"v": 2}
    write_snapshot(path, {"v": 4}, [])  # what the failed one left is no obstacle
    assert read_records(path) == ({"v": 4}, [], [], 0)
    assert [p.name for p in path.parent.iterdir()] == ["run.log"]


def test_a_snapshot_that_another_writer_writes_is_refused(path):
    pytest.importorskip("fcntl")
    with RecordWriter(path.with_name("run.log.tmp")):
        with pytest.raises(RuntimeError, match="another writer"):
            write_snapshot(path, {}, [])


def test_what_a_file_was_is_kept_beside_it(path):
    """On a file system without links, too."""
    for i, broken in enumerate((False, True)):
        with pytest.MonkeyPatch.context() as patch:
            if broken:
                patch.setattr(storage.os, "link", refused)
            for number in range(2):
                write_snapshot(path, {"i": i}, [step(number)], keep=True)
            assert seeds(path) == [1] and seeds(storage.previous(path)) == [0]
            names = sorted(p.name for p in path.parent.iterdir())
            assert names == ["run.log", "run.log.prev"]


def refused(*_):
    raise OSError("no links")


def test_the_writer_of_a_whole_file_keeps_others_out(path):
    pytest.importorskip("fcntl")
    with RecordWriter.replace(path, HEADER, [step(1)]) as writer:
        with pytest.raises(RuntimeError, match="held by another writer"):
            RecordWriter.append_to(path)
        writer.write(step(2))
    assert seeds(path) == [1, 2]


def test_a_tree_comes_back_bitwise_and_where_it_was(path):
    tree = {
        "layers": [jnp.arange(3, dtype=jnp.bfloat16), np.float32([np.nan, -0.0])],
        "step": jnp.int32(7),
        "seed": np.uint32(5),
        "none": None,
    }
    write(path, tree_to_record("state", tree, {"step": 7}))
    record = read_records(path).records[0]
    assert record.kind == "state" and record.meta == {"step": 7}
    assert list(record.arrays) == ["layers/0", "layers/1", "seed", "step"]
    shapes = jax.eval_shape(lambda: tree)
    for template, all_jax in [(tree, False), (shapes, True)]:
        found = record_to_tree(record, template)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(found), strict=True):
            assert isinstance(b, jax.Array) == (all_jax or isinstance(a, jax.Array))
            assert bits(np.asarray(a)) == bits(np.asarray(b))


def test_a_committed_array_keeps_its_device():
    device = jax.devices()[-1]
    tree = {"x": jax.device_put(np.ones(2), device)}
    found = record_to_tree(tree_to_record("x", tree), tree)
    assert found["x"].committed and found["x"].devices() == {device}


def test_a_tree_that_does_not_fit_is_refused_with_every_difference():
    record = tree_to_record("x", {"a": np.ones(2), "b": np.ones(3), "c": 1})
    with pytest.raises(ValueError) as refusal:
        record_to_tree(
            record, {"a": np.ones((2, 1)), "b": np.ones(3, np.float32), "d": 1}
        )
    assert str(refusal.value).splitlines()[1:] == [
        "  a: expected 'float64[2, 1]', found 'float64[2]'",
        "  b: expected 'float32[3]', found 'float64[3]'",
        "  d: expected 'int64[]', found nothing",
        "  c: expected nothing, found 'int64[]'",
    ]
    with pytest.raises(ValueError, match="two 'a/b'"):
        tree_to_record("x", {"a/b": 1, "a": {"b": 2}})


def test_a_double_is_not_silently_made_single():
    with jax.enable_x64(True):
        tree = {"x": jnp.ones(2, jnp.float64)}
        record = tree_to_record("x", tree)
        assert record_to_tree(record, tree)["x"].dtype == np.float64
    with jax.enable_x64(False), pytest.raises(ValueError, match="enable_x64"):
        record_to_tree(record, tree)


def test_differences():
    config = {"m": {"sigma": 1, "sizes": (1, 2), "x": float("nan")}, "on": True}
    same = {"on": True, "m": {"sizes": [1, 2], "x": float("nan"), "sigma": 1.0}}
    assert differences(config, same) == []
    other = {"on": 1, "m": {"sizes": [1, 3], "sigma": 1, "x": {}}, "new": None}
    assert differences(config, other) == [
        "m.sizes: expected (1, 2), found [1, 3]",
        "m.x: expected nan, found {}",
        "on: expected True, found 1",
        "new: expected nothing, found None",
    ]
