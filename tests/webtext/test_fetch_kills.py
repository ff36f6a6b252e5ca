"""kill -9 while fetching: the final ledger differs from an undisturbed run's in tries and times only."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.faulty import faulty_urls, faulty_web
from helpers.loopback import LoopbackWeb

from webtext.pages import Page, read_ledger, read_pages, sealed_segments

CHILD = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from helpers.links import link_batches, publish
from webtext import fetch, guard, pages

web_port, folder, urls = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[4]).read_text().split()
def resolve(host, port, **kwargs):
    at = ("10.0.0.1", port) if host == "10.0.0.1" else ("127.0.0.1", web_port)
    return [(2, 1, 6, "", at)]
settings = fetch.FetchSettings(network=True, allow_loopback=True, per_host_delay_seconds=0.01, retries=0,
                               segment_links=len(urls) // 6, host_failures=1000, deadline_seconds=5.0)
pages.SYNC_SECONDS = 0.05
fetcher = fetch.Fetcher(settings, guard=guard.Guard(allow_loopback=True, resolve=resolve))
pages.update(folder, link_batches(urls), settings, publish=publish, transport=fetcher)
"""


def settled(folder: Path) -> dict[str, tuple[Any, ...]]:
    rows: dict[str, tuple[Any, ...]] = {}
    for segment in sealed_segments(folder):
        for row in read_ledger(segment).to_pylist():
            facts = ("outcome", "final_url", "payload_sha256", "redirect", "source")
            rows[row["url"]] = tuple(row[name] for name in facts)
    return rows


@pytest.mark.parametrize(
    ("kills", "hosts", "pages"), [(2, 20, 360), pytest.param(20, 50, 10_000, marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_the_ledger_is_the_same_but_for_tries_and_times(
    tmp_path: Path, kills: int, hosts: int, pages: int
) -> None:
    urls = faulty_urls(hosts, pages)
    (tmp_path / "urls").write_text("\n".join(urls))
    chance = random.Random(1)
    with LoopbackWeb(faulty_web) as web:

        def fetch(folder: Path) -> subprocess.Popen[bytes]:
            rest = [str(web.port), str(folder), str(Path(__file__).parents[1]), str(tmp_path / "urls")]
            return subprocess.Popen([sys.executable, "-c", CHILD, *rest], stderr=subprocess.DEVNULL)

        assert fetch(tmp_path / "undisturbed").wait(600) == 0
        killed = 0
        while True:
            asked = len(web.log)
            child = fetch(tmp_path / "p")
            goal = asked + chance.randrange(1, pages // kills)  # half of the pages in sum: all kills find work
            deadline = time.monotonic() + 60
            while killed < kills and child.poll() is None and len(web.log) < goal and time.monotonic() < deadline:
                time.sleep(0.002)
            if killed < kills and child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
                child.wait()
                continue
            assert child.wait(600) == 0
            break
    assert killed == kills
    found = settled(tmp_path / "p")
    assert {url: row[0] for url, row in found.items()} == urls
    assert found == settled(tmp_path / "undisturbed")
    kept = [page for segment in sealed_segments(tmp_path / "p") for page in read_pages(segment)]
    assert all(isinstance(page, Page) for page in kept)
    assert len(kept) == sum(outcome == "ok" for outcome in urls.values())  # each page once
    assert not list((tmp_path / "p").rglob("*.tmp"))
    assert not (tmp_path / "p" / "open").exists()
