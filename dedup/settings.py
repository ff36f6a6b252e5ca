"""The settings of this package, apart from its kernels: reading them loads neither numba nor a compiled kernel.

Whoever asks only whether a build is up to date reads settings and computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from dedup._unicode import UNICODE_VERSION

WORDS_VERSION = f"words-1/unicode-{UNICODE_VERSION}"
"""Names everything that the hashes of a text's words depend on."""


@dataclass(frozen=True, slots=True)
class MinHashSettings:
    """[minhash]: how texts are signed, and how a signature is cut into bands."""

    ngram: int = field(default=5, metadata={"help": "words in a shingle"})
    bands: int = field(default=14, metadata={"help": "bands of a signature; two texts that share one are compared"})
    rows: int = field(default=8, metadata={"help": "values in a band; a signature has bands x rows"})
    threshold: float | None = field(
        default=None,
        metadata={"help": "a Jaccard similarity to cut the bands x rows values for, instead of as bands and rows say"},
    )
    seed: int = field(default=1, metadata={"help": "seed of the permutations; 1 is datasketch's"})

    def __post_init__(self) -> None:
        for name, low, high in (("ngram", 1, 1000), ("bands", 1, 4096), ("rows", 1, 4096), ("seed", 0, 2**32 - 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(
                    f"[minhash] {name}: expected {low} to {high}, got {value}; the usual is 5, 14, 8 and 1"
                )
        if self.permutations > 4096:
            raise ValueError(f"[minhash] bands: expected bands x rows up to 4096, got {self.permutations}; lower one")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(
                f"[minhash] threshold: expected a similarity between 0 and 1, got {self.threshold}; "
                "leave it empty to use bands and rows"
            )

    @property
    def permutations(self) -> int:
        """The number of values in a signature."""
        return self.bands * self.rows

    @property
    def scheme(self) -> str:
        """Everything a signature's bytes depend on besides the text; equal schemes may be compared."""
        return f"{WORDS_VERSION} ngram={self.ngram} affine32 seed={self.seed} permutations={self.permutations}"

    def banding(self) -> tuple[int, int]:
        """(bands, rows) in use: as set, or datasketch's optimum for `threshold` within `permutations`."""
        if self.threshold is None:
            return self.bands, self.rows
        return _optimal_banding(self.threshold, self.permutations)


@lru_cache(maxsize=16)
def _optimal_banding(threshold: float, permutations: int) -> tuple[int, int]:
    from datasketch import MinHashLSH  # heavy, and needed only here

    lsh = MinHashLSH(threshold=threshold, num_perm=permutations)
    return int(lsh.b), int(lsh.r)


@dataclass(frozen=True, slots=True)
class DedupSettings:
    """[dedup]: which documents are duplicates of which."""

    threshold: float = field(
        default=0.75,
        metadata={
            "help": "Jaccard similarity from which documents are duplicates (14 x 8 bands find 77% of pairs at 0.75)"
        },
    )
    near_threshold: float = field(
        default=0.5,
        metadata={"help": "estimated similarity above which two documents never straddle train and validation"},
    )
    doubt: float = field(
        default=4.0, metadata={"help": "standard errors around the threshold within which the texts are compared"}
    )
    star_bucket: int = field(default=64, metadata={"help": "buckets of up to this many documents compare all pairs"})
    giant_cluster: int = field(default=1000, metadata={"help": "the report warns of clusters of this many documents"})
    memory_bytes: int = field(
        default=4 << 30,
        metadata={
            "help": "memory for finding duplicates, besides 100 bytes a document",
            "bytes": False,
        },
    )
    workers: int = field(default=2, metadata={"help": "threads that find duplicates", "bytes": False})

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"[dedup] threshold: expected above 0 and up to 1, got {self.threshold}; 0.75 is usual")
        if not 0 < self.near_threshold <= self.threshold:
            raise ValueError(
                f"[dedup] near_threshold: expected above 0 and up to threshold ({self.threshold}), "
                f"got {self.near_threshold}; 0.5 is usual"
            )
        if self.doubt < 0:
            raise ValueError(f"[dedup] doubt: expected 0 or more standard errors, got {self.doubt}; 4 is usual")
        for name, least in (("star_bucket", 2), ("giant_cluster", 2), ("memory_bytes", 1 << 20), ("workers", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"[dedup] {name}: expected at least {least}, got {getattr(self, name)}; raise it")


def _help(text: str, *, in_bytes: bool = True) -> dict[str, Any]:
    return {"help": text} if in_bytes else {"help": text, "bytes": False}


@dataclass(frozen=True, slots=True)
class OverlapSettings:
    """[overlap]: what is measured."""

    evaluation_sets: tuple[str, ...] = field(
        default=(),
        metadata=_help("files, folders or globs of evaluation sets; a train file beside test is its own row"),
    )
    protocols: tuple[str, ...] = field(
        default=("gpt2-tokens", "words"), metadata=_help("what an n-gram is: gpt2-tokens (the paper's), words")
    )
    n: int = field(default=8, metadata=_help("words or tokens of an n-gram; 8 in the paper"))
    mode: Literal["exact", "bloom"] = field(
        default="exact", metadata=_help("exact names the documents; bloom asks the corpus's filter")
    )
    error_rate: float = field(
        default=1e-8, metadata=_help("false positive rate of the filter; 1e-8 bounds the paper's")
    )
    documents_per_example: int = field(default=5, metadata=_help("documents named for each example"))
    quoted_examples: int = field(default=20, metadata=_help("worst examples quoted in the report, for each protocol"))
    validation_documents: int = field(
        default=10_000, metadata=_help("documents of the corpus's own validation split measured as a row; 0 = none")
    )
    memory_bytes: int = field(default=1 << 30, metadata=_help("memory of one reduce step", in_bytes=False))

    def __post_init__(self) -> None:
        known = ("gpt2-tokens", "words")
        if unknown := [name for name in self.protocols if name not in known]:
            raise ValueError(
                f"[overlap] protocols: expected names of {', '.join(known)}, got {unknown[0]!r}; remove it"
            )
        if not self.protocols:
            raise ValueError("[overlap] protocols: expected at least one, got none; gpt2-tokens is the paper's")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"[overlap] protocols: expected each once, got {', '.join(self.protocols)}; remove one")
        if not 0 < self.error_rate < 1:
            raise ValueError(
                f"[overlap] error_rate: expected between 0 and 1, got {self.error_rate}; 1e-8 is the paper's"
            )
        _at_least("overlap", self, n=1, documents_per_example=0, quoted_examples=0, validation_documents=0)
        _at_least("overlap", self, memory_bytes=64 << 20)


@dataclass(frozen=True, slots=True)
class DecontaminateSettings:
    """[decontaminate]: what leaves the training documents; nothing by default."""

    evaluation_sets: tuple[str, ...] = field(
        default=(), metadata=_help("files, folders or globs whose examples shall not be trained on; empty = off")
    )
    n: int = field(default=13, metadata=_help("words of a shared n-gram; 13 in GPT-3"))
    min_words: int = field(default=8, metadata=_help("examples from here to n words are looked for whole"))
    min_ngrams: int = field(default=1, metadata=_help("shared n-grams that make a document contaminated"))
    action: Literal["drop", "cut"] = field(
        default="drop", metadata=_help("drop the document, or cut the shared passages out of it")
    )
    cut_margin_characters: int = field(
        default=200, metadata=_help("characters cut on either side of a shared passage; 200 in GPT-3")
    )
    max_pieces: int = field(default=10, metadata=_help("a document cut into more pieces is dropped; 10 in GPT-3"))
    min_words_left: int = field(default=20, metadata=_help("a document with fewer words after cutting is dropped"))
    exclude_reference: tuple[str, ...] = field(
        default=(),
        metadata=_help("texts (Parquet, JSONL, txt) whose copies are dropped, e.g. a Wikipedia dump; empty = off"),
    )
    reference_share: float = field(
        default=0.5, metadata=_help("share of a document's n-grams in the reference that makes it a copy")
    )
    reference_n: int = field(default=8, metadata=_help("words of an n-gram for the reference"))
    reference_error_rate: float = field(default=1e-4, metadata=_help("false positive rate of the reference's filter"))
    memory_bytes: int = field(default=1 << 30, metadata=_help("memory of one reduce step", in_bytes=False))

    def __post_init__(self) -> None:
        name = "decontaminate"
        _at_least(name, self, n=1, min_words=1, min_ngrams=1, cut_margin_characters=0, max_pieces=1, min_words_left=0)
        _at_least(name, self, reference_n=1, memory_bytes=64 << 20)
        if self.action not in ("drop", "cut"):
            raise ValueError(f"[decontaminate] action: expected drop or cut, got {self.action!r}; name one of the two")
        for key in ("reference_share", "reference_error_rate"):
            if not 0 < getattr(self, key) <= 1:
                raise ValueError(
                    f"[decontaminate] {key}: expected above 0 and at most 1, got {getattr(self, key)}; "
                    "0.5 for the share and 1e-4 for the error rate are the defaults"
                )

    @property
    def enabled(self) -> bool:
        return bool(self.evaluation_sets or self.exclude_reference)


def _at_least(section: str, settings: object, **minimums: int) -> None:
    for key, minimum in minimums.items():
        if getattr(settings, key) < minimum:
            raise ValueError(
                f"[{section}] {key}: expected at least {minimum}, got {getattr(settings, key)}; raise it or remove it"
            )
