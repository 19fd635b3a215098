"""The pipelines: stages as a graph by data flow, their settings, the compiler, and the local runner."""
