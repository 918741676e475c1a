"""External programs and native libraries: one a file, each with `verify()` and typed calls."""
