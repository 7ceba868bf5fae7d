"""Data preparation: from a download to the study folders that training reads, or the container's input layout."""
