from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.records import Word
from moltpipe.studio.words import fitted_words, spread_words, word_spans

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t.,!?—'\u3002\uff01")), max_size=60)
LENGTHS = st.floats(min_value=0, max_value=120)
HEARD = st.lists(st.builds(Word, text=st.text(max_size=8), start=st.floats(0, 200), end=st.floats(0, 200)), max_size=12)


def _hold(text: str, words: tuple[Word, ...], seconds: float) -> None:
    assert [word.text for word in words] == [text[start:end] for start, end in word_spans(text)]
    reached = 0.0
    for word in words:
        assert reached <= word.start <= word.end <= seconds + 0.001
        reached = word.end


@given(TEXTS)
def test_words_hold_every_character_that_is_no_white_space(text: str) -> None:
    spans = word_spans(text)
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    assert all(text[start:end] and not any(one.isspace() for one in text[start:end]) for start, end in spans)


@given(TEXTS, LENGTHS)
def test_spread_words_fill_the_recording_in_order(text: str, seconds: float) -> None:
    words = spread_words(text, seconds)
    _hold(text, words, seconds)
    if words:
        assert words[0].start == 0
        assert words[-1].end == round(seconds, 3)


def test_a_long_word_takes_longer_than_a_short_one() -> None:
    assert spread_words("I remember it", 11) == (Word("I", 0, 1), Word("remember", 1, 9), Word("it", 9, 11))


def test_a_japanese_line_breaks_after_its_stops() -> None:
    text = "\u6d77\u306f\u5fd8\u308c\u306a\u3044\u3002\u8ab0\u3082\u77e5\u3089\u306a\u3044\u3002"
    assert [word.text for word in spread_words(text, 4)] == [text[:7], text[7:]]


@given(TEXTS, HEARD, LENGTHS)
def test_fitted_words_are_those_of_the_text_in_order_whatever_was_heard(
    text: str, heard: list[Word], seconds: float
) -> None:
    _hold(text, fitted_words(text, heard, seconds), seconds)


@given(TEXTS, LENGTHS)
def test_words_that_were_heard_as_they_stand_keep_their_times(text: str, seconds: float) -> None:
    heard = spread_words(text, seconds)
    fitted = fitted_words(text, heard, seconds)
    for before, after in zip(heard, fitted, strict=True):
        if any(one.isalnum() for one in before.text):
            assert (after.start, after.end) == (before.start, before.end)


def test_signs_and_contractions_that_were_heard_apart_come_back_together() -> None:
    heard = [
        Word("Do", 0.1, 0.2), Word("n't", 0.2, 0.4), Word(",", 0.4, 0.5), Word("Mara", 0.6, 1.0), Word("!", 1.0, 1.1),
    ]  # fmt: skip
    assert fitted_words("Don't, Mara!", heard, 1.2) == (Word("Don't,", 0.1, 0.4), Word("Mara!", 0.6, 1.0))


def test_a_number_that_was_read_out_takes_the_time_between_its_neighbours() -> None:
    heard = [Word("pay", 0, 0.5), Word("one", 0.5, 0.8), Word("hundred", 0.8, 1.2), Word("dollars", 1.2, 1.9),
             Word("now", 2.0, 2.4), Word(".", 2.4, 2.5)]  # fmt: skip
    assert fitted_words("Pay $100 now.", heard, 2.5) == (
        Word("Pay", 0, 0.5), Word("$100", 0.5, 2.0), Word("now.", 2.0, 2.4)
    )  # fmt: skip


def test_nothing_heard_means_spread_words() -> None:
    assert fitted_words("A dry letter", (), 3) == spread_words("A dry letter", 3)
