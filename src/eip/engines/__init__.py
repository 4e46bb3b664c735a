"""Doors to programs that run dynamics, each in a module of its own."""
