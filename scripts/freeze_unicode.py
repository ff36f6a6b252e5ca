"""Write dedup/_unicode.py from a UnicodeData.txt: which code points make words, and their simple lower case.

    python scripts/freeze_unicode.py --unicode-data UnicodeData.txt --version 17.0.0 > dedup/_unicode.py

UnicodeData.txt is published at https://www.unicode.org/Public/<version>/ucd/. The table is frozen because Python's own
`unicodedata` changes with the interpreter, and a document's hashes may not. A new version changes every hash that
touches a newly assigned character, so it also raises the version in the signatures' scheme.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path


def read_unicode_data(lines: Iterable[str]) -> tuple[set[int], dict[int, int]]:
    """(code points of categories L, N and M; code point -> simple lower case, where it differs)."""
    words: set[int] = set()
    lower: dict[int, int] = {}
    first = 0
    for line in lines:
        fields = line.rstrip("\n").split(";")
        point, name, category, simple_lower = int(fields[0], 16), fields[1], fields[2], fields[13]
        if name.endswith(", First>"):
            first = point
            continue
        start = first if name.endswith(", Last>") else point
        if category[0] in "LNM":
            words.update(range(start, point + 1))
        if simple_lower:
            lower[point] = int(simple_lower, 16)
    return words, lower


def word_runs(words: set[int]) -> list[str]:
    """Runs of consecutive code points, as "first-last" in hexadecimal."""
    runs: list[list[int]] = []
    for point in sorted(words):
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return [f"{first:x}-{last:x}" for first, last in runs]


def lower_runs(lower: dict[int, int]) -> list[str]:
    """Runs with one step (1 or 2) and one difference, as "first-last/step+difference", difference in decimal."""
    runs: list[list[int]] = []  # first, last, step, difference
    for point in sorted(lower):
        difference = lower[point] - point
        if runs:
            first, last, step, run_difference = runs[-1]
            if difference == run_difference and point - last in (1, 2) and (first == last or point - last == step):
                runs[-1] = [first, point, point - last, difference]
                continue
        runs.append([point, point, 1, difference])
    return [f"{first:x}-{last:x}/{step}{difference:+d}" for first, last, step, difference in runs]


def wrapped(name: str, runs: list[str], width: int = 110) -> str:
    """A Python constant: the runs in a triple-quoted string."""
    lines, line = [], ""
    for run in runs:
        if len(line) + len(run) + 1 > width:
            lines.append(line)
            line = ""
        line = f"{line} {run}".lstrip()
    return f'{name} = """\n' + "\n".join([*lines, line]) + '\n"""\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicode-data", type=Path, required=True, help="UnicodeData.txt")
    parser.add_argument("--version", required=True, help="its Unicode version, such as 17.0.0")
    options = parser.parse_args()
    with options.unicode_data.open(encoding="ascii") as lines:
        words, lower = read_unicode_data(lines)
    sys.stdout.write(
        '"""Which characters make words, frozen: written by scripts/freeze_unicode.py, not by hand."""\n\n'
        f'UNICODE_VERSION = "{options.version}"\n\n'
        "# General categories L, N and M: first-last, hexadecimal.\n"
        f"{wrapped('WORD_RUNS', word_runs(words))}\n"
        "# Simple lower case: first-last/step+difference.\n"
        f"{wrapped('LOWER_RUNS', lower_runs(lower))}"
    )


if __name__ == "__main__":
    main()
