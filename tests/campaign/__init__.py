"""Random problems of every kind that users bring, each with a referee that shares no code with the toolkit.

``python -m tests.campaign 1000`` draws so many problems, asks the toolkit with its defaults, and classes each
answer: *right* within three times its stated error, *warned* (wrong, and a warning said so), *refused* by an
error of the toolkit's own, *silent* (wrong without a word), *raw* (an error from inside a library) or *slow*.
The counts stand per kind, with the input of the worst case. Silent and raw must be 0.
"""
