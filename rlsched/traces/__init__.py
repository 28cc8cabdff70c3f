"""Importers: other people's traces and instances as jobs, one module a format. docs/workloads.md says what becomes of
what."""
