"""The service: one process that answers questions over HTTP, with engines in its threads."""
