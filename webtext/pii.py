"""Personal data in text: e-mail addresses, IP addresses and phone numbers, counted and, if wanted, replaced.

- Three kinds that have a shape. Names and street addresses have none: finding them needs a model and is not done here.
- Patterns are bounded everywhere, so that time is linear in the text whatever the text is.
- An address counts only if it could lead to somebody: e-mail needs a domain with an alphabetic top level; an IPv4
  address must be globally routable and must not look like a version ("version 10.0.0.1", "1.2.3.4.5"); a phone number
  is written with a leading + (E.164, at most 15 digits) or in the North American form with separators. A bare row of
  ten digits stays: it is more often an identifier.
- Replacements have the shape of what they replace, so that a model still learns where an address stands, and belong to
  nobody: example.com (RFC 2606), 192.0.2.1 (RFC 5737), +1 555 0100 (reserved for fiction).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

EMAIL_REPLACEMENT = "email@example.com"
IP_REPLACEMENT = "192.0.2.1"
PHONE_REPLACEMENT = "+1 555-0100"

# RFC 5321 lengths: 64 before the @, 63 a label. Unicode letters are let through in neither part: 99.9% have none.
_EMAIL = re.compile(
    r"(?<![\w.+%/=-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,6}[A-Za-z]{2,24}(?![\w@-])",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.:/-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
_PHONE = re.compile(
    r"(?<![\w.,:/+=#$€£-])"
    r"(?:\+\d{1,3}[ .\-/]?(?:\(\d{1,4}\)[ .\-/]?)?\d(?:[ .\-/]?\d){5,11}"  # +49 (30) 1234-5678
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[ .-]\d{4})"  # (212) 555-7890, 1-212-555-7890
    r"(?![\w-]|[.,/]\d)",
    re.ASCII,
)
_VERSION_BEFORE = re.compile(r"(?:version|ver\.?|v|release|build|firmware|section|chapter|§)\s{0,2}$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PiiCounts:
    """How many of each kind a text held (before anything was replaced)."""

    emails: int = 0
    ips: int = 0
    phones: int = 0

    def __add__(self, other: PiiCounts) -> PiiCounts:
        return PiiCounts(self.emails + other.emails, self.ips + other.ips, self.phones + other.phones)


NO_PII = PiiCounts()


def count_pii(text: str) -> PiiCounts:
    """How many e-mail addresses, public IPv4 addresses and phone numbers `text` holds."""
    return replace_pii(text)[1]


def replace_pii(text: str) -> tuple[str, PiiCounts]:
    """`text` with personal data replaced, and what was found.

    >>> replace_pii("Write to jane.doe@mail.example.org or call (212) 555-7890.")
    ('Write to email@example.com or call +1 555-0100.', PiiCounts(emails=1, ips=0, phones=1))
    >>> replace_pii("nginx 1.2.3.4.5 on 10.0.0.1 answers 8.8.8.8")[1]
    PiiCounts(emails=0, ips=1, phones=0)
    """
    emails = ips = phones = 0
    if "@" in text:
        text, emails = _EMAIL.subn(EMAIL_REPLACEMENT, text)

    def ip(match: re.Match[str]) -> str:
        nonlocal ips
        if not _is_public(match.group()) or _VERSION_BEFORE.search(text, max(0, match.start() - 12), match.start()):
            return match.group()
        ips += 1
        return IP_REPLACEMENT

    def phone(match: re.Match[str]) -> str:
        nonlocal phones
        digits = sum(character.isdigit() for character in match.group())
        if not 7 <= digits <= 15:
            return match.group()
        phones += 1
        return PHONE_REPLACEMENT

    text = _IPV4.sub(ip, text)
    text = _PHONE.sub(phone, text)
    return text, PiiCounts(emails, ips, phones)


def _is_public(address: str) -> bool:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:  # an octet over 255, or with a leading zero
        return False
    return parsed.is_global and not parsed.is_multicast
