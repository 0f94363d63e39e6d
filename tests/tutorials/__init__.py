"""Runs the tutorials as their readers do."""
