"""How fast and in how much memory submissions become links.

    python benchmarks/links.py decode [--data DIR]     NDJSON -> Parquet, beside json in the same run
    python benchmarks/links.py stream [--gigabytes 5]  a synthetic dump, made while it is read: memory over time
    python benchmarks/links.py urls [--data DIR]       canonical_url and the rest of the map side, beside w3lib
    python benchmarks/links.py shuffle [--links 50e6]  synthetic links through partitions and reduce: peak memory
    python benchmarks/links.py all                     each of them, small

Figures are of one core: CPU seconds of this process, the best of several repeats where the work is short.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import json
import lzma
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from webtext import reddit  # noqa: E402
from webtext.links import SelectSettings, aggregate, key_submissions, partition, url_rules  # noqa: E402
from webtext.records import KEYED_SCHEMA, LINK_SCHEMA, SUBMISSION_SCHEMA  # noqa: E402
from webtext.urls import canonical_url, document_id, registered_domain, rejection_of_key  # noqa: E402


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rss_mb() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def best_cpu(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def real_lines(data: Path) -> bytes:
    """Real submissions of 2005 to 2019, as NDJSON."""
    folder = data / "reddit"
    parts = [
        lzma.decompress((folder / name).read_bytes()) for name in ("RS_v2_2005-07.xz", "machinelearning/RS_2012.xz")
    ]
    parts.append(gzip.decompress((folder / "machinelearning/RS_2013.gz").read_bytes()))
    parts.append(bz2.decompress((folder / "machinelearning/RS_2011.bz2").read_bytes()))
    for name in ("machinelearning/RS_2014.zst", "machinelearning/RS_2015.zst", "RS_2019-10.zst", "RS_pages.zst"):
        with (folder / name).open("rb") as file:
            parts.append(zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(file).read())
    return b"".join(parts)


def write_parquet(batches: Iterator[reddit.SubmissionBatch], folder: Path) -> int:
    rows = 0
    with (
        pq.ParquetWriter(
            folder / "links.parquet", SUBMISSION_SCHEMA, compression="zstd", write_page_checksum=True
        ) as links,
        pq.ParquetWriter(
            folder / "drops.parquet", reddit.DROP_SCHEMA, compression="zstd", write_page_checksum=True
        ) as drops,
    ):
        for batch in batches:
            links.write_batch(batch.submissions)
            drops.write_batch(batch.drops)
            rows += batch.submissions.num_rows + batch.drops.num_rows
    return rows


def decode(options: argparse.Namespace) -> None:
    text = real_lines(options.data)
    lines = text.count(b"\n")
    size = len(text) / 1e6
    print(f"{lines} real submissions, {size:.0f} MB of NDJSON, {len(text) / lines:.0f} bytes a line")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, packed = folder / "RS.ndjson", folder / "RS.zst"
        plain.write_bytes(text)
        packed.write_bytes(zstandard.ZstdCompressor(level=10).compress(text))

        def ours(path: Path) -> Callable[[], object]:
            return lambda: write_parquet(reddit.read_dump(path), folder)

        def read_only() -> None:
            for _ in reddit.read_dump(plain):
                pass

        def peer_json() -> None:
            for line in text.splitlines():
                json.loads(line)

        def raw_msgspec() -> None:
            decoder = reddit.msgspec.json.Decoder(reddit._Line)
            for block in reddit._blocks(reddit._chunks(plain)):
                decoder.decode_lines(block.data)

        def floor_msgspec() -> None:
            decoder = reddit.msgspec.json.Decoder(reddit.msgspec.defstruct("Nothing", []))
            for block in reddit._blocks(reddit._chunks(plain)):
                decoder.decode_lines(block.data)

        write_parquet(reddit.read_dump(plain), folder)
        ours_seconds = best_cpu(ours(plain), options.repeats)
        for label, work in [
            ("NDJSON -> rows, drops -> Parquet", None),
            ("zstd -> NDJSON -> rows, drops -> Parquet", ours(packed)),
            ("NDJSON -> rows, drops", read_only),
            ("   of which msgspec into the struct", raw_msgspec),
            ("   of which scanning: msgspec into no fields", floor_msgspec),
            ("peer: json.loads of each line, nothing else", peer_json),
        ]:
            seconds = ours_seconds if work is None else best_cpu(work, options.repeats)
            print(
                f"{label:48} {size / seconds:7.0f} MB/s  {seconds / lines * 1e6:6.2f} us/line  "
                f"x{seconds / ours_seconds:.2f}"
            )
        reader = zstandard.ZstdDecompressor().decompress
        packed_bytes = packed.read_bytes()
        seconds = best_cpu(lambda: reader(packed_bytes), options.repeats)
        print(f"{'zstd alone':48} {size / seconds:7.0f} MB/s")


def stream(options: argparse.Namespace) -> None:
    """A dump that never exists as a whole: a process writes it into a pipe while this one reads."""
    for kind in ("links", "self posts"):
        producer = subprocess.Popen(
            [sys.executable, __file__, "produce", "--gigabytes", str(options.gigabytes), "--kind", kind],
            stdout=subprocess.PIPE,
        )
        assert producer.stdout is not None
        summary = reddit.ReadSummary()
        start, cpu = time.perf_counter(), time.process_time()
        marks: list[float] = []
        with tempfile.TemporaryDirectory() as name:
            dump = reddit.read_dump(f"/dev/fd/{producer.stdout.fileno()}", summary=summary)
            rows = write_parquet(_watched(dump, summary, marks), Path(name))
        producer.wait()
        cpu = time.process_time() - cpu
        assert rows == summary.lines
        print(
            f"{kind}: {summary.size_bytes / 1e9:.1f} GB, {summary.lines} lines in {time.perf_counter() - start:.0f} s, "
            f"{summary.size_bytes / cpu / 1e6:.0f} MB/s of CPU; RSS at each half gigabyte "
            f"{' '.join(f'{m:.0f}' for m in marks)} MB, peak {peak_mb():.0f} MB"
        )


def _watched(
    batches: Iterator[reddit.SubmissionBatch], summary: reddit.ReadSummary, marks: list[float]
) -> Iterator[reddit.SubmissionBatch]:
    for batch in batches:
        if len(marks) < summary.size_bytes // 500_000_000:
            marks.append(rss_mb())
        yield batch


def produce(options: argparse.Namespace) -> None:
    chance = random.Random(0)
    is_self = options.kind != "links"
    lines = []
    for i in range(20_000):
        record = {
            "archived": False,
            "author": f"user{i}",
            "created_utc": 1_430_000_000 + i,
            "domain": f"site{i % 999}.com",
        }
        record |= {
            "edited": False,
            "id": "@@@@@@@",
            "is_self": is_self,
            "media": None,
            "over_18": False,
            "retrieved_on": 1_432_000_000,
        }
        record |= {"score": i % 50, "selftext": "".join(chance.choices("abcdefghij \n", k=900)) if is_self else ""}
        record |= {
            "subreddit": f"r{i % 500}",
            "title": "".join(chance.choices("abcdefghij ", k=60)),
            "url": f"http://site{i % 999}.com/{i}/story",
        }
        record |= {f"field_{k}": None for k in range(40)}
        lines.append(json.dumps(record))
    template = "\n".join(lines).encode() + b"\n"
    pieces = template.split(b"@@@@@@@")
    left, number = int(options.gigabytes * 1e9), 0
    while left > 0:
        names = [b"%07x" % (number + i) for i in range(len(pieces) - 1)]
        number += len(names)
        block = b"".join(part for pair in zip(pieces, [*names, b""], strict=True) for part in pair)
        sys.stdout.buffer.write(block)
        left -= len(block)


def urls(options: argparse.Namespace) -> None:
    from w3lib.url import canonicalize_url

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "RS.ndjson"
        path.write_bytes(real_lines(options.data))
        found = [url for batch in reddit.read_dump(path) for url in batch.submissions["url"].to_pylist()]
    keys = []
    rules = url_rules(SelectSettings())
    for url in found:
        try:
            keys.append(canonical_url(url))
        except ValueError:
            keys.append("http://bad.example/")
    good = [url for url, key in zip(found, keys, strict=True) if key != "http://bad.example/"]
    print(f"{len(found)} real URLs, {len(set(keys))} keys")

    def w3lib_all() -> None:
        for url in good:
            with contextlib.suppress(ValueError):
                canonicalize_url(url)

    base = best_cpu(lambda: [canonical_url(url) for url in good], options.repeats)
    for label, work in [
        ("canonical_url", lambda: [canonical_url(url) for url in good]),
        ("peer: w3lib.url.canonicalize_url", w3lib_all),
        ("document_id", lambda: [document_id(key) for key in keys]),
        ("rejection_of_key", lambda: [rejection_of_key(key, rules) for key in keys]),
        ("registered_domain", lambda: [registered_domain(url) for url in good]),
    ]:
        seconds = best_cpu(work, options.repeats)
        print(f"{label:40} {seconds / len(good) * 1e6:7.2f} us  x{seconds / base:.2f}")


def shuffle(options: argparse.Namespace) -> None:
    """Map: keyed rows, a Parquet per million whose row groups are the partitions. Reduce: a partition of every file."""
    total, per_file = int(options.links), 1_000_000
    partitions = max(1, total // 500_000)
    chosen = SelectSettings()
    rules = url_rules(chosen)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        start = time.perf_counter()
        keyed_seconds = 0.0
        files = []
        for number in range(0, total, per_file):
            if number == 0:  # the whole map side once, on URLs; keying is the same for every file
                batch = _synthetic_submissions(number, per_file // 10)
                cpu = time.process_time()
                key_submissions(batch, chosen, reddit.Removals(), rules=rules)
                keyed_seconds = (time.process_time() - cpu) / batch.num_rows
            keyed = _synthetic_keyed(number, min(per_file, total - number))
            path = folder / f"map-{number}.parquet"
            with pq.ParquetWriter(path, KEYED_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
                for part in partition(keyed, partitions):
                    writer.write_table(part, row_group_size=max(1, part.num_rows))
            files.append(path)
        mapped = time.perf_counter() - start
        map_peak = peak_mb()
        start, cpu = time.perf_counter(), time.process_time()
        links = drops = 0
        with pq.ParquetWriter(
            folder / "links.parquet", LINK_SCHEMA, compression="zstd", write_page_checksum=True
        ) as writer:
            for number in range(partitions):
                parts = []
                for path in files:
                    with pq.ParquetFile(path, page_checksum_verification=True) as file:
                        parts.append(file.read_row_group(number, use_threads=False))
                some, gone = aggregate(pa.concat_tables(parts), chosen)
                writer.write_table(some)
                links += some.num_rows
                drops += gone.num_rows
        seconds = time.process_time() - cpu
        assert links + drops == total
        print(
            f"{total} submissions -> {links} links + {drops} drops; key_submissions {keyed_seconds * 1e6:.1f} us each "
            f"({total * keyed_seconds:.0f} s of one core); partitioning {mapped:.0f} s, peak {map_peak:.0f} MB;"
            f" reduce {time.perf_counter() - start:.0f} s, {total / seconds / 1e3:.0f} k submissions/s of CPU, "
            f"{partitions} partitions; peak RSS {peak_mb():.0f} MB"
        )


def _synthetic_submissions(start: int, count: int) -> pa.RecordBatch:
    chance = np.random.default_rng(start)
    numbers = np.arange(start, start + count)
    endings = ["", "/", "?utm_source=x", "?id=7&b=c"]
    urls_ = [f"https://www.site{k % 99991}.com/2015/{k % 12}/story-about-{k}{endings[k % 4]}" for k in numbers.tolist()]
    return pa.record_batch(
        [
            pa.array([f"{k:x}" for k in numbers.tolist()]),
            pa.array(urls_),
            pa.array(chance.geometric(0.1, count).astype(np.int32)),
            pa.array(1_300_000_000 + numbers),
            pa.array(1_400_000_000 + numbers),
            pa.array([f"sub{k % 5000}" for k in numbers.tolist()]),
            pa.array(np.zeros(count, np.bool_)),
            pa.array(np.zeros(count, np.bool_)),
        ],
        schema=SUBMISSION_SCHEMA,
    )


def _synthetic_keyed(start: int, count: int) -> pa.Table:
    """Rows as `key_submissions` would give them; three posts of ten are of a page that another has posted."""
    batch = _synthetic_submissions(start, count)
    chance = np.random.default_rng(start + 1)
    page = np.where(chance.random(count) < 0.3, chance.integers(0, 1_000_000, count), np.arange(start, start + count))
    # A bijection of 64 bits that looks random: SplitMix64.
    mixed = (page.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    nibbles = mixed[:, None] >> (np.arange(60, -1, -4, dtype=np.uint64)) & np.uint64(15)
    text = np.tile(digits[nibbles.astype(np.uint8)], 2)
    ids = pa.StringArray.from_buffers(
        count, pa.py_buffer((np.arange(count + 1) * 32).astype(np.int32)), pa.py_buffer(text.tobytes())
    )
    columns = [ids, batch["url"]] + [batch[name] for name in KEYED_SCHEMA.names[2:]]
    columns[1] = pa.array([f"site{k % 99991}.com" for k in range(start, start + count)])
    return pa.Table.from_arrays(columns, schema=KEYED_SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["decode", "stream", "urls", "shuffle", "all", "produce"])
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data", help="the folder of real data")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the streamed dump")
    parser.add_argument("--links", type=float, default=50e6, help="submissions to shuffle")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scratch", help="where the shuffle's files go (100 bytes a submission)")
    parser.add_argument("--kind", default="links", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "all":
        options.gigabytes, options.links = min(options.gigabytes, 0.5), min(options.links, 2e6)
        for work in (decode, urls, stream, shuffle):
            print(f"--- {work.__name__}")
            work(options)
        return
    {"decode": decode, "stream": stream, "urls": urls, "shuffle": shuffle, "produce": produce}[options.what](options)


if __name__ == "__main__":
    main()
