"""Link -> page -> document -> tokenizer: the rooms a document passes before anyone compares it with another.

Knows nothing of dedup, model or pipelines. Importing it does nothing; import the module you need:

    records   Link, Page, Document and their Arrow schemas
    urls      the canonical form of a URL, which is the identity of a page
    reddit    submissions from dumps, the API and URL lists
    links     karma, aggregation per canonical URL, filters
    guard     which addresses may be connected to
    robots    robots.txt and opt-out signals
    fetch     polite concurrent fetching, archives first
    pages     segments: WARC and ledger, written, recovered, read
    extract   HTML -> text, isolated
    quality   language and heuristics
    bpe       pieces -> counts -> merges -> tokenizer files -> ids
"""
