"""Realistic machine-learning workloads, drawn from a seed; docs/scenarios.md describes what may be chosen."""
