"""Breaks things on purpose and looks at what is left; docs/reliability.md says what to expect."""
