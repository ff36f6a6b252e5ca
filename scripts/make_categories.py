"""Writes webtext/_categories.py: how the installed `tokenizers` classes every code point under GPT-2's pattern.

    python scripts/make_categories.py            # writes it
    python scripts/make_categories.py --check    # exits 1 where it is not what would be written

The table is asked of the library, not computed from a Unicode database: `tokenizers` is what a tokenizer trained here
is loaded with, so its classes are the rule. The version of Unicode is found by probes: letters that each version added.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import tokenizers

TARGET = Path(__file__).parents[1] / "webtext" / "_categories.py"
# A letter new in each version (DerivedAge.txt): the last that is classed as a letter names the version.
PROBES = {"13.0": 0x8BE, "14.0": 0x870, "15.0": 0x1DF25, "15.1": 0x2EBF0, "16.0": 0x1C89, "17.0": 0x88F}


def classes() -> bytes:
    """One of b"OLNS" (other, letter, number, white space) for each of the 0x110000 code points; surrogates are O."""
    pieces = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
    answer = bytearray(b"O" * 0x110000)
    for code_point in range(0x110000):
        if 0xD800 <= code_point < 0xE000:  # never in a string of Unicode scalar values
            continue
        character = chr(code_point)
        for kind, companion in ((b"L", "a"), (b"N", "1"), (b"O", "!")):  # a piece never holds two categories
            if len(pieces(companion + character)) == 1:
                answer[code_point : code_point + 1] = kind
                break
        else:
            answer[code_point : code_point + 1] = b"S"
    return bytes(answer)


def module(table: bytes) -> str:
    """The source of webtext/_categories.py: runs as LENGTH and class, in order."""
    runs: list[str] = []
    start = 0
    for code_point in range(1, 0x110001):
        if code_point == 0x110000 or table[code_point] != table[start]:
            runs.append(f"{code_point - start}{chr(table[start])}")
            start = code_point
    version = [version for version, letter in PROBES.items() if table[letter] == ord("L")][-1]
    lines: list[str] = []
    line = ""
    for run in runs:
        if len(line) + len(run) > 112:
            lines.append(line)
            line = ""
        line += run
    lines.append(line)
    body = "\n".join(f'    "{line}"' for line in lines)
    return (
        '"""The class of every code point under GPT-2\'s pattern: made by scripts/make_categories.py, not by hand.\n\n'
        f"Asked of tokenizers {tokenizers.__version__}, which knows Unicode {version}.\n"
        '"""\n\n'
        f'UNICODE_VERSION = "{version}"\n'
        f'SHA256 = "{hashlib.sha256(table).hexdigest()}"  # of one byte OLNS for each code point\n'
        "RUNS = (  # length and class of each run: O other, L letter, N number, S white space\n"
        f"{body}\n"
        ")\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    source = module(classes())
    if not arguments.check:
        TARGET.write_text(source, encoding="utf-8")
        return 0
    if TARGET.read_text(encoding="utf-8") != source:
        sys.stderr.write(
            f"{TARGET} is not what the installed tokenizers says; run this without --check, look at the diff\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
