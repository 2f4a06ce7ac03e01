"""What the operator reads on a partition: a table, a picture, a link, a cost, in that order.

Here: turning what a stage did into Dagster metadata. Not here: signed links, because metadata is kept for
ever and a signature is a secret; a link goes through `MOLTPIPE_MEDIA_URL`, where one is set.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg
from PIL.Image import Dither, Image, Quantize

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | bool | None
Metadata = dict[str, dg.MetadataValue]
LARGEST_PNG = 44_000
"""Bytes of a picture, which is a third longer in an event: events are kept for ever."""
MOST_COLOURS = 128
FEWEST_COLOURS = 32
"""Below this a scene looks painted by numbers, and a smaller picture shows more."""


def table(rows: Sequence[Mapping[str, Cell]]) -> dg.MetadataValue:
    """Rows as a table with typed columns; a cell that a row lacks stays empty. No rows make a table that says so."""
    if not rows:
        return dg.MetadataValue.text("none")
    import pandas as pd  # noqa: PLC0415 - a third of a second, which code server and daemon need not wait for

    frame = pd.DataFrame([dict(row) for row in rows]).convert_dtypes()
    columns = [dg.TableColumn(str(name), _column_type(cells)) for name, cells in frame.items()]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({one.name: _plain(row.get(one.name)) for one in columns}) for row in rows],
        schema=dg.TableSchema(columns=columns),
    )


def _column_type(cells: "pd.Series[Any]") -> str:
    """By what all cells have in common. pandas takes a column without any for whole numbers."""
    names = {"Int64": "int", "Float64": "float", "boolean": "bool"}
    return "string" if cells.isna().all() else names.get(str(cells.dtype), "string")


def _plain(value: Cell) -> Cell:
    return round(value, 3) if isinstance(value, float) else value


def picture(image: Image, *, alt: str, width: int = 160) -> dg.MetadataValue:
    """A small JPEG inside the event: events are kept for ever, so it stays under some ten kilobytes."""
    small = image.convert("RGB")
    small.thumbnail((width, width * 2))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70, optimize=True)
    return dg.MetadataValue.md(f"![{alt}](data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()})")


def drawing(image: Image, *, alt: str) -> dg.MetadataValue:
    """A PNG inside the event, for what has edges and lettering: of as many colours as fit into `LARGEST_PNG` bytes."""
    shown, colours = image, MOST_COLOURS
    while True:
        content = _png(shown, colours)
        if len(content) <= LARGEST_PNG:
            break
        if colours > FEWEST_COLOURS:
            colours //= 2
        else:
            shown = shown.resize((max(1, shown.width * 3 // 4), max(1, shown.height * 3 // 4)))
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(content).decode()})")


def _png(image: Image, colours: int) -> bytes:
    if image.has_transparency_data:
        few = image.convert("RGBA").quantize(colours, method=Quantize.FASTOCTREE)
    else:
        # Without dithering, whose noise cannot be packed: a picture of photographs would have half as many colours.
        few = image.convert("RGB").quantize(colours, method=Quantize.MEDIANCUT, dither=Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def link(media_url: str | None, key: str) -> dg.MetadataValue:
    """A link that opens the object in a browser, or its key where no media address is set."""
    if media_url is None:
        return dg.MetadataValue.text(key)
    return dg.MetadataValue.url(f"{media_url.rstrip('/')}/{quote(key)}")


def cost(amount: Decimal) -> dg.MetadataValue:
    """US dollars as a number, which Dagster plots over the partitions."""
    return dg.MetadataValue.float(float(amount))
