"""What a schedule looks like to people and to other tools: event log, Perfetto trace, HTML."""
