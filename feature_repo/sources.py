"""The Parquet files behind the views, written by `onevision materialize-features`.

They stand beside these files (`data/`), or in the Feast folder that ONEVISION_FEATURE_REPO names. Paths are absolute
because Feast's DuckDB store reads relative ones from the working directory: apply again where a folder was moved.
"""

import os
from pathlib import Path

from feast import FileSource

from onevision.features.definitions import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    LONG_HISTORY,
    PROFILE,
    RECENT_CLICKED,
    RECENT_ORDERED,
    RECENT_SEARCHED,
    source_file,
)

FOLDER = Path(os.environ.get("ONEVISION_FEATURE_REPO") or Path(__file__).parent).resolve()


def parquet_source(name: str) -> FileSource:
    return FileSource(
        name=f"{name}_source",
        path=str(source_file(FOLDER, name)),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED_TIMESTAMP,
    )


recent_clicked_source = parquet_source(RECENT_CLICKED.name)
recent_searched_source = parquet_source(RECENT_SEARCHED.name)
recent_ordered_source = parquet_source(RECENT_ORDERED.name)
long_history_source = parquet_source(LONG_HISTORY.name)
profile_source = parquet_source(PROFILE)
