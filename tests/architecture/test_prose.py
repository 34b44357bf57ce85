"""How the documents read: short pages, short sentences."""

import pytest

from tests.architecture.pages import PAGES, ninetieth_percentile, sentence_lengths, words

MOST_WORDS = 1500
LONGEST = 30


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: str) -> None:
    """No page has more than 1,500 words; tables and code are not counted, they are looked things up in."""
    assert words(page) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    """Nine tenths of a page's sentences have fewer than 30 words."""
    lengths = sentence_lengths(page)
    assert lengths
    assert ninetieth_percentile(lengths) < LONGEST
