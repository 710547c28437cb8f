"""Escape of networks from a box: settings, scans, laws."""
