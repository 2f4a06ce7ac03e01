"""What the operator reads on a partition."""

from __future__ import annotations

import base64
import io

import dagster as dg
from PIL import Image

from moltpipe.defs.reports import LARGEST_PNG, drawing, table


def _shown(metadata: dg.MetadataValue) -> Image.Image:
    assert isinstance(metadata, dg.MarkdownMetadataValue)
    content = base64.b64decode((metadata.value or "").split("base64,")[1].removesuffix(")"))
    assert len(content) <= LARGEST_PNG
    return Image.open(io.BytesIO(content))


def test_a_drawing_is_a_png_that_fits_into_an_event_whatever_it_shows() -> None:
    noise = Image.effect_noise((700, 500), 120)
    shown = _shown(drawing(noise, alt="noise"))
    assert shown.format == "PNG"
    assert shown.width / shown.height == 1.4


def test_a_simple_drawing_keeps_its_size_its_colours_and_what_is_see_through() -> None:
    simple = Image.new("RGBA", (640, 120), (0, 0, 0, 0))
    simple.paste((200, 120, 40, 255), (10, 40, 600, 80))
    shown = _shown(drawing(simple, alt="waveform"))
    assert shown.size == (640, 120)
    assert shown.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]  # a pixel of RGBA is a tuple
    assert shown.convert("RGBA").getpixel((300, 60)) == (200, 120, 40, 255)


def test_rows_that_lack_a_cell_make_a_table_all_the_same() -> None:
    metadata = table([{"cut": "one", "lufs": -14.1}, {"cut": "two", "frames": 48}])
    assert isinstance(metadata, dg.TableMetadataValue)
    assert [dict(record.data) for record in metadata.records] == [
        {"cut": "one", "lufs": -14.1, "frames": None},
        {"cut": "two", "lufs": None, "frames": 48},
    ]
    assert {column.name: column.type for column in metadata.schema.columns} == {
        "cut": "string",
        "lufs": "float",
        "frames": "int",
    }


def test_a_column_is_of_the_kind_that_all_its_cells_have_in_common() -> None:
    metadata = table([{"whole": 1, "broken": 1, "said": True, "mixed": 1}, {"broken": 0.5, "mixed": "b", "none": None}])
    assert isinstance(metadata, dg.TableMetadataValue)
    assert {column.name: column.type for column in metadata.schema.columns} == {
        "whole": "int",
        "broken": "float",
        "said": "bool",
        "mixed": "string",
        "none": "string",
    }
