"""Text from elsewhere on a terminal: what is not printable does not reach it."""

from hypothesis import given
from hypothesis import strategies as st

from shared.plain import plain


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_printed_is_printable(text: str) -> None:
    """Whatever a name holds, it keeps its length, and nothing of it moves the cursor or cannot be encoded."""
    shown = plain(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    shown.encode()


def test_names_stay_as_they_are() -> None:
    """Letters of all scripts, brackets, and where it is wanted the ends of lines."""
    assert plain("größe [fold 1] 模型") == "größe [fold 1] 模型"
    assert plain("a\x1b[31mb\n") == "a?[31mb?"
    assert plain("a\n\tb\r", keep="\n\t") == "a\n\tb?"
