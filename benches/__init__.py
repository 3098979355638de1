"""Benchmarks: what a speed claim rests on. Each measures this code and its peers in one run, on one machine.

``python -m benches.rows`` (``make bench-rows``) measures the row stores.
"""
