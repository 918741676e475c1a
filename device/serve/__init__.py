"""The service: one process that answers questions over HTTP, and the worker in which its engine runs."""
