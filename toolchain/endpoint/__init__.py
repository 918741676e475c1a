"""Endpoints: servers at an address that speak OpenAI's API, whoever wrote them.

What comes from one is hostile until it was bounded and checked here: time, bytes, depth and types.
An endpoint gives answers and what a client can see of them; it is no board.
"""
