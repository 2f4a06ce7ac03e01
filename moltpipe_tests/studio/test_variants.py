from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from moltpipe.studio.variants import seed, style_suffix


def test_the_four_variants_of_a_pilot_have_four_styles_and_a_single_cut_has_none() -> None:
    assert len({style_suffix(number, 4) for number in (1, 2, 3, 4)} - {""}) == 4
    assert style_suffix(1, 1) == ""


@pytest.mark.parametrize(("number", "wanted"), [(0, 4), (5, 4), (2, 1), (1, 0), (5, 5)])
def test_a_variant_that_there_is_not_is_refused(number: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        style_suffix(number, wanted)


def test_a_seed_is_the_same_everywhere_and_fits_int4() -> None:
    assert seed(UUID("6f1c2a5e-0d1b-4c57-9f8e-2b7a3c4d5e6f"), 2, 3) == 396784857
    assert all(0 <= seed(uuid4(), variant, 1) < 2**31 for variant in range(1, 200))


def test_another_take_or_variant_has_another_seed() -> None:
    shot = uuid4()
    assert len({seed(shot, variant, take) for variant in range(1, 5) for take in range(1, 5)}) == 16
