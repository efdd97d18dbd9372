"""Test requests: the program that pods run, their objects, and what cleans them up."""
