"""Requests of our own: the program that pods run, their objects, and what removes them again."""
