"""Prometheus metrics: collectors read at scrape time, prometheus_client encodes the page."""
