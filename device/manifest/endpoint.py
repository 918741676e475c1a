"""Where a board serves: facts that the host and the board must agree on.

Standard library only, Python 3.10 up.
"""

PORT = 8080
"""TCP port of the service on the board, where nobody names another one."""
