"""Finds the transitions between shots: TransNetV2."""
