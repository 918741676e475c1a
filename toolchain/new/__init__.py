"""`demitasse new`: a short recipe for a board and a subject, with a base that fits.

It decides by data alone (`bases.toml`, `targets/`), so it works without a network. The rule to
keep: what it writes is read again by the line's own checks before anybody is told to run it.
"""
