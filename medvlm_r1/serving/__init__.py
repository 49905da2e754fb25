"""The server: a front that speaks HTTP, an engine with slots behind a socket, a process that opens files. docs/serving.md says how it is run."""
