"""Makes names and words of others harmless for a terminal: they may hold control sequences, or what has no encoding."""


def plain(text: str, keep: str = "") -> str:
    """The same text with `?` in the place of each character that is not printable, those in `keep` excepted."""
    return "".join(letter if letter.isprintable() or letter in keep else "?" for letter in text)
