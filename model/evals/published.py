"""Published figures, to stand beside ours: Table 3 of the GPT-2 paper (zero-shot), and the sizes of complete sets."""

from __future__ import annotations

from typing import Any

# Radford et al. 2019, Table 3. LAMBADA: perplexity and accuracy in percent (the accuracy of 1542M with a stop-word
# filter); enwik8 and text8 in bits; the rest perplexity per original word.
TABLE_3: dict[str, dict[str, float]] = {
    "117M": {"lambada_perplexity": 35.13, "lambada_accuracy": 45.99, "wikitext-2": 29.41, "ptb": 65.85,
             "enwik8": 1.16, "text8": 1.17, "wikitext-103": 37.50, "1bw": 75.20},
    "345M": {"lambada_perplexity": 15.60, "lambada_accuracy": 55.48, "wikitext-2": 22.76, "ptb": 47.33,
             "enwik8": 1.01, "text8": 1.06, "wikitext-103": 26.37, "1bw": 55.72},
    "762M": {"lambada_perplexity": 10.87, "lambada_accuracy": 60.12, "wikitext-2": 19.93, "ptb": 40.31,
             "enwik8": 0.97, "text8": 1.02, "wikitext-103": 22.05, "1bw": 44.575},
    "1542M": {"lambada_perplexity": 8.63, "lambada_accuracy": 63.24, "wikitext-2": 18.34, "ptb": 35.76,
              "enwik8": 0.93, "text8": 0.98, "wikitext-103": 17.48, "1bw": 42.16},
}  # fmt: skip

# (what is counted, how many) of a complete set: words of the tests of Mikolov's PTB, of WikiText, of heldout-00000 of
# 1BW, each line end a word; bytes of enwik8 and text8; examples of LAMBADA.
COMPLETE = {
    "lambada": ("examples", 5153),
    "ptb": ("words", 82430),
    "wikitext-2": ("words", 245569),
    "wikitext-103": ("words", 245569),
    "1bw": ("words", 159658),
    "enwik8": ("bytes", 100_000_000),
    "text8": ("bytes", 100_000_000),
}


def canonical(name: str) -> str:
    """`wikitext2` and `wikitext-2-raw` are `wikitext-2` here."""
    name = name.lower().split("/")[0].removesuffix("-raw")
    return {"wikitext2": "wikitext-2", "wikitext103": "wikitext-103"}.get(name, name)


def beside(name: str, parameters: int) -> dict[str, Any] | None:
    """Table 3's figures for a set, in the row of the size nearest to ours; None where the table has no such set.

    Under our names and in our units: perplexities of original words, accuracies as parts of 1, bits per byte.
    """
    name = canonical(name)
    sizes = {"117M": 124_439_808, "345M": 354_823_168, "762M": 774_030_080, "1542M": 1_557_611_200}
    row = min(sizes, key=lambda size: abs(sizes[size] - parameters))
    published = TABLE_3[row]
    if name == "lambada":
        figures = {"perplexity": published["lambada_perplexity"],
                   "accuracy": round(published["lambada_accuracy"] / 100, 4)}  # fmt: skip
    elif name in published:
        figures = {"bits_per_byte" if name in ("enwik8", "text8") else "word_perplexity": published[name]}
    else:
        return None
    return {"model": row, **figures}


def completeness(name: str, counts: dict[str, int]) -> str:
    """`complete`, `PARTIAL (n of m ...)`, or `unknown` for sets whose size nobody published."""
    if canonical(name) not in COMPLETE:
        return "unknown"
    unit, published = COMPLETE[canonical(name)]
    if counts[unit] == published:
        return "complete"
    return f"PARTIAL ({counts[unit]:,} of {published:,} {unit})"
