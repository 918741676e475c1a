"""Training text that a teacher writes for a student: questions for passages, and answers.

What is written is an artifact of its own (`writing.py`): asked of a folder or of any endpoint with
OpenAI's API (`writers.py`), and kept only where the filters (`filters.py`) find no fault.
"""
