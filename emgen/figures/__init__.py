"""Figures: one picture a file, drawn of a model, data or numbers; who draws when, and where to, is
told elsewhere.
"""
