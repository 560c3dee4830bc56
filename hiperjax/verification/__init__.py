"""Parity checks against recorded references of the originals."""
