"""Clients in other languages, each a small program of its own: Go, JavaScript, Java."""
