"""The console script `webtext`: look at a build, ask it why, take things out of it.

Every command reads the same settings as Luigi does (luigi.cfg here, and LUIGI_CONFIG_PATH), and none changes the corpus
but `remove`. Answers go to standard output; an error is one line and exit status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines import config, funnel, plan, storage
from pipelines.build import GRAPH, SPLITS, Build
from pipelines.documents import id_bytes, iso, read_range
from pipelines.stage import BusyError, StageError, sealed_records

Command = Callable[[Build, argparse.Namespace, Console], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parsed = parser().parse_args(arguments)
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    try:
        config.luigi_defaults()
        command: Command = parsed.command
        return command(Build(config.read_settings()), parsed, console)
    except (ValueError, OSError, StageError, BusyError) as error:
        sys.stderr.write(f"webtext: {error}\n")
        return 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="webtext", description=(__doc__ or "").partition("\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, help_text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help_text, description=help_text)
        one.set_defaults(command=command)
        return one

    one = add("plan", show_plan, "links, pages, hours, disk and memory of a build, from a sample; changes nothing")
    one.add_argument("--share", type=float, default=0.01, help="of each source that is read (default 0.01)")
    add("status", status, "how far a build is: each stage, what is done, what would be redone and why")
    add("funnel", show_funnel, "from the first submission to the last document: what left where, and why")
    one = add("why", why, "everything the build knows of one page: posts, capture, outcome, duplicates, place")
    one.add_argument("what", metavar="URL|ID", help="a URL in any spelling, or a document id (32 hex digits)")
    one = add("sample", sample, "read some documents of the corpus")
    one.add_argument("-n", type=int, default=3, help="how many (default 3)")
    one.add_argument("--split", choices=SPLITS, default="train")
    one.add_argument("--seed", type=int, default=0, help="another seed, other documents")
    one.add_argument("--characters", type=int, default=1500, help="of each text (default 1500; 0 for all)")
    one = add("trace", trace, "from a token position to its document, URL and Reddit post")
    one.add_argument("position", type=int, help="position of a token in the split, from 0")
    one.add_argument("--split", choices=SPLITS, default="train")
    one = add("remove", remove_documents, "take documents out of everything the build has made, for good")
    one.add_argument("what", nargs="*", metavar="URL|DOMAIN|t3_POST|ID", help="what names them")
    one.add_argument("--file", type=Path, help="a file of such names, one a line")
    one.add_argument("--copies", action="store_true", help="other pages with the same text, or nearly, go too")
    one.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    one = add("export", export, "token shards for other trainers")
    one.add_argument("format", choices=("nanogpt", "datatrove", "megatron"))
    one.add_argument("directory", type=Path, help="where the files go")
    return top


# plan ----------------------------------------------------------------------------------------------------------------


def show_plan(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """The plan as a table."""
    print_plan(plan.make_plan(build, share=arguments.share), build, console)
    return 0


def print_plan(made: plan.Plan, build: Build, console: Console) -> None:
    """The plan as a table, what it rests on, and whether there is room."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "makes about", "time", "disk", "memory"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in plan.rows(made):
        table.add_row(*row, style="bold" if row[0] == "all" else None)
    console.print(table)
    console.print(f"sampled: {made.sampled}")
    for note in made.notes:
        console.print(f"note: {note}")
    if warning := plan.memory_warning(made):
        console.print(f"[yellow]memory: {escape(warning)}[/]")
    free = plan.free_bytes(build.root)
    verdict = "enough" if free > made.disk_bytes else f"{plan.size(made.disk_bytes - free)} too little"
    console.print(f"free disk at {escape(str(build.root))}: {plan.size(free)}, {verdict}")


# status and funnel ---------------------------------------------------------------------------------------------------


def status(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """One line a stage."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("stage", "state", "units", "files", "size", "remark"):
        table.add_column(column, justify="right" if column in ("units", "files", "size") else "left")
    ready = True
    for name in GRAPH:
        stage = build.stage(name) if ready else None
        records = build.records(name) if ready else None
        files = [path for path in (build.root / name).rglob("*") if path.is_file()]
        size = f"{sum(path.stat().st_size for path in files) / 1e6:,.1f} MB" if files else ""
        if records is not None:
            units = str(sum(len(found) for found in records.values()))
            table.add_row(name, "[green]complete[/]", units, str(len(files)), size, "")
            continue
        if stage is None:
            table.add_row(name, "waits", "", str(len(files) or ""), size, "")
            continue
        done, total, reasons = stage.outlook()
        remark = "; ".join(f"{number} {why}" for why, number in reasons.items())
        state = "partly done" if done else "to do"
        table.add_row(name, f"[yellow]{state}[/]", f"{done}/{total}", str(len(files) or ""), size, escape(remark))
        ready = False
    console.print(table)
    return 0


def show_funnel(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """The funnel of a complete corpus."""
    if not sealed_records(build.root / "corpus"):
        raise ValueError(f"{build.root}: expected a built corpus, found none; run luigi --module pipelines BuildCorpus")
    for what, number, remark in funnel.table(funnel.funnel(build.root), funnel.split_sizes(build.root)):
        console.print(f"{number:>14,}  {escape(what):<34} {escape(remark)}")
    return 0


# why -----------------------------------------------------------------------------------------------------------------


def why(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """What became of a page, from its posts to its tokens."""
    from webtext import urls

    id = str(arguments.what)
    facts: list[tuple[str, str]] = []
    if len(id) != 32 or not all(digit in "0123456789abcdef" for digit in id):
        key = urls.canonical_url(id)
        id = urls.document_id(key)
        facts.append(("canonical", key))
    facts.append(("id", id))
    found = [*_posts(build, id), *_drops(build, id), *_places(build, id)]
    for what, text in [*facts, *found]:
        console.print(f"{what:<11} {escape(text)}")
    if not found:
        console.print("nothing is known of this page: no submission of the sources links to it")
    return 0 if found else 1


def _posts(build: Build, id: str) -> Iterator[tuple[str, str]]:
    """Who posted the page, and what was selected of it."""
    folder = build.root / "selected"
    records = sealed_records(folder)
    for record in records.get("key", []):
        for row in rows_of(folder / record.file("keyed/").name, id):
            when = iso(row["created_at"])
            yield "post", f"{row['post_id']}  karma {row['karma']}  {when}  r/{row['subreddit']}  {row['url']}"
    for record in records.get("merge", []):
        for row in rows_of(folder / record.file(record.name).name, id):
            yield "selected", f"karma {row['karma']} of {row['num_posts']} posts, to be fetched as {row['url']}"


def _drops(build: Build, id: str) -> Iterator[tuple[str, str]]:
    """Where the page, or a post of it, was dropped."""
    for stage in GRAPH:
        for path in sorted((build.root / stage).glob("drops-*.parquet")):
            for row in rows_of(path, id):
                post = f"post {row['post_id']}: " if row["post_id"] else ""
                detail = f" ({row['detail']})" if row["detail"] else ""
                yield "dropped", f"{stage}: {post}{row['reason']}{detail}"


def _places(build: Build, id: str) -> Iterator[tuple[str, str]]:
    """The capture, the verdict on duplicates, the place in the corpus and in the tokens."""
    for path in sorted((build.root / "pages").glob("segment-*.parquet")):
        for row in rows_of(path, id):
            place = f", {row['warc']} at byte {row['offset']}" if row["warc"] else ""
            yield "capture", f"{row['outcome']} {row['final_url'] or ''} {iso(row['fetched_at']) or ''}{place}"
    verdicts = build.root / "dedup" / "verdicts.parquet"
    for row in rows_of(verdicts, id) if verdicts.is_file() else []:
        fate = "kept" if row["kept"] else f"{row['reason']} duplicate of {row['duplicate_of']}"
        yield "duplicates", f"{fate}; component {row['component']}"
    for split in SPLITS:
        for name, path, _ in build.corpus_files(split):
            for row in rows_of(path, id):
                title = row["title"] or "no title"
                yield "corpus", f"{split}, {name}: {row['num_words']:,} words, {row['language']}, {title}"
                if (build.root / "tokens" / "meta.json").is_file():
                    from model import data

                    span = data.open_shards(build.root / "tokens", split).find(id)
                    if span:
                        yield "tokens", f"{split}, {span.start:,} to {span.end:,}"


def rows_of(path: Path, id: str) -> list[dict[str, Any]]:
    """The rows of one id in a Parquet file sorted by id."""
    found: list[dict[str, Any]] = read_range(path, id, id + "~").to_pylist()
    return found


# sample and trace ----------------------------------------------------------------------------------------------------


def sample(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """Some documents, the same ones for the same seed."""
    from model.data import order_keys

    files = build.corpus_files(arguments.split)
    if not files:
        raise ValueError(f"{build.root}: expected a built corpus, found none; run luigi --module pipelines BuildCorpus")
    chosen: list[tuple[int, Path, str]] = []
    for _, path, _ in files:
        column = storage.read_table(path, ["id"]).column("id")
        if len(column):
            keys = order_keys(id_bytes(column), arguments.seed).tolist()
            chosen = sorted([*chosen, *zip(keys, [path] * len(keys), column.to_pylist(), strict=True)])[: arguments.n]
    for _, path, id in chosen:
        for row in rows_of(path, id):
            console.rule(escape(str(row["title"] or row["url"])), align="left")
            console.print(
                f"{id}  {escape(row['url'])}  r/{row['subreddit']} karma {row['karma']} {row['num_words']:,} words"
            )
            text = row["text"]
            cut = arguments.characters and len(text) > arguments.characters
            console.print(escape(text[: arguments.characters] + " [...]" if cut else text))
    return 0


def trace(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """The document that a token is in."""
    from model import data
    from webtext import bpe

    shards = data.open_shards(build.root / "tokens", arguments.split)
    span = shards.document_at(arguments.position)
    tokenizer = bpe.load_tokenizer(build.root / "tokenizer")
    around = range(max(span.start, arguments.position - 12), min(span.end, arguments.position + 13))
    before = tokenizer.decode(shards.read(around.start, arguments.position - around.start).tolist())
    here = tokenizer.decode(shards.read(arguments.position, 1).tolist())
    after = tokenizer.decode(shards.read(arguments.position + 1, around.stop - arguments.position - 1).tolist())
    console.print(f"document    {span.id}, tokens {span.start:,} to {span.end:,} of {arguments.split}")
    console.print(f"text        {escape(repr(before))} >>> {escape(repr(here))} <<< {escape(repr(after))}")
    for _, path, _ in build.corpus_files(arguments.split):
        for row in rows_of(path, span.id):
            console.print(f"url         {escape(row['url'])}")
            console.print(
                f"post        {row['post_id']} in r/{row['subreddit']}, karma {row['karma']}, {row['created_at']}"
            )
    return 0


def export(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """Token shards in the layout of another trainer."""
    from model import data

    folder: Path = arguments.directory
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        shards = data.open_shards(build.root / "tokens", split, verify=True)
        if arguments.format == "nanogpt":
            data.export_nanogpt(shards, folder / f"{'val' if split == 'validation' else split}.bin")
        elif arguments.format == "datatrove":
            data.export_datatrove(shards, folder / split)
        else:
            data.export_megatron(shards, folder / split)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        console.print(f"{path.stat().st_size:>16,}  {escape(str(path))}")
    return 0


# remove --------------------------------------------------------------------------------------------------------------


def remove_documents(build: Build, arguments: argparse.Namespace, console: Console) -> int:
    """Take documents out of the build, and say what was not ours to change."""
    from pipelines import remove
    from pipelines.console import Console as BuildConsole
    from pipelines.engine import LocalEngine
    from pipelines.stage import Root

    entries = list(arguments.what)
    if arguments.file is not None:
        entries += arguments.file.read_text(encoding="utf-8").splitlines()
    if not build.root.is_dir():
        raise ValueError(f"[corpus] root: expected a build at {build.root}, found none")
    if arguments.dry_run:
        _, found = remove.resolve(build, entries, copies=arguments.copies)
    else:
        root = Root(build.root)
        root.lock()
        BuildConsole().attach_logs(build.logs / "build.log")
        try:
            with LocalEngine(build.settings["engine"], lock=root.workers_lock) as engine:
                found = remove.remove(build, entries, engine, copies=arguments.copies)
        finally:
            root.unlock()
    console.print(
        f"{len(found.ids):,} pages, {found.submissions:,} submissions of them, {found.documents:,} texts"
        + (" would go" if arguments.dry_run else f", {found.captures:,} captures: gone")
    )
    if found.copies:
        console.print(f"{len(found.copies):,} other pages have the same text, or nearly; --copies takes them out too:")
        for id in sorted(found.copies)[:20]:
            console.print(f"  {id}")
    settings = build.settings
    for key, paths in (("[fetch] archives", settings["fetch"].archives), ("[links] dumps", settings["links"].dumps)):
        if paths:
            console.print(f"{key} are yours and were not changed: {escape(', '.join(paths))}")
    if (build.root / "runs").is_dir():
        console.print("models under runs/ were trained before; train anew to have them forget")
    return 0


if __name__ == "__main__":
    sys.exit(main())
