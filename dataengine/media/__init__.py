"""Media files: what they are (`probe`), their pictures (`decode`), and writing new ones (`encode`).

Only this package imports a video library.
"""
