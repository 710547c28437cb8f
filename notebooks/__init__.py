"""Notebooks, one question each, and the studies behind them."""
