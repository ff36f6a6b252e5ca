"""webtext remove: fifty removals, and afterwards no byte of those texts anywhere; all else stays as it was."""

from __future__ import annotations

import bz2
import gzip
import html
import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers import builds, inline, webs

from benchmarks import miniweb
from pipelines import remove, storage
from pipelines.build import Build
from pipelines.funnel import funnel
from webtext import bpe, forget, pages, urls
from webtext.fetch import FetchSettings

WINDOW = 30


PLAIN = {".json", ".jsonl", ".html", ".md", ".txt", ".log", ".tiktoken", ".idx", ".ids", ".lock", ""}


def readable(path: Path) -> bytes:
    """The content of a file with its compression undone: what somebody who looks for a text would search.

    A kind of file that this does not know how to read fails the test: nothing is taken as searched by its name.
    """
    data = path.read_bytes()
    if path.suffix == ".parquet":
        return data + lines(pq.read_table(path))
    if path.suffix == ".arrow":
        return data + lines(pa.ipc.open_file(pa.BufferReader(data)).read_all())
    if path.name.endswith(".warc.gz"):
        return data + gzip.decompress(data)
    if path.suffix == ".bin":
        tokens = np.frombuffer(data, "<u2", offset=1024)
        return data + bpe.load_tokenizer(path.parents[1] / "tokenizer").decode(tokens.tolist()).encode()
    if path.suffix == ".html":
        return data + html.unescape(data.decode()).encode()
    if path.suffix == ".json":
        return data + json.dumps(json.loads(data), ensure_ascii=False).encode()
    assert path.suffix in PLAIN or path.name.startswith(".lock"), f"{path}: how is a {path.suffix} file searched?"
    return data


def lines(table: pa.Table) -> bytes:
    return b"\n".join(json.dumps(row, ensure_ascii=False, default=str).encode() for row in table.to_pylist())


def windows(text: bytes) -> set[bytes]:
    return {text[at : at + WINDOW] for at in range(len(text) - WINDOW + 1)}


def found_anywhere(root: Path, wanted: set[bytes]) -> dict[str, bytes]:
    """File -> a window that it holds."""
    hits = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and (hit := windows(readable(path).replace(b"\\n", b"\n")) & wanted):
            hits[str(path.relative_to(root))] = min(hit)
    return hits


def documents(root: Path) -> dict[str, dict[str, str]]:
    rows = [row for path in (root / "documents").glob("segment-*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["id"]: row for row in rows}


def corpus(root: Path) -> dict[str, dict[str, str]]:
    rows = [row for path in (root / "corpus" / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> webs.Web:
    folder = tmp_path_factory.mktemp("larger")
    return webs.Web(folder, miniweb.generate(folder, num_links=700, num_pages=130))


def test_fifty_removals_leave_no_byte_of_those_texts_and_all_else_as_it_was(
    larger: webs.Web, server: inline.Server, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    sections = larger.sections(root)
    done = server.build(sections)
    assert done.returncode == 0, done.log
    (root / "logs").mkdir(exist_ok=True)
    before, kept_before = documents(root), corpus(root)
    posts = {
        row["id"]: row
        for path in (root / "selected").glob("selected-*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    order = sorted(before)
    entries, gone = [], set()
    domain = posts[order[0]]["domain"]
    entries.append(domain)
    gone |= {id for id in before if posts[id]["domain"] == domain}
    for number, id in enumerate(one for one in order if one not in gone):
        if len(entries) == 50:
            break
        entries.append(posts[id]["url"] if number % 2 else f"t3_{posts[id]['post_id']}")
        gone.add(id)
    assert len(entries) == 50
    kept = set(before) - gone
    (root / "logs" / "build.log").write_text(f"fetched {posts[order[-1]]['url']} and {posts[order[0]]['url']}\n")

    shared = set().union(*(windows(before[id]["text"].encode()) for id in kept))
    for path in sorted((builds.MINIWEB / "evaluation").rglob("*.jsonl")):  # the user's own; quoted in overlap/
        for line in path.read_text().splitlines():
            for value in json.loads(line).values():
                shared |= windows(str(value).encode())
    texts = set().union(*(windows(before[id]["text"].encode()) for id in gone)) - shared
    assert len(texts) > 10_000
    held = found_anywhere(root, texts)  # the search sees them, in every kind of file that holds texts
    assert {Path(name).parts[0] + Path(name).suffix for name in held} >= {
        "documents.parquet",
        "corpus.parquet",
        "tokens.bin",
    }

    build = Build(inline.settings_of(sections))
    found = remove.remove(build, entries, inline.InlineEngine())  # type: ignore[arg-type]
    assert gone <= found.ids
    assert found.documents == len(gone)
    assert found_anywhere(root, texts) == {}
    addresses = {posts[id]["url"].encode() for id in gone} - {b""}
    for path in filter(Path.is_file, root.rglob("*")):
        content = readable(path)
        assert not [url for url in addresses if url in content], path
    for path in (root / "dedup" / "signatures").glob("*.arrow"):
        assert not gone & set(pa.ipc.open_file(path).read_all()["id"].to_pylist())
    for path in (root / "tokens").glob("*.ids"):
        assert not gone & {path.read_bytes()[at : at + 16].hex() for at in range(0, path.stat().st_size, 16)}

    after = documents(root)
    assert after == {id: before[id] for id in kept}
    unchanged = corpus(root)
    assert {id: row for id, row in kept_before.items() if id in kept} == {
        id: unchanged[id] for id in kept_before if id in kept
    }
    for step in funnel(root):
        assert step.entered == sum(step.drops.values()) + step.left

    # The same command again finds nothing left; a build that had the list from the start is no different, and neither
    # is the corpus of one that never saw these posts.
    again = remove.remove(Build(inline.settings_of(sections)), entries, inline.InlineEngine())  # type: ignore[arg-type]
    assert (again.submissions, again.captures, again.ledger_rows, again.documents) == (0, 0, 0, 0)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    shutil.copy(root / "removals.txt", fresh / "removals.txt")
    done = server.build(larger.sections(fresh))
    assert done.returncode == 0, done.log
    for stage in ("links/", "selected/", "corpus/", "tokenizer/", "tokens/", "overlap/"):
        ours, theirs = (products(one, stage) for one in (root, fresh))
        assert ours == theirs, stage
    never = tmp_path / "never"
    dumps = without(larger.folder / "dumps", tmp_path / "dumps", found.ids)
    done = server.build(larger.sections(never, links={"dumps": f"{dumps}/*"}))
    assert done.returncode == 0, done.log
    for stage in ("corpus/data/", "tokenizer/", "tokens/", "overlap/"):
        ours, theirs = (products(one, stage) for one in (root, never))
        assert ours == theirs, stage


def products(root: Path, stage: str) -> dict[str, str]:
    """File -> SHA-256, of what a stage made; its seal tells what from."""
    hashes = builds.hashes(root)
    found = {name: hashes[name] for name in hashes if name.startswith(stage) and not name.endswith("_seal.json")}
    assert found
    return found


def without(dumps: Path, target: Path, ids: frozenset[str]) -> Path:
    """Dumps that never had a submission of the pages `ids`."""
    target.mkdir()
    opened = {".zst": zstandard.open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    for path in dumps.iterdir():
        with opened[path.suffix](path, "rb") as stream:
            kept = [line for line in stream.read().splitlines(keepends=True) if id_of(line) not in ids]
        (target / f"{path.stem}.ndjson").write_bytes(b"".join(kept))
    return target


def id_of(line: bytes) -> str:
    try:
        return urls.document_id(urls.canonical_url(html.unescape(json.loads(line)["url"])))
    except (ValueError, KeyError, TypeError):
        return ""


def stored(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """pages/ with one sealed segment of our own WARC, and its payloads by id."""
    from webtext.archives import Capture, warc_record
    from webtext.fetch import Fetched, Job

    rows = [(f"{number:032x}", f"http://host{number}.example/page") for number in range(6)]
    payloads = {
        id: f"<p>payload of page number {number}, and nobody else's</p>".encode() for number, (id, _) in enumerate(rows)
    }

    class Transport:
        def run(self, jobs):  # type: ignore[no-untyped-def]
            import hashlib

            for job in jobs:
                assert isinstance(job, Job)
                id = next(id for id, url in rows if url == job.url)
                head = (("content-type", "text/html"),)
                capture = Capture(
                    url=job.url, date=1_600_000_000, status=200, headers=head, body=payloads[id], offset=0
                )
                yield Fetched(
                    job=job,
                    outcome="ok",
                    detail="",
                    final_url=job.url,
                    status=200,
                    content_type="text/html",
                    source="network",
                    redirect="",
                    canonical_url="",
                    opt_out="",
                    fetched_at=1_600_000_000,
                    record=warc_record(capture),
                    payload_sha256=hashlib.sha256(payloads[id]).hexdigest(),
                    payload_bytes=len(payloads[id]),
                )

        def forget(self, segment: int) -> None: ...
        def waiting(self) -> dict[str, int]:
            return {}

        def close(self) -> None: ...

    batch = pa.record_batch(
        {"id": [id for id, _ in rows], "url": [url for _, url in rows], "created_at": pa.nulls(6, pa.int64())}
    )
    settings = FetchSettings(network=True, contact="me@example.com")
    pages.update(folder, [batch], settings, publish=storage.publish, transport=Transport())
    return folder, payloads


def read(folder: Path) -> dict[str, bytes]:
    return {page.id: page.payload for segment in pages.sealed_segments(folder) for page in pages.read_pages(segment)}


def test_captures_are_cut_out_of_our_own_warc_files_and_the_others_are_read_as_before(tmp_path: Path) -> None:
    folder, payloads = stored(tmp_path / "pages")
    assert read(folder) == payloads
    gone = sorted(payloads)[1:4:2]
    settings = FetchSettings()
    found = forget.forget(folder, gone, settings, publish=storage.publish)
    assert (found.rows, found.captures) == (2, 2)
    kept = {id: payload for id, payload in payloads.items() if id not in gone}
    assert read(folder) == kept
    everything = b"".join(readable(path) for path in folder.rglob("*") if path.is_file())
    assert not any(payloads[id] in everything for id in gone)
    assert not any(f"host{int(id, 16)}.example".encode() in everything for id in gone)
    assert len(list(folder.glob("*.warc.gz"))) == 1
    assert forget.forget(folder, gone, settings, publish=storage.publish).rows == 0
    forget.forget(folder, payloads, settings, publish=storage.publish)
    assert read(folder) == {}
    assert list(folder.glob("*.warc.gz")) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("published", range(4))
def test_killed_between_any_two_files_the_same_removal_ends_the_work(tmp_path: Path, published: int) -> None:
    folder, payloads = stored(tmp_path / "pages")
    gone = sorted(payloads)[:2]
    left = published

    def publish(temporary: Path, final: Path) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        storage.publish(temporary, final)

    with pytest.raises(Killed):
        forget.forget(folder, gone, FetchSettings(), publish=publish)
    forget.forget(folder, gone, FetchSettings(), publish=storage.publish)
    assert read(folder) == {id: payload for id, payload in payloads.items() if id not in gone}
    everything = b"".join(readable(path) for path in folder.rglob("*.gz"))
    assert not any(payloads[id] in everything for id in gone)
    for segment in pages.sealed_segments(folder):
        assert segment.ledger_sha256 == storage.sha256_of(segment.ledger)
