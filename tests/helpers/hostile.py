"""Pages made to hurt a parser, each family just inside the gates where it can be; mutations of pages; bombs."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import brotli
import zstandard

_PROSE = b"<p>The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.</p>"


def _page(body: bytes, head: bytes = b"") -> bytes:
    return b"<!DOCTYPE html><html><head><title>t</title>" + head + b"</head><body>" + body + b"</body></html>"


def families(share: float = 1.0) -> dict[str, bytes]:
    """Name -> page, of a size that is this share of what the gates let through."""

    def n(count: int) -> int:
        return max(1, int(count * share))

    return {
        "nested divs": _page(b"<div>" * n(49_000)),
        "nested and closed divs": _page(b"<div>" * n(20_000) + b"x" + b"</div>" * n(20_000)),
        "nested tables": _page(b"<table><tr><td>" * n(15_000)),
        "nested lists": _page(b"<ul><li>a" * n(24_000)),
        "nested spans with text": _page(b"<span>word " * n(49_000)),
        "misnested formatting": _page(b"<b><i><u>x</b></i></u>" * n(8_000)),
        "unclosed anchors": _page(b"<a href='/x'>link " * n(49_000)),
        "flat paragraphs": _page(b"<p>x" * n(49_000)),
        "line breaks": _page(b"<p>" + b"word<br>" * n(49_000)),
        "table cells": _page(b"<table>" + b"<tr><td>a<td>b" * n(16_000)),
        "attributes within a tag": _page(
            b"".join(b"<p %s>x" % b" ".join(b"a%d=1" % i for i in range(n(4_000))) for _ in range(60))
        ),
        "equal attributes": _page(b"<p " + b"a " * n(16_000) + b">x"),
        "one text of five megabytes": _page(b"<p>" + b"lorem ipsum dolor " * n(275_000)),
        "one word of five megabytes": _page(b"<p>" + b"x" * n(4_900_000)),
        "white space": _page(_PROSE + b"<p>" + b" \t" * n(2_400_000) + b"y"),
        "line feeds": _page(_PROSE + b"<pre>" + b"\n" * n(4_800_000) + b"</pre>"),
        "entities": _page(b"<p>" + b"&amp;&lt;&#65;&nosuch;" * n(200_000)),
        "references to surrogates and controls": _page(
            b"<p>" + b"&#xD800;&#0;&#x1F;&#x110000;&#99999999999;" * n(100_000)
        ),
        "entity bomb": b'<?xml version="1.0"?><!DOCTYPE html [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
        + b"]><html><body><p>&j;</p></body></html>",
        "unclosed comments": _page(_PROSE + b"<!-- x -- " * n(49_000)),
        "unclosed scripts": _page(_PROSE + b"<script>if(a<b)" * n(24_000)),
        "processing instructions": _page(_PROSE + b"<?php x ?>" * n(49_000)),
        "broken JSON-LD": _page(
            _PROSE, b'<script type="application/ld+json">' + b'{"@type":[' * n(400_000) + b"</script>"
        ),
        "metas": _page(_PROSE, b"<meta property=article:published_time content='" * n(40_000)),
        "control characters": _page(b"<p>" + bytes(range(32)) * n(100_000)),
        "less-than signs": b"<" * n(49_999),
        "closing tags": _page(b"</p>" * n(49_000)),
        "selects": _page(b"<select><option>a" * n(24_000)),
        "headings and dates": _page(b"<h1>1 January 2020</h1><time datetime=2020>x" * n(16_000)),
    }


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of `seeds` with up to eleven bytes changed, stretches cut out, put in or doubled."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 12)):
        at = chance.randrange(len(data) + 1)
        how = chance.randrange(4)
        if how == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif how == 1:
            del data[at : at + chance.randrange(1, 200)]
        elif how == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 30))
        else:
            data[at:at] = data[at : at + 500]
    return bytes(data)


def _compressor(codec: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    stream: Any
    if codec == "br":
        stream = brotli.Compressor(quality=5)
        return stream.process, stream.finish
    stream = (
        zstandard.ZstdCompressor(level=3).compressobj()
        if codec == "zstd"
        else zlib.compressobj(9, wbits={"gzip": 31, "deflate": 15}[codec])
    )
    return stream.compress, stream.flush


CODECS = ("gzip", "deflate", "br", "zstd")


def compressed(codec: str, blocks: Iterable[bytes]) -> bytes:
    """The stream of `blocks` under a content coding, without holding them all."""
    compress, finish = _compressor(codec)
    return b"".join([*map(compress, blocks), finish()])


def bomb(codec: str, size: int) -> bytes:
    """`size` zero bytes under a content coding."""
    block = bytes(1_000_000)
    return compressed(codec, (block[: size - start] for start in range(0, size, len(block))))
