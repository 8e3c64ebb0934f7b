"""Parquet files of whole row groups, with a checksum of themselves."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vla.common.atomic import atomic_path
from vla.data.storage.checksums import BLANK, CHECKSUM, add_checksum


def write_row_groups(path: Path, tables: list[pa.Table]) -> None:
    """One parquet file with one row group per table and a checksum, atomically."""
    stored = tables[0].schema.metadata or {}
    # A table that was read from such a file carries its checksum, which must not stand beside the
    # new.
    metadata = {key: value for key, value in stored.items() if key != CHECKSUM.encode()}
    with atomic_path(path) as temporary:
        # Dictionaries would only copy the PNG bytes once more before falling back to plain pages.
        with pq.ParquetWriter(
            temporary,
            tables[0].schema.with_metadata(metadata or None),
            compression="snappy",
            use_dictionary=False,
            write_page_checksum=True,
        ) as writer:
            for table in tables:
                # at least 1: an empty table has a row group of no rows
                writer.write_table(table, row_group_size=max(1, len(table)))
            writer.add_key_value_metadata({CHECKSUM: BLANK})
        add_checksum(temporary)
