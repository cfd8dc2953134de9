"""Prometheus: collectors that read at scrape time, so that a scrape never shows what was true a while ago."""
