"""Files that a fuzzer makes up, one parser after the other: only documented errors.

    pip install atheris gguf safetensors
    python benchmarks/fuzz.py --seconds 120     # all, each in a process of its own
    python benchmarks/fuzz.py genomes -max_total_time=600     # libFuzzer's own options

Each parser starts from a file that gfopt (or the format's own package) wrote. In files
of records the fuzzer changes headers and payloads, and the checksums are made anew:
what is tried is what stands behind them. A finding is any exception that the parser
does not document, a hang of 20 seconds, or arrays of more than 64 MB and a hundred
times the file's size. libFuzzer writes it to a file ``crash-...``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import QUICK, save, show

FOLDER = Path(tempfile.mkdtemp())
FILE = FOLDER / "stranger"
BASE, TIMES = 64 << 20, 100  # bytes that a file may take, and for each of its own


def sphere(x: Any) -> Any:
    return (x**2).sum()


# -- files of records, as their payloads


def payloads(path: Path) -> bytes:
    """Returns the header and the payloads of a file, each after its length."""
    from gfopt.driver.storage import records as layout

    parts, chain = [], layout.Chain()
    with open(path, "rb", buffering=0) as file:
        start = file.read(12)
        chain.crc = zlib.crc32(start)
        while file.tell() < path.stat().st_size:
            parts.append(layout.read_exactly(file, layout.verify_frame(file, chain)))
            file.seek(4, os.SEEK_CUR)
    return b"".join(struct.pack("<H", len(part)) + part for part in parts)


def framed(data: bytes) -> bytes:
    """Returns a file with such payloads, whose checksums are right."""
    from gfopt.driver.storage import records as layout

    start = layout.MAGIC + struct.pack("<I", layout.VERSION)
    chain, found = layout.Chain(zlib.crc32(start)), [start]
    while len(data) > 2:
        (size,) = struct.unpack("<H", data[:2])
        found += layout.frame([data[2 : 2 + size]], chain)
        data = data[2 + size :]
    return b"".join(bytes(part) for part in found)


def records() -> tuple[bytes, Callable[[], Any]]:
    import numpy as np

    from gfopt.driver.storage.storage import Record, read_records, write_snapshot

    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.uint32(7)}
    two = [Record("x", {"n": [1, None]}, arrays), Record("x", {"n": [1, None]}, arrays)]
    write_snapshot(FILE, {"kind": "log"}, two)
    return payloads(FILE), lambda: read_records(FILE)


def genomes() -> tuple[bytes, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    import gfopt

    method, x0 = gfopt.DeepGA(population_size=8, num_parents=2), jnp.ones(2)
    found = gfopt.run(method, sphere, x0, key=jax.random.key(0), generations=3)
    gfopt.genome.save(FILE, found.optimizer, found.state)
    return payloads(FILE), lambda: gfopt.genome.load(FILE, x0)


def logs() -> tuple[bytes, Callable[[], Any]]:
    import jax
    import jax.numpy as jnp

    import gfopt

    words: dict[str, Any] = {"key": jax.random.key(0), "generations": 3}
    gfopt.ReplayLog.of(gfopt.run(gfopt.MeZO(), sphere, jnp.ones(2), **words)).save(FILE)
    return payloads(FILE), lambda: gfopt.ReplayLog.read(FILE)


def checkpoints() -> tuple[bytes, Callable[[], Any]]:
    import gfopt

    def fun(x: Any) -> float:
        return float(sphere(x))

    def search() -> Any:
        words: dict[str, Any] = {"method": "random_search", "budget": 9}
        words["options"] = {"population_size": 4}
        return gfopt.minimize(fun, [1.0, 2.0], checkpoint=FILE, **words)

    search()
    return payloads(FILE), search


# -- other formats


def gguf() -> tuple[bytes, Callable[[], Any]]:
    import numpy as np
    from gguf import GGUFWriter

    from gfopt.quantization import gguf_files

    writer = GGUFWriter(FILE, "llama")
    writer.add_block_count(1)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("x", np.ones((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = lambda: gguf_files.read_tensors(gguf_files.open_gguf(FILE))  # noqa: E731
    return FILE.read_bytes(), reader


def safetensors() -> tuple[bytes, Callable[[], Any]]:
    """The configuration after its length, and the file of tensors."""
    import numpy as np

    from gfopt.problems import load_safetensors

    width, rows = 8, 3
    sizes = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width)}
    sizes |= {"self_attn.v_proj": (width, width), "self_attn.o_proj": (width, width)}
    sizes |= {"mlp.gate_proj": (4, width), "mlp.up_proj": (4, width)}
    sizes |= {"mlp.down_proj": (width, 4), "input_layernorm": (width,)}
    sizes |= {"post_attention_layernorm": (width,)}
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in sizes.items()}
    shapes |= {
        "model.embed_tokens.weight": (rows, width),
        "model.norm.weight": (width,),
    }
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    config = {"model_type": "llama", "hidden_size": width, "intermediate_size": 4}
    config |= {"vocab_size": rows, "num_attention_heads": 2, "num_hidden_layers": 1}
    config |= {
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    told = json.dumps(config).encode()
    tensors = struct.pack("<Q", len(text)) + text + bytes(place)

    def load() -> Any:
        data = FILE.read_bytes()
        size = int.from_bytes(data[:2], "little")
        (FOLDER / "config.json").write_bytes(data[2 : 2 + size])
        (FOLDER / "model.safetensors").write_bytes(data[2 + size :])
        return load_safetensors(FOLDER)

    return struct.pack("<H", len(told)) + told + tensors, load


def texts() -> tuple[bytes, Callable[[], Any]]:
    from gfopt.cli.labelled_texts import read_sentences

    seed = b'text,label\n"good, really",yes\nbad,no\n'
    return seed, lambda: read_sentences(str(FILE), "text", "label")


def results() -> tuple[bytes, Callable[[], Any]]:
    import gfopt
    from gfopt.research.results import ResultStore

    problem = gfopt.problems.Problem(sphere, x0=[1.0], optimum=0.0)
    gfopt.bench("random_search", problem, budget=5, runs=2, out=FOLDER / "seed")
    path = FOLDER / "seed" / "results.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA page_size = 512")
        file.execute("VACUUM")

    def read() -> None:
        with contextlib.suppress(FileNotFoundError):
            (FOLDER / "results.sqlite").unlink()
        os.replace(FILE, FOLDER / "results.sqlite")
        with ResultStore(FOLDER) as store:
            store.finished(), store.runs(), store.sessions()

    return path.read_bytes(), read


def studies() -> tuple[bytes, Callable[[], Any]]:
    import gfopt

    path = FOLDER / "study.db"
    search = gfopt.Study(path, "random_search", [1.0], budget=4)
    search.work(lambda x: float(sphere(x)))
    del search
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")
        file.execute("PRAGMA page_size = 512")
        file.execute("VACUUM")

    def read() -> None:
        for left in FOLDER.glob("other.db*"):
            left.unlink()
        os.replace(FILE, FOLDER / "other.db")
        gfopt.Study(FOLDER / "other.db")

    return path.read_bytes(), read


PARSERS = (records, genomes, logs, checkpoints)
PARSERS += (gguf, safetensors, texts, results, studies)
DOCUMENTED = (ValueError, OSError)


def fuzz(name: str, options: list[str]) -> None:
    """Hands a parser to libFuzzer, which ends the process."""
    import atheris

    (parser,) = (one for one in PARSERS if one.__name__ == name)
    with atheris.instrument_imports(include=["gfopt", "gguf", "safetensors"]):
        seed, read = parser()
    is_framed = PARSERS.index(parser) < 4
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(seed)
    warnings.simplefilter("ignore")

    def once(data: bytes) -> None:
        FILE.write_bytes(framed(data) if is_framed else data)
        tracemalloc.start()
        try:
            read()
        except DOCUMENTED:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        if peak > BASE + TIMES * len(data):
            raise MemoryError(f"{peak} bytes for a file of {len(data)}")

    once(seed)  # what is compiled once does not count
    limits = ["-timeout=20", "-max_len=8192", f"-artifact_prefix={os.getcwd()}/"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], once)
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1:] and sys.argv[1] in [parser.__name__ for parser in PARSERS]:
        fuzz(sys.argv[1], sys.argv[2:])
        return
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=2 if QUICK else 120)
    options.add_argument("--quick", action="store_true", help="two seconds each")
    given, rows = options.parse_args(), []
    for parser in PARSERS:
        command = [sys.executable, __file__, parser.__name__]
        command.append(f"-max_total_time={given.seconds}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines()
        counts = re.findall(r"^#(\d+)\t", done.stderr, re.MULTILINE)
        rows.append(
            [parser.__name__, int(counts[-1]) if counts else 0, done.returncode]
        )
        print(*rows[-1], flush=True)
        if done.returncode:
            print(done.stdout, "\n".join(lines[-40:]))  # the traceback is in stdout
    show(["parser", "files", "exit status, 0 for no finding"], rows)
    save("fuzz", ["gfopt", "atheris"], {"seconds": given.seconds, "runs": rows})


if __name__ == "__main__":
    main()
