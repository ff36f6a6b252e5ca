"""URLs: one key per page, the registered domain, and what is not worth fetching.

- The key (`canonical_url`) answers "is this the same page?", never "what do I fetch?": the URL as somebody posted it is
  what gets fetched. So the key may forget what a fetch needs (https, www, a session), if it never joins two pages.
- The key is itself a URL, `http://host[:port]/path[?query]`, so that canonicalising it again changes nothing, and any
  other tool can read it.
- A rule that joins variants is here only if the variants are known to be the same page: `index.html`, letter case and
  unknown parameters are kept. A missed join costs one fetch (the text's duplicates are found later); a wrong join
  loses a page.
- Query and escapes follow w3lib's `canonicalize_url`: what w3lib joins is joined here; the tests check real URLs.
- No network, ever: public suffixes come from the list bundled with tldextract.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

if TYPE_CHECKING:
    from tldextract import TLDExtract

__all__ = [
    "FILE_EXTENSIONS",
    "IMAGE_HOSTS",
    "MEDIA_EXTENSIONS",
    "REDDIT_HOSTS",
    "TRACKING_PARAMETERS",
    "VIDEO_HOSTS",
    "UrlRules",
    "canonical_url",
    "document_id",
    "is_wikipedia",
    "matching_domain",
    "registered_domain",
    "rejection",
    "rejection_of_key",
    "url_host",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Parameters that say how a reader came to a page, or who the reader is: never which page it is. Lower case.
TRACKING_PARAMETERS = frozenset(
    # Google Analytics (with the linker's _ga, _gl), Ads, Campaign Manager: support.google.com/analytics
    _words("gclid gclsrc dclid gbraid wbraid srsltid _ga _gl _gac")
    # Firefox's query stripping list (toolkit/components/antitracking) and Brave's query filter
    + _words("fbclid msclkid twclid yclid ymclid ysclid igshid igsh mc_eid mc_cid mkt_tok oly_anon_id oly_enc_id __s")
    + _words(
        "vero_id vero_conv wickedid rb_clickid s_cid ml_subscriber ml_subscriber_hash _openstat bsft_clkid bsft_uid"
    )
    + _words(
        "ss_email_id et_rid _hsenc _hsmi __hssc __hstc __hsfp hsctatracking fb_action_ids fb_action_types fb_source"
    )
    + _words("fb_ref ttclid li_fat_id guce_referrer guce_referrer_sig irclickid _branch_match_id _branch_referrer _kx")
    # AT Internet (xtor, at_*) and Matomo (pk_*, mtm_*): their documentation of campaign tracking
    + _words(
        "xtor at_medium at_campaign at_custom1 at_custom2 at_custom3 at_custom4 at_bbc_team at_link_id at_link_type"
    )
    + _words("at_link_origin at_ptr_name at_format at_recipient_id at_recipient_list pk_campaign pk_kwd pk_source")
    + _words("pk_medium pk_cid mtm_campaign mtm_kwd mtm_source mtm_medium mtm_content mtm_cid mtm_group mtm_placement")
    # Publishers' feeds and share buttons, as Reddit's links carry them: CNN, ZDNet, Microsoft, Mail Online, Reuters,
    # Yahoo, ShareThis, Guardian, Blogger, AOL
    + _words("cmpid ftag ocid ito feedname feedtype soc_src soc_trk sr_share sref cmp spref ncid")
    # Sessions, as the canonicalisers of Heritrix and pywb remove them
    + _words("phpsessid jsessionid")
)

# Parameters that are tracking on one site and may be content on another. By domain, subdomains included.
SITE_TRACKING_PARAMETERS: Mapping[str, frozenset[str]] = {
    "nytimes.com": frozenset(  # feeds of 2005 (ex, ei, en), share buttons, front page modules
        _words(
            "smid smtyp smprod seid partner emc ex en ei rss src ref referrer referer hp action module region pgtype"
        )
        + _words("contentcollection mwrsm _r hpw inline unlocked_article_code te nl campaign_id instance_id segment_id")
        + _words("user_id regi_id")
    ),
    "wsj.com": frozenset(_words("mod reflink st")),
    "washingtonpost.com": frozenset(_words("hpid tid wprss nid postshare wpisrc wpmm nav referrer")),
    "bbc.co.uk": frozenset(_words("ns_mchannel ns_source ns_campaign ns_linkname ns_fee")),
    "bbc.com": frozenset(_words("ns_mchannel ns_source ns_campaign ns_linkname ns_fee")),
    "cnn.com": frozenset(_words("eref iref hpt iid rss")),
    "theguardian.com": frozenset(_words("fb gusrc intcmp")),
    "guardian.co.uk": frozenset(_words("fb gusrc intcmp")),
    "medium.com": frozenset(_words("source sk gi")),
    "amazon.com": frozenset(
        _words("tag ref ref_ linkcode camp creative creativeasin ascsubtag pd_rd_i pd_rd_r pd_rd_w")
    ),
    "twitter.com": frozenset(_words("s t ref_src ref_url")),
    "npr.org": frozenset(_words("ft f sc cc")),
    "economist.com": frozenset(["fsrc"]),
    "time.com": frozenset(["xid"]),
    "wired.com": frozenset(["mbid"]),
    "newyorker.com": frozenset(["mbid"]),
    "blogspot.com": frozenset(["m"]),  # Blogger's mobile view
}

# Hosts whose pages are a picture with a caption (what Reddit's submissions of 2005-2026 name most).
IMAGE_HOSTS = (
    _words("imgur.com flickr.com flic.kr staticflickr.com giphy.com gfycat.com redgifs.com tinypic.com photobucket.com")
    + _words("imageshack.us imageshack.com postimg.org postimg.cc postimage.org imgbox.com ibb.co imgbb.com qkme.me")
    + _words("quickmeme.com memegenerator.net livememe.com makeameme.org memedad.com imgflip.com minus.com min.us")
    + _words("500px.com instagram.com instagr.am twitpic.com yfrog.com puu.sh prntscr.com prnt.sc gyazo.com sli.mg")
    + _words(
        "pinimg.com pinterest.com gifsound.com abload.de directupload.net imagebam.com imagevenue.com lensdump.com"
    )
)

# Hosts whose pages are a film, a sound or a game stream.
VIDEO_HOSTS = (
    _words("youtube.com youtu.be youtube-nocookie.com vimeo.com dailymotion.com dai.ly streamable.com twitch.tv vid.me")
    + _words("liveleak.com vine.co metacafe.com veoh.com bitchute.com rumble.com odysee.com tiktok.com netflix.com")
    + _words("hulu.com soundcloud.com spotify.com mixcloud.com grooveshark.com rdio.com oddshot.tv plays.tv medal.tv")
    + _words("clippituser.tv streamja.com streamff.com streamye.com mixtape.moe coub.com pornhub.com xvideos.com")
    + _words("xhamster.com redtube.com youporn.com xnxx.com spankbang.com")
)

REDDIT_HOSTS = _words("reddit.com redd.it redditmedia.com redditstatic.com reddituploads.com")

MEDIA_EXTENSIONS = _words(
    "jpg jpeg jpe jfif png gif gifv bmp svg svgz webp avif heic tif tiff ico psd mp3 m4a ogg oga opus wav flac aac"
) + _words("wma mid midi mp4 m4v webm mov avi wmv mkv flv mpg mpeg ogv 3gp swf m3u m3u8")

FILE_EXTENSIONS = (
    _words(
        "pdf ps eps djvu doc docx docm rtf odt ods odp xls xlsx xlsm csv ppt pptx pps ppsx epub mobi azw3 zip rar 7z"
    )
    + _words(
        "gz tgz bz2 xz zst tar jar war apk ipa exe msi dmg iso deb rpm cab torrent ics vcf ttf otf woff woff2 css js"
    )
    + _words("json xml rss atom sqlite pkl npz npy parquet safetensors crx xpi")
)

# Names that resolve, if anywhere, in somebody's own network: RFC 6761, RFC 7686 and appendix G of RFC 6762.
_PRIVATE_TOP_LABELS = frozenset(_words("localhost local internal intranet private lan home corp onion"))

# Wikipedia's own hosts, and hosts that show Wikipedia's articles as they are. The paper removed Wikipedia and said
# nothing of the sister projects (Wiktionary, Wikinews, Wikisource): they stay.
_WIKIPEDIA_HOSTS = frozenset(
    _words(
        "wikipedia.org wikipedia.com wikiwand.com wikizero.com wikizeroo.org wikivisually.com wiki2.org wikimili.com"
    )
    + _words("infogalactic.com en.academic.ru enacademic.com encyclopedia.thefreedictionary.com")
)
# Hosts that show other pages: Wayback Machine, archive.today, Google's cache and translation, Wikimedia's old https
# gateway (secure.wikimedia.org/wikipedia/en/wiki/...).
_WRAPPERS = frozenset(
    _words("web.archive.org wayback.archive.org archive.is archive.today archive.ph archive.li archive.fo")
    + _words("webcache.googleusercontent.com translate.googleusercontent.com translate.google.com secure.wikimedia.org")
)
_WRAPPED_WIKIPEDIA = re.compile(
    r"(?://|[:=]|%2F%2F|%3A|^/web/[0-9a-z*_]+/)(?:[a-z-]+\.)?(?:(?:m|zero|mobile)\.)?wikipedia\.org(?:$|[/:?&]|%2F|%3A|%3F)"
    r"|^/wikipedia/[a-z-]+/",
    re.IGNORECASE,
)

# --- the key ---------------------------------------------------------------------------------------------------------

# A URL on which no step below does anything but scheme, www and last slash: a lower-case host with a top-level domain
# of letters, no port, query, fragment or escape, no empty segment and none that begins with a dot.
_PLAIN = re.compile(
    r"https?://(?:www\.)?"
    r"((?!(?:www[0-9]*|m|mobile|touch|amp)\.)(?:[a-z0-9-]+\.)+[a-z]{2,24})"
    r"((?:/[A-Za-z0-9_~!$'()*,:@+=-][A-Za-z0-9._~!$'()*,:@+=-]*)*)/?"
)
_HTTP = re.compile(r"https?:[/\\]*", re.IGNORECASE)
_OUTER_BLANKS = "".join(map(chr, range(0x21)))  # C0 controls and space (URL standard, 4.4 step 1)
_INNER_BLANKS = re.compile(r"[\t\n\r]")  # removed wherever they stand (URL standard, 4.4 step 3)
_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Forbidden domain code points of the URL standard, 3.5
_FORBIDDEN_IN_HOST = re.compile(r"[\x00-\x20\"#%/:<>?@\[\\\]^`{|}\x7f]")
_PLAIN_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.[a-z]{2,24}")
_VARIANT_LABEL = re.compile(r"(?:www[0-9]{0,3}|m|mobile|touch|amp)\.")
_WIKIMEDIA_MOBILE = re.compile(
    r"\.(?:m|zero|mobile)\.((?:wikipedia|wiktionary|wikinews|wikibooks|wikiquote|wikisource|wikiversity|wikivoyage|wikimedia"
    r"|wikidata|mediawiki)\.org)$"
)
_BLOGGER_COUNTRY = re.compile(r"\.blogspot\.(?:com?\.)?[a-z]{2,3}$")
_SLASH_ESCAPE = re.compile(r"%2f", re.IGNORECASE)
_PATH_SESSION = re.compile(r";(?:jsessionid|phpsessid|sessionid|_yl[a-z])=[^/;]*", re.IGNORECASE)  # _yl?: Yahoo's log
# Everything a path may hold as it is (RFC 3986 pchar) and the slash; the rest is escaped.
_PATH_SAFE = "/!$&'()*+,;=:@"
_NEEDS_PATH_WORK = re.compile(r"[^A-Za-z0-9._~!$&'()*+,;=:@/-]|/\.|;")
_NEEDS_QUERY_WORK = re.compile(r"[^A-Za-z0-9._~+-]")
_GOOGLE_AMP = re.compile(r"/amp/(s/)?([^/].*)$")
_AMP_CACHE = re.compile(r"/[a-z](?:/[a-z])?/(s/)?([^/]+\..*)$")
_AMP_TRUE = frozenset(["", "1", "true", "yes"])
_ARTICLE_SEGMENT = re.compile(r"[0-9]|-|\.html?$")


def canonical_url(url: str) -> str:
    """The key of the page at `url`: equal for all its variants, different for different pages.

    - Pure and idempotent: `canonical_url(canonical_url(u)) == canonical_url(u)`.
    - The key is an absolute URL in ASCII with the scheme `http`; it is not what should be fetched.
    - Whatever has no http(s) scheme or no possible host is a ValueError.
    - Kept, because they can be content: letter case of path and query, `index.html`, empty parameters,
      doubled slashes inside a path, `#!` fragments (pages of their own on sites of 2009 to 2015), ports but 80 and 443.

    >>> canonical_url("https://www.Example.com:443/a/b/?utm_source=x&b=2&a=1#top")
    'http://example.com/a/b?a=1&b=2'
    >>> canonical_url("http://en.m.wikipedia.org/wiki/G%C3%B6del_%28film%29")
    'http://en.wikipedia.org/wiki/G%C3%B6del_(film)'
    >>> canonical_url("https://www.google.com/amp/s/www.example.org/2017/some-story/amp/")
    'http://example.org/2017/some-story'
    >>> canonical_url("http://bücher.example")
    'http://xn--bcher-kva.example/'
    >>> canonical_url("ftp://example.com/a")
    Traceback (most recent call last):
    ...
    ValueError: expected an http or https URL, got 'ftp://example.com/a'

    1. Blanks around and line breaks inside the URL go; backslashes before the query are slashes.
    2. The scheme becomes http; user name and password go, and so do ports 80 and 443.
    3. The host: escapes decoded, IDNA (UTS 46) to ASCII, lower case, last dot off, IP addresses in their normal form.
    4. Host variants: `www.`, `www2.`, `m.`, `mobile.`, `touch.`, `amp.` in front go, unless what is left is a public
       suffix; `en.m.wikipedia.org` is `en.wikipedia.org`, `x.blogspot.co.uk` is `x.blogspot.com`.
    5. The path: escapes decoded except that of the slash and encoded again in upper case; dot segments resolved;
       session parameters, AMP markers (only beside a segment that looks like an article) and the last slash go.
    6. The query: parameters decoded, without tracking and session parameters, encoded again and sorted.
    7. The fragment goes, except `#!...`.
    8. Pages inside Google's AMP viewer and AMP caches are the page itself: from the top with the inner URL.
    """
    plain = _PLAIN.fullmatch(url)
    if plain is not None and "amp" not in url and "blogspot" not in url:  # AMP, Blogger's countries
        host, path = plain.groups()
        # Wikimedia's mobile hosts; labels of more than 63 characters
        if len(host) < 64 and not (host.endswith(".org") and host.count(".") > 2):
            return f"http://{host}{path or '/'}"
    while True:
        host, port, path, query, fragment = _split(url)
        inner = _inside_amp(host, path, query)
        if inner is None:
            break
        url = inner  # shorter than `url`, so this ends
    host = _without_variants(host)
    path = _path_key(path)
    key = f"http://{host}{port}{path}"
    if query:
        parameters = _query_key(query, host)
        if parameters:
            key = f"{key}?{parameters}"
    if fragment.startswith("!") and len(fragment) > 1:
        key = f"{key}#!{_quoted(fragment[1:], safe='/!$&()*+,;=:@?')}"
    return key


def _split(url: str) -> tuple[str, str, str, str, str]:
    """(host, ":port" or "", path, query, fragment) of `url`; ValueError without http scheme or possible host."""
    text = url.strip(_OUTER_BLANKS)
    scheme = _HTTP.match(text)
    if scheme is None:
        # The scheme may still be broken by a line feed, which browsers remove.
        text = _INNER_BLANKS.sub("", text)
        scheme = _HTTP.match(text)
        if scheme is None:
            raise ValueError(f"expected an http or https URL, got {_shown(url)}")
    if not text.isprintable():
        text = _SURROGATES.sub("\ufffd", _INNER_BLANKS.sub("", text))
        scheme = _HTTP.match(text)
        assert scheme is not None
    rest, _, fragment = text[scheme.end() :].partition("#")
    rest, _, query = rest.partition("?")
    if "\\" in rest:
        rest = rest.replace("\\", "/")
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    port = ""
    if ":" in host and not host.endswith("]"):
        host, _, digits = host.rpartition(":")
        if digits:
            if not (digits.isascii() and digits.isdigit()) or int(digits[:20]) > 65535:
                raise ValueError(f"expected a port from 0 to 65535, got {_shown(url)}")
            number = int(digits[:20])
            if number not in (80, 443):  # both, or https://h:80 and its key http://h:80 would differ
                port = f":{number}"
    if _PLAIN_HOST.fullmatch(host) is None or len(host) > 63:
        host = _host_key(host, url)
    return host, port, slash + path, query, fragment


def _shown(url: str) -> str:
    """`url` as it may appear in a message: one line, not endless, without a password."""
    text = re.sub(r"//[^/@]*@", "//...@", url)
    return repr(text if len(text) <= 200 else text[:200] + "...")


def _host_key(host: str, url: str) -> str:
    """The one ASCII spelling of a host (URL standard, 3.5 host parsing)."""
    if host.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1].partition('%')[0]).compressed}]"
        except ValueError:
            raise ValueError(f"expected an IPv6 address between brackets, got {_shown(url)}") from None
    if "%" in host:
        host = unquote_to_bytes(host).decode("utf-8", "replace")
    host = host.lower() if host.isascii() else _idna(host, url)
    host = host.removesuffix(".")
    labels = host.split(".")
    if (
        not host
        or len(host) > 253
        or _FORBIDDEN_IN_HOST.search(host)
        or any(not 0 < len(label) < 64 for label in labels)
    ):
        raise ValueError(f"expected a host name, got {_shown(url)}")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        return _ipv4_key(labels, url)
    return host


def _idna(host: str, url: str) -> str:
    """UTS 46 mapping, then Punycode per label, as browsers do: emoji hosts resolve, though IDNA 2008 refuses them."""
    import idna

    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        labels = [
            label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")
            for label in mapped.split(".")
        ]
    except (idna.IDNAError, UnicodeError, IndexError):
        raise ValueError(f"expected a host name that IDNA can encode, got {_shown(url)}") from None
    return ".".join(labels).lower()


def _ipv4_key(labels: list[str], url: str) -> str:
    """Dotted decimal of an IPv4 address in any of the spellings browsers take: 0x7f.1, 2130706433, 017700000001."""
    try:
        numbers = [
            int(label[2:] or "0", 16)
            if label.startswith("0x")
            else int(label, 8)
            if label.startswith("0")
            else int(label)
            for label in labels
        ]
        if len(numbers) > 4 or any(number > 255 for number in numbers[:-1]) or numbers[-1] >= 256 ** (5 - len(numbers)):
            raise ValueError
    except ValueError:
        raise ValueError(f"expected an IPv4 address, since the last label is a number, got {_shown(url)}") from None
    value = numbers[-1] + sum(number << (24 - 8 * i) for i, number in enumerate(numbers[:-1]))
    return str(ipaddress.IPv4Address(value))


def _without_variants(host: str) -> str:
    """`host` without labels that only choose a presentation; never cut down to a public suffix or a single label."""
    if ".blogspot." in host:
        host = _BLOGGER_COUNTRY.sub(".blogspot.com", host)
    if host.endswith(".org"):
        host = _WIKIMEDIA_MOBILE.sub(r".\1", host)
    while (label := _VARIANT_LABEL.match(host)) is not None:
        rest = host[label.end() :]
        if "." not in rest or rest[-1].isdigit() or (not label[0].startswith("www") and _is_public_suffix(rest)):
            break
        host = rest
    return host


def _path_key(path: str) -> str:
    if _NEEDS_PATH_WORK.search(path) is not None:
        if ";" in path:
            path = _PATH_SESSION.sub("", path)
        path = "%2F".join(_quoted(part, safe=_PATH_SAFE) for part in _SLASH_ESCAPE.split(path))
        if "/." in path:
            path = _without_dot_segments(path)
        if ";" in path:
            path = _PATH_SESSION.sub("", path)  # again: it may have been escaped
    path = path.rstrip("/")
    while "amp" in path and (shorter := _without_amp(path)) != path:
        path = shorter
    return path or "/"


def _quoted(text: str, *, safe: str) -> str:
    """`text` with its escapes decoded and encoded again: one spelling for bytes that mean the same."""
    return quote_from_bytes(unquote_to_bytes(text), safe=safe)


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, except that empty segments count as segments to step out of."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for i, segment in enumerate(segments):
        last = i == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
            if last:
                kept.append("")
        elif segment == ".":
            if last:
                kept.append("")
        else:
            kept.append(segment)
    return "/" + "/".join(kept)


def _without_amp(path: str) -> str:
    """`path` without one AMP marker: /some-story/amp, /amp/2017/some-story, /news/amp/world-123, story.amp[.html].

    The segment beside the marker has to look like an article's (a digit, a hyphen, .html): /guitars/amp is a page.
    """
    if path.endswith(".amp.html"):
        return path[: -len(".amp.html")] + ".html"
    if path.endswith(".amp"):
        return path[: -len(".amp")].rstrip("/")
    segments = path.split("/")
    if len(segments) > 2:
        if segments[-1] == "amp" and _ARTICLE_SEGMENT.search(segments[-2]):
            return "/".join(segments[:-1]).rstrip("/")
        for place in (1, 2):
            if len(segments) > place + 1 and segments[place] == "amp" and _ARTICLE_SEGMENT.search(segments[-1]):
                return "/".join(segments[:place] + segments[place + 1 :])
    return path


def _query_key(query: str, host: str) -> str:
    site = _site_parameters(host)
    kept: list[tuple[str, str]] = []
    for part in query.split("&"):
        while part.startswith("amp;"):  # what is left of an ampersand that was HTML-escaped twice
            part = part[4:]
        if not part:
            continue
        name, _, value = part.partition("=")
        if _NEEDS_QUERY_WORK.search(name) is not None:
            name = _quoted_plus(name)
        if _NEEDS_QUERY_WORK.search(value) is not None:
            value = _quoted_plus(value)
        lower = name.lower()
        if (
            lower in TRACKING_PARAMETERS
            or lower.startswith("utm_")
            or lower in site
            or (lower in ("amp", "_amp") and value.lower() in _AMP_TRUE)
            or (lower == "outputtype" and value.lower() == "amp")
        ):
            continue
        if name or value:
            kept.append((name, value))
    kept.sort()
    return "&".join([f"{name}={value}" if value or not name else name for name, value in kept])


def _quoted_plus(text: str) -> str:
    return quote_from_bytes(unquote_to_bytes(text.replace("+", " ")), safe=" ").replace(" ", "+")


def _site_parameters(host: str) -> frozenset[str]:
    domain = matching_domain(host, SITE_TRACKING_PARAMETERS)
    return frozenset() if domain is None else SITE_TRACKING_PARAMETERS[domain]


def _inside_amp(host: str, path: str, query: str) -> str | None:
    """The URL shown inside Google's AMP viewer or an AMP cache; None if `host` is neither, or shows no possible URL."""
    if "/amp/" in path and (host.startswith("google.") or ".google." in host):
        inner = _GOOGLE_AMP.match(path)
    elif host.endswith((".ampproject.org", ".ampproject.net")):
        inner = _AMP_CACHE.match(path)
    else:
        return None
    if inner is None:
        return None
    url = f"http://{inner[2]}{'?' + query if query else ''}"
    try:
        inner_host = _split(url)[0]
    except ValueError:
        return None
    return url if "." in inner_host else None


def document_id(canonical: str) -> str:
    """The id of the page whose key is `canonical`: the first 32 hex digits of its SHA-256.

    >>> document_id(canonical_url("https://www.example.com/"))
    '2a1b402420ef46577471cdc7409b0fa2'
    """
    return sha256(canonical.encode()).hexdigest()[:32]


# --- hosts and domains -----------------------------------------------------------------------------------------------

_QUICK_HOST = re.compile(r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,24})(?=[/?#]|$)")


def url_host(url: str) -> str:
    """The host of an http(s) URL: lower case, ASCII, without port; ValueError as `canonical_url`.

    >>> url_host("http://user@WWW.Example.com:8080/")
    'www.example.com'
    """
    quick = _QUICK_HOST.match(url)
    return quick[1] if quick is not None and len(quick[1]) <= 63 else _split(url)[0]


def registered_domain(url: str) -> str:
    """The domain that somebody registered: one label more than the public suffix; an IP address or lone label as it is.

    Suffixes are those of the ICANN section, so all of Blogger is `blogspot.com`, as in WebText's published domains.

    >>> registered_domain("https://news.bbc.co.uk/1/hi"), registered_domain("http://me.blogspot.com/")
    ('bbc.co.uk', 'blogspot.com')
    >>> registered_domain("http://127.0.0.1:8000/")
    '127.0.0.1'
    """
    return _registered_domain(url_host(url))


@lru_cache(maxsize=1 << 16)
def _registered_domain(host: str) -> str:
    if host.startswith("[") or host[-1].isdigit():
        return host
    found = _suffixes(private=False)(host)
    if not found.suffix:
        return ".".join(
            host.split(".")[-2:]
        )  # the list's own rule for what it does not have: any last label is a suffix
    return found.top_domain_under_public_suffix or host


@lru_cache(maxsize=1 << 12)
def _is_public_suffix(host: str) -> bool:
    return not _suffixes(private=True)(host).domain


@cache
def _suffixes(*, private: bool) -> TLDExtract:
    """The suffix list bundled with tldextract: no cache file, no request."""
    from tldextract import TLDExtract

    return TLDExtract(cache_dir=None, suffix_list_urls=(), include_psl_private_domains=private)


def matching_domain(host: str, domains: Mapping[str, object] | frozenset[str]) -> str | None:
    """Which of `domains` is `host` or a parent of it (the longest); None if there is none.

    >>> matching_domain("i.imgur.com", frozenset(["imgur.com"]))
    'imgur.com'
    """
    while host not in domains:
        _, dot, host = host.partition(".")
        if not dot:
            return None
    return host


def is_wikipedia(url: str) -> bool:
    """Does `url` show Wikipedia, in any language: Wikipedia itself (mobile, zero, the old gateway), known mirrors, or
    Wikipedia inside the Wayback Machine, archive.today, Google's cache, translation and AMP viewer?

    >>> is_wikipedia("https://de.m.wikipedia.org/wiki/Haus"), is_wikipedia("https://en.wiktionary.org/wiki/house")
    (True, False)
    """
    try:
        return _key_is_wikipedia(canonical_url(url))
    except ValueError:
        return False


def _key_is_wikipedia(key: str) -> bool:
    host, slash, rest = key[7:].partition("/")
    if matching_domain(host, _WIKIPEDIA_HOSTS):
        return True
    return host in _WRAPPERS and _WRAPPED_WIKIPEDIA.search(slash + rest) is not None


# --- what is not fetched ---------------------------------------------------------------------------------------------


def _default_hosts() -> dict[str, str]:
    return {
        **dict.fromkeys(IMAGE_HOSTS, "image_host"),
        **dict.fromkeys(VIDEO_HOSTS, "video_host"),
        **dict.fromkeys(REDDIT_HOSTS, "reddit"),
    }


def _default_extensions() -> dict[str, str]:
    return {**dict.fromkeys(FILE_EXTENSIONS, "file_type"), **dict.fromkeys(MEDIA_EXTENSIONS, "media")}


@dataclass(frozen=True, slots=True, eq=False)
class UrlRules:
    """What `rejection` looks at; `webtext.links.url_rules` makes it from the settings."""

    hosts: Mapping[str, str] = field(default_factory=_default_hosts)  # domain, for it and its subdomains -> reason
    extensions: Mapping[str, str] = field(default_factory=_default_extensions)  # "pdf" -> reason
    wikipedia: bool = True  # reject Wikipedia


def rejection(url: str, rules: UrlRules) -> str | None:
    """Why `url` is not worth fetching, or None.

    One of, in this order: `not_http` (another scheme), `bad_url` (no possible host), `private_host` (an address or a
    name outside the public network), a reason of `rules.hosts` (`reddit`, `blocklist`, `image_host`, `video_host`),
    `wikipedia`, a reason of `rules.extensions` (`media`, `file_type`).

    >>> rejection("https://i.imgur.com/x.png", UrlRules()), rejection("http://example.com/paper.pdf", UrlRules())
    ('image_host', 'file_type')
    """
    try:
        return rejection_of_key(canonical_url(url), rules)
    except ValueError:
        return "bad_url" if _HTTP.match(_INNER_BLANKS.sub("", url.strip(_OUTER_BLANKS))) else "not_http"


def rejection_of_key(key: str, rules: UrlRules) -> str | None:
    """`rejection` for one who has the canonical URL already."""
    host, _, rest = key[7:].partition("/")
    if ":" in host and not host.endswith("]"):
        host = host.partition(":")[0] if host[0] != "[" else host.rpartition(":")[0]
    if "." not in host or not host[-1].isalpha() or host.rpartition(".")[2] in _PRIVATE_TOP_LABELS:
        if _is_private(host):
            return "private_host"
    elif host.endswith(".home.arpa"):
        return "private_host"
    domain = matching_domain(host, rules.hosts)
    if domain is not None:
        return rules.hosts[domain]
    if rules.wikipedia and _key_is_wikipedia(key):
        return "wikipedia"
    if rest:
        name = rest.partition("?")[0].partition("#")[0].rpartition("/")[2]
        stem, dot, extension = name.rpartition(".")
        # A wiki's page about a picture, File:Name.jpg, is a page
        if dot and extension.lower() in rules.extensions and ":" not in stem:
            return rules.extensions[extension.lower()]
    return None


@lru_cache(maxsize=1 << 12)
def _is_private(host: str) -> bool:
    """A lone label, a name of a private network, an address that is not global. The guard looks again on connecting."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        # An xn-- top-level domain may end with a digit: it is public.
        return "." not in host or host.rpartition(".")[2] in _PRIVATE_TOP_LABELS
    return not address.is_global or address.is_multicast
