"""What people look at: the page of a stage, the report of a run, charts, and the gallery of a search."""
