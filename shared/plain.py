"""Names and words of others: they may hold control sequences for a terminal, or what has no encoding."""


def plain(text: str, keep: str = "") -> str:
    """The same text with `?` in the place of each character that is not printable, those in `keep` excepted."""
    return "".join(letter if letter.isprintable() or letter in keep else "?" for letter in text)


def is_utf8(text: str) -> bool:
    """False for half a surrogate pair, which JSON can hold as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
