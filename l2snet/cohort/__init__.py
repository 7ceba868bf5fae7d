"""Many patients by one command: find them, do each once, go on where it stopped, and one table of all."""
