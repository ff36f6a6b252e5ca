"""Personal data: planted cases, with precision and recall."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webtext.pii import EMAIL_REPLACEMENT, IP_REPLACEMENT, PHONE_REPLACEMENT, PiiCounts, count_pii, replace_pii

EMAILS = [
    "jane@example.org",
    "j.d+list@mail.example.co.uk",
    "UPPER_case-1@EXAMPLE.COM",
    "x@a-b.io",
    "o'neil@example.ie",
    "a%b@example.net",
]
IPS = ["8.8.8.8", "203.0.114.7", "91.198.174.192", "1.1.1.1"]
PHONES = [
    "+44 20 7946 0958",
    "+1-212-555-7890",
    "(212) 555-7890",
    "212-555-7890",
    "+49 (30) 123456",
    "+4930123456",
    "1-800-555-0199",
    "212.555.7890",
]
NOT_EMAILS = ["@handle", "a@b", "user@localhost", "x @ y.com", "me(at)example.org", "@media.screen", "foo@bar@"]
NOT_IPS = [
    "10.0.0.1",
    "192.168.1.1",
    "127.0.0.1",
    "256.1.1.1",
    "1.2.3",
    "1.2.3.4.5",
    "version 8.8.8.8",
    "v8.8.4.4",
    "224.0.0.1",
    "08.8.8.8",
]
NOT_PHONES = [
    "2016-03-04",
    "1,234,567,890",
    "1234567890",
    "$212.555.7890",
    "978-3-16-148410-0",
    "10:15-11:30",
    "1914-1918",
    "+5",
    "3.14159265",
]
FRAMES = ["Ask {} today.", "{}", "({})", "See: {}, or not", "“{}”", "first {}\nsecond"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"), [("emails", EMAILS, NOT_EMAILS), ("ips", IPS, NOT_IPS), ("phones", PHONES, NOT_PHONES)]
)
def test_planted_cases_are_found_and_look_alikes_are_not(kind: str, good: list[str], bad: list[str]) -> None:
    found = sum(getattr(count_pii(frame.format(case)), kind) == 1 for case in good for frame in FRAMES)
    wrong = [(case, frame) for case in bad for frame in FRAMES if getattr(count_pii(frame.format(case)), kind)]
    assert found / (len(good) * len(FRAMES)) >= 0.95
    assert not wrong


def test_precision_and_recall_on_planted_text() -> None:
    generator = random.Random(0)
    words = [
        "the",
        "of",
        "harbour",
        "12",
        "3.5",
        "2016",
        "1,000",
        "page",
        "7-8",
        "v1.2",
        "#4",
        "@home",
        "10.0.0.1",
        "50%",
    ]
    planted = hits = 0
    for _ in range(200):
        cases = [generator.choice(group) for group in (EMAILS, IPS, PHONES) if generator.random() < 0.5]
        text = " ".join(generator.choices(words, k=30))
        for case in cases:
            text += f" {case} " + " ".join(generator.choices([word for word in words if word != "v1.2"], k=10))
        counts = count_pii(text)
        planted += len(cases)
        hits += counts.emails + counts.ips + counts.phones
    assert 0.97 * planted <= hits <= 1.02 * planted


def test_replaced_text_holds_none_of_it_and_keeps_the_rest() -> None:
    text, counts = replace_pii("Mail jane@example.org, ping 8.8.8.8, call (212) 555-7890.")
    assert text == f"Mail {EMAIL_REPLACEMENT}, ping {IP_REPLACEMENT}, call {PHONE_REPLACEMENT}."
    assert counts == PiiCounts(1, 1, 1)
    assert counts + counts == PiiCounts(2, 2, 2)


def test_replacing_twice_changes_no_more() -> None:
    once, _ = replace_pii(" ".join(EMAILS + IPS + PHONES))
    assert replace_pii(once)[0] == once


@given(st.text(alphabet="ab1. @-+()\n", max_size=300))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_replacement_is_idempotent_on_anything(text: str) -> None:
    once, _ = replace_pii(text)
    assert replace_pii(once)[0] == once


@pytest.mark.parametrize("unit", ["a@", "a.", "1.", "1-", "+1 ", "(212) ", "a@a.", "1.1.1.1.", "a" * 64 + "@"])
def test_time_is_linear_on_text_made_to_be_slow(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    started = time.process_time()
    count_pii(text)
    assert time.process_time() - started < 4.0
