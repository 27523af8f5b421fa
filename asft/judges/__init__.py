"""Judges of harmful answers, one a file, and graders of helpful ones."""
