"""Benchmarks: runs, results, statistics, reports."""
