"""The service: one process that answers questions over HTTP, and the threads in which
engines run.
"""
