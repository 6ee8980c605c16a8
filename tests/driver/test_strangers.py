"""Files of strangers: whatever they hold, the error is the one that is documented.

Bytes that were changed by accident are found by checksums; here the checksums are
right and what they protect is anything.
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import pytest
from driver.shared import SMALL, X0, host_plateau
from hypothesis import strategies as st

import gfopt
from gfopt.cli import labelled_texts
from gfopt.driver.storage.records import Record
from gfopt.driver.storage.storage import read_records, write_snapshot
from gfopt.driver.storage.study_file import crc_of_settings
from gfopt.research.results import ResultStore

MANY = hypothesis.settings(
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.text(max_size=3), parts, max_size=3)
    ),
    max_leaves=5,
)
ARRAYS = hnp.arrays(
    st.sampled_from(["u4", "f4", "f8", "i1", "?", "S3", "c8"]),
    hnp.array_shapes(min_dims=0, max_dims=2, max_side=3),
)


@st.composite
def altered(draw: Any, known: dict[str, Any], parts: Any) -> dict[str, Any]:
    """Returns a dict with some keys left out, others replaced, others new."""
    new = {}
    for name, value in known.items():
        fate = draw(st.sampled_from(["kept", "kept", "kept", "other", "none"]))
        if fate != "none":
            new[name] = value if fate == "kept" else draw(parts)
    return new | draw(st.dictionaries(st.text(max_size=4), parts, max_size=1))


def only(error: Any, call: Callable[[], Any], *also: Any) -> None:
    """Calls; no other error than a documented one is let through."""
    with suppress(error, *also), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()


def stranger(data: Any, contents: Any) -> tuple[dict[str, Any], list[Record]]:
    """Returns a header and records like those of a file."""
    header = data.draw(altered(contents.header, JSON))
    records = []
    for kind, meta, arrays in contents.records:
        if data.draw(st.integers(0, 5)):
            new = data.draw(altered(meta, JSON)), data.draw(altered(arrays, ARRAYS))
            records.append(Record(data.draw(st.sampled_from([kind, kind, "x"])), *new))
    return header, records


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    method = gfopt.DeepGA(population_size=8, num_parents=2)
    result = gfopt.run(
        method,
        lambda x: jnp.sum(x**2),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=5,
    )
    gfopt.genome.save(folder / "genome", result.optimizer, result.state)
    result = gfopt.run(
        gfopt.MeZO(0.02),
        lambda x: jnp.sum(x**2),
        jnp.ones(2),
        key=jax.random.key(0),
        generations=5,
    )
    gfopt.ReplayLog.of(result).save(folder / "log")
    return folder


@MANY
@hypothesis.given(data=st.data())
def test_genomes(files: Path, data: Any) -> None:
    header, records = stranger(data, read_records(files / "genome"))
    header["kind"] = "genome"
    write_snapshot(files / "other", header, records)
    only(ValueError, lambda: gfopt.genome.load(files / "other", jnp.ones(2)))


def test_a_genome_takes_no_table_that_is_out_of_proportion(files: Path) -> None:
    header, ((kind, meta, arrays),), *_ = read_records(files / "genome")
    meta |= {"kind": "table", "size": 2**40, "seed": 1}
    write_snapshot(files / "large", header, [Record(kind, meta, arrays)])
    with pytest.raises(ValueError, match=r"large \(.*table would have 1099"):
        gfopt.genome.load(files / "large", jnp.ones(2))


@MANY
@hypothesis.given(data=st.data())
def test_replay_logs(files: Path, data: Any) -> None:
    header, records = stranger(data, read_records(files / "log"))
    write_snapshot(files / "other", header, records)
    only((ValueError, TypeError), lambda: gfopt.replay(jnp.ones(2), files / "other"))
    only(ValueError, lambda: gfopt.ReplayLog.read(files / "other"))


@MANY
@hypothesis.given(data=st.data())
def test_checkpoints(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "run"
    if not path.exists():
        gfopt.minimize(host_plateau, X0, checkpoint=path, **SMALL, budget=7)
        path.rename(tmp_path / "whole")
        path.touch()
    contents = read_records(tmp_path / "whole")
    _, records = stranger(data, contents)
    path.unlink()
    write_snapshot(path, contents.header, records)
    only(
        ValueError,
        lambda: gfopt.minimize(host_plateau, X0, checkpoint=path, **SMALL, budget=7),
    )


@MANY
@hypothesis.given(data=st.data())
def test_studies(tmp_path: Path, data: Any) -> None:
    path, words = str(tmp_path / "study.db"), {"options": {"population_size": 4}}
    if not Path(path).exists():
        gfopt.Study(path, "random_search", X0, budget=4, **words)
        with closing(sqlite3.connect(path)) as file:
            (text,) = file.execute("SELECT json FROM settings").fetchone()
        Path(f"{path}.json").write_text(text)
    with closing(sqlite3.connect(path)) as file, file:
        settings = json.loads(Path(f"{path}.json").read_text())
        settings["search"] = data.draw(altered(settings["search"], JSON))
        names = data.draw(st.sampled_from([(), ("budget", "patience", "search")]))
        settings |= {name: data.draw(JSON) for name in names}
        text = json.dumps(settings)
        row = text, crc_of_settings(file, text)
        file.execute("UPDATE settings SET json = ?, crc = ?", row)
    only(ValueError, lambda: gfopt.Study(path))


@MANY
@hypothesis.given(data=st.data())
def test_results(tmp_path: Path, data: Any) -> None:
    with ResultStore(tmp_path, create=True) as store:
        store.start_session("test")
        cells = st.none() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=4)
        cells |= JSON.map(json.dumps) | st.binary(max_size=3)
        with store._connection as file, suppress(sqlite3.IntegrityError):
            row = data.draw(st.tuples(*[cells] * 20, st.just(1), st.just("now")))
            marks = ", ".join("?" * len(row))
            file.execute("DELETE FROM runs")
            file.execute(f"INSERT INTO runs VALUES ({marks})", row)
            session = data.draw(st.tuples(cells, cells))
            file.execute("UPDATE sessions SET versions = ?, machine = ?", session)
        for read in (store.runs, store.finished, store.sessions):
            only(ValueError, read)


@MANY
@hypothesis.given(text=st.text(max_size=60) | st.binary(max_size=60))
def test_tables_of_texts(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "texts.csv"
    raw = text.encode(errors="replace") if isinstance(text, str) else text
    path.write_bytes(b"text,label\n" + raw)
    only(ValueError, lambda: labelled_texts.read_sentences(str(path), "text", "label"))
    path.write_bytes(raw)
    only(ValueError, lambda: labelled_texts.read_sentences(str(path), "text", "label"))
