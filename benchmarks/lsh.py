"""Time and memory from signatures to verdicts, on synthetic signatures whose duplicates are known.

    python benchmarks/lsh.py                                   # 1 million documents
    python benchmarks/lsh.py --documents 8000000 24000000      # and the slope between them

30% of the documents are duplicates, in clusters whose sizes follow a power law, and one cluster has 100,000 members (so
its buckets have, too). Members agree with their cluster in 97% of their values. 20,000 more pairs agree in 62 of 112
values: shared bands, refused, but never on two sides of a split. Verdicts are checked against what was planted. Each
size is measured in a process of its own; its peak memory is what the system counted, ids and ranks included. Files are
written first, in a process of its own, and their writing is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import pyarrow as pa

from dedup import lsh
from dedup.minhash import MinHashSettings, binary16, signature_schema, write_signatures

SIGNING = MinHashSettings()
SEGMENT = 200_000
LARGEST = 100_000
NEAR_PAIRS = 20_000


def planted(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(sorted ids uint8[n, 16], ranks uint32[n], cluster int64[n], near int8[n]: 1 or 2 in a near pair)."""
    rng = np.random.Generator(np.random.PCG64(n))
    ids = np.sort(rng.integers(0, 1 << 63, (n, 2), dtype=np.uint64)[:, 0])
    raw = np.stack([ids, rng.integers(0, 1 << 63, n, dtype=np.uint64)], axis=1).astype(">u8").view(np.uint8)
    wanted = int(0.3 * n)
    sizes = [min(LARGEST, n // 80)]
    dropped = sizes[0] - 1
    draws = np.minimum(rng.zipf(2.2, n) + 1, 20_000)
    count = int(np.searchsorted(np.cumsum(draws - 1), wanted - dropped))
    all_sizes = np.concatenate([sizes, draws[:count]])
    cluster = np.arange(n, dtype=np.int64)  # most are alone
    members = rng.permutation(n)
    in_clusters = int(all_sizes.sum())
    cluster[members[:in_clusters]] = n + np.repeat(np.arange(all_sizes.size), all_sizes)
    near = np.zeros(n, np.int8)
    pairs = min(NEAR_PAIRS, n // 100)
    left, right = members[in_clusters : in_clusters + 2 * pairs].reshape(2, -1)
    near[left], near[right] = 1, 2
    cluster[right] = cluster[left] = 2 * n + np.arange(pairs)
    return raw.reshape(n, 16), rng.permutation(n).astype(np.uint32), cluster, near


@nb.njit(cache=True)
def fill(clusters: Any, near: Any, first: Any, alone: Any, out: Any) -> None:
    """Signatures: the cluster's values, 3 of 100 replaced; the second of a near pair has the first 50 replaced."""
    for d in range(clusters.size):
        for p in range(out.shape[1]):
            x = np.uint64(clusters[d]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(p) * np.uint64(0xD6E8FEB86659FD93)
            x = (x ^ (x >> np.uint64(32))) * np.uint64(0xFF51AFD7ED558CCD)
            y = (np.uint64(first + d) << np.uint64(8)) + np.uint64(p)
            y = (y ^ (y >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
            y = (y ^ (y >> np.uint64(29))) * np.uint64(0xFF51AFD7ED558CCD)
            y ^= y >> np.uint64(32)
            replaced = p < 50 if near[d] == 2 else (near[d] == 0 and not alone[d] and (y >> np.uint64(40)) % 100 < 3)
            out[d, p] = np.uint32(y & np.uint64(0xFFFFFFFF)) if replaced else np.uint32(x >> np.uint64(32))


def generate(n: int, folder: Path) -> None:
    ids, _, cluster, near = planted(n)
    schema = signature_schema(SIGNING)
    for number, start in enumerate(range(0, n, SEGMENT)):
        part = slice(start, min(start + SEGMENT, n))
        values = np.empty((part.stop - start, SIGNING.permutations), np.uint32)
        fill(cluster[part], near[part], start, cluster[part] < n, values)
        columns = [
            binary16(ids[part]),
            binary16(ids[part]),  # no exact duplicates: the hash is the id
            pa.array(np.full(len(values), 500, np.uint32)),
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field("signature").type),
        ]
        write_signatures(folder / f"{number:05d}.arrow", pa.Table.from_arrays(columns, schema=schema))


def measure(n: int, folder: Path, options: lsh.DedupSettings) -> dict[str, Any]:
    ids, ranks, cluster, near = planted(n)
    stages: dict[str, float] = {}
    start = last = time.perf_counter()
    cpu_start = time.process_time()

    def tell(what: str, done: int, of: int) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[what] = stages.get(what, 0.0) + now - last
        last = now

    files = sorted(folder.glob("*.arrow"))
    result = lsh.verdicts(ids, ranks, files, None, options, minhash=SIGNING, scratch=folder, progress=tell)
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the check below
    best = np.full(int(cluster.max()) + 1, n, np.int64)
    np.minimum.at(best, cluster, ranks)
    expected = (near > 0) | (ranks == best[cluster])
    kept = result.status[ranks] == lsh.KEPT
    components = result.component[ranks]
    first = np.full(best.size, n, np.int64)
    np.minimum.at(first, cluster, np.arange(n))  # ids are sorted, so the smallest id is the first
    return {
        "documents": n,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # of both threads; on a machine shared with others it tells more
        "peak_gb": peak / 1e9,
        "stated_gb": lsh.memory_needed(n, options, SIGNING).total / 1e9,
        "kept": int(kept.sum()),
        "verdicts_wrong": int((kept != expected).sum()),
        "components_wrong": int((components != first[cluster]).sum()),
        "pairs": len(result.pairs_a),
        "largest_cluster": int(lsh.cluster_sizes(result)[0]),
        "stages": {name: round(value, 1) for name, value in stages.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--memory-gb", type=float, default=1.5, help="[dedup] memory_bytes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files go (500 bytes a document); default: the system's")
    parser.add_argument("--step", choices=["generate", "measure"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = lsh.DedupSettings(memory_bytes=int(options.memory_gb * 1e9), workers=options.workers)
    if options.step == "generate":
        generate(options.documents[0], options.folder)
        return
    if options.step == "measure":
        print(json.dumps(measure(options.documents[0], options.folder, settings)))
        return
    rows = []
    for n in options.documents:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, __file__, "--documents", str(n), "--folder", folder]
            command += ["--memory-gb", str(options.memory_gb), "--workers", str(options.workers), "--step"]
            subprocess.run([*command, "generate"], check=True)
            answer = subprocess.run([*command, "measure"], check=True, capture_output=True, text=True)
        row = json.loads(answer.stdout)
        rows.append(row)
        print(
            f"{n:>11,} documents  {row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s of CPU)  "
            f"peak {row['peak_gb']:.2f} GB (stated {row['stated_gb']:.2f})  "
            f"{row['pairs']:,} pairs  kept {row['kept']:,}  wrong verdicts {row['verdicts_wrong']}, "
            f"components {row['components_wrong']}  largest cluster {row['largest_cluster']:,}"
        )
        print("   " + ", ".join(f"{name} {value} s" for name, value in row["stages"].items()))
    if len(rows) > 1:
        a, b = rows[0], rows[-1]
        slope = (b["peak_gb"] - a["peak_gb"]) / (b["documents"] - a["documents"])
        pace = (b["seconds"] - a["seconds"]) / (b["documents"] - a["documents"])
        for n in (100_000_000,):
            peak = b["peak_gb"] + slope * (n - b["documents"])
            minutes = (b["seconds"] + pace * (n - b["documents"])) / 60
            print(
                f"slope: {slope * 1e9:.0f} bytes and {pace * 1e6:.1f} microseconds a document; "
                f"{n:,} documents would take {peak:.1f} GB and {minutes:.0f} minutes"
            )


if __name__ == "__main__":
    main()
